/** Every two models compared, tweet by tweet. */
import { bootstrapMetric, meanOverTweets } from '../metrics/bootstrap-metric';
import type { TweetResamples } from '../metrics/bootstrap-metric';
import { cliffsDelta, cliffsDeltaLabel, cohensDz } from '../metrics/effect-size';
import type { CliffsDeltaLabel } from '../metrics/effect-size';
import { mannWhitneyU } from '../metrics/mann-whitney';
import { holm } from '../metrics/multiple-comparisons';
import { pairedTTest } from '../metrics/t-test';
import { overRuns } from './model-evaluation';
import type { PerTweet, RunScores } from './run-scores';

/**
 * What is compared beside Pass@k: the name that a report gives it, and its key among a tweet's values. Distinct-2 is here
 * that of a tweet's own replies, since a test needs a value a tweet; a table's is that of all replies together.
 */
const COMPARED = {
  reward: 'reward',
  engagement: 'engagement',
  world_quality: 'world_quality',
  self_bleu: 'self_bleu',
  distinct_2_of_a_tweet: 'distinct_2_of_tweet',
  semantic_diversity: 'semantic_diversity',
  rouge_L: 'rouge/L',
} as const;

/** A measure that models are compared by; Pass@k by the first check. */
export type ComparedMetric = keyof typeof COMPARED | `pass@${number}`;

/** b against a on one measure, the tweet as the unit; of several seeds the mean over them. */
export interface Comparison {
  a: string;
  b: string;
  metric: ComparedMetric;
  /** tweets with a value of both */
  n: number;
  /** mean of b - a, with its bootstrap interval over tweets */
  difference: number;
  ci: [number, number];
  /** Mann-Whitney U of b and its p-value, which takes both for independent */
  u: number;
  p_mann_whitney: number;
  /** of the paired t-test; null where all differences are 0 */
  t: number | null;
  p: number | null;
  /** p after Holm's correction over all comparisons of the report */
  p_holm: number | null;
  /** Cohen's d of the pairs; null where all differences are equal */
  d: number | null;
  /** Cliff's delta, above 0 where b is the larger */
  delta: number;
  delta_size: CliffsDeltaLabel;
  /** p_holm < 0.05 and |d| >= 0.3; where all differences are equal, d is infinite, or 0 */
  significant: boolean;
}

const LEVEL = 0.05;
const LEAST_D = 0.3;

type ValuesOf = (run: RunScores) => PerTweet;

function measures(k: readonly number[]): [ComparedMetric, ValuesOf][] {
  const passes = k.map((size): [ComparedMetric, ValuesOf] => [
    `pass@${size}`,
    ({ curves }) => curves.map((curve) => curve[size - 1]),
  ]);
  const others = Object.entries(COMPARED) as [keyof typeof COMPARED, string][];
  return [
    ...others.map(([metric, key]): [ComparedMetric, ValuesOf] => [metric, ({ values }) => values[key]]),
    ...passes,
  ];
}

const isRounding = (a: number | null, b: number | null): boolean =>
  a !== null && b !== null && Math.abs(a - b) <= 1e-12 * Math.max(1, Math.abs(a));

type Uncorrected = Omit<Comparison, 'p_holm' | 'significant'>;

function compare(
  a: readonly [string, readonly RunScores[]],
  b: readonly [string, readonly RunScores[]],
  [metric, of]: readonly [ComparedMetric, ValuesOf],
  resamples: TweetResamples,
): Uncorrected | null {
  const left = overRuns(a[1], of);
  // Means over seeds in another order differ in their last bits: that is no difference.
  const right = overRuns(b[1], of).map((value, t) => (isRounding(left[t], value) ? left[t] : value));
  const pairs = left.flatMap((value, t) => {
    const other = right[t];
    return value === null || other === null ? [] : [[value, other] as const];
  });
  if (pairs.length < 2) return null;
  const [x, y] = [pairs.map(([value]) => value), pairs.map(([, value]) => value)];
  const test = pairedTTest(y, x);
  const { u, pValue } = mannWhitneyU(y, x);
  const differences = left.map((value, t) => {
    const other = right[t];
    return value === null || other === null ? null : other - value;
  });
  const change = bootstrapMetric(meanOverTweets(differences), resamples, 'no tweet has both');
  if (change.value === null) return null;
  const delta = cliffsDelta(y, x);
  return {
    ...{ a: a[0], b: b[0], metric, n: pairs.length, difference: change.value, ci: change.ci },
    ...{ u, p_mann_whitney: pValue },
    // Where all differences are equal t is infinite, which JSON cannot hold.
    ...{ t: test === null || !Number.isFinite(test.t) ? null : test.t, p: test?.pValue ?? null },
    ...{ d: cohensDz(y, x), delta, delta_size: cliffsDeltaLabel(delta) },
  };
}

/**
 * All pairs of models on every measure that both have, with Holm's correction over all of them together.
 * @param models     runs by name, in the order in which a stands before b
 * @param k          of Pass@k
 * @param resamples  of the intervals: those of the models' own metrics
 */
export function compareModels(
  models: ReadonlyMap<string, readonly RunScores[]>,
  k: readonly number[],
  resamples: TweetResamples,
): Comparison[] {
  const entries = [...models];
  const pairs = entries.flatMap((a, i) => entries.slice(i + 1).map((b) => [a, b] as const));
  const found = pairs.flatMap(([a, b]) =>
    measures(k).flatMap((measure) => compare(a, b, measure, resamples) ?? []),
  );
  const tested = found.filter(({ p }) => p !== null);
  const corrected = holm(tested.map(({ p }) => p as number));
  const byComparison = new Map(tested.map((one, i) => [one, corrected[i]]));
  return found.map((one): Comparison => {
    const p = byComparison.get(one) ?? null;
    const isLarge = one.d === null ? one.difference !== 0 : Math.abs(one.d) >= LEAST_D;
    const significant = p !== null && p < LEVEL && isLarge;
    return { ...one, p_holm: p, significant };
  });
}
