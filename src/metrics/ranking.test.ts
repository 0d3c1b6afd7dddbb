import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { ShapeError } from '../runtime/errors';
import { areaUnderCurve, clusterBootstrap, orderedPairs, pairAccuracy } from './ranking';
import { mean } from './statistics';

interface MannWhitneyGolden {
  two_samples: { a: number[]; b: number[]; mannwhitneyu: { U: number }[] }[];
}

const scores = fc.array(fc.integer({ min: 0, max: 6 }), { minLength: 1, maxLength: 12 });

describe('areaUnderCurve', () => {
  it('is the share of pairs in which the good item is above, a tie counting half', () => {
    fc.assert(
      fc.property(scores, scores, (good, bad) => {
        const wins = good.flatMap((g) => bad.map((b) => (g > b ? 1 : g === b ? 0.5 : 0)));
        expect(areaUnderCurve(good, bad)).toBeCloseTo(mean(wins), 12);
      }),
    );
  });

  it("is scipy's Mann-Whitney U over n m, ties included", () => {
    const { two_samples: samples } = readGolden<MannWhitneyGolden>('stats.json');
    expect(samples.length).toBeGreaterThan(0);
    for (const { a, b, mannwhitneyu } of samples) {
      expect(areaUnderCurve(a, b)).toBeCloseTo(mannwhitneyu[0].U / (a.length * b.length), 12);
    }
  });

  it('is 1 for perfect scores, 0 for reversed ones, and refuses an empty side and NaN', () => {
    expect(areaUnderCurve([3, 4], [1, 2])).toBe(1);
    expect(areaUnderCurve([1, 2], [3, 4])).toBe(0);
    expect(() => areaUnderCurve([], [1])).toThrow(ShapeError);
    expect(() => areaUnderCurve([NaN], [1])).toThrow('NaN');
  });
});

describe('pairAccuracy', () => {
  it('counts the pairs in order, a tie of scores as half', () => {
    expect(pairAccuracy([1, 2, 3], [10, 20, 30])).toBe(1);
    expect(pairAccuracy([1, 1, 3], [10, 20, 30])).toBe(2.5 / 3);
    expect(pairAccuracy([3, 2, 1], [10, 20, 30])).toBe(0);
  });

  it('leaves out pairs of equal truth, and does not exist without another', () => {
    expect(pairAccuracy([1, 9, 5], [2, 2, 3])).toBe(0.5);
    expect(pairAccuracy([1, 2], [7, 7])).toBeNull();
    expect(orderedPairs([2, 2, 3])).toEqual([
      [2, 0],
      [2, 1],
    ]);
  });

  it('of two groups with constant truths is the area under the curve', () => {
    fc.assert(
      fc.property(scores, scores, (good, bad) => {
        const truth = [...good.map(() => 1), ...bad.map(() => 0)];
        expect(pairAccuracy([...good, ...bad], truth)).toBeCloseTo(areaUnderCurve(good, bad), 12);
      }),
    );
  });
});

describe('clusterBootstrap', () => {
  const size = (clusters: readonly number[][]): number => clusters.flat().length;

  it('resamples whole clusters', () => {
    const sizes = new Set<number>();
    const clusters = [[1], [2, 2, 2, 2]];
    clusterBootstrap(clusters, (sample) => sizes.add(size(sample)) && 0, { seed: 1 });
    expect([...sizes].sort()).toEqual([2, 5, 8]);
  });

  it('gives the value of the data, an interval around it, and null where there is none', () => {
    const clusters = Array.from({ length: 50 }, (_, i) => [i % 7, (i * 3) % 5]);
    const estimate = clusterBootstrap(clusters, (sample) => mean(sample.flat()), { seed: 3 });
    expect(estimate?.value).toBe(mean(clusters.flat()));
    const [low, high] = estimate?.interval ?? [0, 0];
    expect(low).toBeLessThan(estimate?.value ?? 0);
    expect(high).toBeGreaterThan(estimate?.value ?? 0);
    expect(clusterBootstrap(clusters, () => null, { seed: 3 })).toBeNull();
  });

  it('has the standard error of independent clusters: theirs, not that of their members', () => {
    // Ten equal members a cluster: resampling members would give an interval sqrt(10) times too narrow.
    const clusters = Array.from({ length: 40 }, (_, i) => new Array<number>(10).fill(i % 2));
    const estimate = clusterBootstrap(clusters, (sample) => mean(sample.flat()), { seed: 5 });
    const [low, high] = estimate?.interval ?? [0, 0];
    expect((high - low) / (2 * 1.96)).toBeCloseTo(Math.sqrt(0.25 / 40), 2);
  });
});
