import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { deviation } from '../../test/golden';
import { ShapeError } from '../runtime/errors';
import { normalTail, studentQuantile, studentTwoTails } from './distributions';

/** Integral of f from a to b by Simpson's rule. */
function integral(f: (x: number) => number, a: number, b: number, steps = 4000): number {
  const h = (b - a) / steps;
  let sum = f(a) + f(b);
  for (let i = 1; i < steps; i++) sum += f(a + i * h) * (i % 2 === 1 ? 4 : 2);
  return (sum * h) / 3;
}

describe('normalTail', () => {
  // mpmath 1.4.1, erfc(z / sqrt 2) / 2 with 60 digits.
  it.each([
    [0.7, 0.24196365222307303],
    [2, 0.022750131948179207],
    [3, 0.0013498980316300945],
    [14, 7.7935368191928e-45],
    [37, 5.725571222524577e-300],
  ])('at %d is %d', (z, p) => {
    expect(deviation(normalTail(z), p)).toBeLessThan(1e-13);
  });

  it('is the integral of the density, on both sides of where its two forms meet', () => {
    const density = (x: number): number => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
    for (const z of [0.3, 2.999, 3.001, 4]) {
      expect(deviation(normalTail(z), integral(density, z, z + 12))).toBeLessThan(1e-9);
    }
  });

  it('is 1/2 at 0, 1 and 0 far out, and falls', () => {
    expect([0, -Infinity, Infinity, 40].map(normalTail)).toEqual([0.5, 1, 0, 0]);
    fc.assert(
      fc.property(fc.double({ min: -38, max: 38, noNaN: true }), (z) => {
        expect(normalTail(z)).toBeGreaterThanOrEqual(normalTail(z + 0.01));
        expect(normalTail(z) + normalTail(-z)).toBeCloseTo(1, 14);
      }),
    );
    expect(() => normalTail(NaN)).toThrow(ShapeError);
  });
});

describe('studentTwoTails', () => {
  it('has the closed forms of 1, 2 and 4 degrees of freedom', () => {
    fc.assert(
      fc.property(fc.double({ min: 0.01, max: 50, noNaN: true }), (t) => {
        expect(deviation(studentTwoTails(t, 1), (2 / Math.PI) * Math.atan(1 / t))).toBeLessThan(1e-13);
        const root = Math.sqrt(t * t + 2);
        expect(deviation(studentTwoTails(t, 2), 2 / (root * (root + t)))).toBeLessThan(1e-13);
        const cosine = t / Math.sqrt(4 + t * t);
        const four = 1 - (cosine * (3 - cosine * cosine)) / 2;
        expect(studentTwoTails(t, 4)).toBeCloseTo(four, 13);
      }),
    );
  });

  // mpmath 1.4.1, the regularised incomplete beta function with 60 digits.
  it.each([
    [1e-3, 1e6, 0.9992021157716491],
    [2, 1e5, 0.04550296345750646],
    [2.5e-6, 299, 0.9999980069557167],
  ])('of t = %d with %d degrees of freedom is %d', (t, df, p) => {
    expect(deviation(studentTwoTails(t, df), p)).toBeLessThan(1e-9);
  });

  it('comes near the normal tails for many degrees of freedom', () => {
    for (const z of [0.1, 1, 2, 5])
      expect(deviation(studentTwoTails(z, 1e8), 2 * normalTail(z))).toBeLessThan(1e-5);
  });

  it('is 1 at 0, 0 at infinity, and does not mind the sign', () => {
    expect(studentTwoTails(0, 3)).toBe(1);
    expect(studentTwoTails(Infinity, 3)).toBe(0);
    expect(studentTwoTails(-2, 3)).toBe(studentTwoTails(2, 3));
  });

  it.each([
    [NaN, 3],
    [1, 0],
    [1, -2],
    [1, NaN],
    [1, Infinity],
  ])('refuses t = %d with %d degrees of freedom', (t, df) => {
    expect(() => studentTwoTails(t, df)).toThrow(ShapeError);
  });
});

describe('studentQuantile', () => {
  // scipy 1.17.1, stats.t.ppf(0.975, df).
  it.each([
    [1, 12.706204736174694],
    [2, 4.302652729749462],
    [9, 2.262157162798205],
    [299, 1.9679296690656698],
  ])('of %i degrees of freedom at 5 %% is %d', (df, t) => {
    expect(deviation(studentQuantile(0.05, df), t)).toBeLessThan(1e-12);
  });

  it('turns the tails around', () => {
    fc.assert(
      fc.property(fc.double({ min: 1e-9, max: 1, noNaN: true }), fc.integer({ min: 1, max: 60 }), (p, df) => {
        expect(studentTwoTails(studentQuantile(p, df), df)).toBeCloseTo(p, 12);
      }),
    );
  });

  it('refuses what is not a probability', () => {
    expect(studentQuantile(1, 5)).toBe(0);
    for (const p of [0, -1, 2, NaN]) expect(() => studentQuantile(p, 5)).toThrow(ShapeError);
  });
});
