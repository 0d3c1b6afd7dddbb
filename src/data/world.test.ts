import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { mean, sampleStd, spearman } from '../metrics/statistics';
import { Random } from '../runtime/random';
import { parseRecord } from './records';
import type { LabelledRecord, Strategy, WorldPart } from './world';
import { drawLikes, labelledReplies, strategies, worldRecords, worldReply, worldTweet } from './world';
import { stanceOf, topicOf, worldQuality, worldVocabulary } from './world-law';
import { contentWords, worldTopics, worldWords } from './world-topics';

const parts: readonly WorldPart[] = ['pretrain', 'sample', 'heldout'];
const engaging: readonly Strategy[] = ['specific', 'question', 'joke', 'anecdote', 'disagree'];
const dull: readonly Strategy[] = ['generic', 'bland', 'off_topic', 'shouting', 'spam'];

const indices = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const textsOf = (seed: number, part: WorldPart, n: number): string[] =>
  indices(n).map((i) => worldTweet(seed, part, i).text);

const threads: LabelledRecord[][] = indices(1500).map((i) => labelledReplies(5, 'heldout', i));
const replies = threads.flat();
const worthOf = (strategy: Strategy): number[] =>
  replies.filter((reply) => reply.strategy === strategy).map(({ worth }) => worth);

describe('worldTweet', () => {
  it('is a pure function of seed, part and index, whatever was asked before', () => {
    const forward = indices(50).map((i) => worldTweet(1, 'sample', i));
    const backward = indices(50).map((i) => worldTweet(1, 'sample', 49 - i));
    expect(backward.reverse()).toEqual(forward);
    expect(labelledReplies(1, 'sample', 7)).toEqual(labelledReplies(1, 'sample', 7));
  });

  it('writes other tweets for another seed, and mostly distinct ones for other indices', () => {
    const [first, second] = [textsOf(1, 'pretrain', 500), textsOf(2, 'pretrain', 500)];
    expect(first.filter((text, i) => text === second[i]).length).toBeLessThan(5);
    expect(new Set(first).size).toBeGreaterThan(475);
  });

  it('never writes one text in two parts, for equal and for different seeds', () => {
    const partOf = new Map<string, WorldPart>();
    for (const [seed, n] of [
      [1, 2500],
      [7, 2500],
    ])
      for (const part of parts)
        for (const text of textsOf(seed, part, n)) {
          expect(partOf.get(text) ?? part).toBe(part);
          partOf.set(text, part);
        }
    expect(partOf.size).toBeGreaterThan(7000);
  });

  it('is recognised by the law: its topic and its stance are found in the text', () => {
    const tweets = indices(3000).map((i) => worldTweet(3, 'pretrain', i));
    const topics = tweets.filter(({ text, topic }) => topicOf(text)?.topic.name === topic.name);
    const stances = tweets.filter(({ text, stance }) => {
      const lexicon = topicOf(text);
      return lexicon !== null && stanceOf(text, lexicon) === stance;
    });
    expect(topics.length / tweets.length).toBeGreaterThan(0.995);
    expect(stances.length / tweets.length).toBeGreaterThan(0.995);
    expect(new Set(tweets.map(({ topic }) => topic.name)).size).toBe(worldTopics().length);
  });

  it('leaves no slot unfilled and starts every sentence with a capital letter', () => {
    for (const text of [...textsOf(4, 'sample', 500), ...replies.map(({ record }) => record.tweet)]) {
      expect(text).not.toMatch(/[{}]|undefined/);
      expect(text).not.toMatch(/^[a-z]|[.!?] [a-z]/);
    }
  });
});

