/** p-values of several tests at once, adjusted: the chance of any false one below alpha is at most alpha. */

import { ShapeError } from '../runtime/errors';

function requireProbabilities(pValues: readonly number[]): void {
  const wrong = pValues.find((p) => !(p >= 0 && p <= 1));
  if (wrong !== undefined) throw new ShapeError(`a p-value is ${wrong}; expected 0 to 1.`);
}

/** Bonferroni's correction: min(1, m p_i) of m p-values. @throws ShapeError when one is not in [0, 1] */
export function bonferroni(pValues: readonly number[]): number[] {
  requireProbabilities(pValues);
  return pValues.map((p) => Math.min(1, pValues.length * p));
}

/**
 * Holm's step-down correction, never larger than Bonferroni's: of the sorted p_(1) <= ... <= p_(m),
 * max over j <= i of min(1, (m - j + 1) p_(j)).
 *
 * @returns in the order of the argument
 * @throws ShapeError  when a p-value is not in [0, 1]
 * Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
 */
export function holm(pValues: readonly number[]): number[] {
  requireProbabilities(pValues);
  const order = pValues.map((_, i) => i).sort((i, j) => pValues[i] - pValues[j]);
  const adjusted = new Array<number>(pValues.length);
  let largest = 0;
  order.forEach((i, step) => {
    largest = Math.max(largest, Math.min(1, (pValues.length - step) * pValues[i]));
    adjusted[i] = largest;
  });
  return adjusted;
}
