import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cacheOf, checksumOf, startHub } from '../../test/hub-server';
import { CheckpointError } from '../runtime/errors';
import { resolveModel, WITHOUT_WEIGHTS } from './hub';

const WEIGHTS = 'model-00001-of-00002.safetensors';

describe('resolveModel', () => {
  it('gives a directory back as it is', async () => {
    expect(await resolveModel(tmpdir())).toBe(tmpdir());
  });

  it('refuses what is neither a directory nor a hub id', async () => {
    await expect(resolveModel('./no/such/dir')).rejects.toThrow(/expected a model directory or a hub id/);
    await expect(resolveModel('')).rejects.toThrow(CheckpointError);
  });

  it('downloads configuration, tokenizer and weights once, and tells how far it is', async () => {
    const hub = await startHub();
    const { get, progress } = cacheOf(hub);
    const place = await get();
    const wanted = Object.keys(hub.files).filter((name) => !/\.(py|bin|onnx)$/.test(name));
    expect(readdirSync(place).sort()).toEqual(wanted.sort());
    for (const name of wanted)
      expect(readFileSync(join(place, name)).equals(hub.files[name]), name).toBe(true);
    const total = wanted.reduce((sum, name) => sum + hub.files[name].length, 0);
    expect(progress.at(-1)).toMatchObject({ loadedBytes: total, totalBytes: total });
    const counts = progress.map(({ loadedBytes }) => loadedBytes);
    expect(counts).toEqual([...counts].sort((a, b) => a - b));

    hub.requests.length = 0;
    expect(await get()).toBe(place);
    // Only the commit is asked for: its listing is known.
    expect(hub.requests.map(({ path }) => path)).toEqual(['/api/models/some/model/revision/main']);
  });

  it('downloads other files when asked to, from folders too', async () => {
    const hub = await startHub();
    const place = await cacheOf(hub).get({ files: /^config\.json$|^onnx\/model\.onnx$/ });
    expect(readdirSync(place).sort()).toEqual(['config.json', 'onnx']);
    expect(readFileSync(join(place, 'onnx/model.onnx')).equals(hub.files['onnx/model.onnx'])).toBe(true);
  });

  it('asks the hub nothing about a commit that is whole', async () => {
    const hub = await startHub();
    const { get } = cacheOf(hub);
    await get();
    hub.requests.length = 0;
    await get({ revision: hub.commit });
    expect(hub.requests).toEqual([]);
  });

  it('says so when the model has none of the files', async () => {
    const hub = await startHub();
    await expect(cacheOf(hub).get({ files: /^none$/ })).rejects.toThrow(/none of the files that are needed/);
  });

  it('writes nothing outside the cache, whatever the hub lists', async () => {
    const hub = await startHub();
    // Of a content that is in the cache already: only the link is missing.
    hub.files['../../../outside.json'] = hub.files['tokenizer_config.json'];
    const { get, cacheDir } = cacheOf(hub);
    await get({ files: /json$/ });
    expect(readdirSync(cacheDir)).toEqual(['models--some--model']);
  });
});

/** What Python's `snapshot_download` leaves: contents by checksum, links to them, the commit of the branch. */
function downloadAsPython(snapshot: string, files: Record<string, Buffer>): void {
  const repository = dirname(dirname(snapshot));
  for (const [name, content] of Object.entries(files)) {
    const blob = join(repository, 'blobs', checksumOf(name, content));
    const place = join(snapshot, name);
    for (const file of [blob, place]) mkdirSync(dirname(file), { recursive: true });
    writeFileSync(blob, content);
    symlinkSync(relative(dirname(place), blob), place);
  }
  mkdirSync(join(repository, 'refs'));
  writeFileSync(join(repository, 'refs/main'), 'c'.repeat(40));
}

describe('the cache', () => {
  it("takes what Python's library downloaded, and downloads only what it lacks", async () => {
    const hub = await startHub();
    const { get, snapshot } = cacheOf(hub);
    downloadAsPython(
      snapshot,
      Object.fromEntries(Object.entries(hub.files).filter(([name]) => name !== WEIGHTS)),
    );
    expect(await get()).toBe(snapshot);
    expect(Object.keys(hub.sent)).toEqual([WEIGHTS]);
  });

  it("has the form of Python's library", async () => {
    const hub = await startHub();
    const { get, snapshot, blobs } = cacheOf(hub);
    await get();
    const checksum = checksumOf(WEIGHTS, hub.files[WEIGHTS]);
    expect(readlinkSync(join(snapshot, WEIGHTS))).toBe(join('../../blobs', checksum));
    expect(readFileSync(join(blobs, checksum)).equals(hub.files[WEIGHTS])).toBe(true);
    expect(readFileSync(join(dirname(blobs), 'refs/main'), 'utf8')).toBe(hub.commit);
    expect(readdirSync(blobs).every((name) => /^[0-9a-f]+$/.test(name))).toBe(true);
  });

  it('shares what two commits have in common', async () => {
    const hub = await startHub();
    const { get } = cacheOf(hub);
    const first = await get();
    hub.commit = 'd'.repeat(40);
    hub.files['config.json'] = Buffer.from('{"model_type": "qwen3", "changed": true}');
    hub.sent = {};
    const second = await get();
    expect(second).not.toBe(first);
    expect(readFileSync(join(second, 'config.json'), 'utf8')).toContain('changed');
    expect(Object.keys(hub.sent)).toEqual(['config.json']);
  });

  it('takes files that stand in a snapshot themselves, but not shortened ones', async () => {
    const hub = await startHub();
    const { get, snapshot } = cacheOf(hub);
    mkdirSync(snapshot, { recursive: true });
    for (const name of ['config.json', WEIGHTS]) writeFileSync(join(snapshot, name), hub.files[name]);
    truncateSync(join(snapshot, WEIGHTS), 1000);
    await get();
    expect(hub.of('config.json')).toEqual([]);
    expect(lstatSync(join(snapshot, 'config.json')).isFile()).toBe(true);
    expect(readFileSync(join(snapshot, WEIGHTS)).equals(hub.files[WEIGHTS])).toBe(true);
  });

  it('may be one that nobody may write to, once it is whole', async () => {
    const hub = await startHub();
    const { get, snapshot } = cacheOf(hub);
    downloadAsPython(snapshot, hub.files);
    const repository = dirname(dirname(snapshot));
    // A file in its place refuses even the superuser.
    writeFileSync(join(repository, 'listings'), '');
    chmodSync(repository, 0o555);
    try {
      expect(await get()).toBe(snapshot);
      rmSync(join(snapshot, WEIGHTS));
      await expect(get()).rejects.toThrow(/listings: cannot be made a directory/);
    } finally {
      chmodSync(repository, 0o755);
    }
  });

  it('has the files of a model without weights, and then the weights alone', async () => {
    const hub = await startHub();
    const { get } = cacheOf(hub);
    await get({ files: WITHOUT_WEIGHTS });
    expect(Object.keys(hub.sent).filter((name) => name.includes('safetensors'))).toEqual([]);
    hub.sent = {};
    await get();
    expect(Object.keys(hub.sent).every((name) => name.includes('safetensors'))).toBe(true);
  });
});
