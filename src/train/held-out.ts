/** What a policy writes on fixed held-out prompts while it is trained: its reward, and how different its replies are. */
import { distinctN, meanPairwiseDistance, selfBleu4 } from '../metrics/diversity';
import { mean } from '../metrics/statistics';
import { wordpunct } from '../metrics/text';
import type { Completion, Policy, Prompt, SampleOptions } from '../policy/policy';
import type { ScoreCompletions } from '../rewards/replies';
import { NumericError } from '../runtime/errors';

/** How replies to held-out prompts are drawn and measured. */
export interface HeldOutOptions {
  /** Replies a prompt. */
  generations: number;
  /** How to draw; group size, seed and stream are set here. */
  settings: Omit<SampleOptions, 'groupSize' | 'seed' | 'stream'>;
  /** A text's vector. Replies repeat from evaluation to evaluation: `cachedEmbedder` remembers them. */
  embed: (text: string) => Promise<ArrayLike<number>>;
  seed: number;
}

/** The replies to one prompt, for samples. */
export interface HeldOutReplies {
  id: string;
  replies: string[];
  /** One a reply. */
  rewards: number[];
}

/** What an evaluation on held-out prompts measured and drew. */
export interface HeldOutEvaluation {
  /** By path, to join a step's record. */
  metrics: Record<string, number>;
  /** One entry a prompt, in the order given. */
  prompts: HeldOutReplies[];
}

/**
 * Samples replies to held-out prompts and measures them. Draws depend on seed and prompt alone, in the stream
 * `evaluation`, so the same prompts meet the same draws at every step, and what changes is the policy.
 *
 * - `eval/reward`, `eval/reply_characters`, `eval/truncated_share`: means over all replies
 * - `eval/self_bleu`: mean over prompts of self-BLEU-4 among a prompt's replies
 * - `eval/semantic_diversity`: mean over prompts of the mean cosine distance over pairs of a prompt's replies; an empty
 *   reply has no direction and counts as at right angles to every other, so read it beside `eval/reply_characters`
 * - `eval/distinct_2`: different word pairs / word pairs of all replies together, as in the small test's tables
 *
 * A value that does not exist has no key: with one generation a prompt there is no self-BLEU and no semantic diversity,
 * and without a reply of two words no distinct-2.
 *
 * @param score  of a completion, as in training
 * @param texts  a completion's text, e.g. `replyText` with a tokenizer
 * @throws NumericError  naming the prompt whose reward is not finite
 * @throws ShapeError    without prompts or with no generation
 */
export async function evaluateHeldOut(
  policy: Policy,
  prompts: readonly Prompt[],
  score: ScoreCompletions,
  texts: (completion: Completion) => string,
  { generations, settings, embed, seed }: HeldOutOptions,
): Promise<HeldOutEvaluation> {
  const sampling = { ...settings, groupSize: generations, seed, stream: 'evaluation' };
  const groups = await policy.sample(prompts, sampling);
  const pairs = groups.flatMap(({ prompt, completions }) =>
    completions.map((completion) => ({ prompt, completion })),
  );
  const rewards = (await score(pairs)).map(({ total }) => total);
  const bad = rewards.findIndex((reward) => !Number.isFinite(reward));
  if (bad >= 0)
    throw new NumericError(
      `the reward of a reply to the held-out prompt ${pairs[bad].prompt.id} is ${rewards[bad]}; expected a finite number`,
    );
  const replies = pairs.map(({ completion }) => texts(completion));
  const metrics = {
    'eval/reward': mean(rewards),
    ...(await diversityMetrics(byPrompt(replies, generations), embed)),
    'eval/reply_characters': mean(replies.map((reply) => [...reply].length)),
    'eval/truncated_share': mean(pairs.map(({ completion }) => Number(completion.finishReason === 'length'))),
  };
  const [grouped, scores] = [byPrompt(replies, generations), byPrompt(rewards, generations)];
  return { metrics, prompts: prompts.map(({ id }, p) => ({ id, replies: grouped[p], rewards: scores[p] })) };
}

function byPrompt<T>(values: readonly T[], generations: number): T[][] {
  return Array.from({ length: values.length / generations }, (_, p) =>
    values.slice(p * generations, (p + 1) * generations),
  );
}

/** @param replies  [prompts][generations]  @returns only the values that exist */
async function diversityMetrics(
  replies: readonly (readonly string[])[],
  embed: HeldOutOptions['embed'],
): Promise<Record<string, number>> {
  const words = replies.map((group) => group.map(wordpunct));
  const distinct = distinctN(words.flat(), 2);
  const distances: (number | null)[] = [];
  // A group of one needs no embedding, which may be slow.
  for (const group of replies)
    distances.push(group.length < 2 ? null : meanPairwiseDistance(await Promise.all(group.map(embed))));
  const means = {
    'eval/self_bleu': words.map(selfBleu4),
    'eval/distinct_2': [distinct],
    'eval/semantic_diversity': distances,
  };
  const existing = Object.entries(means).flatMap(([key, values]): [string, number][] => {
    const known = values.filter((value) => value !== null);
    return known.length === 0 ? [] : [[key, mean(known)]];
  });
  return Object.fromEntries(existing);
}