describe('labelledReplies', () => {
  it('writes 1 to 6 records that parse, under one tweet, with ids of their own', () => {
    const ids = replies.map(({ record }) => record.reply_id);
    expect(new Set(ids).size).toBe(ids.length);
    expect(new Set(threads.map((thread) => thread.length))).toEqual(new Set([1, 2, 3, 4, 5, 6]));
    for (const thread of threads) {
      for (const { record } of thread) expect(parseRecord(record)).toEqual(record);
      const common = thread.map(({ record: r }) =>
        [r.tweet_id, r.tweet, r.tweet_author, r.tweet_likes, r.tweet_retweets, r.tweet_created_at].join('|'),
      );
      expect(new Set(common).size).toBe(1);
    }
  });

  it('dates a reply after its tweet by the stated number of seconds', () => {
    for (const { record: r } of replies.slice(0, 500)) {
      const seconds = (Date.parse(r.reply_created_at) - Date.parse(r.tweet_created_at)) / 1000;
      expect(seconds).toBe(r.reply_time_diff_seconds);
      expect(seconds).toBeGreaterThanOrEqual(20);
    }
  });

  it('mixes the strategies in the stated shares', () => {
    expect(Object.values(strategies).reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 12);
    for (const [strategy, share] of Object.entries(strategies)) {
      const found = worthOf(strategy as Strategy).length / replies.length;
      const error = Math.sqrt((share * (1 - share)) / replies.length);
      expect(Math.abs(found - share), strategy).toBeLessThan(4 * error);
    }
  });

  it('labels a reply with the worth that the law gives its text', () => {
    for (const { record, worth } of replies.slice(0, 300))
      expect(worth).toBe(worldQuality(record.tweet, record.reply).total);
  });

  it('ranks the strategies as intended: engaging above echo above dull', () => {
    const means = (names: readonly Strategy[]): number[] => names.map((name) => mean(worthOf(name)));
    const echo = mean(worthOf('echo'));
    expect(Math.min(...means(engaging))).toBeGreaterThan(0.4);
    expect(mean(means(engaging))).toBeGreaterThan(0.65);
    expect(echo).toBeGreaterThan(0.15);
    expect(echo).toBeLessThan(0.35);
    expect(Math.max(...means(dull))).toBeLessThan(0.12);
  });

  it('writes replies only of words that the law knows', () => {
    const vocabulary = worldVocabulary();
    const unknown = replies.flatMap(({ record }) =>
      worldWords(record.reply).filter((word) => !vocabulary.has(word)),
    );
    expect(unknown).toEqual([]);
  });
});

describe('worldRecords', () => {
  it('yields the records of the tweets asked for, in order, from any first tweet', () => {
    const all = [...worldRecords(5, 'heldout', 40)];
    expect(all).toEqual(
      threads
        .slice(0, 40)
        .flat()
        .map(({ record }) => record),
    );
    const skipped = threads.slice(0, 25).flat().length;
    expect([...worldRecords(5, 'heldout', 15, 25)]).toEqual(all.slice(skipped));
  });

  it('is what the committed sample holds: `node scripts/make-world.mjs` after a change of the world', () => {
    const file = path.resolve(__dirname, '../../data/world/sample.jsonl');
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
    const records = lines.map((line) => parseRecord(JSON.parse(line)));
    const last = records[records.length - 1].reply_id;
    const written = new Set<string>();
    for (const record of worldRecords(1, 'sample', lines.length)) {
      written.add(JSON.stringify(record));
      if (record.reply_id === last) break;
    }
    expect(lines.filter((line) => !written.has(line))).toHaveLength(0);
    const count = (name: 'tweet' | 'tweet_id' | 'reply_id'): number =>
      new Set(records.map((record) => record[name])).size;
    expect(count('tweet')).toBe(count('tweet_id')); // a split by id parts no text
    expect(count('reply_id')).toBe(records.length);
  });
});

