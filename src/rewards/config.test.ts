import { cp, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CheckpointError, ConfigError } from '../runtime/errors';
import { loadReward, rewardFromSettings } from './config';
import { initialParameters, saveLearned } from './learned';
import type { LearnedModel } from './learned';
import { lexicalEmbedder } from './lexical';
import { rewardDefaults } from './settings';

/** Untrained: numbers of the right shapes. */
const lexicalModel: LearnedModel = {
  description: {
    ...{ type: 'learned', version: 2, objective: 'rank', training: {}, evaluation: {}, versions: {} },
    data: { file: null, records: 0, test_fraction: 0.2, seed: 1 },
    embedding: { name: 'lexical', source: lexicalEmbedder().source ?? null, dimensions: 4096 },
  },
  parameters: initialParameters(8192, 1),
};

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'reward-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function yamlFile(name: string, text: string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, text);
  return path;
}

describe('the files in configs/rewards', () => {
  it('open, the hybrid one once a reward has been learned', async () => {
    const configs = join(folder, 'configs', 'rewards');
    await cp(join(__dirname, '..', '..', 'configs', 'rewards'), configs, { recursive: true });
    const names = (await readdir(configs)).sort();
    expect(names).toEqual(['hybrid.yaml', 'judge.yaml', 'sharp.yaml']);
    await expect(loadReward(join(configs, 'hybrid.yaml'))).rejects.toThrow(/runs.reward/);
    await saveLearned(join(folder, 'runs', 'reward'), lexicalModel);
    for (const name of names) {
      const reward = await loadReward(join(configs, name));
      expect(reward.name).toBe(name.replace('.yaml', ''));
      reward.dispose?.();
    }
    const { components } = await (
      await loadReward(join(configs, 'hybrid.yaml'))
    ).score('Rain again', 'Bring boats');
    expect(Object.keys(components).slice(0, 3)).toEqual(['learned', 'heuristic', 'heuristic/relevance']);
  });

  it('give sharp.yaml the weights that the preset has anyway', async () => {
    const { score } = await loadReward(join(__dirname, '..', '..', 'configs', 'rewards', 'sharp.yaml'));
    const pair = ['Rain again, for the ninth day', 'Nine days? My basil swims.'] as const;
    expect(await score(...pair)).toEqual(await (await loadReward('sharp')).score(...pair));
  });
});

