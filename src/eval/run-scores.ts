/** One model's replies of one run, scored: a value a tweet of every measure, from which metrics and tests are made. */
import { distinctN, meanPairwiseDistance, selfBleu4 } from '../metrics/diversity';
import { passAtKCurve } from '../metrics/pass-at-k';
import { rougeL, rougeN, rougeTokens } from '../metrics/rouge';
import { mean } from '../metrics/statistics';
import { TOKENIZERS } from '../metrics/tokenizers';
import type { TokenizerName } from '../metrics/tokenizers';
import { SELECTORS, selectorScores, usqAtK } from '../metrics/usq';
import type { Selector } from '../metrics/usq';
import { countCorpus } from '../metrics/vocabulary';
import type { CorpusCounts } from '../metrics/vocabulary';
import type { Likelihood } from '../rewards/chat-log-probs';
import type { Embedder } from '../rewards/embeddings';
import type { Reward, RewardResult } from '../rewards/reward';
import { NumericError } from '../runtime/errors';
import { repliesSha256 } from './answerers';
import { scoreReplies } from './labelled-pairs';
import type { ModelReplies, TweetReference, TweetReplies } from './model-replies';
import type { QualityCheck } from './quality';
import type { Examiner } from './replies';

/** What replies are scored by. */
export interface Scorers {
  reward: Reward;
  /** learned from likes: what a reply would earn */
  learned?: Reward;
  /** a known truth, such as the embedded world's law */
  examiner?: Examiner;
  embedder: Embedder;
  /** of Pass@k; the first one is that of DER@k and of the collapse point, too */
  quality: readonly QualityCheck[];
  references?: ReadonlyMap<string, TweetReference>;
  tokenizer: TokenizerName;
  /** of USQ@k */
  k: readonly number[];
  signal?: AbortSignal;
  /** told of replies that are scored */
  onScored?: (done: number) => void;
}

/** A value a tweet; null where it does not exist. */
export type PerTweet = (number | null)[];

/** The measures of one run, tweet by tweet. */
export interface RunScores {
  seed?: number;
  /** sampled replies a tweet */
  counts: number[];
  /** summed log-probability and tokens of what people replied, a pair a tweet; null where unknown */
  likelihoods: (Likelihood | null)[];
  /** the same of the sampled replies, under the model that drew them */
  drawn: (Likelihood | null)[];
  /** by measure: `reward`, `component/NAME`, `engagement`, `world_quality`, `self_bleu`, `rouge/L`, ... */
  values: Record<string, PerTweet>;
  /** Pass@1..Pass@n by the first check, a row a tweet */
  curves: number[][];
  /** the same by each further check, by its name */
  otherCurves: Record<string, number[][]>;
  /** USQ@k, [selector][k] a value a tweet */
  usq: Record<Selector, Record<number, number[]>>;
  /** n-grams of all replies, for n = 1, 2, 3 */
  corpus: Record<1 | 2 | 3, CorpusCounts>;
  /** sampled replies of the first tweets, for a report: texts with their rewards */
  samples: { tweet: string; replies: string[]; rewards: number[] }[];
}

/** Tweets whose replies a report shows. */
const SHOWN_TWEETS = 20;

/** Of the reply's words in the reference that suits it best. */
function bestRouge(reply: string, references: readonly (readonly string[])[], kind: 1 | 2 | 'L'): number {
  const own = rougeTokens(reply);
  const scores = references.map((reference) =>
    kind === 'L' ? rougeL(reference, own) : rougeN(reference, own, kind),
  );
  return Math.max(...scores.map(({ fMeasure }) => fMeasure));
}

function rougeOf(
  { generations }: TweetReplies,
  reference: TweetReference | undefined,
): Record<string, number | null> {
  if (reference === undefined) return { 'rouge/1': null, 'rouge/2': null, 'rouge/L': null };
  const words = reference.replies.map(rougeTokens);
  const of = (kind: 1 | 2 | 'L'): number => mean(generations.map((reply) => bestRouge(reply, words, kind)));
  return { 'rouge/1': of(1), 'rouge/2': of(2), 'rouge/L': of('L') };
}

/** Of the replies that have words. */
async function diversityOf(
  generations: readonly string[],
  { embedder, tokenizer }: Scorers,
): Promise<Record<string, number | null>> {
  // An empty reply has nothing in common with any other: counted, it would make a mute model the most diverse.
  const spoken = generations.filter((reply) => TOKENIZERS[tokenizer](reply).length > 0);
  const tokens = spoken.map(TOKENIZERS[tokenizer]);
  const several = spoken.length > 1;
  const vectors = several ? await Promise.all(spoken.map((reply) => embedder.embed(reply))) : [];
  return {
    self_bleu: several ? selfBleu4(tokens) : null,
    distinct_2_of_tweet: distinctN(tokens, 2),
    semantic_diversity: several ? meanPairwiseDistance(vectors) : null,
  };
}

function scoredValues(
  { tweet, generations, greedy }: TweetReplies,
  results: readonly RewardResult[],
  learned: readonly RewardResult[] | undefined,
  examiner: Examiner | undefined,
): Record<string, number | null> {
  const totals = results.map(({ total }) => total);
  const components = Object.keys(results[0].components);
  const sampled = results.slice(0, generations.length);
  return {
    reward: mean(totals.slice(0, generations.length)),
    'greedy/reward': greedy === undefined ? null : totals[generations.length],
    ...Object.fromEntries(
      components.map((name) => [`component/${name}`, mean(sampled.map((one) => one.components[name]))]),
    ),
    engagement:
      learned === undefined ? null : mean(learned.slice(0, generations.length).map(({ total }) => total)),
    world_quality: examiner === undefined ? null : mean(generations.map((reply) => examiner(tweet, reply))),
    'greedy/world_quality': examiner === undefined || greedy === undefined ? null : examiner(tweet, greedy),
    characters: mean(generations.map((reply) => Array.from(reply.trim()).length)),
  };
}

