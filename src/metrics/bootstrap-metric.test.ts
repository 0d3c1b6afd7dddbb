import { describe, expect, it } from 'vitest';
import { NumericError, ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { Metric } from './bootstrap-metric';
import { bootstrapMetric, jackknifeMetric, meanOverTweets, resampleTweets } from './bootstrap-metric';
import { bootstrap, mean, percentileInterval, resampleIndices, sampleStd } from './statistics';
import { countCorpus, resampledDistinct, resampledTokenEntropy } from './vocabulary';

const random = new Random(5, 'metrics');
const values = Array.from({ length: 40 }, () => random.normal());

function covers(metric: Metric, truth: number): boolean {
  return metric.value !== null && metric.ci[0] <= truth && truth <= metric.ci[1];
}

describe('bootstrapMetric', () => {
  const options = { seed: 7, resamples: 300 };
  const resamples = resampleTweets(values.length, options);

  it('of a mean over tweets is the plain bootstrap of the same draws', () => {
    const metric = bootstrapMetric(meanOverTweets(values), resamples, '');
    const [low, high] = percentileInterval(
      bootstrap(values, mean, resampleIndices(values.length, options.resamples, options.seed)),
    );
    if (metric.value === null) throw new Error(metric.reason);
    expect(metric.value).toBeCloseTo(mean(values), 14);
    expect(metric.ci[0]).toBeCloseTo(low, 14);
    expect(metric.ci[1]).toBeCloseTo(high, 14);
  });

  it('leaves out tweets without a value', () => {
    const metric = bootstrapMetric(meanOverTweets([1, null, 3]), resampleTweets(3, options), '');
    expect(metric.value).toBe(2);
  });

  it('gives the reason where no tweet has a value', () => {
    const metric = bootstrapMetric(meanOverTweets([null, null]), resampleTweets(2, options), 'no reference');
    expect(metric).toEqual({ value: null, reason: 'no reference' });
  });

  it('of one tweet, or of equal values, has the value for an interval', () => {
    const single = bootstrapMetric(meanOverTweets([0.25]), resampleTweets(1, options), '');
    expect(single).toEqual({ value: 0.25, ci: [0.25, 0.25] });
    const equal = bootstrapMetric(meanOverTweets([0.5, 0.5]), resampleTweets(2, options), '');
    expect(equal).toEqual({ value: 0.5, ci: [0.5, 0.5] });
  });

  it('refuses no tweet and NaN', () => {
    expect(() => resampleTweets(0, options)).toThrow(ShapeError);
    expect(() => resampleTweets(3, { seed: 1, resamples: 0 })).toThrow(ShapeError);
    expect(() => bootstrapMetric(meanOverTweets([1, NaN]), resampleTweets(2, options), '')).toThrow(
      NumericError,
    );
  });
});

describe('jackknifeMetric', () => {
  it("of a mean is its t interval, with scipy's t of 39 degrees of freedom", () => {
    const metric = jackknifeMetric(meanOverTweets(values), values.length, '');
    if (metric.value === null) throw new Error(metric.reason);
    const margin = (2.022690920036762 * sampleStd(values)) / Math.sqrt(values.length);
    expect(metric.ci[0]).toBeCloseTo(mean(values) - margin, 12);
    expect(metric.ci[1]).toBeCloseTo(mean(values) + margin, 12);
  });

  it('gives the reason, the value alone of one tweet, and refuses NaN', () => {
    expect(jackknifeMetric(meanOverTweets([null]), 1, 'no token')).toEqual({
      value: null,
      reason: 'no token',
    });
    expect(jackknifeMetric(meanOverTweets([3]), 1, '')).toEqual({ value: 3, ci: [3, 3] });
    expect(jackknifeMetric(meanOverTweets([3, null]), 2, '')).toEqual({ value: 3, ci: [3, 3] });
    expect(() => jackknifeMetric(meanOverTweets([NaN]), 1, '')).toThrow(NumericError);
  });

  it('covers what other tweets would give for distinct-n and entropy, where the bootstrap hardly ever does', () => {
    const tweets = 30;
    /** Two replies of six words each, rare words less likely than frequent ones. */
    const corpusOf = (seed: number): string[][][] => {
      const draw = new Random(seed, 'corpus');
      const word = (): string => `w${Math.floor(500 * draw.uniform() ** 3)}`;
      return Array.from({ length: tweets }, () =>
        Array.from({ length: 2 }, () => Array.from({ length: 6 }, word)),
      );
    };
    const statistics = [
      (corpus: string[][][]) => resampledDistinct(countCorpus(corpus, 1)),
      (corpus: string[][][]) => resampledTokenEntropy(countCorpus(corpus, 1)),
    ];
    const once = new Uint16Array(tweets).fill(1);
    const trials = 100;
    for (const statistic of statistics) {
      const others = Array.from({ length: 400 }, (_, i) => statistic(corpusOf(1000 + i))(once) ?? NaN);
      let [byJackknife, byBootstrap] = [0, 0];
      for (let trial = 0; trial < trials; trial++) {
        const ofResample = statistic(corpusOf(trial));
        if (covers(jackknifeMetric(ofResample, tweets, ''), mean(others))) byJackknife++;
        const resamples = resampleTweets(tweets, { seed: trial, resamples: 100 });
        if (covers(bootstrapMetric(ofResample, resamples, ''), mean(others))) byBootstrap++;
      }
      expect(byJackknife / trials).toBeGreaterThan(0.88);
      expect(byBootstrap / trials).toBeLessThan(0.1);
    }
  });
});
