import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { labelledReplies } from '../data/world';
import { loadReward } from '../rewards/config';
import { scoreEach } from '../rewards/reward';
import type { Reward } from '../rewards/reward';
import { DataError, ShapeError } from '../runtime/errors';
import { readLabelledPairs, scoreReplies, worldLabelledPairs } from './labelled-pairs';

const FOLDER = mkdtempSync(join(tmpdir(), 'pairs-'));
afterAll(() => rmSync(FOLDER, { recursive: true }));

function fileOf(...lines: object[]): string {
  const path = join(FOLDER, 'pairs.jsonl');
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  return path;
}

const PAIR = { tweet_id: 'p1', tweet: 'Rain again', reply: 'Bring boats', label: 'good' };

describe('readLabelledPairs', () => {
  it('reads the 100 pairs of the repository, two good and two bad replies a tweet', async () => {
    const pairs = await readLabelledPairs('data/labelled-pairs.jsonl');
    expect(pairs).toHaveLength(100);
    expect(pairs.filter(({ label }) => label === 'good')).toHaveLength(50);
    expect(new Set(pairs.map(({ tweet_id }) => tweet_id)).size).toBe(25);
    expect(pairs[1]).toMatchObject({ tweet_id: 'p01', reply_id: 'p01b', label: 'bad', kind: 'echo' });
  });

  it('needs no more than tweet, reply and label', async () => {
    expect(await readLabelledPairs(fileOf(PAIR, { ...PAIR, label: 'bad', other: 1 }))).toEqual([
      PAIR,
      { ...PAIR, label: 'bad' },
    ]);
  });

  it.each([
    [{ ...PAIR, label: 'ok' }, /pairs.jsonl:2: label is "ok"; expected "good" or "bad"\. Fix the line/],
    [{ ...PAIR, label: undefined }, /pairs.jsonl:2: label is missing; expected "good" or "bad"/],
    [{ ...PAIR, reply: ' ' }, /pairs.jsonl:2: reply is " "; expected a text that is not blank/],
    [{ ...PAIR, kind: 7 }, /pairs.jsonl:2: kind is 7; expected a text/],
    [{ ...PAIR, tweet_id: null }, /pairs.jsonl:2: tweet_id is null/],
  ])('refuses %j with file and line', async (line, message) => {
    const attempt = readLabelledPairs(fileOf(PAIR, line));
    await expect(attempt).rejects.toThrow(DataError);
    await expect(attempt).rejects.toThrow(message);
  });

  it('refuses a file without a pair, and one that is not there', async () => {
    await expect(readLabelledPairs(fileOf())).rejects.toThrow('holds no labelled pair');
    await expect(readLabelledPairs(join(FOLDER, 'absent.jsonl'))).rejects.toThrow(DataError);
  });
});

describe('worldLabelledPairs', () => {
  it('calls the replies of engaging strategies good', () => {
    const records = [0, 1, 2].flatMap((i) => labelledReplies(1, 'heldout', i));
    const engaging = new Set(['specific', 'question', 'joke', 'anecdote', 'disagree']);
    expect(worldLabelledPairs({ tweets: 3 })).toEqual(
      records.map(({ record, strategy, worth }) => ({
        ...{ tweet_id: record.tweet_id, reply_id: record.reply_id, tweet: record.tweet, reply: record.reply },
        ...{ kind: strategy, worth, label: engaging.has(strategy) ? 'good' : 'bad' },
      })),
    );
  });

  it('has other tweets in the part to tune on', () => {
    const tweets = (part: 'sample' | 'heldout') =>
      worldLabelledPairs({ tweets: 40, part }).map(({ tweet }) => tweet);
    const heldOut = new Set(tweets('heldout'));
    expect(tweets('sample').filter((tweet) => heldOut.has(tweet))).toEqual([]);
  });

  it.each([0, 2.5, NaN])('refuses %d tweets', (tweets) => {
    expect(() => worldLabelledPairs({ tweets })).toThrow(ShapeError);
  });
});

describe('scoreReplies', () => {
  const score = async (_tweet: string, reply: string) => ({
    total: reply.length / 10,
    components: { length: reply.length },
  });
  const rows = Array.from({ length: 25 }, (_, i) => ({ ...PAIR, id: i, reply: 'x'.repeat(i) }));
  const reward: Reward = {
    ...{ name: 'r', degraded: [], batchSize: 10, score },
    scoreBatch: (pairs) => scoreEach(score, pairs),
  };

  it('gives every row its score, in order, and keeps what else it holds', async () => {
    const scored = await scoreReplies(reward, rows);
    expect(scored).toEqual(rows.map((row, i) => ({ ...row, total: i / 10, components: { length: i } })));
  });

  it('gives the scores of each pair alone', async () => {
    const sharp = await loadReward('sharp');
    const pairs = worldLabelledPairs({ tweets: 30 });
    for (const { tweet, reply, total, components } of await scoreReplies(sharp, pairs))
      expect({ total, components }).toEqual(await sharp.score(tweet, reply));
  });

  it('works in batches of the size that the reward wants, and tells how far it is', async () => {
    const sizes: number[] = [];
    const done: [number, number][] = [];
    const watched: Reward = {
      ...reward,
      scoreBatch: (pairs) => {
        sizes.push(pairs.length);
        return reward.scoreBatch(pairs);
      },
    };
    await scoreReplies(watched, rows, { onProgress: (...progress) => done.push(progress) });
    expect(sizes).toEqual([10, 10, 5]);
    expect(done).toEqual([
      [10, 25],
      [20, 25],
      [25, 25],
    ]);
  });

  it('lets timers in, and stops when its signal is aborted', async () => {
    const slow: Reward = {
      ...reward,
      batchSize: 1,
      scoreBatch: (pairs) => {
        for (const end = performance.now() + 25; performance.now() < end;);
        return reward.scoreBatch(pairs);
      },
    };
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('stopped')), 60);
    await expect(scoreReplies(slow, rows, { signal: controller.signal })).rejects.toThrow('stopped');
  });

  it('refuses no rows, and a reward that does not score each pair', async () => {
    await expect(scoreReplies(reward, [])).rejects.toThrow('r: no replies to score');
    const short: Reward = { ...reward, scoreBatch: async () => [] };
    await expect(scoreReplies(short, rows)).rejects.toThrow('r: 0 results of 10 pairs; expected one a pair');
  });
});
