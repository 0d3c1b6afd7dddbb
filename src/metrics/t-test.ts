import { studentTwoTails } from './distributions';
import { pairedDifferences } from './effect-size';
import { isConstant, mean, standardError } from './statistics';

/** The result of a paired t-test. */
export interface PairedTTest {
  /** infinite where all differences are equal but not 0 */
  t: number;
  df: number;
  /** two-sided */
  pValue: number;
}

/**
 * Paired t-test: t = mean(d) / (s_d / sqrt(n)) of the differences d_i = a_i - b_i, with n - 1 degrees of freedom.
 *
 * @returns null where every difference is 0: then t does not exist
 * @throws ShapeError  when the lengths differ, n < 2, or a value is not finite
 * Source: Student, "The probable error of a mean", Biometrika 6, 1908.
 */
export function pairedTTest(a: ArrayLike<number>, b: ArrayLike<number>): PairedTTest | null {
  const differences = pairedDifferences(a, b, 'paired t-test');
  const df = differences.length - 1;
  const centre = mean(differences);
  if (isConstant(differences))
    return centre === 0 ? null : { t: Math.sign(centre) * Infinity, df, pValue: 0 };
  const t = centre / standardError(differences);
  return { t, df, pValue: studentTwoTails(t, df) };
}
