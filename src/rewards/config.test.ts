import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { loadReward } from './config';

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
    ['embedding: {kind: minilm, dir: x}', /unknown key "embedding.dir"; did you mean "directory"\?/],
    ['embedding: {kind: minilm, directory: absent}', /absent has no config.json/],
    ['weights: {relevance: 0.9}', /weights sum to 1.6, expected 1/],
    ['guards: {max_length: many}', /guards.max_length is "many"/],
    ['- a list', /the value is/],
    ['weights: {relevance', /bad.yaml: not YAML/],
  ])('refuses %j in one line that names file and remedy', async (text, message) => {
    const path = await yamlFile('bad.yaml', text);
    const error = await loadReward(path).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).not.toContain('\n');
  });

  it('says of a name that is neither built in nor a file what was expected', async () => {
    await expect(loadReward('heuristc')).rejects.toThrow('expected "heuristic" or a YAML file');
  });
});
