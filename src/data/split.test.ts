import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { median } from '../metrics/statistics';
import { ConfigError, DataError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { TweetRecord } from './records';
import { parseRecord } from './records';
import type { PhaseSplit } from './split';
import { assignParts, countOfShare, describeSplit, indexRecords, quartileLabel, splitPhases } from './split';
import { tweetDistributionsOf, tweetOverlap, validateSplit } from './split-statistics';

function record(tweet: number, reply: number, likes: number, text = 'a reply'): TweetRecord {
  const ids = { tweet_id: `t${tweet}`, reply_id: `r${reply}` };
  return parseRecord({ ...ids, tweet: `tweet ${tweet}`, tweet_likes: 10, reply: text, reply_likes: likes });
}

/** Tweets with 1 to `most` replies each, likes and lengths of a wide spread. */
function world(tweets: number, most: number, seed: number): TweetRecord[] {
  const random = new Random(seed, 'world');
  const records: TweetRecord[] = [];
  for (let tweet = 0; tweet < tweets; tweet++) {
    const replies = 1 + random.integer(most);
    for (let i = 0; i < replies; i++) {
      const likes = Math.floor(Math.exp(2 * random.normal() + 2));
      records.push(record(tweet, records.length, likes, 'word '.repeat(1 + random.integer(40))));
    }
  }
  return random.shuffle(records);
}

const ids = (records: TweetRecord[]) => records.map(({ reply_id }) => reply_id);
const tweets = (records: TweetRecord[]) => new Set(records.map(({ tweet_id }) => tweet_id));
const partsOf = ({ phase1, phase2, test }: PhaseSplit<TweetRecord>) => [phase1, phase2, test];

const inputs = fc.record({
  tweets: fc.integer({ min: 40, max: 120 }),
  most: fc.integer({ min: 1, max: 6 }),
  ratio: fc.double({ min: 0.2, max: 0.8, noNaN: true }),
  testFraction: fc.constantFrom(0, 0.2),
  seed: fc.nat(),
});

describe('splitPhases', () => {
  it('loses no row, repeats none, parts no tweet, and keeps the order of the input', () => {
    fc.assert(
      fc.property(inputs, (input) => {
        const records = world(input.tweets, input.most, input.seed);
        const parts = partsOf(splitPhases(records, input));
        expect(ids(parts.flat()).sort()).toEqual(ids(records).sort());
        expect(parts.reduce((sum, part) => sum + tweets(part).size, 0)).toBe(tweets(records).size);
        for (const part of parts) expect(part).toEqual(records.filter((one) => part.includes(one)));
      }),
      { numRuns: 30 },
    );
  });

  it('holds the shares of every stratum within one tweet', () => {
    fc.assert(
      fc.property(inputs, (input) => {
        const { strata } = splitPhases(world(input.tweets, input.most, input.seed), input).statistics;
        for (const { replies, parts } of strata) {
          expect(parts.phase1 + parts.phase2 + parts.test).toBe(replies);
          expect(Math.abs(parts.test - countOfShare(replies, input.testFraction))).toBeLessThanOrEqual(
            input.most / 2,
          );
          const target = countOfShare(replies - parts.test, input.ratio);
          expect(Math.abs(parts.phase1 - target)).toBeLessThanOrEqual(input.most / 2);
        }
      }),
      { numRuns: 30 },
    );
  });

  it('gives floor(n ratio) of each quartile to phase 1 when every tweet has one reply', () => {
    const records = Array.from({ length: 103 }, (_, i) => record(i, i, i));
    const { statistics, phase1 } = splitPhases(records, { ratio: 0.3 });
    // Boundaries 25.5, 51, 76.5 likes of 10: a value on a boundary belongs below it.
    expect(statistics.quartile_boundaries).toEqual([2.55, 5.1, 7.65]);
    expect(statistics.strata.map(({ replies }) => replies)).toEqual([26, 26, 25, 26]);
    expect(statistics.strata.map(({ parts }) => parts.phase1)).toEqual([7, 7, 7, 7]);
    expect(phase1).toHaveLength(28);
  });

  it('puts a tweet in the quartile of the median engagement of its replies', () => {
    const single = Array.from({ length: 80 }, (_, i) => record(i, i, i));
    // Mean 38, in the third quartile; median 3, in the first.
    const skewed = [record(100, 100, 1), record(100, 101, 3), record(100, 102, 110)];
    const strata = splitPhases([...single, ...skewed]).statistics.strata;
    expect(strata.map((stratum) => stratum.replies - stratum.tweets)).toEqual([2, 0, 0, 0]);
  });

  it('gives the same parts for the same seed and others for another', () => {
    const records = world(60, 3, 5);
    const one = splitPhases(records, { seed: 1, testFraction: 0.1 });
    expect(splitPhases(records, { seed: 1, testFraction: 0.1 })).toEqual(one);
    expect(ids(splitPhases(records, { seed: 2, testFraction: 0.1 }).phase1)).not.toEqual(ids(one.phase1));
  });

  it('draws which tweets go to phase 1 without favour', () => {
    const records = Array.from({ length: 20 }, (_, i) => record(i, i, 0));
    const counts = new Array<number>(20).fill(0);
    for (let seed = 0; seed < 400; seed++) {
      for (const { tweet_id } of splitPhases(records, { seed }).phase1) counts[Number(tweet_id.slice(1))]++;
    }
    // Binomial(400, 1/2): 200 +- 10; four deviations.
    for (const count of counts) expect(Math.abs(count - 200)).toBeLessThan(41);
  });

  it('treats equal engagement as one stratum and says so', () => {
    const { statistics, phase1, phase2 } = splitPhases(Array.from({ length: 9 }, (_, i) => record(i, i, 4)));
    expect(statistics.strata.map(({ tweets: n }) => n)).toEqual([9, 0, 0, 0]);
    expect([phase1.length, phase2.length]).toEqual([4, 5]);
    expect(statistics.notices).toEqual([expect.stringMatching(/same engagement \(0.4\): one stratum/)]);
    expect(splitPhases(world(40, 2, 1)).statistics.notices).toEqual([]);
  });

  it('describes each part by its own values, and gives those for the plots', () => {
    const { statistics, distributions, phase1, test } = splitPhases(world(80, 3, 2), { testFraction: 0.2 });
    expect(statistics.phase1.count).toBe(phase1.length);
    expect(statistics.phase1.tweets).toBe(tweets(phase1).size);
    expect(Array.from(distributions.phase1.engagement)).toEqual(phase1.map((one) => one.reply_likes / 10));
    expect(Array.from(distributions.test.reply_length)).toEqual(test.map((one) => one.reply.trim().length));
    expect(statistics.phase1.engagement.max).toBe(Math.max(...distributions.phase1.engagement));
    expect(statistics.test?.count).toBe(test.length);
    expect(statistics.phase2.quartile_proportions.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
    expect(splitPhases(world(80, 3, 2)).statistics).not.toHaveProperty('test');
  });

  it('refuses likes that are not numbers, and names the record', () => {
    const bad = (change: Partial<TweetRecord>) =>
      splitPhases(world(40, 1, 1).map((one, i) => (i === 6 ? { ...one, ...change } : one)));
    expect(() => bad({ reply_likes: NaN })).toThrow(
      /^record 7: reply_likes is NaN and tweet_likes 10; expected/,
    );
    expect(() => bad({ tweet_likes: NaN })).toThrow(DataError);
    expect(() => bad({ reply_likes: -1 })).toThrow(DataError);
    expect(() => bad({ reply_likes: Infinity })).toThrow(DataError);
    expect(() => bad({ tweet_likes: -5 })).toThrow(
      /^record 7: reply_likes is \d+ and tweet_likes -5; expected/,
    );
    expect(() => bad({ tweet_likes: Infinity })).toThrow(DataError);
    expect(() => bad({ reply_likes: '12' as unknown as number })).toThrow(DataError);
  });

  it.each([
    [{ ratio: '0.5' }, 'ratio is "0.5"; expected a share above 0 and below 1, such as 0.5.'],
    [{ testFraction: '0.1' }, 'testFraction is "0.1"; expected a share from 0 and below 1, such as 0.1.'],
    [{ seed: 1.5 }, 'seed is 1.5; expected an integer >= 0, such as 42.'],
    [{ seed: -1 }, 'seed is -1; expected an integer >= 0, such as 42.'],
    [{ seed: NaN }, 'seed is NaN; expected an integer >= 0, such as 42.'],
    [{ seed: '42' }, 'seed is "42"; expected an integer >= 0, such as 42.'],
  ])('refuses the options %j', (options, message) => {
    const given = options as unknown as { ratio: number };
    expect(() => splitPhases(world(40, 1, 1), given)).toThrow(new ConfigError(message));
  });

  it('offers another ratio only where one could help', () => {
    const alone = [record(1, 1, 1), record(2, 2, 2), record(3, 3, 3), record(4, 4, 4)];
    expect(() => splitPhases(alone)).toThrow(
      /Bring more tweets: no quartile has two, so no ratio would do\.$/,
    );
    const pair = [record(1, 1, 1), record(2, 2, 1)];
    expect(() => splitPhases(pair, { ratio: 0.4 })).toThrow(/Bring more tweets, or change the ratio\.$/);
    expect(splitPhases(pair, { ratio: 0.5 }).phase1).toHaveLength(1);
  });

  it('gives a part with one reply a standard deviation that says why there is none', () => {
    const { phase1, phase2 } = splitPhases([record(1, 1, 1), record(2, 2, 1), record(3, 3, 1)]).statistics;
    expect([phase1.count, phase2.count]).toEqual([1, 2]);
    expect(phase1.engagement.std).toEqual({ value: null, reason: 'one value has no standard deviation' });
    expect(phase1.reply_length.std).toEqual(phase1.engagement.std);
    expect(phase2.engagement.std).toBe(0);
  });

  it('puts a tweet whose median is a boundary below it, however it was rounded', () => {
    const of = (tweet: number, likes: number) => ({ ...record(tweet, tweet, likes), tweet_likes: 3 });
    const likes = [...Array<number>(20).fill(0), ...Array<number>(40).fill(2), ...Array<number>(20).fill(9)];
    const records = [...likes.map((each, tweet) => of(tweet, each)), of(100, 1), of(100, 3)];
    const { quartile_boundaries, strata } = splitPhases(records).statistics;
    expect(quartile_boundaries[1]).toBe(2 / 3);
    expect(strata.map(({ tweets: n }) => n)).toEqual([20, 41, 0, 20]);
  });

  it('refuses shares out of range and too few tweets', () => {
    const records = world(40, 1, 1);
    for (const ratio of [0, 1, -1, NaN]) expect(() => splitPhases(records, { ratio })).toThrow(ConfigError);
    for (const testFraction of [-0.1, 1, NaN]) {
      expect(() => splitPhases(records, { testFraction })).toThrow(ConfigError);
    }
    expect(() => splitPhases([])).toThrow(DataError);
    expect(() => splitPhases([record(1, 1, 1), record(1, 2, 2)])).toThrow(
      /^phase1 would be empty: 2 replies to 1 tweets/,
    );
    expect(() => splitPhases(records, { testFraction: 0.01 })).toThrow(/^test would be empty/);
  });
});

describe('validateSplit', () => {
  const strata = (phase1: number[], phase2: number[]) =>
    phase1.map((count, i) => ({
      tweets: count + phase2[i],
      replies: count + phase2[i],
      parts: { phase1: count, phase2: phase2[i], test: 0 },
    }));
  const even = strata([50, 50, 50, 50], [50, 50, 50, 50]);
  const oneReplyEach = (values: { engagement: number[]; reply_length: number[] }) => ({
    replies: values,
    tweets: values,
  });
  /** Tweets of one reply: engagement from one number to another, lengths from 0 or more. */
  const spread = (n: number, from: number, to: number, shortest = 0) =>
    oneReplyEach({
      engagement: Array.from({ length: n }, (_, i) => from + ((to - from) * (i + 0.5)) / n),
      reply_length: Array.from({ length: n }, (_, i) => i + shortest),
    });

  it('passes stratified splits of tweets with several replies', () => {
    for (let seed = 0; seed < 20; seed++) {
      expect(splitPhases(world(300, 4, seed), { seed }).statistics.validation.failures).toEqual([]);
    }
  });

  it('fails a split by engagement, which quartiles within each phase could not show', () => {
    const uneven = strata([100, 100, 0, 0], [0, 0, 100, 100]);
    const validation = validateSplit(spread(200, 0, 0.5), spread(200, 0.5, 1), uneven, 0);
    expect(validation.passed).toBe(false);
    expect(validation.max_proportion_difference).toBe(0.5);
    expect(validation.failures).toHaveLength(2);
    expect(validation.failures[0]).toBe(
      'quartile shares differ by 0.500 between the phases; expected at most 0.050',
    );
    expect(validation.failures[1]).toMatch(/^engagement differs between the phases/);
  });

  it('fails a split whose strata are dominated by a single tweet', () => {
    const crowd = Array.from({ length: 60 }, (_, i) => record(1000, 1000 + i, 50));
    const others = Array.from({ length: 80 }, (_, i) => record(i, i, i));
    const { validation } = splitPhases([...others, ...crowd]).statistics;
    expect(validation.passed).toBe(false);
    expect(validation.failures[0]).toMatch(/^quartile shares differ/);
  });

  it('fails an assignment that parts a tweet, and counts those tweets', () => {
    const index = indexRecords(world(300, 4, 3));
    const assignment = assignParts(index);
    expect(describeSplit(index, assignment).statistics.validation.tweet_overlap).toBe(0);
    // The leak of a split by reply: every row on its own.
    const random = new Random(1, 'leak');
    const leaking = {
      ...assignment,
      parts: assignment.parts.map(() => random.pick(['phase1', 'phase2'] as const)),
    };
    const { validation } = describeSplit(index, leaking).statistics;
    const parted = Array.from({ length: index.tweets }, (_, t) => t).filter(
      (t) => new Set(leaking.parts.filter((_, row) => index.tweet[row] === t)).size > 1,
    );
    expect(parted.length).toBeGreaterThan(50);
    expect(validation.tweet_overlap).toBe(parted.length);
    expect(validation.passed).toBe(false);
    expect(validation.failures).toContain(
      `${parted.length} tweets have replies in more than one part; expected 0`,
    );
  });

  it('counts a tweet that reaches into the test part as an overlap', () => {
    const index = indexRecords([record(1, 1, 1), record(1, 2, 2), record(2, 3, 3)]);
    expect(tweetOverlap(index, ['test', 'phase1', 'phase2'])).toBe(1);
    expect(tweetOverlap(index, ['test', 'test', 'phase2'])).toBe(0);
  });

  it('fails on engagement alone', () => {
    const { passed, failures } = validateSplit(spread(200, 0, 1), spread(200, 0.3, 1.3), even, 0);
    expect(passed).toBe(false);
    expect(failures).toEqual([expect.stringMatching(/^engagement differs between the phases/)]);
  });

  it('fails on reply length alone', () => {
    const { passed, failures } = validateSplit(spread(200, 0, 1), spread(200, 0, 1, 80), even, 0);
    expect(passed).toBe(false);
    expect(failures).toEqual([expect.stringMatching(/^reply length differs between the phases/)]);
  });

  it('only warns between p = 0.001 and p = 0.05', () => {
    const longer = spread(200, 0, 1, 30);
    const { passed, warnings, reply_length } = validateSplit(spread(200, 0, 1), longer, even, 0);
    expect(reply_length.p_value).toBeGreaterThan(0.001);
    expect(reply_length.p_value).toBeLessThan(0.05);
    expect({ passed, warnings: warnings.length }).toEqual({ passed: true, warnings: 1 });
  });

  /** Replies whose lengths resemble each other within a tweet: 20 to 139 by tweet, plus 0 to 24. */
  function clustered(count: number, replies: number, seed: number): TweetRecord[] {
    const random = new Random(seed, 'clustered');
    return Array.from({ length: count * replies }, (_, row) => row).map((row) => {
      const tweet = Math.floor(row / replies);
      const base = 20 + new Random(seed, 'base', tweet).integer(120);
      const likes = Math.floor(Math.exp(2 * random.normal() + 2));
      return record(tweet, row, likes, 'x'.repeat(base + random.integer(25)));
    });
  }

  it('does not fail a correct split because replies to one tweet are alike, but says so', () => {
    let warned = 0;
    for (let seed = 0; seed < 12; seed++) {
      const { validation } = splitPhases(clustered(200, 20, seed), { seed }).statistics;
      expect(validation.failures).toEqual([]);
      const { p_value, p_value_by_tweet } = validation.reply_length;
      expect(p_value_by_tweet).toBeGreaterThan(0.001);
      if (p_value >= 0.001) continue;
      warned++;
      expect(validation.warnings).toContainEqual(
        expect.stringMatching(/^reply length differs .* by reply and \S+ by tweet: it clusters by tweet/),
      );
    }
    expect(warned).toBeGreaterThan(3);
  });

  it('fails a split of such replies when those of one phase are longer', () => {
    for (let seed = 0; seed < 4; seed++) {
      const records = clustered(200, 20, seed);
      const assignment = assignParts(indexRecords(records), { seed });
      const longer = records.map((one, row) =>
        assignment.parts[row] === 'phase1' ? one : { ...one, reply: one.reply + 'y'.repeat(40) },
      );
      const { validation } = describeSplit(indexRecords(longer), assignment, { seed }).statistics;
      expect(validation.passed).toBe(false);
      expect(validation.failures).toEqual([
        expect.stringMatching(/^reply length differs .* by reply and \S+ by tweet; expected at least 0\.001/),
      ]);
      expect(validation.reply_length.p_value_by_tweet).toBeLessThan(0.001);
    }
  });

  it('makes the same test of replies and tweets when every tweet has one reply', () => {
    const { engagement, reply_length } = splitPhases(world(200, 1, 4)).statistics.validation;
    expect(engagement.p_value_by_tweet).toBe(engagement.p_value);
    expect(reply_length.p_value_by_tweet).toBe(reply_length.p_value);
    const several = splitPhases(world(200, 4, 4)).statistics.validation;
    expect(several.reply_length.p_value_by_tweet).not.toBe(several.reply_length.p_value);
  });

  it('allows small phases two rows of difference', () => {
    expect(validateSplit(spread(10, 0, 1), spread(30, 0, 1), even, 0).tolerance).toBe(0.2);
  });
});

describe('tweetDistributionsOf', () => {
  it('gives of each tweet of a part the median of its replies', () => {
    const index = indexRecords([record(1, 1, 10), record(2, 2, 40), record(1, 3, 20), record(1, 4, 90)]);
    const parts = ['phase1', 'phase2', 'phase1', 'phase1'] as const;
    const [phase1, phase2, test] = tweetDistributionsOf(['phase1', 'phase2', 'test'], index, parts);
    expect([phase1, phase2, test].map(({ engagement }) => Array.from(engagement))).toEqual([[2], [4], []]);
    expect(Array.from(phase2.reply_length)).toEqual(['a reply'.length]);
  });
});

describe('countOfShare', () => {
  it('is that of integers for every share of two digits', () => {
    fc.assert(
      fc.property(fc.nat({ max: 100_000_000 }), fc.integer({ min: 0, max: 99 }), (n, percent) => {
        expect(countOfShare(n, percent / 100)).toBe((n * percent - ((n * percent) % 100)) / 100);
      }),
      { numRuns: 2000 },
    );
  });

  it('gives 29 of 100 tweets to phase 1 at 0.29, and to the test part', () => {
    const records = Array.from({ length: 100 }, (_, i) => record(i, i, 4));
    expect(splitPhases(records, { ratio: 0.29 }).phase1).toHaveLength(29);
    expect(splitPhases(records, { ratio: 0.57 }).phase1).toHaveLength(57);
    expect(splitPhases(records, { testFraction: 0.29 }).test).toHaveLength(29);
    expect(splitPhases(records, { ratio: 0.2899999999 }).phase1).toHaveLength(28);
  });
});

describe('quartileLabel', () => {
  it('does not count a boundary that is below by rounding alone', () => {
    expect(0.1 + 0.2).toBeGreaterThan(0.3);
    expect(quartileLabel(0.1 + 0.2, [0.3])).toBe(0);
    expect(quartileLabel(0.3 + 1e-12, [0.3])).toBe(1);
    expect(quartileLabel(median([1 / 3, 1]), [2 / 3])).toBe(0);
    expect([quartileLabel(0, [0]), quartileLabel(5e-324, [0])]).toEqual([0, 1]);
  });

  it('counts the boundaries strictly below', () => {
    expect([0, 1, 1.5, 2, 3, 9].map((value) => quartileLabel(value, [1, 2, 3]))).toEqual([0, 0, 1, 1, 2, 3]);
  });
});
