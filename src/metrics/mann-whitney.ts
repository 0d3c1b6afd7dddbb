import { ShapeError } from '../runtime/errors';
import { requireCount } from './checks';
import type { Numbers } from './checks';
import { normalTail } from './distributions';
import { ranks } from './statistics';

/** What the first sample is taken to be, against the second. */
export type Alternative = 'two-sided' | 'less' | 'greater';

/** The result of a Mann-Whitney U test. */
export interface MannWhitney {
  /** of the first sample: pairs in which its value is the greater, a tie counting half; from 0 to n m */
  u: number;
  pValue: number;
  /** how the p-value was found */
  method: 'exact' | 'asymptotic';
}

/** How `mannWhitneyU` tests. */
export interface MannWhitneyOptions {
  /** default two-sided */
  alternative?: Alternative;
  /** default exact when the smaller sample has at most 8 values and no two are equal, else asymptotic */
  method?: 'exact' | 'asymptotic';
}

/** Size of the smaller sample up to which the p-value is exact, as scipy's `method="auto"` has it. */
const EXACT_SIZE = 8;

/**
 * U of the first sample by ranks: R - n (n + 1) / 2, R the sum of its ranks among all values.
 *
 * @throws ShapeError  when a sample is empty or has a NaN
 */
export function uStatistic(a: Numbers, b: Numbers): number {
  requireCount(a, 1, 'first sample');
  requireCount(b, 1, 'second sample');
  const ranked = ranks([...Array.from(a), ...Array.from(b)]).slice(0, a.length);
  return ranked.reduce((sum, rank) => sum + rank, 0) - (a.length * (a.length + 1)) / 2;
}

/**
 * P(U >= u) of samples of n and m values from one distribution without ties. The counts of orderings with U = 0, 1, ...
 * are the coefficients of prod_{i=1}^n (1 - q^(m+i)) / (1 - q^i), here divided by their sum C(n+m, n); only the lower
 * half is computed, the rest is its mirror image.
 *
 * Source: Mann and Whitney, Annals of Mathematical Statistics 18, 1947; the product is the Gaussian binomial.
 */
function exactTail(n: number, m: number, u: number): number {
  const half = Math.floor((n * m) / 2);
  const density = new Float64Array(half + 1);
  density[0] = 1;
  for (let i = 1; i <= n; i++) {
    for (let s = half; s >= m + i; s--) density[s] -= density[s - m - i];
    for (let s = i; s <= half; s++) density[s] += density[s - i];
    for (let s = 0; s <= half; s++) density[s] *= i / (m + i);
  }
  const atMost = (most: number): number => density.subarray(0, most + 1).reduce((sum, p) => sum + p, 0);
  return 2 * u > n * m ? atMost(n * m - u) : 1 - (u > 0 ? atMost(u - 1) : 0);
}

/** Sum of t^3 - t over the runs of t equal values. */
function tieTerm(values: Float64Array): number {
  const sorted = values.sort();
  let sum = 0;
  for (let start = 0, end = 0; start < sorted.length; start = end) {
    while (end < sorted.length && sorted[end] === sorted[start]) end++;
    sum += (end - start) ** 3 - (end - start);
  }
  return sum;
}

/** P(U >= u) by the normal distribution, with continuity correction; 1 where all values are equal. */
function asymptoticTail(n: number, m: number, u: number, ties: number): number {
  const total = n + m;
  const variance = ((n * m) / 12) * (total + 1 - ties / (total * (total - 1)));
  return variance > 0 ? normalTail((u - (n * m) / 2 - 0.5) / Math.sqrt(variance)) : 1;
}

/**
 * Mann-Whitney U test of two independent samples. Two-sided p = min(1, 2 P(U >= max(U_a, U_b))). The asymptotic one
 * takes U for normal with mean n m / 2 and variance n m / 12 (N + 1 - sum(t^3 - t) / (N (N - 1))), N = n + m, t the
 * sizes of the ties, and takes 1/2 off its distance from the mean.
 *
 * @throws ShapeError  when a sample is empty or has a NaN, or an exact p-value is asked for with ties
 * Source: Mann and Whitney 1947; scipy's `mannwhitneyu`.
 */
export function mannWhitneyU(a: Numbers, b: Numbers, options: MannWhitneyOptions = {}): MannWhitney {
  const { alternative = 'two-sided' } = options;
  const [n, m] = [a.length, b.length];
  const u = uStatistic(a, b);
  const ties = tieTerm(Float64Array.from([...Array.from(a), ...Array.from(b)]));
  const method = options.method ?? (ties === 0 && Math.min(n, m) <= EXACT_SIZE ? 'exact' : 'asymptotic');
  if (method === 'exact' && ties > 0) {
    throw new ShapeError(
      'an exact p-value of samples with equal values; expected all different. Leave method out.',
    );
  }
  const tail = (extreme: number): number =>
    method === 'exact' ? exactTail(n, m, extreme) : asymptoticTail(n, m, extreme, ties);
  const mirrored = n * m - u;
  const pValues: Record<Alternative, () => number> = {
    'two-sided': () => 2 * tail(Math.max(u, mirrored)),
    greater: () => tail(u),
    less: () => tail(mirrored),
  };
  return { u, pValue: Math.min(1, pValues[alternative]()), method };
}
