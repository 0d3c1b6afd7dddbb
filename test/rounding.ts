/** Rounding to bfloat16 by its definition, for tests: written apart from src/model/half-precision.ts. */
import { expect } from 'vitest';

/** The bits of float32 numbers. */
export const bitsOf = (values: Float32Array): Uint32Array =>
  new Uint32Array(values.buffer, values.byteOffset, values.length);
/** The float32 numbers that have these bits. */
export const floatsOf = (bits: ArrayLike<number>): Float32Array =>
  new Float32Array(Uint32Array.from(bits).buffer);

/** R, by its definition: the nearer of the two bfloat16 numbers around x, of two as near the one whose last bit is 0. */
export function rounded(x: number): number {
  if (!Number.isFinite(x)) return x;
  const bits = bitsOf(Float32Array.of(x))[0];
  const low = bits - (bits % 65_536);
  const [down, up] = floatsOf([low, low + 65_536]);
  // Above the largest one the next would be 2^128, in whose place there is an infinity.
  const above = Math.abs(up) === Infinity ? Math.sign(up) * 2 ** 128 : up;
  const [toDown, toUp] = [Math.abs(x - down), Math.abs(above - x)];
  const isDown = toDown < toUp || (toDown === toUp && (low / 65_536) % 2 === 0);
  return isDown ? down : up;
}

const isSubnormal = (x: number): boolean => x !== 0 && Math.abs(x) < 2 ** -126;

/** The same bits as R(x), the sign of zero aside unless asked for; subnormal x may be zero, and a NaN any. */
function isRounded(actual: number, x: number, withSign = false): boolean {
  if (isSubnormal(x) && actual === 0) return true;
  const expected = rounded(x);
  return withSign ? Object.is(actual, expected) : actual === expected || (isNaN(actual) && isNaN(expected));
}

/** Every number is R(x), as `isRounded` takes it. */
export function expectRounded(actual: Float32Array, x: Float32Array, withSign = false): void {
  expect(actual.length).toBe(x.length);
  const wrong = actual.findIndex((value, i) => !isRounded(value, x[i], withSign));
  expect(wrong < 0 ? 'all' : `R(${x[wrong]}) is ${rounded(x[wrong])}, not ${actual[wrong]}`).toBe('all');
}

/** Numbers where rounding decides: ties that go down and up, their neighbours, and both ends of the range. */
export const edges = ((): Float32Array => {
  const unit = 2 ** -8;
  const ties = [1 + unit, 1 + 3 * unit, 2 - unit, 4 - 2 * unit, 1 + 2 * unit, 1 - unit / 2, 1 - 1.5 * unit];
  const near = ties.flatMap((tie) => [tie, tie - 2 ** -23, tie + 2 ** -23]);
  const scaled = near.flatMap((x) => [x, x * 2 ** 100, x * 2 ** -100, x * 2 ** -126]);
  const large = [3.4e38, 3.39e38, 2 ** 128 - 2 ** 119, 2 ** 128 - 2 ** 119 - 2 ** 104, 2 ** 128 - 2 ** 104];
  const small = [2 ** -126, 2 ** -126 - 2 ** -149, 2 ** -149, 2 ** -133, 0];
  const all = [...scaled, ...large, ...small, Infinity, NaN];
  return Float32Array.from(all.flatMap((x) => [x, -x]));
})();
