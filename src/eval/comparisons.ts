/** Every two models compared, tweet by tweet. */
import { cliffsDelta, cliffsDeltaLabel, cohensDz } from '../metrics/effect-size';
import type { CliffsDeltaLabel } from '../metrics/effect-size';
import { mannWhitneyU } from '../metrics/mann-whitney';
import { holm } from '../metrics/multiple-comparisons';
import { pairedBootstrap } from '../metrics/statistics';
import { pairedTTest } from '../metrics/t-test';
import { overRuns } from './model-evaluation';
import type { RunScores } from './run-scores';

/** What is compared: the measure's key among a tweet's values, and the name that a report gives it. */
export const COMPARED = {
  reward: 'reward',
  engagement: 'engagement',
  world_quality: 'world_quality',
  'pass@1': 'pass@1',
  self_bleu: 'self_bleu',
  distinct_2: 'distinct_2_of_tweet',
  semantic_diversity: 'semantic_diversity',
  rouge_L: 'rouge/L',
} as const;

/** b against a on one measure, the tweet as the unit; of several seeds the mean over them. */
export interface Comparison {
  a: string;
  b: string;
  metric: keyof typeof COMPARED;
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
  /** p_holm < 0.05 and |d| >= 0.3 */
  significant: boolean;
}

const LEVEL = 0.05;
const LEAST_D = 0.3;

function valuesOf(runs: readonly RunScores[], metric: keyof typeof COMPARED): (number | null)[] {
  const key = COMPARED[metric];
  return overRuns(runs, ({ values, curves }) =>
    key === 'pass@1' ? curves.map((curve) => curve[0]) : values[key],
  );
}

type Uncorrected = Omit<Comparison, 'p_holm' | 'significant'>;

function compare(
  a: readonly [string, readonly RunScores[]],
  b: readonly [string, readonly RunScores[]],
  metric: keyof typeof COMPARED,
  seed: number,
): Uncorrected | null {
  const [left, right] = [valuesOf(a[1], metric), valuesOf(b[1], metric)];
  const pairs = left.flatMap((value, t) => {
    const other = right[t];
    return value === null || other === null ? [] : [[value, other] as const];
  });
  if (pairs.length < 2) return null;
  const [x, y] = [pairs.map(([value]) => value), pairs.map(([, value]) => value)];
  const test = pairedTTest(y, x);
  const { u, pValue } = mannWhitneyU(y, x);
  const { difference, interval } = pairedBootstrap(x, y, { seed, resamples: 2000 });
  const delta = cliffsDelta(y, x);
  return {
    ...{ a: a[0], b: b[0], metric, n: pairs.length, difference, ci: interval, u, p_mann_whitney: pValue },
    // Where all differences are equal t is infinite, which JSON cannot hold.
    ...{ t: test === null || !Number.isFinite(test.t) ? null : test.t, p: test?.pValue ?? null },
    ...{ d: cohensDz(y, x), delta, delta_size: cliffsDeltaLabel(delta) },
  };
}

/**
 * All pairs of models on every measure that both have, with Holm's correction over all of them together.
 * @param models  runs by name, in the order in which a stands before b
 */
export function compareModels(models: ReadonlyMap<string, readonly RunScores[]>, seed: number): Comparison[] {
  const entries = [...models];
  const pairs = entries.flatMap((a, i) => entries.slice(i + 1).map((b) => [a, b] as const));
  const metrics = Object.keys(COMPARED) as (keyof typeof COMPARED)[];
  const found = pairs.flatMap(([a, b]) => metrics.flatMap((metric) => compare(a, b, metric, seed) ?? []));
  const tested = found.filter(({ p }) => p !== null);
  const corrected = holm(tested.map(({ p }) => p as number));
  const byComparison = new Map(tested.map((one, i) => [one, corrected[i]]));
  return found.map((one): Comparison => {
    const p = byComparison.get(one) ?? null;
    const significant = p !== null && p < LEVEL && one.d !== null && Math.abs(one.d) >= LEAST_D;
    return { ...one, p_holm: p, significant };
  });
}
