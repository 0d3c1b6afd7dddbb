import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { resampleTweets } from './bootstrap-metric';
import { percentileInterval, resampleIndices } from './statistics';
import {
  collapseMetric,
  collapsePoint,
  derAtK,
  derLabel,
  derMetric,
  meanCurves,
  meanPassAtKCurve,
  passAtK,
  passAtKCurve,
  passAtKMetric,
} from './pass-at-k';

/** All subsets of size k of 0..n-1, as bits. */
function subsets(n: number, k: number): number[] {
  const sizeOf = (bits: number): number => [...bits.toString(2)].filter((bit) => bit === '1').length;
  return Array.from({ length: 2 ** n }, (_, bits) => bits).filter((bits) => sizeOf(bits) === k);
}

const counts = fc
  .integer({ min: 1, max: 9 })
  .chain((n) => fc.tuple(fc.constant(n), fc.integer({ min: 0, max: n })));

describe('passAtK', () => {
  it('is the share of all subsets of size k that have a reply that passes', () => {
    fc.assert(
      fc.property(counts, ([n, c]) => {
        for (let k = 1; k <= n; k++) {
          const all = subsets(n, k);
          const passing = all.filter((bits) => (bits & (2 ** c - 1)) !== 0);
          expect(passAtK(n, c, k)).toBeCloseTo(passing.length / all.length, 13);
        }
      }),
    );
  });

  it('grows with k, by less and less, from c/n', () => {
    fc.assert(
      fc.property(counts, ([n, c]) => {
        const curve = passAtKCurve(n, c);
        expect(curve[0]).toBeCloseTo(c / n, 14);
        const gains = curve.map((value, i) => value - (curve[i - 1] ?? 0));
        gains.forEach((gain, i) => {
          expect(gain).toBeGreaterThanOrEqual(-1e-15);
          if (i > 0) expect(gain).toBeLessThanOrEqual(gains[i - 1] + 1e-15);
        });
      }),
    );
  });

  it('stays right where the binomials overflow', () => {
    // 1 - (1 - 1/n)(1 - 1/(n-1)) = 2/n for one that passes.
    expect(passAtK(1e6, 1, 2)).toBeCloseTo(2e-6, 15);
    expect(passAtK(5000, 2500, 2000)).toBe(1);
    expect(passAtK(5000, 1, 5000)).toBe(1);
  });

  it.each([
    [5, 2, 6],
    [5, 2, 0],
    [5, 6, 1],
    [5, -1, 1],
    [0, 0, 1],
    [5, 2.5, 1],
    [5, NaN, 1],
    [NaN, 1, 1],
  ])('refuses n = %d, c = %d, k = %d', (n, c, k) => {
    expect(() => passAtK(n, c, k)).toThrow(ShapeError);
  });
});

describe('the mean curve', () => {
  it('ends at the least number of replies to a tweet', () => {
    expect(meanPassAtKCurve([passAtKCurve(3, 0), passAtKCurve(2, 2)])).toEqual([0.5, 0.5]);
  });

  it('counts a tweet as often as it was drawn', () => {
    const curves = [passAtKCurve(3, 0), passAtKCurve(3, 3), passAtKCurve(3, 1)];
    expect(meanPassAtKCurve(curves, [1, 3, 0])).toEqual([0.75, 0.75, 0.75]);
  });

  it('refuses no tweet, and a tweet without replies', () => {
    expect(() => meanPassAtKCurve([])).toThrow(ShapeError);
    expect(() => meanPassAtKCurve([[], [1]])).toThrow(ShapeError);
  });
});

describe('DER@k', () => {
  it('is 1/k where further replies pass no more often', () => {
    expect(derAtK([0.42, 0.42, 0.42], 3)).toBeCloseTo(1 / 3, 15);
  });

  it('lies in [1/k, 1] and is 1 at k = 1', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 6 }), { minLength: 1 }),
        fc.integer({ min: 1, max: 6 }),
        (passes, k) => {
          const der = derAtK(meanPassAtKCurve(passes.map((c) => passAtKCurve(6, c))), k);
          if (passes.every((c) => c === 0)) {
            expect(der).toBeNull();
            return;
          }
          expect(der).toBeGreaterThanOrEqual(1 / k - 1e-12);
          expect(der).toBeLessThanOrEqual(1 + 1e-12);
          if (k === 1) expect(der).toBe(1);
        },
      ),
    );
  });

  it('is good above 0.3 and moderate above 0.15', () => {
    expect([0.31, 0.3, 0.16, 0.15].map(derLabel)).toEqual(['good', 'moderate', 'moderate', 'poor']);
  });

  it('refuses a k beyond the curve', () => {
    expect(() => derAtK([0.5], 2)).toThrow(ShapeError);
  });
});

describe('the collapse point', () => {
  it('is the first k whose reply adds less than the threshold', () => {
    expect(collapsePoint([0.4, 0.5, 0.505, 0.6])).toBe(3);
    expect(collapsePoint([0.4, 0.5, 0.505, 0.6], 0.2)).toBe(2);
    expect(collapsePoint([0.42, 0.42])).toBe(2);
    expect(collapsePoint([0, 0, 0])).toBe(2);
  });

  it('does not exist where every reply adds more, nor for one reply', () => {
    expect(collapsePoint([0.4, 0.5, 0.6])).toBeNull();
    expect(collapsePoint([0.4])).toBeNull();
    expect(() => collapsePoint([])).toThrow(ShapeError);
  });
});

