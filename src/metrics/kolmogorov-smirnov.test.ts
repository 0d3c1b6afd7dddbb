import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { kolmogorovSmirnov, kolmogorovTail } from './kolmogorov-smirnov';

/** Two samples that Python can remake: the fractional parts of i times an irrational number, the second bent. */
function weylSamples(n: number, m: number, power: number, shift: number): [number[], number[]] {
  const golden = (Math.sqrt(5) - 1) / 2;
  const silver = Math.sqrt(2) - 1;
  return [
    Array.from({ length: n }, (_, i) => ((i + 1) * golden) % 1),
    Array.from({ length: m }, (_, i) => (((i + 1) * silver) % 1) ** power + shift),
  ];
}

describe('kolmogorovSmirnov', () => {
  // scipy 1.17.1, stats.ks_2samp (mode auto) of the samples above.
  it.each([
    [50, 50, 1, 0.1, 0.14, 0.7166468440414822],
    [200, 70, 1.3, 0, 0.105, 0.5763258572786137],
    [1, 5, 1, 0.9, 1, 0.3333333333333333],
    [7, 300, 2, 0, 0.34714285714285714, 0.30726549934611364],
    [3000, 1000, 1.05, 0, 0.019666666666666666, 0.9311013869315692],
  ])('has the exact p-value of scipy for %i and %i values', (n, m, power, shift, statistic, pValue) => {
    const result = kolmogorovSmirnov(...weylSamples(n, m, power, shift));
    expect(result.method).toBe('exact');
    expect(result.statistic).toBeCloseTo(statistic, 12);
    expect(Math.abs(result.pValue / pValue - 1)).toBeLessThan(1e-9);
  });

  it('keeps the digits of a p-value far below the rounding of 1 - p', () => {
    const { pValue } = kolmogorovSmirnov(...weylSamples(400, 400, 1, 0.3));
    // scipy: 7.975373070421785e-17
    expect(Math.abs(pValue / 7.975373070421785e-17 - 1)).toBeLessThan(1e-9);
  });

  it.each([
    [20000, 15000, 1.03, 0, 0.011016666666666675, 0.24744249926746142],
    [30000, 30000, 1, 0.01, 0.010133333333333355, 0.09124004083885073],
    [200000, 100000, 1.01, 0, 0.003674999999999984, 0.3280649131498865],
  ])(
    'has the asymptotic p-value of scipy within 2e-4 (it rounds e to an integer) for %i and %i values',
    (n, m, power, shift, statistic, p) => {
      const result = kolmogorovSmirnov(...weylSamples(n, m, power, shift));
      expect(result.method).toBe('asymptotic');
      expect(result.statistic).toBeCloseTo(statistic, 12);
      expect(Math.abs(result.pValue / p - 1)).toBeLessThan(2e-4);
    },
  );

  it('equals the count of all orderings of small samples', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 6 }), fc.nat(), (n, m, seed) => {
        const positions = new Random(seed, 'order').shuffle(Array.from({ length: n + m }, (_, i) => i));
        const observed = kolmogorovSmirnov(positions.slice(0, n), positions.slice(n));
        let [reached, total] = [0, 0];
        for (let bits = 0; bits < 2 ** (n + m); bits++) {
          const all = Array.from({ length: n + m }, (_, i) => i);
          const a = all.filter((i) => (bits >> i) & 1);
          if (a.length !== n) continue;
          total++;
          const b = all.filter((i) => !((bits >> i) & 1));
          const distance = all.map(
            (i) => a.filter((x) => x <= i).length * m - b.filter((x) => x <= i).length * n,
          );
          if (Math.max(...distance.map(Math.abs)) >= Math.round(observed.statistic * n * m)) reached++;
        }
        expect(observed.pValue).toBeCloseTo(reached / total, 10);
      }),
      { numRuns: 40 },
    );
  });

  it('is symmetric, and 1 for equal or constant samples', () => {
    const [a, b] = weylSamples(40, 90, 1.5, 0);
    const [forward, backward] = [kolmogorovSmirnov(a, b), kolmogorovSmirnov(b, a)];
    expect(backward.statistic).toBe(forward.statistic);
    expect(backward.pValue).toBeCloseTo(forward.pValue, 12);
    expect(kolmogorovSmirnov(a, a)).toMatchObject({ statistic: 0, pValue: 1 });
    expect(kolmogorovSmirnov([3, 3], [3, 3, 3])).toMatchObject({ statistic: 0, pValue: 1 });
  });

  it('refuses an empty sample and NaN', () => {
    expect(() => kolmogorovSmirnov([], [1])).toThrow(ShapeError);
    expect(() => kolmogorovSmirnov([1, NaN], [1])).toThrow(/NaN/);
  });
});

describe('kolmogorovTail', () => {
  it('falls from 1 to 0 without a jump where its two series meet', () => {
    expect(kolmogorovTail(0)).toBe(1);
    expect(kolmogorovTail(1 - 1e-12)).toBeCloseTo(kolmogorovTail(1), 10);
    expect(kolmogorovTail(10)).toBeLessThan(1e-80);
  });
});
