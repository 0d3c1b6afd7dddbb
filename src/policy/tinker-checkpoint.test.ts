import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createTar, createTarGzip } from 'nanotar';
import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { adapterDirectory, modelDirectory } from '../../test/invariance-model';
import { failureOf } from '../../test/judge-server';
import { readModelConfig } from '../model/config';
import { LORA_TARGETS, readAdapter } from '../model/peft';
import { CheckpointError, RemoteError } from '../runtime/errors';
import { adapterOfArchive, ModelRegistry, readTinkerState, writeTinkerState } from './tinker-checkpoint';
import type { TinkerState } from './tinker-checkpoint';

const from = 'http://somewhere';
const config = readModelConfig(modelDirectory);
const golden = readAdapter(adapterDirectory, config);
const read = (name: string): Buffer => readFileSync(path.join(adapterDirectory, name));

/** The golden adapter in a tar, with changes of its configuration, or without one of its files. */
function members(changes: Record<string, unknown> = {}, left?: string) {
  const fields = JSON.parse(read('adapter_config.json').toString()) as Record<string, unknown>;
  return [
    { name: '/' },
    { name: './adapter_config.json', data: JSON.stringify({ ...fields, ...changes }) },
    { name: 'adapter_model.safetensors', data: new Uint8Array(read('adapter_model.safetensors')) },
  ].filter(({ name }) => left === undefined || !name.endsWith(left));
}

describe('the adapter of an archive', () => {
  it.each([true, false])('is read from a tar, compressed %s', async (isCompressed) => {
    const tar = isCompressed ? await createTarGzip(members()) : createTar(members());
    expect(await adapterOfArchive(Buffer.from(tar), config, from)).toEqual(golden);
  });

  it.each([{ target_modules: null }, { target_modules: undefined }])(
    'has all matrices with %j',
    async (changes) => {
      const adapter = await adapterOfArchive(Buffer.from(createTar(members(changes))), config, from);
      expect(adapter.config.target_modules).toEqual(LORA_TARGETS);
      expect(adapter.matrices).toEqual(golden.matrices);
    },
  );

  it('keeps a list that is given', async () => {
    const changes = { target_modules: ['q_proj', 'v_proj'] };
    const error = await failureOf(adapterOfArchive(Buffer.from(createTar(members(changes))), config, from));
    // The file has others, which the list does not name.
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(/^http:\/\/somewhere: archive.*no place in the model or in target_modules/);
  });

  it.each(['adapter_config.json', 'adapter_model.safetensors'])('is missed without %s', async (name) => {
    const error = await failureOf(adapterOfArchive(Buffer.from(createTar(members({}, name))), config, from));
    expect(error).toBeInstanceOf(RemoteError);
    expect(error.message).toContain(`http://somewhere: the archive of the adapter holds no ${name}`);
  });

  it('must be one', async () => {
    const whole = Buffer.from(await createTarGzip(members()));
    for (const archive of [whole.subarray(0, 1000), Buffer.from('<html>'), Buffer.alloc(0)]) {
      const error = await failureOf(adapterOfArchive(archive, config, from));
      expect(error).toBeInstanceOf(RemoteError);
      expect(error.message).toMatch(/^http:\/\/somewhere: the archive of the adapter/);
    }
  });

  it('must have a configuration in JSON', async () => {
    const files = [{ name: 'adapter_config.json', data: '{"r": ' }, ...members().slice(2)];
    const error = await failureOf(adapterOfArchive(Buffer.from(createTar(files)), config, from));
    expect(error).toBeInstanceOf(RemoteError);
    expect(error.message).toMatch(/adapter_config\.json in the archive is not JSON/);
  });

  it('must be one of the model', async () => {
    const other = readModelConfig('data/model');
    const error = await failureOf(adapterOfArchive(Buffer.from(createTar(members())), other, from));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(/^http:\/\/somewhere: archive.*adapter of another model/);
  });
});

const state: TinkerState = {
  version: 1,
  base_url: 'http://somewhere',
  base_model: 'Qwen/Qwen3-0.6B',
  rank: 8,
  path: 'tinker://model_1/weights/state-1',
};

describe('the state of a checkpoint', () => {
  it('is read as it was written', async () => {
    const directory = temporaryDirectory();
    await writeTinkerState(directory, state);
    expect(readTinkerState(directory)).toEqual(state);
  });

  it('is missed where a checkpoint was trained here, with a remedy', () => {
    const directory = goldenPath('lora', 'adapter');
    expect(() => readTinkerState(directory)).toThrow(CheckpointError);
    expect(() => readTinkerState(directory)).toThrow(
      /has no tinker\.json.*cannot be uploaded.*policy\.type: local/,
    );
  });

  it.each([
    ['a path that is none', { ...state, path: '/tmp/state' }, /path/],
    ['another version', { ...state, version: 2 }, /version/],
    ['an unknown key', { ...state, key: 'tml-1' }, /key/],
    ['no rank', { ...state, rank: undefined }, /rank/],
  ])('is refused with %s', (_, content, message) => {
    const directory = temporaryDirectory();
    writeFileSync(path.join(directory, 'tinker.json'), JSON.stringify(content));
    expect(() => readTinkerState(directory)).toThrow(message);
    expect(() => readTinkerState(directory)).toThrow('tinker.json');
  });
});

describe("the list of a run's models", () => {
  it('is kept for one address, and removed when it is empty', async () => {
    const file = path.join(temporaryDirectory(), 'models.json');
    const registry = new ModelRegistry(file);
    expect(registry.left('http://a')).toEqual([]);
    await registry.write('http://a', ['m1', 'm2']);
    expect(new ModelRegistry(file).left('http://a')).toEqual(['m1', 'm2']);
    expect(registry.left('http://b')).toEqual([]);
    await registry.write('http://a', []);
    expect(existsSync(file)).toBe(false);
    await registry.write('http://a', []);
  });

  it('is nothing without a file', async () => {
    const registry = new ModelRegistry(undefined);
    await registry.write('http://a', ['m1']);
    expect(registry.left('http://a')).toEqual([]);
  });
});
