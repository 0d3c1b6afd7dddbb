import { requireCount, requireFinite } from './checks';
import { studentQuantile } from './distributions';
import { mean, sampleStd, standardError } from './statistics';

/** One number of several runs that differ only in their seed. */
export interface SeedAggregate {
  n: number;
  mean: number;
  /** sample standard deviation over seeds; null for a single one */
  sd: number | null;
  /** Student's 95 % interval of the mean; null for a single seed */
  ci: [number, number] | null;
}

/** How the interval of `aggregateSeeds` is called in tables and figures. */
export const SEED_INTERVAL = "Student's t, 95 %, over seeds";

/**
 * Mean over seeds with its spread: sd, and mean +- t sd / sqrt(n), t the 97.5th percentile of Student's distribution
 * with n - 1 degrees of freedom (4.3 for three seeds, where a normal interval's 1.96 would be far too narrow, and
 * resampling three values says next to nothing).
 *
 * @throws ShapeError  when there is no value, or one is not finite
 */
export function aggregateSeeds(values: ArrayLike<number>): SeedAggregate {
  requireCount(values, 1, 'mean over seeds');
  requireFinite(values, 'mean over seeds');
  const [n, centre] = [values.length, mean(values)];
  if (n === 1) return { n, mean: centre, sd: null, ci: null };
  const margin = studentQuantile(0.05, n - 1) * standardError(values);
  return { n, mean: centre, sd: sampleStd(values), ci: [centre - margin, centre + margin] };
}
