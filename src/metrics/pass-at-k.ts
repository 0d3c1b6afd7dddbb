/** How likely one of k replies is to pass, and what follows from the curve: DER@k and the collapse point. */

import { ShapeError } from '../runtime/errors';
import type { Metric, TweetResamples } from './bootstrap-metric';
import { requireWhole } from './checks';
import { percentileInterval } from './statistics';

/**
 * Pass@k of one tweet without bias: the share of the subsets of k of the n replies with one that passes,
 * 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=0}^{k-1} (n-c-i) / (n-i).
 *
 * @param n  replies
 * @param c  those that pass
 * @throws ShapeError  when k is not 1..n or c not 0..n: fewer than k replies say nothing about k
 * Source: Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374 §2.1.
 */
export function passAtK(n: number, c: number, k: number): number {
  requireWhole(n, 1, Number.MAX_SAFE_INTEGER, 'pass@k: number of replies');
  requireWhole(c, 0, n, 'pass@k: number of replies that pass');
  requireWhole(k, 1, n, 'pass@k: k');
  // A subset larger than the number of failures has a pass.
  if (k > n - c) return 1;
  let noPass = 1;
  for (let i = 0; i < k; i++) noPass *= (n - c - i) / (n - i);
  return 1 - noPass;
}

/** Pass@1..Pass@n of one tweet. */
export function passAtKCurve(n: number, c: number): number[] {
  return Array.from({ length: n }, (_, i) => passAtK(n, c, i + 1));
}

/**
 * Mean Pass@1..Pass@n over tweets, n the least number of replies to one of them.
 *
 * @param curves  one `passAtKCurve` a tweet
 * @param counts  how often each tweet counts, default once
 * @throws ShapeError  when there is no tweet, or one without replies
 */
export function meanPassAtKCurve(
  curves: readonly (readonly number[])[],
  counts?: ArrayLike<number>,
): number[] {
  const n = curves.reduce((least, { length }) => Math.min(least, length), Infinity);
  if (n === 0 || n === Infinity) {
    throw new ShapeError(
      `Pass@k of ${curves.length} tweets, one with 0 replies or none at all; expected some.`,
    );
  }
  const sums = new Array<number>(n).fill(0);
  let drawn = 0;
  curves.forEach((curve, t) => {
    const count = counts?.[t] ?? 1;
    drawn += count;
    for (let i = 0; i < n; i++) sums[i] += count * curve[i];
  });
  return sums.map((sum) => sum / drawn);
}

/**
 * Diversity efficiency: DER@k = Pass@k / (k Pass@1). It is 1 where k replies pass k times as often as one, 1/k where
 * they pass no more often.
 *
 * @param curve  Pass@1..Pass@n
 * @returns null where Pass@1 is 0
 * @throws ShapeError  when k is not 1..n
 */
export function derAtK(curve: readonly number[], k: number): number | null {
  requireWhole(k, 1, curve.length, 'DER@k: k');
  return curve[0] === 0 ? null : curve[k - 1] / (k * curve[0]);
}

/** A grade of DER@k. */
export type DerLabel = 'good' | 'moderate' | 'poor';

/** DER above 0.3 is good, above 0.15 moderate. */
export function derLabel(der: number): DerLabel {
  if (der > 0.3) return 'good';
  return der > 0.15 ? 'moderate' : 'poor';
}

/** Gain in Pass@k of one more reply below which replies have collapsed. */
export const COLLAPSE_THRESHOLD = 0.01;

/**
 * Collapse point: the first k in 2..n at which the k-th reply adds less than the threshold,
 * dPass@k/dk = Pass@k - Pass@(k-1) < threshold.
 *
 * @param curve  Pass@1..Pass@n, every k
 * @returns null where every reply up to the n-th adds as much as the threshold or more
 * @throws ShapeError  when the curve is empty
 */
export function collapsePoint(curve: readonly number[], threshold = COLLAPSE_THRESHOLD): number | null {
  requireWhole(curve.length, 1, Number.MAX_SAFE_INTEGER, 'collapse point: length of the curve');
  for (let k = 2; k <= curve.length; k++) {
    if (curve[k - 1] - curve[k - 2] < threshold) return k;
  }
  return null;
}

/** Mean curves of Pass@1..Pass@n: of all tweets, and of every resample of them. */
export interface MeanCurves {
  whole: number[];
  resampled: readonly number[][];
  level: number;
}

/** What Pass@k, DER@k and the collapse point of the same tweets are made from. @param curves  one `passAtKCurve` a tweet */
export function meanCurves(
  curves: readonly (readonly number[])[],
  { counts, level }: Pick<TweetResamples, 'counts' | 'level'>,
): MeanCurves {
  return {
    whole: meanPassAtKCurve(curves),
    resampled: counts.map((row) => meanPassAtKCurve(curves, row)),
    level,
  };
}

/** A function of the mean curve, with its percentile interval over the resamples in which it exists. */
function curveMetric(
  { whole, resampled, level }: MeanCurves,
  statistic: (curve: readonly number[]) => number | null,
  reason: string,
): Metric {
  const value = statistic(whole);
  if (value === null) return { value, reason };
  const values = resampled.flatMap((curve) => statistic(curve) ?? []);
  return { value, ci: percentileInterval(values, level) };
}

/** Mean Pass@k over tweets with its interval. @throws ShapeError when a tweet has fewer than k replies. */
export function passAtKMetric(curves: MeanCurves, k: number): Metric {
  requireWhole(k, 1, curves.whole.length, 'pass@k: k');
  return curveMetric(curves, (curve) => curve[k - 1], 'no tweet');
}

/** DER@k of the mean curve with its interval. @throws ShapeError when a tweet has fewer than k replies. */
export function derMetric(curves: MeanCurves, k: number): Metric {
  return curveMetric(curves, (curve) => derAtK(curve, k), 'Pass@1 is 0: DER divides by it');
}

/**
 * Collapse point of the mean curve with its interval. A resample that does not collapse up to n counts as beyond n: an
 * interval that reaches there ends at n and says so in `beyond`.
 */
export function collapseMetric(curves: MeanCurves, threshold = COLLAPSE_THRESHOLD): Metric {
  const n = curves.whole.length;
  if (n === 1) return { value: null, reason: 'one reply a tweet; two are needed' };
  const metric = curveMetric(curves, (curve) => collapsePoint(curve, threshold) ?? n + 1, 'no tweet');
  if (metric.value === null) return metric;
  if (metric.value > n)
    return {
      value: null,
      reason: `not reached: every reply up to k = ${n} adds at least ${threshold} to Pass@k`,
      beyond: n,
    };
  const [low, high] = metric.ci;
  return { ...metric, ci: [Math.min(low, n), Math.min(high, n)], ...(high > n && { beyond: n }) };
}
