import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { labelledReplies } from '../data/world';
import { ConfigError, DataError } from '../runtime/errors';
import { parseYaml } from '../runtime/yaml';
import { loadReward, rewardFromSettings } from './config';
import { initialParameters, saveLearned } from './learned';
import { lexicalEmbedder } from './lexical';
import type { ReplyPair } from './reward';
import { writeRewardFile } from './reward-file';
import { effectiveSettings, rewardDefaults } from './settings';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'reward-file-'));
  await saveLearned(join(folder, 'models', 'likes'), {
    description: {
      ...{ type: 'learned', version: 2, objective: 'rank', training: {}, evaluation: {}, versions: {} },
      data: { file: null, records: 0, test_fraction: 0.2, seed: 1 },
      embedding: { name: 'lexical', source: lexicalEmbedder().source ?? null, dimensions: 4096 },
    },
    parameters: initialParameters(8192, 1),
  });
});
afterAll(() => rm(folder, { recursive: true }));

const PAIRS: ReplyPair[] = [
  ...Array.from({ length: 6 }, (_, i) => labelledReplies(1, 'sample', i))
    .flat()
    .map(({ record: { tweet, reply } }) => ({ tweet, reply })),
  { tweet: 'Rain again, for the ninth day', reply: 'Nine days? My basil swims 🌿!!' },
  { tweet: 'Rain again', reply: 'ok' },
  { tweet: 'Rain again', reply: 'THIS IS GREAT THANKS' },
  { tweet: 'Rain again', reply: 'no '.repeat(200) },
];

async function scoresOf(reward: { scoreBatch: (pairs: ReplyPair[]) => Promise<unknown>; dispose?(): void }) {
  const scores = await reward.scoreBatch(PAIRS);
  reward.dispose?.();
  return scores;
}

async function expectSameScores(path: string, settings: object, base?: string): Promise<void> {
  const fromSettings = await scoresOf(await rewardFromSettings(settings, { base }));
  expect(await scoresOf(await loadReward(path))).toEqual(fromSettings); // toEqual compares numbers to the last bit
}

const share = fc.double({ min: 0, max: 1, noNaN: true });
const rising = (count: number, max: number) =>
  fc
    .array(fc.integer({ min: 1, max }), { minLength: count, maxLength: count })
    .map((values) => values.sort((a, b) => a - b));

const weights = fc
  .array(fc.integer({ min: 0, max: 1000 }), { minLength: 6, maxLength: 6 })
  .filter((parts) => parts.some((part) => part > 0))
  .map((parts) => {
    const sum = parts.reduce((a, b) => a + b, 0);
    const names = ['relevance', 'length', 'sentiment', 'diversity', 'punctuation', 'engagement'];
    return Object.fromEntries(names.map((name, i) => [name, parts[i] / sum]));
  });
const guards = fc
  .tuple(rising(2, 600), share)
  .map(([[min_length, max_length], too_long_reward]) => ({ min_length, max_length, too_long_reward }));
const phrase = fc
  .oneof(fc.string({ unit: 'binary', minLength: 1 }), fc.constantFrom('yes', 'null', '1e3', '# no', '\ud800'))
  .filter((text) => text.trim() !== '');
const study = fc.record(
  {
    weights,
    guards,
    length: rising(4, 300).map(([tiny_below, short_below, good_up_to, long_up_to]) => ({
      ...{ tiny_below, short_below, good_up_to, long_up_to },
    })),
    diversity: fc.record({ repetitive_below: share }),
    punctuation: fc.tuple(share, share, share).map((values) => {
      const [sparse_below, good_up_to, dense_up_to] = values.sort((a, b) => a - b);
      return { sparse_below, good_up_to, dense_up_to };
    }),
    engagement: fc.record(
      {
        generic_phrases: fc.array(phrase, { maxLength: 5 }),
        generic_below: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
        capitals_above: fc.integer({ min: 1, max: 50 }),
      },
      { requiredKeys: [] },
    ),
  },
  { requiredKeys: [] },
);
const sharp = fc
  .record({ weights, guards }, { requiredKeys: [] })
  .map((settings) => ({ ...settings, preset: 'sharp' }));

