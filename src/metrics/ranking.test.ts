import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import {
  areaUnderCurve,
  clusterBootstrap,
  orderedPairs,
  pairAccuracy,
  resampledPearson,
  resampledSpearman,
} from './ranking';
import { pearson, mean, ranks, spearman } from './statistics';

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
    expect(orderedPairs([2, 2, 3])).toEqual({ better: Int32Array.of(2, 2), worse: Int32Array.of(0, 1) });
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

const paired = fc.array(fc.tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 0, max: 5 })), {
  minLength: 2,
  maxLength: 14,
});

describe('pairs and correlations of many rows', () => {
  it('pairAccuracy is what counting every pair gives', () => {
    fc.assert(
      fc.property(paired, (rows) => {
        let [right, pairs] = [0, 0];
        for (const [score, truth] of rows) {
          for (const [otherScore, otherTruth] of rows) {
            if (truth <= otherTruth) continue;
            right += score > otherScore ? 1 : score === otherScore ? 0.5 : 0;
            pairs++;
          }
        }
        const [s, t] = [rows.map(([score]) => score), rows.map(([, truth]) => truth)];
        expect(pairAccuracy(s, t)).toBe(pairs === 0 ? null : right / pairs);
      }),
    );
  });

  it('pairAccuracy takes 100,000 rows, whose 5e9 pairs nobody could list', () => {
    const n = 100_000;
    const random = new Random(1, 'rows');
    const truth = Float64Array.from({ length: n }, () => random.integer(50));
    expect(pairAccuracy(truth, truth)).toBe(1);
    expect(
      pairAccuracy(
        truth.map((x) => -x),
        truth,
      ),
    ).toBe(0);
  });

  it('orderedPairs lists every pair of different truth once', () => {
    fc.assert(
      fc.property(paired, (rows) => {
        const truth = rows.map(([, value]) => value);
        const { better, worse } = orderedPairs(truth);
        const expected = truth.flatMap((a, i) => truth.flatMap((b, j) => (a > b ? [`${i} ${j}`] : [])));
        expect(Array.from(better, (i, k) => `${i} ${worse[k]}`).sort()).toEqual(expected.sort());
      }),
    );
  });

  it('orderedPairs draws no more than the limit, every pair equally often', () => {
    const truth = [5, 0, 0, 3, 5, 1];
    const counts = new Map<string, number>();
    const limit = 12; // of 13 pairs
    const rounds = 2000;
    for (let round = 0; round < rounds; round++) {
      const { better, worse } = orderedPairs(truth, { limit, random: new Random(1, 'draw', round) });
      expect(better).toHaveLength(limit);
      better.forEach((i, k) => {
        expect(truth[i]).toBeGreaterThan(truth[worse[k]]);
        counts.set(`${i} ${worse[k]}`, (counts.get(`${i} ${worse[k]}`) ?? 0) + 1);
      });
    }
    const expected = (limit * rounds) / 13;
    expect(counts.size).toBe(13);
    for (const count of counts.values())
      expect(Math.abs(count - expected)).toBeLessThan(5 * Math.sqrt(expected));
  });

  it.each([
    ['resampledSpearman', resampledSpearman, spearman],
    ['resampledPearson', resampledPearson, pearson],
  ])('%s is the correlation of the resample written out', (_, resampled, correlation) => {
    const drawn = fc.tuple(paired, fc.infiniteStream(fc.integer({ min: 0, max: 3 })));
    fc.assert(
      fc.property(drawn, ([rows, stream]) => {
        const counts = rows.map(() => stream.next().value as number);
        const [a, b] = [rows.map(([value]) => value), rows.map(([, value]) => value)];
        const writtenOut = (values: number[]): number[] =>
          values.flatMap((value, i) => new Array<number>(counts[i]).fill(value));
        const [x, y] = [writtenOut(a), writtenOut(b)];
        const found = resampled(a, b)(counts);
        const expected = x.length < 2 ? null : correlation(x, y);
        if (expected === null) expect(found).toBeNull();
        else expect(found).toBeCloseTo(expected, 12);
      }),
    );
  });

  it('refuse NaN instead of looking for its rank forever', () => {
    expect(() => ranks([1, NaN])).toThrow(ShapeError);
    expect(() => spearman([1, NaN, 2], [1, 2, 3])).toThrow('NaN');
    expect(() => pairAccuracy([NaN, 1], [1, 2])).toThrow(ShapeError);
    expect(() => resampledSpearman([NaN, 1], [1, 2])).toThrow(ShapeError);
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
