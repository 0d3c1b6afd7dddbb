import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { kolmogorovSmirnov, kolmogorovTail } from './kolmogorov-smirnov';
import {
  bootstrap,
  mean,
  median,
  pearson,
  percentileInterval,
  percentiles,
  ranks,
  sampleStd,
  spearman,
} from './statistics';

interface StatisticsGolden {
  two_samples: { name: string; a: number[]; b: number[]; ks_2samp_auto: { D: number; p: number } }[];
  paired: {
    name: string;
    a: number[];
    b: number[];
    spearman: { rho: number };
    pearson: { r: number };
    ranks_a: number[];
  }[];
  percentiles: { values: number[]; q: number[]; linear: number[] };
  moments: { values: number[]; mean: number; std_ddof1: number; median: number };
  bootstrap: {
    values: number[];
    indices: number[][];
    mean_ci95: number[];
    median_ci95: number[];
    mean_se_ddof1: number;
    values_b: number[];
    indices_b: number[][];
    difference_of_means_ci95: number[];
  };
  distributions: { kolmogorov_sf: { x: number; p: number }[] };
}

const golden = readGolden<StatisticsGolden>('stats.json');

/** Relative 1e-9, or absolute 1e-12 for what is 0 but for rounding. */
function expectClose(actual: number | null, expected: number): void {
  if (Number.isNaN(expected)) return expect(actual).toBeNull();
  expect(actual).not.toBeNull();
  expect(Math.abs((actual ?? NaN) - expected)).toBeLessThanOrEqual(1e-9 * Math.abs(expected) + 1e-12);
}

function expectAllClose(actual: ArrayLike<number>, expected: number[]): void {
  expect(actual.length).toBe(expected.length);
  expected.forEach((value, i) => expectClose(actual[i], value));
}

describe('statistics against scipy and numpy', () => {
  it.each(golden.two_samples)(
    'Kolmogorov-Smirnov of "$name" has their D and exact p',
    ({ a, b, ks_2samp_auto }) => {
      const { statistic, pValue, method } = kolmogorovSmirnov(a, b);
      expect(method).toBe('exact');
      expectClose(statistic, ks_2samp_auto.D);
      expectClose(pValue, ks_2samp_auto.p);
    },
  );

  it.each(golden.paired)('correlations and ranks of "$name" are theirs', (pairs) => {
    expectClose(spearman(pairs.a, pairs.b), pairs.spearman.rho);
    expectClose(pearson(pairs.a, pairs.b), pairs.pearson.r);
    expect(ranks(pairs.a)).toEqual(pairs.ranks_a);
  });

  it('moments and percentiles are theirs', () => {
    const { moments, percentiles: expected } = golden;
    expectClose(mean(moments.values), moments.mean);
    expectClose(sampleStd(moments.values), moments.std_ddof1);
    expectClose(median(moments.values), moments.median);
    expectAllClose(percentiles(expected.values, expected.q), expected.linear);
  });

  it('bootstrap intervals of the same resamples are theirs', () => {
    const { values, indices, values_b, indices_b } = golden.bootstrap;
    const means = bootstrap(values, mean, indices);
    expectAllClose(percentileInterval(means), golden.bootstrap.mean_ci95);
    expectAllClose(percentileInterval(bootstrap(values, median, indices)), golden.bootstrap.median_ci95);
    expectClose(sampleStd(means), golden.bootstrap.mean_se_ddof1);
    const meansB = bootstrap(values_b, mean, indices_b);
    const differences = means.map((value, i) => value - meansB[i]);
    expectAllClose(percentileInterval(differences), golden.bootstrap.difference_of_means_ci95);
  });

  it('the tail of the Kolmogorov distribution is theirs', () => {
    for (const { x, p } of golden.distributions.kolmogorov_sf) expectClose(kolmogorovTail(x), p);
  });
});
