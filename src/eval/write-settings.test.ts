import { existsSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { DataError } from '../runtime/errors';
import { writeReplies } from './write-replies';
import type { Answerer, TweetToAnswer, WriteRepliesOptions } from './write-replies';

const tweets = ['tea', 'rain', 'cab', 'sun', 'snow'].map((tweet, t) => ({ tweet_id: `t${t}`, tweet }));
const SETTINGS = {
  model: 'data/model',
  temperature: 0.7,
  shots: [{ tweet: 'a', reply: 'b' }],
  adapter: null,
};
/** So many replies that two tweets are one chunk. */
const options: WriteRepliesOptions = { generations: 160, settings: SETTINGS };

/** Answers with the tweet's id, and tells what it was asked. @param failAt  fails at so many tweets and more */
function answering(failAt = Infinity): { answerer: Answerer; asked: string[] } {
  const asked: string[] = [];
  const answer: Answerer['answer'] = (some) => {
    if (asked.length >= failAt) return Promise.reject(new Error('out of tea'));
    asked.push(...some.map(({ tweet_id: id }) => id));
    return Promise.resolve(
      some.map((tweet) => ({ ...tweet, generations: new Array<string>(160).fill(`to ${tweet.tweet_id}`) })),
    );
  };
  return { answerer: { chunk: 2, answer }, asked };
}
const write = (
  file: string,
  own: Partial<WriteRepliesOptions> = {},
  some: readonly TweetToAnswer[] = tweets,
) => writeReplies(answering().answerer, some, file, { ...options, ...own });

const place = (): string => path.join(temporaryDirectory(), 'm.jsonl');
const sideOf = (file: string): string => path.join(path.dirname(file), 'm.settings.json');
const contentOf = (file: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(path.dirname(file))
      .sort()
      .map((name) => [name, readFileSync(path.join(path.dirname(file), name), 'utf8')]),
  );

/** A file that was stopped behind its first chunk. */
async function stopped(): Promise<string> {
  const file = place();
  const writing = writeReplies(answering(2).answerer, tweets, file, options);
  await expect(writing).rejects.toThrow('out of tea');
  return file;
}

/** Refused in one line, nothing asked, and nothing on disk has changed. */
async function refused(
  file: string,
  own: Partial<WriteRepliesOptions>,
  ...messages: (string | RegExp)[]
): Promise<void> {
  const before = contentOf(file);
  const { answerer, asked } = answering();
  const writing = writeReplies(answerer, tweets, file, { ...options, resume: true, ...own });
  await expect(writing).rejects.toThrow(DataError);
  await expect(writing).rejects.not.toThrow(/\n/);
  for (const message of messages) await expect(writing).rejects.toThrow(message);
  expect(contentOf(file)).toEqual(before);
  expect(asked).toEqual([]);
}

describe('the settings of replies', () => {
  it('stand beside the file, are there before the first reply, and are written once', async () => {
    const file = place();
    let [early, late] = [{}, {}];
    const { answerer } = answering();
    const watching: Answerer = {
      ...answerer,
      answer: (some) => {
        early = JSON.parse(readFileSync(sideOf(file), 'utf8')) as object;
        return answerer.answer(some);
      },
    };
    await writeReplies(watching, tweets, file, options);
    late = JSON.parse(readFileSync(sideOf(file), 'utf8')) as object;
    expect([early, late]).toEqual([SETTINGS, SETTINGS]);
    expect(Object.keys(contentOf(file))).toEqual(['m.jsonl', 'm.settings.json']);
    // Going on leaves the very file alone: its time is what it was set to.
    utimesSync(sideOf(file), 1000, 1000);
    await write(file, { resume: true });
    expect(statSync(sideOf(file)).mtimeMs).toBe(1_000_000);
  });

  it('let a file be gone on with that was written by the same ones', async () => {
    const [file, whole] = [await stopped(), place()];
    const { answerer, asked } = answering();
    await writeReplies(answerer, tweets, file, { ...options, resume: true });
    await write(whole);
    expect(asked).toEqual(['t2', 't3', 't4']);
    expect(contentOf(file)).toEqual(contentOf(whole));
  });

  it.each<[string, Record<string, unknown>, string]>([
    ['another number', { ...SETTINGS, temperature: 0.8 }, 'temperature 0.7; this evaluation has 0.8'],
    ['another text', { ...SETTINGS, model: 'm' }, 'model "data/model"; this evaluation has "m"'],
    ['a text for null', { ...SETTINGS, adapter: 'a' }, 'adapter null; this evaluation has "a"'],
    ['one more', { ...SETTINGS, seed: 3 }, 'seed nothing; this evaluation has 3'],
    ['one less', { ...SETTINGS, adapter: undefined }, 'adapter null; this evaluation has nothing'],
    [
      'a part of a list',
      { ...SETTINGS, shots: [{ tweet: 'a', reply: 'c' }] },
      'shots [{"tweet":"a","reply":"b"}]; this evaluation has [{"tweet":"a","reply":"c"}]',
    ],
  ])('refuse to go on with %s, naming it with both values', async (_, settings, message) => {
    const file = await stopped();
    await refused(
      file,
      { settings },
      `${file}: was written with ${message}. Choose another output directory`,
    );
  });

  it('are compared where all replies are there and where a line is torn, which then stays as it is', async () => {
    const file = place();
    await write(file);
    const settings = { ...SETTINGS, temperature: 1 };
    await refused(file, { settings }, 'temperature 0.7');
    const text = readFileSync(file, 'utf8');
    writeFileSync(file, text.slice(0, -20));
    await refused(file, { settings }, 'temperature 0.7');
  });

  it('are asked for: replies without them, or with something else in their place, are not gone on with', async () => {
    const file = await stopped();
    writeFileSync(sideOf(file), '{"model": ');
    await refused(file, {}, /m\.settings\.json: is not JSON/);
    for (const text of ['null', '3', '"x"']) {
      writeFileSync(sideOf(file), text);
      await refused(file, {}, 'm.settings.json, how it was written, is not there');
    }
    rmSync(sideOf(file));
    await refused(file, {}, `${file}: ${sideOf(file)}, how it was written, is not there. Choose another`);
    expect(existsSync(sideOf(file))).toBe(false);
  });

  it('do not allow for another number of replies, or for going on unasked', async () => {
    const file = await stopped();
    await refused(file, { resume: false }, 'holds replies already. Go on with --resume');
    await refused(file, { generations: 161 }, 'is not of this evaluation');
  });

  it('of a run that wrote no reply are replaced by the next one', async () => {
    const file = place();
    await expect(writeReplies(answering(0).answerer, tweets, file, options)).rejects.toThrow('out of tea');
    expect(Object.keys(contentOf(file))).toEqual(['m.settings.json']);
    const settings = { ...SETTINGS, temperature: 1 };
    await write(file, { settings });
    expect(JSON.parse(readFileSync(sideOf(file), 'utf8'))).toEqual(settings);
    expect(readFileSync(file, 'utf8').trimEnd().split('\n')).toHaveLength(5);
  });

  it('are not written where none are given, nor compared', async () => {
    const file = place();
    await write(file, { settings: undefined });
    expect(Object.keys(contentOf(file))).toEqual(['m.jsonl']);
    await write(file, { settings: undefined, resume: true });
  });
});

describe('progress', () => {
  it('begins with what is there, and tells what was written since', async () => {
    const seen: number[][] = [];
    const onProgress = (...numbers: number[]): void => void seen.push(numbers);
    const file = await stopped();
    await write(file, { resume: true, onProgress });
    expect(seen.splice(0)).toEqual([
      [2, 5, 0],
      [4, 5, 2],
      [5, 5, 3],
    ]);
    await write(file, { resume: true, onProgress });
    expect(seen).toEqual([[5, 5, 0]]);
  });

  it('counts what is on disk alone when an answer fails', async () => {
    const seen: number[][] = [];
    const onProgress = (...numbers: number[]): void => void seen.push(numbers);
    const file = place();
    const writing = writeReplies(answering(4).answerer, tweets, file, { ...options, onProgress });
    await expect(writing).rejects.toThrow('out of tea');
    expect(seen).toEqual([
      [0, 5, 0],
      [2, 5, 2],
      [4, 5, 4],
    ]);
    expect(readFileSync(file, 'utf8').trimEnd().split('\n')).toHaveLength(4);
  });
});
