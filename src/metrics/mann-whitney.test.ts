import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { mannWhitneyU, uStatistic } from './mann-whitney';

const sample = fc.array(fc.integer({ min: 0, max: 6 }), { minLength: 1, maxLength: 12 });

describe('uStatistic', () => {
  it('counts the pairs in which the first is greater, a tie half', () => {
    fc.assert(
      fc.property(sample, sample, (a, b) => {
        const pairs = a.flatMap((x) => b.map((y): number => (Math.sign(x - y) + 1) / 2));
        expect(uStatistic(a, b)).toBe(pairs.reduce((sum, pair) => sum + pair, 0));
        expect(uStatistic(a, b) + uStatistic(b, a)).toBe(a.length * b.length);
      }),
    );
  });
});

describe('mannWhitneyU', () => {
  it('has the exact p of all orderings', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 }), fc.nat(), (n, m, pick) => {
        const all = Array.from({ length: n + m }, (_, i) => i);
        const partings = Array.from({ length: 2 ** (n + m) }, (_, bits) =>
          all.filter((i) => (bits >> i) & 1),
        );
        const chosen = partings.filter((a) => a.length === n);
        const others = (a: number[]): number[] => all.filter((i) => !a.includes(i));
        const a = chosen[pick % chosen.length];
        const us = chosen.map((x) => uStatistic(x, others(x)));
        const [u, middle] = [uStatistic(a, others(a)), (n * m) / 2];
        const share = (isExtreme: (v: number) => boolean): number => us.filter(isExtreme).length / us.length;
        const p = (alternative: 'two-sided' | 'less' | 'greater'): number =>
          mannWhitneyU(a, others(a), { alternative }).pValue;
        expect(p('greater')).toBeCloseTo(
          share((v) => v >= u),
          12,
        );
        expect(p('less')).toBeCloseTo(
          share((v) => v <= u),
          12,
        );
        expect(p('two-sided')).toBeCloseTo(
          Math.min(1, 2 * share((v) => v >= middle + Math.abs(u - middle))),
          12,
        );
      }),
      { numRuns: 40 },
    );
  });

  it('is exact up to eight values of the smaller sample without ties, else asymptotic', () => {
    const values = (n: number, shift: number): number[] => Array.from({ length: n }, (_, i) => i + shift);
    expect(mannWhitneyU(values(8, 0), values(50, 0.5)).method).toBe('exact');
    expect(mannWhitneyU(values(9, 0), values(9, 0.5)).method).toBe('asymptotic');
    expect(mannWhitneyU(values(3, 0), values(3, 0)).method).toBe('asymptotic');
  });

  it('comes near the exact p in large samples, and keeps the digits of a tiny one', () => {
    const a = Array.from({ length: 60 }, (_, i) => i * 1.01);
    const b = Array.from({ length: 60 }, (_, i) => i + 7.003);
    const [exact, normal] = [mannWhitneyU(a, b, { method: 'exact' }), mannWhitneyU(a, b)];
    expect(normal.pValue).toBeCloseTo(exact.pValue, 3);
    // All 60 above all 60: 1 ordering of C(120, 60).
    let orderings = 1;
    for (let i = 1; i <= 60; i++) orderings *= (60 + i) / i;
    const apart = mannWhitneyU(
      a.map((x) => x + 1000),
      b,
      { method: 'exact', alternative: 'greater' },
    );
    expect(apart.pValue * orderings).toBeCloseTo(1, 10);
  });

  it('has p = 1 for equal, constant and single values', () => {
    expect(mannWhitneyU([1, 2, 3], [1, 2, 3])).toMatchObject({ u: 4.5, pValue: 1 });
    expect(mannWhitneyU([5, 5], [5, 5, 5])).toMatchObject({ u: 3, pValue: 1 });
    expect(mannWhitneyU([1], [2]).pValue).toBe(1);
  });

  it('refuses an empty sample, NaN, and an exact p with ties', () => {
    expect(() => mannWhitneyU([], [1])).toThrow(ShapeError);
    expect(() => mannWhitneyU([1], [])).toThrow(ShapeError);
    expect(() => mannWhitneyU([1, NaN], [1])).toThrow(/NaN/);
    expect(() => mannWhitneyU([1, 2], [2, 3], { method: 'exact' })).toThrow(/equal values/);
  });
});
