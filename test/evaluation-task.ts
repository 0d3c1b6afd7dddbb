/** Replies that carry their own scores, so that every metric of an evaluation can be found by hand. */
import { expect } from 'vitest';
import type { ModelEvaluation } from '../src/eval/model-evaluation';
import type { ModelReplies } from '../src/eval/model-replies';
import { evaluateModels } from '../src/eval/suite';
import type { EvaluateOptions } from '../src/eval/suite';
import type { Embedder } from '../src/rewards/embeddings';
import type { Reward } from '../src/rewards/reward';

/** The number behind the last `#` of a text; 0 without one. */
const markOf = (text: string): number => Number(/#(-?[\d.]+(?:e-?\d+)?)$/.exec(text.trim())?.[1] ?? 0);

/** `tea #0.7` is worth 0.7. */
export const marked: Reward = {
  name: 'marked',
  degraded: [],
  score: (tweet, reply) => {
    const total = markOf(reply);
    return Promise.resolve({ total, components: { half: total / 2, of_tweet: tweet.length / 100 } });
  },
  scoreBatch: (pairs) => Promise.all(pairs.map(({ tweet, reply }) => marked.score(tweet, reply))),
};

/** For what is refused before anything is scored. */
export const unasked: Reward = {
  ...marked,
  scoreBatch: () => Promise.reject(new Error('the reward was asked')),
};

/** How often a text has the letters a, b and c. */
export const letters: Embedder = {
  name: 'letters',
  duplicateCosine: 1,
  cosineRange: [0, 1],
  embed: (text) =>
    Promise.resolve(Float32Array.from(['a', 'b', 'c'], (letter) => text.split(letter).length - 1)),
};

export const options: EvaluateOptions = {
  reward: marked,
  embedder: letters,
  k: [1],
  resamples: 100,
  seed: 7,
};

/** A model's replies to tweets t0, t1, ...: a row a tweet. */
export function repliesOf(
  name: string,
  rows: readonly (readonly string[])[],
  extra: { seed?: number; greedy?: readonly string[] } = {},
): ModelReplies {
  const { seed, greedy } = extra;
  return {
    ...{ name, seed },
    tweets: rows.map((generations, t) => ({
      ...{ tweet_id: `t${t}`, tweet: `tweet number ${t}`, generations: [...generations] },
      ...(greedy === undefined ? {} : { greedy: greedy[t] }),
    })),
  };
}

/** A model of one reply a tweet with the given rewards. */
export const rewardsOf = (name: string, rewards: readonly number[], seed?: number): ModelReplies =>
  repliesOf(
    name,
    rewards.map((reward) => [`one reply #${reward}`]),
    { seed },
  );

/** The metrics of one model, of which several runs may be given. */
export async function evaluateOne(
  runs: ModelReplies | readonly ModelReplies[],
  own: Partial<EvaluateOptions> = {},
): Promise<ModelEvaluation> {
  const all = [runs].flat();
  return (await evaluateModels(all, { ...options, ...own })).models[all[0].name];
}

export function near(metric: { value: number | null }, value: number): void {
  expect(metric.value).not.toBeNull();
  expect(metric.value).toBeCloseTo(value, 12);
}

export const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** Every subset of k of 0..n-1. */
export function subsets(n: number, k: number, from = 0): number[][] {
  if (k === 0) return [[]];
  return Array.from({ length: Math.max(0, n - from) }, (_, i) => from + i).flatMap((first) =>
    subsets(n, k - 1, first + 1).map((rest) => [first, ...rest]),
  );
}
