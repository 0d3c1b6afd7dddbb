/** How well scores order things whose true order, or label, is known. */
import { ShapeError } from '../runtime/errors';
import type { Random } from '../runtime/random';
import { uStatistic } from './mann-whitney';
import type { Numbers } from './checks';
import type { BootstrapOptions } from './statistics';
import { percentileInterval, ranks, resampleIndices } from './statistics';

/**
 * Area under the ROC curve: the probability that a good item scores above a bad one, a tie counting half:
 * U / (n m), U the Mann-Whitney statistic of the n good ones.
 *
 * @throws ShapeError  when a side is empty, or a score is NaN
 * Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
 */
export function areaUnderCurve(good: Numbers, bad: Numbers): number {
  const [n, m] = [good.length, bad.length];
  if (n === 0 || m === 0) {
    throw new ShapeError(`${n} good and ${m} bad scores; expected at least 1 of each.`);
  }
  return uStatistic(good, bad) / (n * m);
}

/** Pairs of rows: the truth of `better[k]` is above that of `worse[k]`. */
export interface RowPairs {
  better: Int32Array;
  worse: Int32Array;
}

/**
 * The pairs of rows of different truth, every one once; where there are more than `draw.limit`, that many draws with
 * replacement, every pair equally likely: the mean over them is an unbiased estimate of the mean over all pairs.
 */
export function orderedPairs(truth: Numbers, draw?: { limit: number; random: Random }): RowPairs {
  const order = Int32Array.from({ length: truth.length }, (_, i) => i);
  order.sort((i, j) => truth[i] - truth[j] || i - j);
  const below = new Int32Array(order.length); // rows of less truth than order[k]
  const ends = new Float64Array(order.length); // pairs whose better row is one of order[0..k]
  for (let k = 1; k < order.length; k++) {
    below[k] = truth[order[k]] === truth[order[k - 1]] ? below[k - 1] : k;
    ends[k] = ends[k - 1] + below[k];
  }
  const total = order.length === 0 ? 0 : ends[order.length - 1];
  const drawn = draw !== undefined && total > draw.limit ? draw : undefined;
  const count = drawn?.limit ?? total;
  const pairs = { better: new Int32Array(count), worse: new Int32Array(count) };
  for (let n = 0, k = 0; n < count; n++) {
    if (drawn === undefined) while (ends[k] <= n) k++;
    else k = firstAbove(ends, drawn.random.uniform() * total);
    pairs.better[n] = order[k];
    pairs.worse[n] = order[drawn?.random.integer(below[k]) ?? n - ends[k] + below[k]];
  }
  return pairs;
}