describe('the metrics of many tweets', () => {
  const curves = [0, 1, 2, 5, 5, 3].map((c) => passAtKCurve(5, c));
  const resamples = resampleTweets(curves.length, { seed: 1, resamples: 400 });

  it('have a value inside their interval', () => {
    for (const metric of [
      passAtKMetric(meanCurves(curves, resamples), 5),
      derMetric(meanCurves(curves, resamples), 5),
      collapseMetric(meanCurves(curves, resamples), 0.05),
    ]) {
      if (metric.value === null) throw new Error(metric.reason);
      expect(metric.ci[0]).toBeLessThanOrEqual(metric.value);
      expect(metric.ci[1]).toBeGreaterThanOrEqual(metric.value);
    }
  });

  it('say why there is none: nothing passes, no collapse, one reply', () => {
    const none = [passAtKCurve(3, 0), passAtKCurve(3, 0)];
    const two = resampleTweets(2, { seed: 1, resamples: 10 });
    expect(derMetric(meanCurves(none, two), 3)).toEqual({
      value: null,
      reason: 'Pass@1 is 0: DER divides by it',
    });
    const rising = [passAtKCurve(3, 1), passAtKCurve(3, 1)];
    expect(collapseMetric(meanCurves(rising, two))).toEqual({
      value: null,
      reason: expect.stringMatching(/k = 3/) as string,
      beyond: 3,
    });
    const single = [passAtKCurve(1, 1), passAtKCurve(1, 0)];
    expect(collapseMetric(meanCurves(single, two))).toEqual({
      value: null,
      reason: expect.stringMatching(/one reply/) as string,
    });
  });

  it('refuse a k that a tweet has too few replies for', () => {
    expect(() => passAtKMetric(meanCurves([...curves.slice(1), passAtKCurve(2, 1)], resamples), 5)).toThrow(
      ShapeError,
    );
    expect(() => derMetric(meanCurves(curves, resamples), 6)).toThrow(ShapeError);
  });
});

describe('the collapse point of many tweets', () => {
  /** The first k from 2 on at which one more reply adds less than the threshold, of a mean of the drawn curves. */
  function pointOf(drawn: readonly (readonly number[])[], n: number, threshold: number): number {
    const at = (k: number): number => drawn.reduce((sum, curve) => sum + curve[k - 1], 0) / drawn.length;
    for (let k = 2; k <= n; k++) if (at(k) - at(k - 1) < threshold) return k;
    return Infinity;
  }
  const table = fc.tuple(
    fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 6 }),
    // Such that no gain is equal to it, which rounding would decide.
    fc.constantFrom(0.0101, 0.0503, 0.1007),
    fc.integer({ min: 0, max: 99 }),
  );

  it('has the interval of resamples that were drawn and counted one by one, beyond n where they do not collapse', () => {
    const kinds = new Set<string>();
    fc.assert(
      fc.property(table, ([passes, threshold, seed]) => {
        const n = 5;
        const curves = passes.map((c) => passAtKCurve(n, c));
        const drawn = resampleTweets(curves.length, { seed, resamples: 40 });
        const metric = collapseMetric(meanCurves(curves, drawn), threshold);
        const points = [...resampleIndices(curves.length, 40, seed)].map((row) =>
          pointOf(
            Array.from(row, (t) => curves[t]),
            n,
            threshold,
          ),
        );
        const value = pointOf(curves, n, threshold);
        if (value === Infinity) {
          expect(metric).toMatchObject({ value: null, beyond: n });
          kinds.add('none');
          return;
        }
        const [low, high] = percentileInterval(points.map((point) => Math.min(point, n + 1)));
        expect(metric.value).toBe(value);
        if (metric.value === null) return;
        expect(metric.ci[0]).toBeCloseTo(Math.min(low, n), 12);
        expect(metric.ci[1]).toBeCloseTo(Math.min(high, n), 12);
        expect(metric.beyond).toBe(high > n ? n : undefined);
        expect('beyond' in metric).toBe(high > n);
        kinds.add(`${high > n}`);
      }),
      { seed: 2, numRuns: 200 },
    );
    expect([...kinds].sort()).toEqual(['false', 'none', 'true']);
  });

  it('has an interval that ends at n when most resamples collapse there and some never do', () => {
    // Pass@k of one tweet rises by 1/3 with every reply, that of the others not at all.
    const curves = [1, 0, 0, 0].map((c) => passAtKCurve(3, c));
    const resamples = resampleTweets(4, { seed: 1, resamples: 500 });
    const never = resamples.counts.filter((counts) => counts[0] > 0).length;
    expect(never / 500).toBeCloseTo(1 - 0.75 ** 4, 1);
    // Its share of the mean is 1/4 as it is drawn once: 1/12 a reply.
    expect(collapseMetric(meanCurves(curves, resamples), 0.0834)).toEqual({
      value: 2,
      ci: [2, 3],
      beyond: 3,
    });
    expect(collapseMetric(meanCurves(curves, resamples), 0.0833)).toMatchObject({ value: null, beyond: 3 });
    expect(collapseMetric(meanCurves(curves, resamples), 0.34)).toEqual({ value: 2, ci: [2, 2] });
  });
});