describe('writeRewardFile', () => {
  it('gives a file whose reward has the scores of the settings to the last bit', async () => {
    const path = join(folder, 'any.yaml');
    await fc.assert(
      fc.asyncProperty(fc.oneof(study, sharp), async (settings) => {
        await writeRewardFile(path, settings);
        await expectSameScores(path, settings);
      }),
      { numRuns: 40 },
    );
  });

  it('writes all settings, defaults too, below a head that says how to use them', async () => {
    const path = join(folder, 'made', 'for', 'it', 'tuned.yaml');
    const settings = { preset: 'sharp', guards: { min_length: 9 } };
    const text = await writeRewardFile(path, settings);
    expect(await readFile(path, 'utf8')).toBe(text);
    expect(parseYaml(text, path)).toEqual(effectiveSettings(settings));
    expect(text).toMatch(/^# .*\n# .*`reward: PATH` in an experiment/);
    expect((await loadReward(path)).name).toBe('tuned');
  });

  it('writes the same bytes for the same settings', async () => {
    const path = join(folder, 'again.yaml');
    expect(await writeRewardFile(path, rewardDefaults('study'))).toBe(await writeRewardFile(path, {}));
  });

  it('writes an object that stands in two places twice, without an alias', async () => {
    const reward = { preset: 'sharp' };
    const settings = {
      type: 'composite',
      parts: { a: { weight: 0.25, reward }, '1': { weight: 0.75, reward } },
    };
    const path = join(folder, 'twice.yaml');
    expect(await writeRewardFile(path, settings)).not.toMatch(/[&*]a1/);
    await expectSameScores(path, settings);
  });

  it.each([
    ['tuned.txt', {}, /tuned.txt: expected a file name that ends in .yaml/],
    ['heuristic', {}, /ends in .yaml/],
    ['bad.yaml', { weights: { relevance: 0.9 } }, /bad.yaml: weights: the six weights sum to 1.6/],
    ['bad.yaml', { weihgts: {} }, /bad.yaml: unknown key "weihgts"/],
    ['bad.yaml', { type: 'judge', base_url: 'http://h/v1', model: 'm', token: 'sk-123' }, /"token" may not/],
    ['bad.yaml', { type: 'judge', base_url: 'http://u:sk-123@h/v1', model: 'm' }, /base_url/],
    ['bad.yaml', { type: 'learned', directory: 'absent' }, /absent": the directory has no reward.json/],
    [
      'bad.yaml',
      { type: 'composite', parts: { a: { weight: 1, reward: 'absent.yaml' } } },
      /absent.yaml": cannot be read/,
    ],
    [
      'bad.yaml',
      { type: 'composite', parts: { a: { weight: 1, reward: { type: 'judge', api_key: 'sk-123' } } } },
      /parts.a: "api_key" may not stand/,
    ],
  ])('refuses %s with %j and writes nothing', async (name, settings, message) => {
    const path = join(folder, 'refused', name);
    const error = (await writeRewardFile(path, settings).catch((thrown: unknown) => thrown)) as Error;
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(message);
    expect(error.message).not.toMatch(/\n|sk-123/);
    expect(existsSync(join(folder, 'refused'))).toBe(false);
  });

  it('keeps the old file whole when the new settings are refused, and leaves no other file', async () => {
    const path = join(folder, 'kept', 'kept.yaml');
    const text = await writeRewardFile(path, { preset: 'sharp' });
    await expect(writeRewardFile(path, { preset: 'sharp', guards: { min_length: 0 } })).rejects.toThrow();
    expect(await readFile(path, 'utf8')).toBe(text);
    await writeRewardFile(path, {});
    expect(await readdir(join(folder, 'kept'))).toEqual(['kept.yaml']);
  });

  it('says that a place cannot be written to', async () => {
    await mkdir(join(folder, 'taken.yaml'));
    await expect(writeRewardFile(join(folder, 'taken.yaml'), {})).rejects.toThrow(DataError);
    await writeFile(join(folder, 'file'), '');
    await expect(writeRewardFile(join(folder, 'file', 'x.yaml'), {})).rejects.toThrow(DataError);
  });

  it('refuses a composite that would lead back to the file', async () => {
    const [outer, inner] = [join(folder, 'outer.yaml'), join(folder, 'inner.yaml')];
    await writeRewardFile(outer, {});
    const part = (reward: string) => ({ type: 'composite', parts: { a: { weight: 1, reward } } });
    await writeRewardFile(inner, part('outer.yaml'), { base: folder });
    await expect(writeRewardFile(outer, part('inner.yaml'), { base: folder })).rejects.toThrow(
      'outer.yaml -> inner.yaml -> outer.yaml: a reward cannot be a part of itself',
    );
    expect((await loadReward(inner)).name).toBe('inner');
  });
});

describe('the folders in a reward file', () => {
  const learned = { type: 'learned', directory: 'models/likes' };

  it('name the same places as before, seen from the file', async () => {
    await writeRewardFile(join(folder, 'part.yaml'), { guards: { min_length: 30 } });
    const settings = {
      type: 'composite',
      parts: {
        a: { weight: 0.5, reward: learned },
        b: { weight: 0.125, reward: 'models/likes' },
        c: { weight: 0.25, reward: 'part.yaml' },
        d: { weight: 0.125, reward: 'sharp' },
      },
    };
    const path = join(folder, 'deep', 'er', 'mixed.yaml');
    const text = await writeRewardFile(path, settings, { base: folder });
    expect(parseYaml(text, path)).toMatchObject({
      parts: {
        a: { reward: { directory: '../../models/likes' } },
        b: { reward: '../../models/likes' },
        c: { reward: '../../part.yaml' },
        d: { reward: 'sharp' },
      },
    });
    await expectSameScores(path, settings, folder);
  });

  it('start at the working directory where no base is given', async () => {
    const settings = { ...learned, directory: relative(process.cwd(), join(folder, 'models', 'likes')) };
    const path = join(folder, 'from-here.yaml');
    const text = await writeRewardFile(path, settings);
    expect(parseYaml(text, path)).toMatchObject({ directory: './models/likes' });
    await expectSameScores(path, settings);
  });

  it('stay as they are where they are absolute, or the file lies in their base', async () => {
    const absolute = { ...learned, directory: join(folder, 'models', 'likes') };
    const path = join(folder, 'x', 'absolute.yaml');
    expect(parseYaml(await writeRewardFile(path, absolute), path)).toMatchObject(absolute);
    const beside = join(folder, 'beside.yaml');
    expect(parseYaml(await writeRewardFile(beside, learned, { base: folder }), beside)).toMatchObject(
      learned,
    );
  });

  it('never turn into the name of a built-in reward', async () => {
    await cp(join(folder, 'models', 'likes'), join(folder, 'near', 'sharp'), { recursive: true });
    const settings = { type: 'composite', parts: { a: { weight: 1, reward: './near/sharp' } } };
    const path = join(folder, 'near', 'tuned.yaml');
    expect(await writeRewardFile(path, settings, { base: folder })).toContain('reward: ./sharp');
    await expectSameScores(path, settings, folder);
  });

  it('of an embedding move too, but not a hub id, which may not be a folder beside the file', async () => {
    await mkdir(join(folder, 'owner', 'encoder'), { recursive: true });
    const settings = { embedding: { kind: 'minilm', model: 'owner/encoder' } };
    const moved = join(folder, 'y', 'moved.yaml');
    expect(await writeRewardFile(moved, settings, { base: folder })).toContain('model: ../owner/encoder');
    expect(await writeRewardFile(moved, settings, { base: join(folder, 'y') })).toContain(
      'model: owner/encoder',
    );
    const clash = writeRewardFile(join(folder, 'z.yaml'), settings, { base: join(folder, 'y') });
    await expect(clash).rejects.toThrow(/so a hub id, but it is one from/);
    await expect(clash).rejects.toThrow(ConfigError);
  });
});