/** Of the references that are known now; null for all where one of them has none: a mean over others would be another. */
function likelihoodsOf(
  tweets: readonly TweetReplies[],
  references: Scorers['references'],
): RunScores['likelihoods'] {
  const asked = tweets.map(({ tweet_id: id }) => references?.get(id)?.replies ?? []);
  const isComplete = tweets.every(
    ({ reference }, t) => asked[t].length === 0 || reference?.replies_sha256 === repliesSha256(asked[t]),
  );
  return tweets.map(({ reference }, t) => (isComplete && asked[t].length > 0 ? (reference ?? null) : null));
}

/** Of all replies to each tweet; null for all where that of one reply is not known. */
function drawnOf(tweets: readonly TweetReplies[]): RunScores['drawn'] {
  const known = tweets.map(({ drawn = [] }) => drawn.flatMap((one) => one ?? []));
  if (known.some((own, t) => own.length < tweets[t].generations.length)) return tweets.map(() => null);
  return known.map((own) => ({
    log_prob: own.reduce((sum, { log_prob }) => sum + log_prob, 0),
    tokens: own.reduce((sum, { tokens }) => sum + tokens, 0),
  }));
}

/** Sampled replies and the greedy one, in a row. */
const allReplies = ({ generations, greedy }: TweetReplies): string[] =>
  greedy === undefined ? generations : [...generations, greedy];

/** Scores of every reply, cut into tweets. */
async function scoreAll(
  reward: Reward,
  tweets: readonly TweetReplies[],
  { signal, onScored }: Scorers,
): Promise<RewardResult[][]> {
  const pairs = tweets.flatMap((tweet) => allReplies(tweet).map((reply) => ({ tweet: tweet.tweet, reply })));
  const results = await scoreReplies(reward, pairs, { signal, onProgress: (done) => onScored?.(done) });
  const bad = results.findIndex(({ total }) => !Number.isFinite(total));
  if (bad >= 0)
    throw new NumericError(
      `${reward.name} gave ${results[bad].total} to the reply ${JSON.stringify(results[bad].reply)}; expected a finite number.`,
    );
  let next = 0;
  return tweets.map((tweet) => results.slice(next, (next += allReplies(tweet).length)));
}

/**
 * Scores a run's replies. The tweets of all runs have to be the same, in the same order: see `alignModels`.
 * @throws NumericError  for a score that is not finite
 */
export async function scoreRun(model: ModelReplies, scorers: Scorers): Promise<RunScores> {
  const { tweets, seed } = model;
  const { reward, learned, examiner, quality, references, tokenizer, k } = scorers;
  const results = await scoreAll(reward, tweets, scorers);
  const byLikes = learned === undefined ? undefined : await scoreAll(learned, tweets, scorers);
  const rows: Record<string, number | null>[] = [];
  for (const [t, tweet] of tweets.entries()) {
    scorers.signal?.throwIfAborted();
    rows.push({
      ...scoredValues(tweet, results[t], byLikes?.[t], examiner),
      ...(await diversityOf(tweet.generations, scorers)),
      ...rougeOf(tweet, references?.get(tweet.tweet_id)),
    });
  }
  const totals = tweets.map(({ generations }, t) =>
    results[t].slice(0, generations.length).map(({ total }) => total),
  );
  const curvesOf = (check: QualityCheck): number[][] =>
    tweets.map(({ tweet, generations }, t) => {
      const truth = (reply: string): number | undefined =>
        check.needsTruth ? examiner?.(tweet, reply) : undefined;
      const passed = generations.filter((reply, i) => check.passes(reply, totals[t][i], truth(reply)));
      return passAtKCurve(generations.length, passed.length);
    });
  const [first, ...others] = quality;
  const words = tweets.map(({ generations }) => generations.map(TOKENIZERS[tokenizer]));
  const usqOf = (selector: Selector): Record<number, number[]> =>
    Object.fromEntries(
      k.map((size) => [
        size,
        tweets.map(({ generations }, t) =>
          usqAtK(totals[t], selectorScores(selector, generations, totals[t]), size),
        ),
      ]),
    );
  return {
    seed,
    counts: tweets.map(({ generations }) => generations.length),
    values: Object.fromEntries(Object.keys(rows[0]).map((name) => [name, rows.map((row) => row[name])])),
    likelihoods: likelihoodsOf(tweets, references),
    drawn: drawnOf(tweets),
    curves: curvesOf(first),
    otherCurves: Object.fromEntries(others.map((check) => [check.name, curvesOf(check)])),
    usq: Object.fromEntries(SELECTORS.map((selector) => [selector, usqOf(selector)])) as RunScores['usq'],
    corpus: { 1: countCorpus(words, 1), 2: countCorpus(words, 2), 3: countCorpus(words, 3) },
    samples: tweets.slice(0, SHOWN_TWEETS).map(({ tweet, generations }, t) => ({
      ...{ tweet, replies: generations, rewards: totals[t] },
    })),
  };
}
