import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { jsonLines, temporaryDirectory, temporaryFile } from '../../test/cli';
import { model, records as lines } from '../../test/evaluation-cli';
import { parseRecord } from '../data/records';
import { ConfigError } from '../runtime/errors';
import { bestReplies, checksFor, openAllReplies, tweetsOf } from './evaluate-sources';
import type { OpenAllOptions } from './evaluate-sources';
import { modelSources } from './model-sources';

const records = lines.map(parseRecord);
const options = (directory: string, own: Partial<OpenAllOptions> = {}): OpenAllOptions => ({
  ...{ generations: 2, temperature: 1, topP: 1, maxNewTokens: 4, seed: 3, directory, ...own },
});
const open = (models: Record<string, unknown>, directory: string, own: Partial<OpenAllOptions> = {}) =>
  openAllReplies(modelSources(models, 'models'), records, options(directory, own));

describe('several sources', () => {
  const bad: [string, unknown, RegExp][] = [
    ['an adapter that is not there', { model, adapter: '/nowhere' }, /\/nowhere/],
    ['more shots than examples', { model, shots: 2 }, /shots is 2, but there are 0 examples/],
    ['a file that is not there', { replies: '/nowhere/r.jsonl' }, /\/nowhere\/r\.jsonl/],
    [
      'a key that is not set',
      { base_url: 'http://127.0.0.1:9/v1', model: 'm', api_key_env: 'GRPOLAB_NO_SUCH_KEY' },
      /GRPOLAB_NO_SUCH_KEY is not set/,
    ],
  ];
  it.each(bad)('are refused for %s of the last, before the first has written', async (_, source, message) => {
    const directory = path.join(temporaryDirectory(), 'replies');
    await expect(open({ first: { model }, last: source }, directory)).rejects.toThrow(message);
    expect(existsSync(directory)).toBe(false);
  });

  it('are refused where the file of one holds other references, before any goes on', async () => {
    const directory = path.join(temporaryDirectory(), 'replies');
    await open({ a: { model } }, directory, { maxTweets: 1 });
    const before = readFileSync(path.join(directory, 'a.jsonl'), 'utf8');
    const other = records.map((record, i) => (i === 0 ? { ...record, reply: 'reworded' } : record));
    const going = openAllReplies(modelSources({ a: { model } }, 'models'), other, {
      ...options(directory, { resume: true }),
    });
    await expect(going).rejects.toThrow('the perplexity of tweet t0 is of other references');
    expect(readFileSync(path.join(directory, 'a.jsonl'), 'utf8')).toBe(before);
  });

  it('are written anew on demand, each in its own file, and no other file is touched', async () => {
    const directory = path.join(temporaryDirectory(), 'replies');
    const [plain] = await open({ a: { model } }, directory);
    const row = { ...tweetsOf(records)[0], generations: ['x', 'y'] };
    const all = tweetsOf(records).map((tweet) => ({ ...row, ...tweet }));
    const people = path.join(directory, 'people.jsonl');
    writeFileSync(people, jsonLines(all));
    const models = { a: { model }, people: { replies: people } };
    const [again, read] = await open(models, directory, { again: true, seed: 9 });
    expect(again.tweets).not.toEqual(plain.tweets);
    expect(again.tweets).toHaveLength(3);
    expect(read.tweets.map(({ generations }) => generations)).toEqual([1, 2, 3].map(() => ['x', 'y']));
    expect(readdirSync(directory).sort()).toEqual(['a.jsonl', 'a.settings.json', 'people.jsonl']);
  });

  it('tell of each run by its name, and end between runs when they are stopped', async () => {
    const seen: unknown[] = [];
    const stop = new AbortController();
    const reason = new Error('stopped');
    const directory = temporaryDirectory();
    const running = open({ a: [{ model, seed: 1 }], b: { model } }, directory, {
      signal: stop.signal,
      onProgress: (label, done, total) => {
        seen.push([label, done, total]);
        if (done === total) stop.abort(reason);
      },
    });
    await expect(running).rejects.toBe(reason);
    expect(seen).toEqual([
      ['a, seed 1', 0, 3],
      ['a, seed 1', 3, 3],
    ]);
  });

  it('need tweets, unless all are on file', async () => {
    const file = temporaryFile('r.jsonl', jsonLines([{ tweet_id: '1', tweet: 'x', generations: ['y'] }]));
    const read = await openAllReplies(modelSources({ r: { replies: file } }, 'm'), [], options('/nowhere'));
    expect(read[0].tweets).toHaveLength(1);
    const none = openAllReplies(modelSources({ a: { model } }, 'm'), [], options('/nowhere'));
    await expect(none).rejects.toThrow('a needs tweets to reply to');
  });
});

describe('the examples of a prompt', () => {
  it('are the best reply to each tweet, the best first, and none to a tweet of the test', () => {
    const likes = (id: string, tweet: string, reply: string, reply_likes: number) =>
      parseRecord({ tweet_id: id, tweet, reply, reply_likes, tweet_likes: 1 });
    const given = [
      likes('a', 'Tea?', 'so so', 1),
      likes('b', 'Rain', 'boats', 5),
      likes('a', 'Tea?', 'good', 3),
      likes('c', ' i LOVE  tea', 'the test has it', 9),
      likes('t1', 'another text', 'by its id', 9),
    ];
    expect(bestReplies(given, records)).toEqual([
      { tweet: 'Rain', reply: 'boats' },
      { tweet: 'Tea?', reply: 'good' },
    ]);
  });
});

describe('the checks of an evaluation', () => {
  const world = [parseRecord({ tweet_id: '1', tweet: 'Good morning.', reply: 'x' })];

  it('are a least reward, and beside another one the default', () => {
    expect(checksFor(records, {})).toEqual({ quality: {}, otherQuality: [{}] });
    expect(checksFor(records, { minWorldQuality: [] })).toEqual({ quality: {}, otherQuality: [{}] });
    expect(checksFor(records, { minReward: 0.8 }).quality).toEqual({ min_reward: 0.8 });
    expect(() => checksFor(records, { minReward: 2 })).toThrow(ConfigError);
  });

  it('ask for a truth only where it is known, and then for no reward unless that is given, too', () => {
    expect(() => checksFor(records, { minWorldQuality: 0.5 })).toThrow('not of the embedded world');
    expect(() => checksFor(world, { minWorldQuality: 1.5 })).toThrow('min_world_quality is 1.5');
    expect(checksFor([], { minWorldQuality: 0.5 }).quality).toEqual({
      ...{ min_reward: 0, min_world_quality: 0.5 },
    });
    expect(checksFor([], { minWorldQuality: [0.5, 0.9] })).toEqual({
      quality: { min_reward: 0, min_world_quality: 0.5 },
      otherQuality: [{ min_reward: 0, min_world_quality: 0.9 }, {}],
    });
    expect(checksFor([], { minWorldQuality: 0.5, minReward: 0.3 }).quality).toEqual({
      ...{ min_reward: 0.3, min_world_quality: 0.5 },
    });
  });
});
