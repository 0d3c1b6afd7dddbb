/**
 * Diversity credits: what each of the n completions of a prompt gets for the diversity D of all of them. D is a function
 * of texts, so it has no gradient in the weights; that of its expectation is the score function's,
 * grad E[D(y_1..y_n)] = E[sum_i c_i grad log pi(y_i)], with log pi(y) the sum over the tokens of y and c_i = D.
 * The credits here have the same expectation and less variance. Plain numbers, no tensors.
 */
import { NumericError, ShapeError } from '../runtime/errors';

/** Groups that the running mean remembers: D drifts as the policy learns. */
const REMEMBERED = 100;

/** Mean of D over earlier groups. */
export interface RunningMean {
  mean: number;
  /** Groups in it, at most 100: from then on a group has a weight of 1/100. */
  count: number;
}

/** A group's diversity and the credits of its completions. */
export interface CreditedGroup {
  diversity: number;
  /** [n] */
  credits: number[];
}

function requireFinite(values: readonly number[], what: string): void {
  const bad = values.find((value) => !Number.isFinite(value));
  if (bad !== undefined) throw new NumericError(`${what} is ${bad}; expected a finite number`);
}

/**
 * Leave-one-out credits, for any function D of a set: c_i = D(all) - D(all but i).
 *
 * Unbiased: D(all but i) does not depend on y_i and the draws are independent, so its share of the expectation is
 * E[D(all but i)] E[grad log pi(y_i)], and the second factor is grad sum_y pi(y) = grad 1 = 0.
 *
 * Total variance of sum_i c_i grad log pi(y_i) for mean pairwise distance, n = 3, by enumeration (the tests):
 * 4 completions of which two are nearly the same (golden/toy-grpo.json): no baseline 0.192, leave-one-out 0.171, pair
 * terms 0.083; 16 equally likely completions at distances 0.7..0.9: 1.580, 0.112, 0.691. Where samples repeat, one pair
 * is a poor baseline; where all differ, as replies do, D(all but i) takes away 93 % of it.
 *
 * @param measure  D of the completions at these indices, in 0..n-1
 * @throws ShapeError    when n < 3: one completion alone has no diversity
 * @throws NumericError  when a D is not finite
 * Source: leave-one-out as in Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019, here for a reward
 * of the whole set.
 */
export async function leaveOneOutCredits(
  measure: (indices: readonly number[]) => number | Promise<number>,
  n: number,
): Promise<CreditedGroup> {
  if (n < 3)
    throw new ShapeError(
      `leave-one-out credits of ${n} completion(s); expected at least 3, because one completion alone has no ` +
        'diversity: for 2, use runningMeanCredits or pairCredits',
    );
  const all = Array.from({ length: n }, (_, i) => i);
  const diversity = await measure(all);
  const without = await Promise.all(all.map((i) => measure(all.filter((j) => j !== i))));
  requireFinite([diversity, ...without], 'the diversity of a group');
  return { diversity, credits: without.map((rest) => diversity - rest) };
}

/**
 * Credits of a group of two: c_i = D(y_1, y_2) - b, b the mean of D over earlier groups, 0 before the first.
 *
 * Unbiased: b was there before the group was drawn, so E[b grad log pi(y_i)] = b E[grad log pi(y_i)] = 0.
 *
 * @param baseline  of the groups before this one
 * @returns         [2] credits, and the running mean with this group in it
 * @throws NumericError  when D is not finite
 */
export function runningMeanCredits(
  diversity: number,
  baseline: RunningMean,
): CreditedGroup & { baseline: RunningMean } {
  requireFinite([diversity], 'the diversity of a group');
  const credit = diversity - baseline.mean;
  const count = Math.min(REMEMBERED, baseline.count + 1);
  const mean = baseline.mean + credit / count;
  return { diversity, credits: [credit, credit], baseline: { mean, count } };
}

/**
 * Pair credits, for D = mean over pairs of a distance d: c_i = 2 / (n (n - 1)) sum_{j != i} d(y_i, y_j), the terms of D
 * that contain i.
 *
 * Unbiased: the other terms do not depend on y_i, so they drop out as D(all but i) does in `leaveOneOutCredits`.
 * It is leave-one-out without its baseline: D(all) - D(all but i) = c_i - (2 / n) D(all but i). Variances: see there.
 *
 * @param distances  [n][n] symmetric; only pairs i < j are read
 * @returns          D and [n] credits, which sum to 2 D
 * @throws ShapeError    when n < 2 or the matrix is not square
 * @throws NumericError  when a distance is not finite
 */
export function pairCredits(distances: readonly (readonly number[])[]): CreditedGroup {
  const n = distances.length;
  if (n < 2) throw new ShapeError(`pair credits of ${n} completion(s); expected at least 2`);
  const ragged = distances.find((row) => row.length !== n);
  if (ragged !== undefined)
    throw new ShapeError(`distances of ${n} completions have a row of ${ragged.length}; expected ${n}`);
  const credits = new Array<number>(n).fill(0);
  let diversity = 0;
  for (let i = 0; i < n; i++)
    for (let j = i + 1; j < n; j++) {
      requireFinite([distances[i][j]], `the distance of completions ${i} and ${j}`);
      const share = distances[i][j] / ((n * (n - 1)) / 2);
      credits[i] += share;
      credits[j] += share;
      diversity += share;
    }
  return { diversity, credits };
}
