import { mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { cacheOf, startHub } from '../../test/hub-server';
import type { Hub } from '../../test/hub-server';
import { CheckpointError } from '../runtime/errors';
import { WITHOUT_WEIGHTS } from './hub';

const [OLD, NEW] = ['c'.repeat(40), 'd'.repeat(40)];
const INDEX = 'model.safetensors.index.json';
const SHARD = 'model-00002-of-00002.safetensors';

function goOffline(hub: Hub, variable = 'HF_HUB_OFFLINE'): void {
  vi.stubEnv(variable, '1');
  hub.requests.length = 0;
}

/** An address that nobody listens at. */
async function nobody(): Promise<string> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return `http://127.0.0.1:${port}`;
}

describe('offline', () => {
  it.each(['HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'])(
    'with %s=1 the cache is used and nothing asked',
    async (name) => {
      const hub = await startHub();
      const { get, notices } = cacheOf(hub);
      const place = await get();
      goOffline(hub, name);
      expect(await get()).toBe(place);
      expect([hub.requests, notices]).toEqual([[], []]);
    },
  );

  it('an empty cache is an error that says what to do', async () => {
    const hub = await startHub();
    const { get, cacheDir } = cacheOf(hub);
    goOffline(hub);
    await expect(get()).rejects.toThrow(
      `some/model: there is no such directory, HF_HUB_OFFLINE forbids the network, and the cache ${cacheDir} has nothing ` +
        'of it. Unset HF_HUB_OFFLINE to download it, or give the directory of a model that you have.',
    );
    await expect(get()).rejects.toThrow(CheckpointError);
    expect(hub.requests).toEqual([]);
  });

  it('half a snapshot is never taken: neither one that broke off, nor one without the weights', async () => {
    const hub = await startHub(({ file }) => (file === SHARD ? { status: 403 } : undefined));
    const { get } = cacheOf(hub);
    await get({ files: WITHOUT_WEIGHTS });
    await expect(get()).rejects.toThrow(/403/);
    goOffline(hub);
    await expect(get()).rejects.toThrow(`lacks ${SHARD}, ${INDEX}.`);
    expect(await get({ files: WITHOUT_WEIGHTS })).toContain(OLD);
    await expect(get({ files: /^onnx\/model\.onnx$/ })).rejects.toThrow('lacks onnx/model.onnx');
  });

  it('a snapshot that lost a file is not taken either', async () => {
    const hub = await startHub();
    const { get, snapshot } = cacheOf(hub);
    await get();
    rmSync(join(snapshot, 'tokenizer.json'));
    goOffline(hub);
    await expect(get()).rejects.toThrow('lacks tokenizer.json');
  });

  it('the commit that the branch was last at is taken, and the newest whole one where that is not whole', async () => {
    const hub = await startHub();
    const { get, notices } = cacheOf(hub);
    const old = await get();
    hub.commit = NEW;
    hub.files[SHARD] = Buffer.from('changed');
    const current = await get();
    utimesSync(current, 1, 1);
    goOffline(hub);
    expect(await get()).toBe(current);
    expect(notices).toEqual([]);

    rmSync(join(current, 'tokenizer.json'));
    expect(await get()).toBe(old);
    expect(notices).toEqual([expect.stringMatching(/using commit cccccccccccc .*not whole/)]);
  });

  it('the newest is taken where no branch is known', async () => {
    const hub = await startHub();
    const { get } = cacheOf(hub);
    const old = await get();
    hub.commit = NEW;
    const current = await get();
    rmSync(join(dirname(dirname(old)), 'refs'), { recursive: true });
    goOffline(hub);
    utimesSync(old, 1, 1);
    expect(await get()).toBe(current);
    utimesSync(current, 0, 0);
    expect(await get()).toBe(old);
  });

  it('a commit of another branch does not stand in for main', async () => {
    const hub = await startHub();
    const { get, snapshot } = cacheOf(hub);
    await get();
    const refs = join(dirname(dirname(snapshot)), 'refs');
    writeFileSync(join(refs, 'other'), OLD);
    writeFileSync(join(refs, 'main'), NEW);
    goOffline(hub);
    await expect(get()).rejects.toThrow(/has nothing of it/);
    expect(await get({ revision: 'other' })).toBe(snapshot);
  });
});

describe('a snapshot of another program', () => {
  async function unlisted() {
    const hub = await startHub();
    const fetched = cacheOf(hub);
    await fetched.get();
    rmSync(join(dirname(dirname(fetched.snapshot)), 'listings'), { recursive: true });
    goOffline(hub);
    return fetched;
  }

  it('is taken with a notice when its main files are there', async () => {
    const { get, snapshot, notices } = await unlisted();
    expect(await get()).toBe(snapshot);
    expect(notices).toEqual([expect.stringContaining('another program downloaded it')]);
  });

  it.each(['config.json', 'tokenizer.json', INDEX, SHARD])('is not taken without %s', async (name) => {
    const { get, snapshot } = await unlisted();
    rmSync(join(snapshot, name));
    await expect(get()).rejects.toThrow(name === INDEX ? 'lacks model.safetensors' : `lacks ${name}`);
  });

  it('is not taken when nothing is known of what it should have', async () => {
    const { get, snapshot } = await unlisted();
    mkdirSync(join(snapshot, 'more'));
    await expect(get({ files: /^more\// })).rejects.toThrow('lacks a listing');
  });
});

describe('a hub that cannot be reached', () => {
  it('is replaced by the cache, with one notice', async () => {
    const hub = await startHub();
    const { get, notices } = cacheOf(hub);
    const place = await get();
    expect(await get({ hubUrl: await nobody() })).toBe(place);
    expect(notices).toEqual([
      expect.stringMatching(
        /^some\/model: the hub cannot be reached \(.*ECONNREFUSED.*\); using commit cccc/,
      ),
    ]);
  });

  it('is an error at once where the cache has nothing', async () => {
    const { get } = cacheOf({ url: await nobody(), commit: OLD });
    const begin = performance.now();
    await expect(get({ retryWaitSeconds: 5 })).rejects.toThrow(
      /some\/model: there is no such directory.*ECONNREFUSED.*nothing of it.* Check the network/,
    );
    expect(performance.now() - begin).toBeLessThan(3000);
  });

  it('may be one that always fails, or the login page of a network', async () => {
    const hub = await startHub();
    const { get } = cacheOf(hub);
    const place = await get();
    hub.script = () => ({ status: 502 });
    expect(await get()).toBe(place);
    hub.script = () => ({ status: 200, content: Buffer.from('<html>log in</html>') });
    expect(await get()).toBe(place);
  });

  it('is not one that refuses: a model that is gone is an error', async () => {
    const hub = await startHub();
    const { get, blobs } = cacheOf(hub);
    await get();
    hub.script = () => ({ status: 404 });
    await expect(get()).rejects.toThrow(/not found on the hub/);
    expect(readdirSync(blobs).length).toBeGreaterThan(0);
  });
});
