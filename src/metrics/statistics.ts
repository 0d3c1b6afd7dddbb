import { ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { requireCount, requireFinite, requireSameLength } from './checks';
import type { Numbers } from './checks';

/** A sorted copy in which NaN cannot hide: it would come last and shift every percentile. */
function sorted(values: Numbers): Float64Array {
  const copy = new Float64Array(values).sort();
  if (Number.isNaN(copy[copy.length - 1])) throw new ShapeError('a value is NaN; expected numbers only.');
  return copy;
}

/** Arithmetic mean. @throws ShapeError when there is no value. */
export function mean(values: Numbers): number {
  requireCount(values, 1, 'mean');
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}

/** Sample standard deviation, sqrt(sum (x - mean)^2 / (n - 1)). @throws ShapeError when n < 2. */
export function sampleStd(values: Numbers): number {
  requireCount(values, 2, 'sample standard deviation');
  const centre = mean(values);
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] - centre) ** 2;
  return Math.sqrt(sum / (values.length - 1));
}

/** Whether all values are equal, by the values: rounding in their mean can leave a variance above 0. */
export function isConstant(values: Numbers): boolean {
  return Array.from(values).every((value) => value === values[0]);
}

/** Standard error of the mean, s / sqrt(n). @throws ShapeError when n < 2. */
export function standardError(values: Numbers): number {
  return sampleStd(values) / Math.sqrt(values.length);
}

/**
 * Skewness g1 = m_3 / m_2^(3/2), with m_r = sum (x - mean)^r / n; null where all values are equal.
 *
 * @throws ShapeError  when there is no value, or one is not finite
 * Source: Joanes and Gill, "Comparing measures of sample skewness and kurtosis", 1998 (scipy's default).
 */
export function skewness(values: Numbers): number | null {
  requireCount(values, 1, 'skewness');
  requireFinite(values, 'skewness');
  if (isConstant(values)) return null;
  const centre = mean(values);
  const moment = (r: number): number => mean(Array.from(values, (value) => (value - centre) ** r));
  return moment(3) / moment(2) ** 1.5;
}

/**
 * Percentiles with linear interpolation: of sorted x[0..n-1], the value at position (n - 1) q / 100.
 *
 * @param q  each in [0, 100]
 * @returns  one value per q
 * @throws ShapeError  when there is no value, or a q outside its range
 * Source: definition 7 of Hyndman and Fan, "Sample quantiles in statistical packages", 1996 (numpy's default).
 */
export function percentiles(values: Numbers, q: readonly number[]): number[] {
  requireCount(values, 1, 'percentile');
  const x = sorted(values);
  return q.map((percent) => {
    if (!(percent >= 0 && percent <= 100)) throw new ShapeError(`percentile ${percent}; expected 0 to 100.`);
    const position = ((x.length - 1) * percent) / 100;
    const low = Math.floor(position);
    const high = Math.min(low + 1, x.length - 1);
    // Equal neighbours give exactly their value, infinite ones too: ties must fall on the boundary itself.
    if (position === low || x[low] === x[high]) return x[low];
    // Half-way it is the mean, as every definition of the median says, rounded once.
    if (position - low === 0.5) return (x[low] + x[high]) / 2;
    return x[low] + (x[high] - x[low]) * (position - low);
  });
}

/** The 50th percentile: the middle value, or the mean (a + b) / 2 of the two in the middle. */
export function median(values: Numbers): number {
  return percentiles(values, [50])[0];
}

/** Pearson's correlation of pairs, in [-1, 1]; null where a side is constant, since none exists. n >= 2. */
export function pearson(a: Numbers, b: Numbers): number | null {
  requireSameLength(a, b, 'correlation');
  requireCount(a, 2, 'correlation');
  const meanA = mean(a);
  const meanB = mean(b);
  let [productSum, squaresA, squaresB] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    productSum += (a[i] - meanA) * (b[i] - meanB);
    squaresA += (a[i] - meanA) ** 2;
    squaresB += (b[i] - meanB) ** 2;
  }
  if (isConstant(a) || isConstant(b)) return null;
  return Math.min(1, Math.max(-1, productSum / (Math.sqrt(squaresA) * Math.sqrt(squaresB))));
}

/** Ranks from 1; equal values share the mean of their ranks. @throws ShapeError when a value is NaN. */
export function ranks(values: Numbers): number[] {
  if (Array.from(values).some(Number.isNaN)) throw new ShapeError('a value is NaN; expected numbers only.');
  const order = Array.from(values, (_, i) => i).sort((i, j) => values[i] - values[j]);
  const result = new Array<number>(values.length);
  for (let start = 0, end = 0; start < order.length; start = end) {
    while (end < order.length && values[order[end]] === values[order[start]]) end++;
    for (let i = start; i < end; i++) result[order[i]] = (start + 1 + end) / 2;
  }
  return result;
}

/** Spearman's rank correlation: Pearson's of the ranks; null where a side is constant. n >= 2. */
export function spearman(a: Numbers, b: Numbers): number | null {
  requireSameLength(a, b, 'correlation');
  return pearson(ranks(a), ranks(b));
}

/**
 * Draws for a bootstrap: `resamples` times n indices into n values, with replacement.
 * Row r depends only on the seed and r.
 */
export function* resampleIndices(n: number, resamples: number, seed: number): Generator<Int32Array> {
  for (let row = 0; row < resamples; row++) {
    const random = new Random(seed, 'bootstrap', row);
    const indices = new Int32Array(n);
    for (let i = 0; i < n; i++) indices[i] = random.integer(n);
    yield indices;
  }
}

/** The statistic of every resample: one number per row of indices. */
export function bootstrap(
  values: Numbers,
  statistic: (sample: Float64Array) => number,
  indices: Iterable<Numbers>,
): Float64Array {
  const results: number[] = [];
  for (const row of indices) {
    results.push(statistic(Float64Array.from({ length: row.length }, (_, i) => values[row[i]])));
  }
  return Float64Array.from(results);
}

/** The central interval of bootstrapped statistics at a level such as 0.95: its outer percentiles. */
export function percentileInterval(statistics: Numbers, level = 0.95): [number, number] {
  const tail = (1 - level) * 50;
  const [low, high] = percentiles(statistics, [tail, 100 - tail]);
  return [low, high];
}

/** Seed, resamples and level of a bootstrap interval. */
export interface BootstrapOptions {
  seed: number;
  /** default 10,000 */
  resamples?: number;
  /** of the interval, default 0.95 */
  level?: number;
}

/** A mean of paired differences with its bootstrap interval. */
export interface PairedDifference {
  /** mean of b - a */
  difference: number;
  interval: [number, number];
  n: number;
}

/**
 * Mean of the paired differences b_i - a_i with its bootstrap interval (percentile method): the pairs, not the two
 * sides, are resampled.
 *
 * @throws ShapeError  when the lengths differ or n < 2
 * Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
 */
export function pairedBootstrap(a: Numbers, b: Numbers, options: BootstrapOptions): PairedDifference {
  const { seed, resamples = 10_000, level = 0.95 } = options;
  requireSameLength(a, b, 'paired bootstrap');
  requireCount(a, 2, 'paired bootstrap');
  const differences = Float64Array.from({ length: a.length }, (_, i) => b[i] - a[i]);
  const means = bootstrap(differences, mean, resampleIndices(a.length, resamples, seed));
  return { difference: mean(differences), interval: percentileInterval(means, level), n: a.length };
}
