import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import {
  bootstrap,
  mean,
  median,
  pairedBootstrap,
  pearson,
  percentileInterval,
  percentiles,
  ranks,
  resampleIndices,
  sampleStd,
  skewness,
  spearman,
  standardError,
} from './statistics';

const finite = fc.double({ min: -1e6, max: 1e6, noNaN: true });

describe('moments and percentiles', () => {
  it('refuse too few values and NaN instead of returning NaN', () => {
    expect(() => mean([])).toThrow(ShapeError);
    expect(() => sampleStd([1])).toThrow(/at least 2/);
    expect(() => median([])).toThrow(ShapeError);
    expect(() => median([1, NaN])).toThrow(/NaN/);
    expect(() => percentiles([1, 2], [101])).toThrow(/101/);
  });

  it('put the percentile of ties exactly on the tie', () => {
    expect(percentiles([0.1, 0.1, 0.1, 0.1, 7], [25, 50, 75])).toEqual([0.1, 0.1, 0.1]);
  });

  it('make the median of an even count the mean of the two in the middle', () => {
    expect(median([1 / 3, 1])).toBe((1 / 3 + 1) / 2);
    expect(median([1 / 3, 1])).toBe(2 / 3);
    fc.assert(
      fc.property(finite, finite, (a, b) => {
        expect(median([b, -1e7, a, 1e7])).toBe((a + b) / 2);
      }),
    );
    expect(median([4, 1, Infinity])).toBe(4);
  });

  it('keep percentiles between minimum and maximum, and in order', () => {
    fc.assert(
      fc.property(fc.array(finite, { minLength: 1 }), (values) => {
        const result = percentiles(values, [0, 10, 50, 90, 100]);
        expect(result[0]).toBe(Math.min(...values));
        expect(result[4]).toBe(Math.max(...values));
        for (let i = 1; i < 5; i++) expect(result[i]).toBeGreaterThanOrEqual(result[i - 1]);
      }),
    );
  });

  it('do not disturb the order of their argument', () => {
    const values = [3, 1, 2];
    median(values);
    expect(values).toEqual([3, 1, 2]);
  });
});

describe('skewness and standard error', () => {
  it('are those of their formulas', () => {
    // 0, 0, 3: deviations -1, -1, 2; m2 = 2, m3 = 2.
    expect(skewness([0, 0, 3])).toBeCloseTo(Math.SQRT1_2, 14);
    expect(skewness([1, 2, 3])).toBeCloseTo(0, 14);
    expect(standardError([1, 3])).toBeCloseTo(1, 14);
  });

  it('refuse too few values and NaN; a constant has no skewness', () => {
    expect(skewness([0.1, 0.1, 0.1])).toBeNull();
    expect(() => skewness([])).toThrow(ShapeError);
    expect(() => skewness([1, NaN])).toThrow(/NaN/);
    expect(() => standardError([1])).toThrow(ShapeError);
  });
});

describe('correlation', () => {
  it('does not exist where a side is constant, even one that rounds', () => {
    expect(pearson([0.1, 0.1, 0.1], [1, 2, 3])).toBeNull();
    expect(spearman([1, 2, 3], [5, 5, 5])).toBeNull();
  });

  it('refuses sides of different lengths', () => {
    expect(() => pearson([1, 2], [1, 2, 3])).toThrow(ShapeError);
    expect(() => spearman([1, 2], [1, 2, 3])).toThrow(ShapeError);
  });

  it('of ranks ignores any increasing change of scale', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(finite, finite), { minLength: 2, maxLength: 30 }), (pairs) => {
        const a = pairs.map(([x]) => Math.round(x));
        const b = pairs.map(([, y]) => y);
        expect(spearman(a, b)).toEqual(
          spearman(
            a.map((x) => x ** 3 / 1e6 + x),
            b,
          ),
        );
      }),
    );
  });

  it('gives equal values the mean of their ranks', () => {
    expect(ranks([10, 30, 10, 20])).toEqual([1.5, 4, 1.5, 3]);
  });
});

describe('pairedBootstrap', () => {
  const random = new Random(11, 'test');
  const before = Array.from({ length: 60 }, () => random.normal() * 5);
  const after = before.map((x) => x + 0.5 + random.normal());

  it('gives the same interval for the same seed and another for another', () => {
    const one = pairedBootstrap(before, after, { seed: 1, resamples: 500 });
    expect(pairedBootstrap(before, after, { seed: 1, resamples: 500 })).toEqual(one);
    expect(pairedBootstrap(before, after, { seed: 2, resamples: 500 }).interval).not.toEqual(one.interval);
  });

  it('agrees with the normal interval of the differences', () => {
    const { difference, interval, n } = pairedBootstrap(before, after, { seed: 3 });
    const differences = before.map((x, i) => after[i] - x);
    const standardError = sampleStd(differences) / Math.sqrt(n);
    expect(difference).toBeCloseTo(mean(differences), 12);
    expect(Math.abs(interval[0] - (difference - 1.96 * standardError))).toBeLessThan(0.2 * standardError);
    expect(Math.abs(interval[1] - (difference + 1.96 * standardError))).toBeLessThan(0.2 * standardError);
  });

  it('is far narrower than the spread of either side, because it resamples pairs', () => {
    const [low, high] = pairedBootstrap(before, after, { seed: 3 }).interval;
    const alone = percentileInterval(bootstrap(after, mean, resampleIndices(after.length, 1000, 3)));
    expect(high - low).toBeLessThan(0.5 * (alone[1] - alone[0]));
  });

  it('covers the true difference about as often as it says', () => {
    let covered = 0;
    const trials = 200;
    for (let trial = 0; trial < trials; trial++) {
      const draw = new Random(trial, 'coverage');
      const a = Array.from({ length: 40 }, () => draw.normal());
      const b = a.map((x) => x + 1 + draw.normal());
      const { interval } = pairedBootstrap(a, b, { seed: trial, resamples: 400 });
      if (interval[0] <= 1 && 1 <= interval[1]) covered++;
    }
    expect(covered / trials).toBeGreaterThan(0.89);
    expect(covered / trials).toBeLessThan(0.99);
  });

  it('refuses sides that are not pairs, and a single pair', () => {
    expect(() => pairedBootstrap([1, 2], [1], { seed: 0 })).toThrow(ShapeError);
    expect(() => pairedBootstrap([1], [1], { seed: 0 })).toThrow(ShapeError);
  });
});
