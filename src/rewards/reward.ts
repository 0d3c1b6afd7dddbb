/** What a reward is: a score in [0, 1] of a reply to a tweet, with its named parts. */

import { breather } from './breather';

/** Pairs that are scored together where a reward does not say how many. */
export const DEFAULT_BATCH_SIZE = 64;

/** One reply's score. `total` in [0, 1]; `components` by name, each in [0, 1]. */
export interface RewardResult {
  total: number;
  components: Record<string, number>;
}

/** The texts that a reward looks at. */
export interface ReplyPair {
  tweet: string;
  reply: string;
}

/** A reward. `scoreBatch` equals `score` of each pair to the last bit. */
export interface Reward {
  readonly name: string;
  /** What is not at its best, in words, each once: for the run's log and `trainer_state.json`. Empty when all is well. */
  readonly degraded: readonly string[];
  score(tweet: string, reply: string): Promise<RewardResult>;
  scoreBatch(pairs: readonly ReplyPair[]): Promise<RewardResult[]>;
  /** Pairs that are best scored together, for one that works on several at once; default 64. */
  readonly batchSize?: number;
  /** Frees what the reward holds outside JavaScript's memory; it scores no more. */
  dispose?(): void;
}

/**
 * The batch form of a single form: one pair after the other, in order. A reward made of it cannot treat a pair
 * differently because of its company; the gain of batching comes from the cache of embeddings. Timers and Ctrl-C get in between.
 */
export async function scoreEach(
  score: (tweet: string, reply: string) => Promise<RewardResult>,
  pairs: readonly ReplyPair[],
): Promise<RewardResult[]> {
  const results: RewardResult[] = [];
  const breathe = breather();
  for (const { tweet, reply } of pairs) {
    await breathe();
    results.push(await score(tweet, reply));
  }
  return results;
}