/** Index of the first of ascending numbers that is above x. */
function firstAbove(ascending: Float64Array, x: number): number {
  let [low, high] = [0, ascending.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Counts at places 1..size, and how many stand at or before a place; both in O(log size). */
class Tally {
  private readonly sums: Float64Array;

  constructor(private readonly size: number) {
    this.sums = new Float64Array(size + 1);
  }

  add(place: number): void {
    for (let i = place; i <= this.size; i += i & -i) this.sums[i]++;
  }

  upTo(place: number): number {
    let sum = 0;
    for (let i = place; i > 0; i -= i & -i) sum += this.sums[i];
    return sum;
  }
}

/**
 * Share of the pairs of different truth that the scores put in the same order, a tie of scores counting half; null
 * where all truths are equal. O(n log n): rows come by truth, and a tally knows the scores of those of less truth.
 *
 * @throws ShapeError  when the lengths differ, or a number is NaN
 */
export function pairAccuracy(scores: Numbers, truth: Numbers): number | null {
  if (scores.length !== truth.length) {
    throw new ShapeError(`${scores.length} scores and ${truth.length} truths; expected as many of each.`);
  }
  const places = ranks(scores).map((rank) => 2 * rank); // a mean of two ranks becomes an integer
  const byTruth = ranks(truth);
  const order = Array.from(byTruth, (_, i) => i).sort((i, j) => byTruth[i] - byTruth[j]);
  const tally = new Tally(2 * scores.length);
  let [right, pairs, start] = [0, 0, 0];
  for (let k = 0; k < order.length; k++) {
    if (byTruth[order[k]] !== byTruth[order[start]])
      for (; start < k; start++) tally.add(places[order[start]]);
    const place = places[order[k]];
    right += (tally.upTo(place - 1) + tally.upTo(place)) / 2;
    pairs += start;
  }
  return pairs === 0 ? null : right / pairs;
}

/** Row numbers by value, and where in that order each run of equal values ends. */
function runsOf(values: Numbers): { order: number[]; ends: number[] } {
  const byValue = ranks(values);
  const order = byValue.map((_, i) => i).sort((i, j) => byValue[i] - byValue[j]);
  const isEnd = (k: number): boolean => byValue[order[k]] !== byValue[order[k + 1]];
  return { order, ends: order.map((_, k) => k + 1).filter((end) => isEnd(end - 1)) };
}

/**
 * Spearman's correlation of a resample of rows, as a function of how often each row was drawn: what `spearman` gives
 * for the resample written out, without sorting it anew. Null where a side is constant.
 *
 * @throws ShapeError  when the lengths differ, or a value is NaN
 */
export function resampledSpearman(a: Numbers, b: Numbers): (counts: Numbers) => number | null {
  if (a.length !== b.length) {
    throw new ShapeError(`correlation of ${a.length} and ${b.length} values; expected as many of each.`);
  }
  const sides = [a, b].map((values) => ({ ...runsOf(values), centred: new Float64Array(values.length) }));
  return (counts) => {
    let drawn = 0;
    for (let i = 0; i < counts.length; i++) drawn += counts[i];
    for (const { order, ends, centred } of sides) {
      let [before, k] = [0, 0];
      for (const end of ends) {
        let run = 0;
        for (let j = k; j < end; j++) run += counts[order[j]];
        for (; k < end; k++) centred[order[k]] = before + (run - drawn) / 2; // rank minus the mean rank
        before += run;
      }
    }
    const [x, y] = sides.map(({ centred }) => centred);
    let [products, squaresX, squaresY] = [0, 0, 0];
    for (let i = 0; i < counts.length; i++) {
      products += counts[i] * x[i] * y[i];
      squaresX += counts[i] * x[i] ** 2;
      squaresY += counts[i] * y[i] ** 2;
    }
    if (squaresX === 0 || squaresY === 0) return null;
    return Math.min(1, Math.max(-1, products / (Math.sqrt(squaresX) * Math.sqrt(squaresY))));
  };
}

/**
 * Pearson's correlation of a resample of rows, as a function of how often each row was drawn: what `pearson` gives for the
 * resample written out. Null where fewer than two rows were drawn, or a side is constant.
 *
 * @throws ShapeError  when the lengths differ
 */
export function resampledPearson(a: Numbers, b: Numbers): (counts: Numbers) => number | null {
  if (a.length !== b.length) {
    throw new ShapeError(`correlation of ${a.length} and ${b.length} values; expected as many of each.`);
  }
  const varies = (values: Numbers, counts: Numbers): boolean => {
    const first = Array.prototype.findIndex.call(counts, (count: number) => count > 0);
    return Array.prototype.some.call(counts, (count: number, i) => count > 0 && values[i] !== values[first]);
  };
  const weighted = (values: Numbers, counts: Numbers, drawn: number): number => {
    let sum = 0;
    for (let i = 0; i < values.length; i++) sum += counts[i] * values[i];
    return sum / drawn;
  };
  return (counts) => {
    let drawn = 0;
    for (let i = 0; i < counts.length; i++) drawn += counts[i];
    if (drawn < 2 || !varies(a, counts) || !varies(b, counts)) return null;
    const [meanA, meanB] = [weighted(a, counts, drawn), weighted(b, counts, drawn)];
    let [products, squaresA, squaresB] = [0, 0, 0];
    for (let i = 0; i < a.length; i++) {
      products += counts[i] * (a[i] - meanA) * (b[i] - meanB);
      squaresA += counts[i] * (a[i] - meanA) ** 2;
      squaresB += counts[i] * (b[i] - meanB) ** 2;
    }
    return Math.min(1, Math.max(-1, products / (Math.sqrt(squaresA) * Math.sqrt(squaresB))));
  };
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
