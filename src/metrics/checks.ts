/** What the functions of this folder ask of their arguments. */

import { ShapeError } from '../runtime/errors';

/** An array or a typed array. */
export type Numbers = ArrayLike<number>;
type Sized = { readonly length: number };

export function requireCount(values: Sized, least: number, what: string): void {
  if (values.length < least) {
    throw new ShapeError(`${what} of ${values.length} values; expected at least ${least}.`);
  }
}

export function requireSameLength(a: Sized, b: Sized, what: string): void {
  if (a.length !== b.length) {
    throw new ShapeError(`${what} of ${a.length} and ${b.length} values; expected pairs, as many of each.`);
  }
}

/** Neither NaN nor infinite. */
export function requireFinite(values: Numbers, what: string): void {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) {
      throw new ShapeError(`${what}: value ${i} is ${values[i]}; expected finite numbers only.`);
    }
  }
}

/** A whole number from `least` to `most`. */
export function requireWhole(value: number, least: number, most: number, what: string): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new ShapeError(`${what} is ${value}; expected a whole number from ${least} to ${most}.`);
  }
}
