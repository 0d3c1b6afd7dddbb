/** How well scores order things whose true order, or label, is known. */
import { ShapeError } from '../runtime/errors';
import type { BootstrapOptions } from './statistics';
import { percentileInterval, ranks, resampleIndices } from './statistics';

type Numbers = ArrayLike<number>;

/**
 * Area under the ROC curve: the probability that a good item scores above a bad one, a tie counting half; by ranks,
 * (R - n(n + 1)/2) / (n m) with R the rank sum of the n good ones.
 *
 * @throws ShapeError  when a side is empty
 * Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
 */
export function areaUnderCurve(good: Numbers, bad: Numbers): number {
  const [n, m] = [good.length, bad.length];
  if (n === 0 || m === 0) {
    throw new ShapeError(`${n} good and ${m} bad scores; expected at least 1 of each.`);
  }
  const all = [...Array.from(good), ...Array.from(bad)];
  if (all.some(Number.isNaN)) throw new ShapeError('a score is NaN; expected numbers only.');
  const rankSum = ranks(all)
    .slice(0, n)
    .reduce((sum, rank) => sum + rank, 0);
  return (rankSum - (n * (n + 1)) / 2) / (n * m);
}

/** Pairs (i, j) with truth_i > truth_j, every one once. */
export function orderedPairs(truth: Numbers): [number, number][] {
  const pairs: [number, number][] = [];
  for (let i = 0; i < truth.length; i++) {
    for (let j = 0; j < truth.length; j++) if (truth[i] > truth[j]) pairs.push([i, j]);
  }
  return pairs;
}

/**
 * Share of the pairs of different truth that the scores put in the same order, a tie of scores counting half; null
 * where all truths are equal.
 */
export function pairAccuracy(scores: Numbers, truth: Numbers): number | null {
  if (scores.length !== truth.length) {
    throw new ShapeError(`${scores.length} scores and ${truth.length} truths; expected as many of each.`);
  }
  const pairs = orderedPairs(truth);
  if (pairs.length === 0) return null;
  const right = pairs.reduce(
    (sum, [i, j]) => sum + (scores[i] > scores[j] ? 1 : scores[i] === scores[j] ? 0.5 : 0),
    0,
  );
  return right / pairs.length;
}

/** A value with its bootstrap interval. */
export interface Estimate {
  value: number;
  interval: [number, number];
}

/**
 * A statistic of clustered data (the replies of tweets) with its bootstrap interval: whole clusters are resampled,
 * because the replies to one tweet are not independent. A resample in which the statistic does not exist is left out.
 *
 * @returns null where the statistic does not exist
 * Source: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.
 */
export function clusterBootstrap<C>(
  clusters: readonly C[],
  statistic: (clusters: readonly C[]) => number | null,
  { seed, resamples = 1000, level = 0.95 }: BootstrapOptions,
): Estimate | null {
  const value = statistic(clusters);
  if (value === null) return null;
  const values: number[] = [];
  for (const row of resampleIndices(clusters.length, resamples, seed)) {
    const resampled = statistic(Array.from(row, (i) => clusters[i]));
    if (resampled !== null) values.push(resampled);
  }
  return { value, interval: percentileInterval(values, level) };
}
