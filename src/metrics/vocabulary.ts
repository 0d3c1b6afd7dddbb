/** The words of many replies together: how many different ones, how evenly used; and of resamples of tweets. */

import type { TweetStatistic } from './bootstrap-metric';
import { distinctN } from './diversity';
import { ngramCounts } from './ngrams';
import type { Tokens } from './ngrams';

/**
 * Vocabulary richness: types / tokens, pooled over the replies; distinct-1 by another name.
 *
 * @returns in (0, 1]; null where there is no token
 */
export function vocabularyRichness(replies: readonly Tokens[]): number | null {
  return distinctN(replies, 1);
}

/** H = -sum p ln p = ln N - (sum c ln c) / N, from N tokens and the sum of c ln c over the counts of the types. */
function entropyNats(tokens: number, sumOfCLogC: number): number {
  return Math.log(tokens) - sumOfCLogC / tokens;
}

/** Natural logarithms, or those to base 2. */
export type EntropyUnit = 'nats' | 'bits';

const NATS: Record<EntropyUnit, number> = { nats: 1, bits: Math.LN2 };

/**
 * Token entropy H = -sum over types of p log p, p = count / tokens, pooled over the replies.
 *
 * @returns from 0 to the logarithm of the number of types; null where there is no token
 * Source: Shannon, "A Mathematical Theory of Communication", 1948.
 */
export function tokenEntropy(replies: readonly Tokens[], unit: EntropyUnit = 'nats'): number | null {
  return resampledTokenEntropy(countCorpus([replies], 1), unit)([1]);
}

/** The n-grams of each tweet's replies, by number, with their counts there. */
export interface CorpusCounts {
  /** different n-grams of all tweets: their numbers are 0..size - 1 */
  size: number;
  tweets: readonly {
    /** n-grams, each as often as it occurs */
    total: number;
    /** numbers of the different n-grams */
    grams: Int32Array;
    /** how often each of them occurs */
    counts: Int32Array;
  }[];
}

/** Counts the n-grams inside replies, once for all resamples. */
export function countCorpus(tweets: readonly (readonly Tokens[])[], n: number): CorpusCounts {
  const numbers = new Map<string, number>();
  const numberOf = (gram: string): number => {
    const number = numbers.get(gram) ?? numbers.size;
    if (number === numbers.size) numbers.set(gram, number);
    return number;
  };
  const counted = tweets.map((replies) => {
    const counts = new Map<number, number>();
    for (const reply of replies) {
      for (const [gram, count] of ngramCounts(reply, n)) {
        const number = numberOf(gram);
        counts.set(number, (counts.get(number) ?? 0) + count);
      }
    }
    const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
    return { total, grams: Int32Array.from(counts.keys()), counts: Int32Array.from(counts.values()) };
  });
  return { size: numbers.size, tweets: counted };
}

/** distinct-n of the drawn tweets' replies, pooled: what `distinctN` gives for the resample written out. */
export function resampledDistinct({ size, tweets }: CorpusCounts): TweetStatistic {
  const seenIn = new Int32Array(size); // number of the last resample that had the n-gram
  let resample = 0;
  return (drawn) => {
    resample++;
    let [different, total] = [0, 0];
    tweets.forEach((tweet, t) => {
      if (drawn[t] === 0) return;
      total += drawn[t] * tweet.total;
      for (const gram of tweet.grams) {
        if (seenIn[gram] === resample) continue;
        seenIn[gram] = resample;
        different++;
      }
    });
    return total === 0 ? null : different / total;
  };
}

/** Entropy of the drawn tweets' tokens, pooled: what `tokenEntropy` gives for the resample written out. */
export function resampledTokenEntropy(
  { size, tweets }: CorpusCounts,
  unit: EntropyUnit = 'nats',
): TweetStatistic {
  const counts = new Float64Array(size);
  return (drawn) => {
    counts.fill(0);
    let [total, sum] = [0, 0];
    tweets.forEach((tweet, t) => {
      const times = drawn[t];
      if (times === 0) return;
      total += times * tweet.total;
      for (let i = 0; i < tweet.grams.length; i++) counts[tweet.grams[i]] += times * tweet.counts[i];
    });
    for (const count of counts) if (count > 1) sum += count * Math.log(count);
    return total === 0 ? null : Math.max(0, entropyNats(total, sum)) / NATS[unit];
  };
}
