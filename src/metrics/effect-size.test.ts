import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { cliffsDelta, cliffsDeltaLabel, cohensD, cohensDz } from './effect-size';
import { pairedTTest } from './t-test';

const whole = fc.array(fc.integer({ min: -5, max: 5 }), { minLength: 2, maxLength: 12 });

describe("Cohen's d", () => {
  it('is the difference of means in units of the pooled deviation', () => {
    expect(cohensD([1, 2, 3], [3, 4, 5])).toBeCloseTo(-2, 14);
    expect(cohensD([2, 4], [0, 2, 4])).toBeCloseTo(1 / Math.sqrt((2 + 8) / 3), 14);
  });

  it('changes sign with the sides and ignores shift and scale', () => {
    fc.assert(
      fc.property(whole, whole, (a, b) => {
        const d = cohensD(a, b);
        if (d === null) return;
        const moved = (values: number[]): number[] => values.map((x) => 4 * x + 3);
        expect(cohensD(b, a)).toBeCloseTo(-d, 12);
        expect(cohensD(moved(a), moved(b))).toBeCloseTo(d, 12);
      }),
    );
  });

  it('does not exist where nothing varies, even where the mean rounds', () => {
    expect(cohensD([0.1, 0.1, 0.1], [0.1, 0.1, 0.1])).toBeNull();
    expect(cohensD([1, 1], [2, 2])).toBeNull();
    expect(cohensDz([1, 2], [2, 3])).toBeNull();
    expect(cohensDz([1, 2], [1, 2])).toBeNull();
  });

  it('refuses single values, NaN, and sides that are not pairs', () => {
    expect(() => cohensD([1], [1, 2])).toThrow(ShapeError);
    expect(() => cohensD([1, NaN], [1, 2])).toThrow(/NaN/);
    expect(() => cohensDz([1, 2], [1])).toThrow(ShapeError);
    expect(() => cohensDz([1], [1])).toThrow(ShapeError);
    expect(() => cohensDz([1, NaN], [1, 2])).toThrow(/NaN/);
  });
});

describe("Cliff's delta", () => {
  it('is the mean over pairs of the sign of their difference', () => {
    fc.assert(
      fc.property(whole, whole, (a, b) => {
        const signs = a.flatMap((x) => b.map((y) => Math.sign(x - y)));
        const expected = signs.reduce((sum, sign) => sum + sign, 0) / signs.length;
        expect(cliffsDelta(a, b)).toBeCloseTo(expected, 13);
      }),
    );
  });

  it('is 0 for equal samples and 1 where all of the first are greater', () => {
    expect(cliffsDelta([1, 2], [1, 2])).toBe(0);
    expect(cliffsDelta([3], [1, 2])).toBe(1);
    expect(() => cliffsDelta([], [1])).toThrow(ShapeError);
  });

  it('is named by its size, a bound by the larger name', () => {
    const bounds = [0, -0.1469, 0.147, -0.3299, 0.33, 0.4739, -0.474, 1];
    expect(bounds.map(cliffsDeltaLabel)).toEqual([
      ...['negligible', 'negligible', 'small', 'small', 'medium', 'medium', 'large', 'large'],
    ]);
  });
});

describe('pairedTTest', () => {
  it('has t = d_z sqrt(n)', () => {
    const [a, b] = [
      [1, 4, 2, 8],
      [2, 3, 5, 9],
    ];
    expect(pairedTTest(a, b)?.t).toBeCloseTo((cohensDz(a, b) ?? NaN) * 2, 14);
  });

  it('has the closed form of two pairs', () => {
    // Differences 1 and 3: t = 2, one degree of freedom.
    const result = pairedTTest([1, 3], [0, 0]);
    expect(result?.t).toBeCloseTo(2, 14);
    expect(result?.pValue).toBeCloseTo(1 - (2 / Math.PI) * Math.atan(2), 14);
  });

  it('is certain of a constant difference, and does not exist without any', () => {
    expect(pairedTTest([1, 2, 3], [0, 1, 2])).toEqual({ t: Infinity, df: 2, pValue: 0 });
    expect(pairedTTest([1, 2, 3], [1, 2, 3])).toBeNull();
  });

  it('refuses a single pair, unequal sides and NaN', () => {
    expect(() => pairedTTest([1], [2])).toThrow(ShapeError);
    expect(() => pairedTTest([1, 2], [2])).toThrow(ShapeError);
    expect(() => pairedTTest([], [])).toThrow(ShapeError);
    expect(() => pairedTTest([1, NaN], [2, 3])).toThrow(/NaN/);
  });
});
