/** What a policy writes on held-out prompts, scored; and what changed between two of them. */
import { distinctN } from '../metrics/diversity';
import { mean, pairedBootstrap } from '../metrics/statistics';
import type { PairedDifference } from '../metrics/statistics';
import { wordpunct } from '../metrics/text';
import type { Tokenizer } from '../model/tokenizer';
import type { Policy, RolloutGroup } from '../policy/policy';
import { replyScorer, replyText } from '../rewards/replies';
import type { TweetPrompt } from '../rewards/replies';
import type { Reward } from '../rewards/reward';
import { ShapeError } from '../runtime/errors';

/** A second opinion on a reply, such as the embedded world's law; in [0, 1]. */
export type Examiner = (tweet: string, reply: string) => number;

/** What a policy writes to prompts, in numbers: reward, length, variety. */
export interface ReplyEvaluation {
  /** One entry a prompt. */
  prompts: { id: string; tweet: string; replies: string[]; reward: number; quality?: number }[];
  /** Means over prompts of the mean over replies. */
  reward: number;
  components: Record<string, number>;
  quality?: number;
  /** Mean characters and tokens of a reply, and the share that reached the token limit. */
  characters: number;
  tokens: number;
  truncatedShare: number;
  /** Distinct bigrams / bigrams over all replies; null when no reply has two words. */
  distinct2: number | null;
  /** Mean over replies of the summed k3 estimate of KL(policy || reference), nats; as `train/kl_penalty`, on replies drawn with top-p. */
  kl: number;
}

/** How the replies of `evaluateReplies` are drawn, and what else scores them. */
export interface ReplyEvaluationOptions {
  /** Replies a prompt. */
  generations: number;
  temperature: number;
  topP: number;
  maxNewTokens: number;
  seed: number;
  examiner?: Examiner;
  onProgress?: (share: number) => void;
  signal?: AbortSignal;
}

/** Samples replies and scores them. Draws depend on the seed and the prompt's id only, so two policies are paired. */
export async function evaluateReplies(
  policy: Policy,
  prompts: readonly TweetPrompt[],
  tokenizer: Tokenizer,
  reward: Reward,
  options: ReplyEvaluationOptions,
): Promise<ReplyEvaluation> {
  const { generations, examiner, ...sampling } = options;
  const groups = await policy.sample(prompts, { ...sampling, groupSize: generations, stream: 'evaluation' });
  const pairs = groups.flatMap(({ prompt, completions }) =>
    completions.map((completion) => ({ prompt, completion })),
  );
  options.signal?.throwIfAborted();
  const scores = await replyScorer(prompts, tokenizer, reward)(pairs);
  options.signal?.throwIfAborted();
  const rows = groups.map(({ completions }, p) => {
    const replies = completions.map((completion) => replyText(completion, tokenizer));
    const own = scores.slice(p * generations, (p + 1) * generations);
    const { id, tweet } = prompts[p];
    const quality = examiner === undefined ? undefined : mean(replies.map((reply) => examiner(tweet, reply)));
    return { id, tweet, replies, reward: mean(own.map(({ total }) => total)), quality };
  });
  const replies = rows.flatMap((row) => row.replies);
  const completions = pairs.map(({ completion }) => completion);
  const components = Object.keys(scores[0].components);
  return {
    prompts: rows,
    reward: mean(rows.map((row) => row.reward)),
    components: Object.fromEntries(
      components.map((name) => [name, mean(scores.map((s) => s.components[name]))]),
    ),
    quality: examiner === undefined ? undefined : mean(rows.map((row) => row.quality as number)),
    characters: mean(replies.map((reply) => [...reply].length)),
    tokens: mean(completions.map(({ tokenIds }) => tokenIds.length)),
    truncatedShare: mean(completions.map(({ finishReason }) => Number(finishReason === 'length'))),
    distinct2: distinctN(replies.map(wordpunct), 2),
    kl: await klOf(policy, groups, options.temperature),
  };
}

/** Mean over completions of sum_t k3, k3 = exp(ref - pi) - (ref - pi) - 1, at the sampling temperature. */
async function klOf(policy: Policy, groups: readonly RolloutGroup[], temperature: number): Promise<number> {
  const sequences = groups.flatMap(({ prompt, completions }) =>
    completions.map(({ tokenIds }) => ({ promptIds: prompt.tokenIds, completionIds: tokenIds })),
  );
  const own = await policy.logProbs(sequences, { of: 'policy', temperature });
  const reference = await policy.logProbs(sequences, { of: 'reference', temperature });
  return mean(
    own.map((row, i) =>
      row.reduce((sum, logProb, t) => {
        const difference = reference[i][t] - logProb;
        return sum + Math.exp(difference) - difference - 1;
      }, 0),
    ),
  );
}

/** The change of a measure between two evaluations on the same prompts. */
export interface MeasuredChange extends PairedDifference {
  name: string;
  before: number[];
  after: number[];
}

/**
 * Paired change of reward, and of quality where both were examined, with 95 % bootstrap intervals over prompts.
 * @throws ShapeError  when the prompts differ
 */
export function compareEvaluations(
  before: ReplyEvaluation,
  after: ReplyEvaluation,
  seed: number,
): MeasuredChange[] {
  const ids = (evaluation: ReplyEvaluation): string => evaluation.prompts.map(({ id }) => id).join();
  if (ids(before) !== ids(after)) throw new ShapeError('the two evaluations are on different prompts');
  const change = (name: string, pick: (row: ReplyEvaluation['prompts'][0]) => number): MeasuredChange => {
    const [a, b] = [before.prompts.map(pick), after.prompts.map(pick)];
    return { name, before: a, after: b, ...pairedBootstrap(a, b, { seed }) };
  };
  const changes = [change('Reward', (row) => row.reward)];
  if (before.quality !== undefined && after.quality !== undefined)
    changes.push(change('World quality', (row) => row.quality as number));
  return changes;
}