describe('loadReward', () => {
  it('knows the heuristic reward by name', async () => {
    const reward = await loadReward('heuristic');
    expect(reward.name).toBe('heuristic');
    expect(reward.degraded).toHaveLength(1);
    expect((await reward.score('Rain again?', '')).total).toBe(0);
  });

  it('reads an empty file as the defaults, named after the file', async () => {
    const [tweet, reply] = ['Rain again, for the ninth day', 'Nine days? My basil has started to swim.'];
    const reward = await loadReward(await yamlFile('plain.yaml', '# nothing changed\n'));
    expect(reward.name).toBe('plain');
    expect(await reward.score(tweet, reply)).toEqual(
      await (await loadReward('heuristic')).score(tweet, reply),
    );
  });

  it('reads weights, thresholds, a name and the embedding', async () => {
    const text = [
      'name: short and sweet',
      'weights: {relevance: 0, length: 0.5, sentiment: 0, diversity: 0, punctuation: 0, engagement: 0.5}',
      'length: {tiny_below: 5, short_below: 10}',
      'embedding: {kind: lexical}',
    ];
    const reward = await loadReward(await yamlFile('short.yml', text.join('\n')));
    expect(reward.name).toBe('short and sweet');
    expect((await reward.score('Rain again', 'Bring boats')).total).toBe(1);
  });

  it.each([
    ['weights: {relevnce: 0.3}', /unknown key "weights.relevnce"; did you mean "relevance"\?/],
    ['weihgts: {}', /unknown key "weihgts"; did you mean "weights"\?/],
    ['embedding: {kind: minilm, modl: x}', /unknown key "embedding.modl"; did you mean "model"\?/],
    ['embedding: {kind: minilm, model: absent}', /absent: expected a model directory or a hub id/],
    ['embedding: {kind: minilm, model: .}', /has no config.json, tokenizer.json/],
    ['type: heuristics', /bad.yaml: type is "heuristics".*Did you mean "heuristic"/],
    ['preset: shrp', /bad.yaml: preset is "shrp"; expected study, sharp. Did you mean "sharp"/],
    ['{preset: sharp, length: {tiny_below: 5}}', /unknown key "length"/],
    ['{type: learned, directory: absent}', /absent.reward.json: no such file/],
    ['{type: learned, directory: absent, weights: {}}', /unknown key "weights"/],
    ['{type: composite, parts: {}}', /has no parts/],
    ['{type: composite, parts: {a: {weight: 0.5, reward: heuristic}}}', /sum to 0.5; expected 1/],
    [
      '{type: composite, parts: {a: {weight: 1, reward: {preset: sharp, guards: {min_lenth: 1}}}}}',
      /bad.yaml: parts.a: unknown key "guards.min_lenth"; did you mean "guards.min_length"|min_length/,
    ],
    ['{type: composite, parts: {a: {weight: 1, reward: absent.yaml}}}', /absent.yaml": cannot be read/],
    ['{type: judge, base_url: "http://localhost:1/v1"}', /bad.yaml: .*model/],
    ['{type: judge, base_url: "http://localhost:1/v1", model: m, api_key: sk-123}', /api_key/],
    ['weights: {relevance: 0.9}', /weights sum to 1.6, expected 1/],
    ['guards: {max_length: many}', /guards.max_length is "many"/],
    ['- a list', /the value is/],
    ['type:', /type is null; expected heuristic, learned, composite, judge\. Name one/],
    ['guards: {min_length: 9, max_length: 8}', /expected min_length <= max_length/],
    ['{preset: sharp, guards: {min_length: 9, max_length: 8}}', /expected min_length <= max_length/],
    ['{type: composite, parts: {__proto__: {weight: 1, reward: sharp}}}', /the key __proto__/],
    ['{type: composite, parts: {a: {weight: 1, reward: sharq}}}', /Did you mean "sharp"/],
    ['{type: judge, model: m, api_key: !secret sk-123}', /bad.yaml: not YAML: line 1: a tag/],
    ['weights: {relevance', /bad.yaml: not YAML/],
  ])('refuses %j in one line that names file and remedy', async (text, message) => {
    const path = await yamlFile('bad.yaml', text);
    const error = await loadReward(path).catch((thrown: unknown) => thrown);
    expect(error instanceof ConfigError || error instanceof CheckpointError).toBe(true);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).not.toContain('\n');
    expect((error as Error).message).not.toContain('sk-123');
  });

  it('says of a name that is neither built in nor a file what was expected', async () => {
    await expect(loadReward('heuristc')).rejects.toThrow(
      'expected "heuristic", "sharp", a YAML file, or the directory of a learned reward',
    );
  });

  it('names the nearest reward where a name is misspelt', async () => {
    await expect(loadReward('heuristc')).rejects.toThrow('Did you mean "heuristic"?');
    await expect(loadReward(join(folder, 'gone.yaml'))).rejects.not.toThrow('Did you mean');
  });

  it('refuses a composite that leads back to itself, with the way it goes', async () => {
    const part = (reward: string): string => `{type: composite, parts: {a: {weight: 1, reward: ${reward}}}}`;
    const self = await yamlFile('self.yaml', part('self.yaml'));
    await expect(loadReward(self)).rejects.toThrow(
      'self.yaml -> self.yaml: a reward cannot be a part of itself',
    );
    const first = await yamlFile('a.yaml', part('b.yaml'));
    await yamlFile('b.yaml', part(part('./a.yaml')));
    await expect(loadReward(first)).rejects.toThrow('a.yaml -> b.yaml -> a.yaml');
    await expect(loadReward(first)).rejects.toThrow(ConfigError);
  });

  it('refuses a composite that an alias makes a part of itself', async () => {
    const path = await yamlFile('alias.yaml', '&x {type: composite, parts: {a: {weight: 1, reward: *x}}}');
    await expect(loadReward(path)).rejects.toThrow(/alias\.yaml: not YAML: an alias .* of what it stands in/);
  });

  it('takes one file as two parts', async () => {
    await yamlFile('twice.yaml', 'preset: sharp');
    const parts = '{a: {weight: 0.5, reward: twice.yaml}, b: {weight: 0.5, reward: twice.yaml}}';
    const reward = await loadReward(await yamlFile('both.yaml', `{type: composite, parts: ${parts}}`));
    const { components } = await reward.score('Rain again', 'Bring boats');
    expect(components.a).toBe(components.b);
  });

  it('knows the sharp preset by name and by key, never otherwise', async () => {
    const [tweet, reply] = ['Rain again, for the ninth day', 'Great point'];
    const byName = await loadReward('sharp');
    const byKey = await loadReward(await yamlFile('tuned.yaml', 'preset: sharp\n'));
    expect([byName.name, byKey.name]).toEqual(['sharp', 'tuned']);
    expect(await byKey.score(tweet, reply)).toEqual(await byName.score(tweet, reply));
    const study = await (await loadReward('heuristic')).score(tweet, reply);
    expect((await byName.score(tweet, reply)).total).toBeLessThan(study.total - 0.2);
  });

  it('opens a composite of names, files from its own folder, and settings in place', async () => {
    await yamlFile('part.yaml', 'name: part of its own\npreset: sharp\n');
    const parts = [
      'a: {weight: 0.5, reward: heuristic}',
      'b: {weight: 0.3, reward: part.yaml}',
      'c: {weight: 0.2, reward: {guards: {min_length: 50}}}',
    ];
    const path = await yamlFile('all.yaml', `type: composite\nparts: {${parts.join(', ')}}`);
    const reward = await loadReward(path);
    const [tweet, reply] = ['Rain again, for the ninth day', 'Nine days? My basil swims.'];
    const { total, components } = await reward.score(tweet, reply);
    const [study, sharp] = [await loadReward('heuristic'), await loadReward('sharp')];
    expect(reward.name).toBe('all');
    expect(components.a).toBe((await study.score(tweet, reply)).total);
    expect(components.b).toBe((await sharp.score(tweet, reply)).total);
    expect(components.c).toBe(0); // shorter than its guard
    expect(total).toBeCloseTo(0.5 * components.a + 0.3 * components.b, 12);
  });

  it('opens a learned reward from its directory and from a file, relative to the file', async () => {
    const directory = join(folder, 'likes');
    await saveLearned(directory, lexicalModel);
    const [byDirectory, byFile] = [
      await loadReward(directory),
      await loadReward(await yamlFile('hybrid.yaml', 'type: learned\ndirectory: likes\n')),
    ];
    const result = await byDirectory.score('Rain again', 'Bring boats');
    expect(result.total).toBeGreaterThan(0);
    expect(await byFile.score('Rain again', 'Bring boats')).toEqual(result);
    expect([byDirectory.name, byFile.name]).toEqual(['likes', 'hybrid']);
    await expect(loadReward(folder)).rejects.toThrow('has no reward.json');
  });

  it('refuses a learned reward whose embedding has changed, is gone, or was never ours', async () => {
    const { description, parameters } = lexicalModel;
    const save = async (name: string, source: LearnedModel['description']['embedding']['source']) => {
      const embedding = { ...description.embedding, source };
      await saveLearned(join(folder, name), { description: { ...description, embedding }, parameters });
      return join(folder, name);
    };
    const fingerprint = 'f'.repeat(64);
    const changed = await save('changed', { kind: 'lexical', model: 'lexical', fingerprint });
    await expect(loadReward(changed)).rejects.toThrow(/fingerprint ffffffffffff, but lexical has/);
    const gone = await save('gone', { kind: 'directory', model: join(folder, 'encoder'), fingerprint });
    await expect(loadReward(gone)).rejects.toThrow(
      /encoder of its embedding is gone.*embedding: \{ kind: minilm/,
    );
    const foreign = await save('foreign', null);
    await expect(loadReward(foreign)).rejects.toThrow(CheckpointError);
    await expect(loadReward(foreign)).rejects.toThrow(/an embedding of the caller/);
  });
});

describe('rewardFromSettings', () => {
  const pair = ['Rain again, for the ninth day', 'Nine days? My basil swims.'] as const;

  it('gives the reward of a YAML file with these settings', async () => {
    const path = await yamlFile('like.yaml', 'guards: {min_length: 50, max_length: 60}');
    const reward = await rewardFromSettings({ guards: { min_length: 50, max_length: 60 } });
    expect(await reward.score(...pair)).toEqual(await (await loadReward(path)).score(...pair));
    expect((await reward.score(...pair)).total).toBe(0);
  });

  it('takes the defaults of a preset for that preset', async () => {
    for (const [preset, name] of [
      ['study', 'heuristic'],
      ['sharp', 'sharp'],
    ] as const) {
      const reward = await rewardFromSettings(rewardDefaults(preset));
      expect(reward.name).toBe(name);
      expect(await reward.score(...pair)).toEqual(await (await loadReward(name)).score(...pair));
    }
  });

  it('is called as the settings say, else as the caller says, else by its kind', async () => {
    const named = await rewardFromSettings({ name: 'mine' }, { name: 'after' });
    const asked = await rewardFromSettings({}, { name: 'after' });
    expect([named.name, asked.name]).toEqual(['mine', 'after']);
    const parts = { a: { weight: 1, reward: 'sharp' } };
    expect((await rewardFromSettings({ type: 'composite', parts })).name).toBe('composite');
  });

  it('opens folders and files from the base', async () => {
    await saveLearned(join(folder, 'based', 'likes'), lexicalModel);
    const settings = { type: 'learned', directory: 'likes' };
    const reward = await rewardFromSettings(settings, { base: join(folder, 'based') });
    expect((await reward.score(...pair)).total).toBeGreaterThan(0);
    reward.dispose?.();
    await expect(rewardFromSettings(settings)).rejects.toThrow(/likes.reward.json: no such file/);
  });

  it('does not change when the settings are edited afterwards', async () => {
    const settings = rewardDefaults('sharp');
    const reward = await rewardFromSettings(settings);
    const before = await reward.score(...pair);
    settings.guards.min_length = 100;
    Object.assign(settings.weights, { relevance: 1, length: 0 });
    expect(await reward.score(...pair)).toEqual(before);
  });

  it('has the errors of the file, under the name of the reward', async () => {
    await expect(rewardFromSettings({ weihgts: {} })).rejects.toThrow(
      'settings: unknown key "weihgts"; did you mean "weights"?',
    );
    await expect(rewardFromSettings({ preset: 'shrp' }, { name: 'after' })).rejects.toThrow(
      'after: preset is "shrp"',
    );
    const judge = { type: 'judge', base_url: 'http://localhost:1/v1', model: 'm', api_key: 'sk-123' };
    await expect(rewardFromSettings(judge)).rejects.toThrow('"api_key" may not stand in a configuration');
    await expect(rewardFromSettings(null as unknown as object)).rejects.toThrow(ConfigError);
  });

  it('opens a judge without asking it anything', async () => {
    const judge = { type: 'judge', base_url: 'http://localhost:1/v1', model: 'm', api_key_env: 'none' };
    expect((await rewardFromSettings(judge)).name).toBe('judge');
  });
});
