/** How large a difference is, beside how sure. */

import { requireCount, requireFinite, requireSameLength } from './checks';
import type { Numbers } from './checks';
import { uStatistic } from './mann-whitney';
import { isConstant, mean, sampleStd } from './statistics';

/**
 * Cohen's d of two independent samples: (mean a - mean b) / s, s^2 = ((n-1) s_a^2 + (m-1) s_b^2) / (n + m - 2).
 *
 * @returns null where neither sample varies
 * @throws ShapeError  when a sample has fewer than 2 values or one that is not finite
 * Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, §2.
 */
export function cohensD(a: Numbers, b: Numbers): number | null {
  for (const sample of [a, b]) {
    requireCount(sample, 2, "Cohen's d");
    requireFinite(sample, "Cohen's d");
  }
  if (isConstant(a) && isConstant(b)) return null;
  const squares = (values: Numbers): number => (values.length - 1) * sampleStd(values) ** 2;
  const pooled = Math.sqrt((squares(a) + squares(b)) / (a.length + b.length - 2));
  return (mean(a) - mean(b)) / pooled;
}

/**
 * Cohen's d of pairs, d_z = mean(a_i - b_i) / s of the differences: t / sqrt(n) of the paired t-test.
 *
 * @returns null where all differences are equal
 * @throws ShapeError  when the lengths differ, n < 2, or a value is not finite
 * Source: Cohen 1988, §2.3.5; the name d_z: Lakens, Frontiers in Psychology 4:863, 2013.
 */
export function cohensDz(a: Numbers, b: Numbers): number | null {
  const differences = pairedDifferences(a, b, "Cohen's d of pairs");
  return isConstant(differences) ? null : mean(differences) / sampleStd(differences);
}

/** a_i - b_i. @throws ShapeError when the lengths differ, n < 2, or a value is not finite */
export function pairedDifferences(a: Numbers, b: Numbers, what: string): Float64Array {
  requireSameLength(a, b, what);
  requireCount(a, 2, what);
  requireFinite(a, what);
  requireFinite(b, what);
  return Float64Array.from({ length: a.length }, (_, i) => a[i] - b[i]);
}

/**
 * Cliff's delta: P(a > b) - P(a < b) = mean over pairs of sign(a_i - b_j) = 2 U / (n m) - 1.
 *
 * @returns in [-1, 1]
 * @throws ShapeError  when a sample is empty or has a NaN
 * Source: Cliff, "Dominance statistics", Psychological Bulletin 114, 1993.
 */
export function cliffsDelta(a: Numbers, b: Numbers): number {
  return (2 * uStatistic(a, b)) / (a.length * b.length) - 1;
}

/** The size of an effect in words. */
export type CliffsDeltaLabel = 'negligible' | 'small' | 'medium' | 'large';

/** Negligible below 0.147, small below 0.33, medium below 0.474, else large. Source: Romano et al., FAIR 2006. */
export function cliffsDeltaLabel(delta: number): CliffsDeltaLabel {
  const size = Math.abs(delta);
  if (size < 0.147) return 'negligible';
  if (size < 0.33) return 'small';
  return size < 0.474 ? 'medium' : 'large';
}