describe('worldReply', () => {
  const tweets = indices(200).map((i) => worldTweet(9, 'pretrain', i));

  it('replies about the topic by an engaging strategy and about another by off_topic', () => {
    const shareOnTopic = (strategy: Strategy): number =>
      mean(
        tweets.map((tweet, i) => {
          const words = topicOf(tweet.text)?.words ?? new Set<string>();
          const reply = worldReply(tweet, strategy, new Random(1, strategy, i));
          return Number(contentWords(reply).some((word) => words.has(word)));
        }),
      );
    for (const strategy of engaging) expect(shareOnTopic(strategy), strategy).toBeGreaterThan(0.85);
    expect(shareOnTopic('off_topic')).toBeLessThan(0.3);
    expect(shareOnTopic('generic')).toBe(0);
  });

  it('shouts in capitals with three exclamation marks', () => {
    for (const [i, tweet] of tweets.entries()) {
      const reply = worldReply(tweet, 'shouting', new Random(1, i));
      expect(reply).toBe(reply.toUpperCase());
      expect(reply).toMatch(/[^.!?]!!!$/);
    }
  });

  it('answers a claim that it disagrees with by the counter of that very claim', () => {
    for (const tweet of tweets.filter(({ stance }) => stance === 'claim')) {
      const counter = tweet.topic.counters[tweet.topic.claims.indexOf(tweet.event)];
      const reply = worldReply(tweet, 'disagree', new Random(2, tweet.text));
      expect(reply.toLowerCase()).toContain(counter.toLowerCase());
    }
  });
});

describe('drawLikes', () => {
  const draws = (followers: number, worth: number, n: number): number[] =>
    indices(n).map((i) => drawLikes(followers, worth, new Random(11, followers, Math.round(worth * 100), i)));

  it.each([
    [3000, 0.9],
    [3000, 0.6],
    [20000, 0.5],
    [200000, 0.2],
  ])(
    'has log-likes of mean -3 + ln(followers)/2 + 3 worth and deviation 0.6 (%d, %d)',
    (followers, worth) => {
      // Rounding down takes half a like on average.
      const logs = draws(followers, worth, 4000).map((likes) => Math.log(likes + 0.5));
      expect(Math.abs(mean(logs) - (-3 + 0.5 * Math.log(followers) + 3 * worth))).toBeLessThan(0.04);
      expect(Math.abs(sampleStd(logs) - 0.6)).toBeLessThan(0.03);
    },
  );

  it('gives no like with the probability that the log-normal is below 1', () => {
    // followers = e^6 makes the mean of the logarithm 3 worth: at 0 it is the median, at 0.2 one deviation above.
    const zeros = (worth: number): number =>
      mean(draws(Math.exp(6), worth, 4000).map((likes) => Number(likes === 0)));
    expect(Math.abs(zeros(0) - 0.5)).toBeLessThan(0.032);
    expect(Math.abs(zeros(0.2) - 0.1587)).toBeLessThan(0.024);
  });

  it('is the law of the records too: the mean residual of their log-likes is 0', () => {
    const residuals: number[] = [];
    for (const [i, thread] of threads.entries()) {
      const { followers } = worldTweet(5, 'heldout', i);
      for (const { record, worth } of thread) {
        const expected = -3 + 0.5 * Math.log(followers) + 3 * worth;
        if (expected > 2.5) residuals.push(Math.log(record.reply_likes + 0.5) - expected);
      }
    }
    expect(residuals.length).toBeGreaterThan(500);
    expect(Math.abs(mean(residuals))).toBeLessThan((4 * 0.6) / Math.sqrt(residuals.length));
    expect(sampleStd(residuals)).toBeGreaterThan(0.55);
    expect(sampleStd(residuals)).toBeLessThan(0.65);
  });

  it('makes likes follow worth within a tweet, not perfectly', () => {
    const rhos = threads
      .filter((thread) => thread.length >= 4)
      .map((thread) =>
        spearman(
          thread.map(({ worth }) => worth),
          thread.map(({ record }) => record.reply_likes),
        ),
      )
      .filter((rho) => rho !== null);
    expect(rhos.length).toBeGreaterThan(600);
    expect(mean(rhos)).toBeGreaterThan(0.68);
    expect(mean(rhos)).toBeLessThan(0.78);
  });
});
