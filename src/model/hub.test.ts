import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CheckpointError } from '../runtime/errors';
import { resolveModel } from './hub';
import type { DownloadProgress } from './hub';

/** The few answers of the hub's interface that a download needs, for one repository. */
const SHA = 'c'.repeat(40);
const FILES: Record<string, string> = {
  'config.json': '{"model_type": "qwen3"}',
  'model-00001-of-00001.safetensors': 'w'.repeat(3_000_000),
  'model.safetensors.index.json': '{}',
  'tokenizer.json': '{}',
  'modeling.py': 'print("never")',
  'pytorch_model.bin': 'never',
  'onnx/model.onnx': 'o'.repeat(1000),
  'onnx/model_quantized.onnx': 'never',
};
let shortBy = 0;
let requested: string[] = [];

function answer(url: string): { status: number; body: string } {
  requested.push(url);
  const [path, query = ''] = url.split('?');
  if (path === '/api/models/some/model/revision/main') {
    return { status: 200, body: JSON.stringify({ _id: '1', id: 'some/model', sha: SHA, lastModified: 0 }) };
  }
  if (path === `/api/models/some/model/tree/${SHA}`) {
    const entry = ([name, text]: [string, string]) => ({
      type: 'file',
      path: name,
      size: text.length,
      oid: name,
    });
    // As the hub does: files in folders only when the listing is to be recursive.
    const isListed = ([name]: [string, string]) => !name.includes('/') || query.includes('recursive=true');
    return { status: 200, body: JSON.stringify(Object.entries(FILES).filter(isListed).map(entry)) };
  }
  const file = path.replace(`/some/model/resolve/${SHA}/`, '');
  if (file in FILES) return { status: 200, body: FILES[file] };
  return { status: 404, body: '{"error": "Repository not found"}' };
}

let server: Server;
let hubUrl: string;
let dir: string;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'hub-'));
  server = createServer((request, response) => {
    const isFile = request.url?.includes('/resolve/');
    const { status, body } = answer(request.url ?? '');
    const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
    const etag = createHash('sha1').update(body).digest('hex');
    response.setHeader('Content-Type', 'application/json').setHeader('ETag', `"${etag}"`);
    if (range) {
      const [from, to] = [Number(range[1]), Math.min(Number(range[2]) + 1, body.length)];
      response.setHeader('Content-Range', `bytes ${from}-${to - 1}/${body.length}`);
      response.writeHead(206).end(body.slice(from, to));
    } else {
      response.writeHead(status).end(body.slice(0, body.length - (isFile ? shortBy : 0)));
    }
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  hubUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(async () => {
  await new Promise((done) => server.close(done));
  rmSync(dir, { recursive: true, force: true });
});

describe('resolveModel', () => {
  it('gives a directory back as it is', async () => {
    expect(await resolveModel(dir)).toBe(dir);
  });

  it('downloads configuration, tokenizer and weights once, and tells how far it is', async () => {
    const cacheDir = join(dir, 'cache');
    const seen: DownloadProgress[] = [];
    const place = await resolveModel('some/model', (progress) => seen.push(progress), { hubUrl, cacheDir });
    const wanted = Object.keys(FILES).filter((name) => !/\.(py|bin|onnx)$/.test(name));
    expect(readdirSync(place).sort()).toEqual(wanted.sort());
    for (const name of wanted)
      expect(readFileSync(join(place, name), 'utf8') === FILES[name], name).toBe(true);
    const total = wanted.reduce((sum, name) => sum + FILES[name].length, 0);
    expect(seen.at(-1)).toMatchObject({ loadedBytes: total, totalBytes: total });
    expect(seen.every(({ loadedBytes }, i) => i === 0 || loadedBytes > seen[i - 1].loadedBytes)).toBe(true);

    requested = [];
    expect(await resolveModel('some/model', undefined, { hubUrl, cacheDir })).toBe(place);
    expect(requested.some((url) => url.includes('resolve'))).toBe(false);
  });

  it('downloads other files when asked to, from folders too', async () => {
    const files = /^config\.json$|^onnx\/model\.onnx$/;
    const place = await resolveModel('some/model', undefined, { hubUrl, cacheDir: join(dir, 'onnx'), files });
    expect(readdirSync(place).sort()).toEqual(['config.json', 'onnx']);
    expect(readdirSync(join(place, 'onnx'))).toEqual(['model.onnx']);
  });

  it('keeps no file of a download that broke off', async () => {
    const cacheDir = join(dir, 'broken');
    const download = resolveModel('some/model', undefined, { hubUrl, cacheDir });
    shortBy = 1;
    await expect(download)
      .rejects.toThrow(CheckpointError)
      .finally(() => (shortBy = 0));
    const snapshot = join(cacheDir, 'models--some--model', 'snapshots', SHA);
    expect(readdirSync(snapshot)).toEqual([]);
  });

  it('says why a model cannot be had', async () => {
    const failing = (name: string, url: string) =>
      resolveModel(name, undefined, { hubUrl: url, cacheDir: dir });
    await expect(failing('no/model', hubUrl)).rejects.toThrow(
      /no\/model: there is no such directory.*not found/i,
    );
    await expect(failing('some/model', 'http://127.0.0.1:1')).rejects.toThrow(/ECONNREFUSED|fetch failed/);
    await expect(failing('some/model', 'http://127.0.0.1:1')).rejects.toThrow(CheckpointError);
    await expect(resolveModel('./no/such/dir')).rejects.toThrow(/expected a model directory or a hub id/);
    await expect(resolveModel('')).rejects.toThrow(CheckpointError);
  });
});
