import { describe, expect, it } from 'vitest';
import { parseRecord } from './records';
import { indexRecords, textHash } from './split-index';
import { splitPhases } from './split';

const record = (tweet_id: unknown, tweet: string, more: object = {}) =>
  parseRecord({ tweet_id, tweet, reply: 'yes', ...more });

describe('indexRecords', () => {
  it('numbers tweets in order of first appearance and keeps engagement, length and position', () => {
    const { tweet, tweets, engagement, replyLength, line, notices } = indexRecords([
      record('b', 'x', { reply: ' 👩‍🚀🎉 ', reply_likes: 3, tweet_likes: 4 }),
      record('a', 'y', { reply: 'שלום עולם' }),
      record('b', 'x', { reply_likes: 5 }),
    ]);
    expect(Array.from(tweet)).toEqual([0, 1, 0]);
    expect(tweets).toBe(2);
    expect(Array.from(engagement)).toEqual([0.75, 0, 5]);
    expect(Array.from(replyLength)).toEqual([4, 9, 3]);
    expect(Array.from(line)).toEqual([1, 2, 3]);
    expect(notices).toEqual([]);
  });

  it('keeps more rows than its columns hold at first', () => {
    const records = Array.from({ length: 5000 }, (_, i) =>
      record(i % 1700, `t${i % 1700}`, { reply_likes: i }),
    );
    const { tweet, engagement } = indexRecords(records);
    expect(Array.from(tweet)).toEqual(records.map(({ tweet_id }) => Number(tweet_id)));
    expect(Array.from(engagement)).toEqual(records.map((_, i) => i));
  });

  it('counts the tweet_ids that come with different texts and names the first', () => {
    const { notices } = indexRecords([
      record(1, 'tea'),
      record(2, 'rain'),
      record(2, 'Rain'),
      record(2, 'RAIN'),
      record(1, 'tea '),
    ]);
    expect(notices).toEqual([
      expect.stringMatching(/^2 tweet_ids have several tweet texts \(first: line 3, tweet_id 2\)\. /),
    ]);
  });

  it('counts the tweet_ids that share their text with another, and says what may happen', () => {
    const { notices } = indexRecords([
      record(1, 'tea'),
      record(1, 'tea'),
      record(2, 'tea'),
      record(3, 'rain'),
    ]);
    expect(notices).toEqual([
      expect.stringMatching(
        /^2 tweet_ids share their tweet text with another tweet_id\. .* both phases; give/,
      ),
    ]);
  });

  it('counts the replies that repeat a reply_id, not those without one', () => {
    const ids = ['r1', 'r2', 'r1', 'r1', 'r3', 'r3', undefined, undefined];
    const { notices } = indexRecords(ids.map((reply_id, i) => record(i, `t${i}`, { reply_id })));
    expect(notices).toEqual([expect.stringMatching(/^3 replies have the reply_id of an earlier one\. /)]);
  });

  it('brings the notices into the statistics of a split', () => {
    const records = Array.from({ length: 20 }, (_, i) => record(i, 'tea', { reply_likes: i % 2 }));
    expect(splitPhases(records).statistics.notices).toEqual([
      expect.stringContaining('20 tweet_ids share their tweet text'),
    ]);
  });
});

describe('textHash', () => {
  it('gives different integers to half a million ids and texts that differ in little', () => {
    const hashes = new Set<number>();
    for (let i = 0; i < 250_000; i++) {
      hashes.add(textHash(`1200000000000${String(i).padStart(6, '0')}`));
      hashes.add(textHash(`a tweet that ends in ${i}`));
    }
    expect(hashes.size).toBe(500_000);
    for (const hash of hashes) if (!Number.isSafeInteger(hash) || hash < 0) throw new Error(`${hash}`);
  });

  it('spreads over its range', () => {
    const sixteenths = new Array<number>(16).fill(0);
    for (let i = 0; i < 16_000; i++) sixteenths[Math.floor((textHash(`t${i}`) % 2 ** 21) / 2 ** 17)]++;
    // Binomial(16000, 1/16): 1000 +- 31; five deviations.
    for (const count of sixteenths) expect(Math.abs(count - 1000)).toBeLessThan(155);
  });
});
