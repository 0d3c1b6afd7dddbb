/** A metric of many tweets with its interval: the tweet is the unit of resampling, its replies stay together. */

import { NumericError } from '../runtime/errors';
import { requireWhole } from './checks';
import { studentQuantile } from './distributions';
import { percentileInterval, resampleIndices, sampleStd } from './statistics';
import type { BootstrapOptions } from './statistics';

/** What the evaluation reports of a metric: its value with an interval, or why there is none. */
export type Metric = ({ value: number; ci: [number, number] } | { value: null; reason: string }) & {
  /** The value, or where there is one the upper end of its interval, lies beyond this: more replies would show where. */
  beyond?: number;
};

/** A statistic of a resample, as a function of how often each tweet was drawn; null where it does not exist. */
export type TweetStatistic = (counts: ArrayLike<number>) => number | null;

/** Resamples of tweets, the same ones for every metric of the same tweets. */
export interface TweetResamples {
  tweets: number;
  /** of the intervals, such as 0.95 */
  level: number;
  /** one row a resample: how often each tweet was drawn */
  counts: readonly Uint16Array[];
}

/** Draws whole tweets with replacement, as many as there are. @throws ShapeError when there is none */
export function resampleTweets(tweets: number, options: BootstrapOptions): TweetResamples {
  const { seed, resamples = 10_000, level = 0.95 } = options;
  requireWhole(tweets, 1, 2 ** 16 - 1, 'number of tweets to resample');
  requireWhole(resamples, 1, Number.MAX_SAFE_INTEGER, 'number of resamples');
  const counts: Uint16Array[] = [];
  for (const indices of resampleIndices(tweets, resamples, seed)) {
    const row = new Uint16Array(tweets);
    for (const tweet of indices) row[tweet]++;
    counts.push(row);
  }
  return { tweets, level, counts };
}

/** Mean over the drawn tweets that have a value, such as their Pass@k or self-BLEU. */
export function meanOverTweets(values: readonly (number | null)[]): TweetStatistic {
  return (counts) => {
    let [sum, drawn] = [0, 0];
    values.forEach((value, t) => {
      if (value === null) return;
      sum += counts[t] * value;
      drawn += counts[t];
    });
    return drawn === 0 ? null : sum / drawn;
  };
}

/**
 * A statistic of all tweets with its percentile bootstrap interval, for means over tweets and functions of them. A
 * resample in which it does not exist is left out; of a single tweet the interval is the value.
 *
 * @param reason  what to say where the statistic does not exist
 * @throws NumericError  when a value is NaN or infinite
 * Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 (units) and 13 (percentiles).
 */
export function bootstrapMetric(
  statistic: TweetStatistic,
  { tweets, counts, level }: TweetResamples,
  reason: string,
): Metric {
  const value = statistic(new Uint16Array(tweets).fill(1));
  if (value === null) return { value, reason };
  if (!Number.isFinite(value)) throw new NumericError(`a metric is ${value}; expected a finite number.`);
  const resampled: number[] = [];
  for (const row of counts) {
    const statisticOfRow = statistic(row);
    if (statisticOfRow !== null) resampled.push(statisticOfRow);
  }
  return { value, ci: percentileInterval(resampled, level) };
}

/**
 * A statistic of all tweets that grows or falls with their number, such as distinct-n, richness or entropy, with its
 * jackknife interval: value +- t s, s^2 = (n-1)/n sum_i (v_i - mean v)^2 over the values v_i without tweet i, t from
 * Student's distribution with n - 1 degrees of freedom. It is the interval of what n other tweets would give. The
 * bootstrap is wrong for these: a resample has but 63 % of the tweets, hence other n-grams than n tweets have, and all
 * of its values lie to one side.
 *
 * The interval may reach past the statistic's range, as above 1. A tweet without which the statistic does not exist is
 * left out; with fewer than two others the interval is the value.
 *
 * @param tweets  their number
 * @param reason  what to say where the statistic does not exist
 * @throws NumericError  when a value is NaN or infinite
 * Source: Efron and Stein, "The jackknife estimate of variance", Annals of Statistics 9, 1981.
 */
export function jackknifeMetric(
  statistic: TweetStatistic,
  tweets: number,
  reason: string,
  level = 0.95,
): Metric {
  const counts = new Uint16Array(tweets).fill(1);
  const value = statistic(counts);
  if (value === null) return { value, reason };
  if (!Number.isFinite(value)) throw new NumericError(`a metric is ${value}; expected a finite number.`);
  const without: number[] = [];
  for (let t = 0; t < tweets; t++) {
    counts[t] = 0;
    const rest = statistic(counts);
    if (rest !== null) without.push(rest);
    counts[t] = 1;
  }
  const n = without.length;
  if (n < 2) return { value, ci: [value, value] };
  const margin = (studentQuantile(1 - level, n - 1) * sampleStd(without) * (n - 1)) / Math.sqrt(n);
  return { value, ci: [value - margin, value + margin] };
}
