/** A model hub on this machine that behaves, or misbehaves, as a test says: listings, files with ranges, redirects. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished, vi } from 'vitest';
import { resolveModel } from '../src/model/hub';
import type { DownloadProgress, HubOptions } from '../src/model/hub';

export const MODEL = 'some/model';
export const COMMIT = 'c'.repeat(40);

/** What the server does with one request; without any of it, what a hub does. */
export interface Behaviour {
  /** Instead of an answer. */
  status?: number;
  headers?: Record<string, string>;
  /** Sends this content instead of the file's. */
  content?: Buffer;
  /** Cuts the connection after so many bytes of this answer. */
  dropAfter?: number;
  /** Sends nothing more after so many bytes of this answer, and keeps the connection. */
  stallAfter?: number;
  /** Sends the whole file whatever part is asked for. */
  ignoresRange?: boolean;
  /** Sends the file a piece at a time, so that it takes so long. */
  seconds?: number;
}

export interface HubRequest {
  /** Without the query. */
  path: string;
  headers: IncomingHttpHeaders;
  /** The file that is asked for; undefined of a listing. */
  file?: string;
  /** Of those for the same path, from 0. */
  n: number;
}

export interface Hub {
  url: string;
  requests: HubRequest[];
  /** The commit of `main`, and its files. */
  commit: string;
  files: Record<string, Buffer>;
  /** What to do with a request. */
  script: (request: HubRequest) => Behaviour | undefined;
  /** Bytes of files that were sent, by path. */
  sent: Record<string, number>;
  /** The requests for a file. */
  of: (file: string) => HubRequest[];
}

/** Bytes that differ from place to place. */
export function noise(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0, state = seed; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** What a checkpoint on the hub has, and what nobody wants of it. */
export function modelFiles(): Record<string, Buffer> {
  return {
    'config.json': Buffer.from('{"model_type": "qwen3"}'),
    'model-00001-of-00002.safetensors': noise(300_000, 1),
    'model-00002-of-00002.safetensors': noise(200_000, 2),
    'model.safetensors.index.json': Buffer.from(
      JSON.stringify({
        weight_map: { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' },
      }),
    ),
    'tokenizer.json': Buffer.from('{"a tokenizer": true}'),
    'tokenizer_config.json': Buffer.from('{}'),
    'modeling.py': Buffer.from('print("never")'),
    'pytorch_model.bin': Buffer.from('never'),
    'onnx/model.onnx': noise(1000, 3),
    'onnx/model_quantized.onnx': Buffer.from('never'),
  };
}

/** By which the hub knows a file: SHA-256 of large ones; of small ones what `git hash-object` prints. */
export function checksumOf(path: string, content: Buffer): string {
  if (/\.(safetensors|onnx|bin)$/.test(path)) return createHash('sha256').update(content).digest('hex');
  const blob = Buffer.concat([Buffer.from(`blob ${content.length}\0`), content]);
  return createHash('sha1').update(blob).digest('hex');
}

function listed(path: string, content: Buffer) {
  const checksum = checksumOf(path, content);
  if (checksum.length === 40) return { type: 'file', path, size: content.length, oid: checksum };
  const lfs = { oid: checksum, size: content.length, pointerSize: 134 };
  return { type: 'file', path, size: content.length, oid: 'f'.repeat(40), lfs };
}

function sendJson(response: ServerResponse, value: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(200, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value));
}

/** Two pages, as the hub makes them of long listings. */
function sendListing(hub: Hub, query: URLSearchParams, response: ServerResponse): void {
  // As the hub does: files in folders only when the listing is to be recursive.
  const isListed = (path: string): boolean => !path.includes('/') || query.get('recursive') === 'true';
  const entries = Object.entries(hub.files).filter(([path]) => isListed(path));
  const middle = Math.ceil(entries.length / 2);
  const isFirst = query.get('cursor') === null;
  const page = isFirst ? entries.slice(0, middle) : entries.slice(middle);
  const next = `${hub.url}/api/models/${MODEL}/tree/${hub.commit}?recursive=${query.get('recursive')}&cursor=2`;
  sendJson(
    response,
    page.map(([path, content]) => listed(path, content)),
    isFirst ? { link: `<${next}>; rel="next"` } : {},
  );
}

function sendFile(
  hub: Hub,
  file: string,
  { headers }: HubRequest,
  behaviour: Behaviour,
  response: ServerResponse,
): void {
  const content = behaviour.content ?? hub.files[file];
  const asked = behaviour.ignoresRange ? null : /^bytes=(\d+)-$/.exec(headers.range ?? '');
  const start = asked === null ? 0 : Number(asked[1]);
  if (start >= content.length && asked !== null) {
    response.writeHead(416).end();
    return;
  }
  const part = content.subarray(start);
  response.writeHead(asked === null ? 200 : 206, {
    'content-length': part.length,
    ...(asked !== null && { 'content-range': `bytes ${start}-${content.length - 1}/${content.length}` }),
  });
  const { dropAfter, stallAfter, seconds } = behaviour;
  const head = part.subarray(0, dropAfter ?? stallAfter ?? part.length);
  const count = (bytes: number): void => void (hub.sent[file] = (hub.sent[file] ?? 0) + bytes);
  if (seconds !== undefined) {
    trickle(response, part, seconds, count);
    return;
  }
  count(head.length);
  if (dropAfter !== undefined) {
    // A client drops what it has not read yet, as it may; mostly it has read all by then.
    response.write(head, () => setTimeout(() => response.socket?.end(), 30));
  } else if (stallAfter !== undefined) response.write(head);
  else response.end(head);
}

function trickle(
  response: ServerResponse,
  part: Buffer,
  seconds: number,
  count: (bytes: number) => void,
): void {
  const steps = 20;
  let sent = 0;
  const timer = setInterval(
    () => {
      const piece = part.subarray(sent, (sent += Math.ceil(part.length / steps)));
      count(piece.length);
      response.write(piece);
      if (sent < part.length) return;
      clearInterval(timer);
      response.end();
    },
    (1000 * seconds) / steps,
  );
  response.on('close', () => clearInterval(timer));
}

function serve(hub: Hub, incoming: IncomingMessage, response: ServerResponse): void {
  const { pathname: path, searchParams } = new URL(incoming.url ?? '', hub.url);
  const file = /\/resolve\/[0-9a-f]{40}\/(.*)$/.exec(path)?.[1];
  const n = hub.requests.filter((request) => request.path === path).length;
  const request = { path, headers: incoming.headers, file, n };
  hub.requests.push(request);
  const behaviour = hub.script(request) ?? {};
  if (behaviour.status !== undefined)
    response.writeHead(behaviour.status, behaviour.headers).end(behaviour.content);
  else if (path === `/api/models/${MODEL}/revision/main`)
    sendJson(response, { _id: '1', id: MODEL, sha: hub.commit, lastModified: 0 });
  else if (path === `/api/models/${MODEL}/tree/${hub.commit}`) sendListing(hub, searchParams, response);
  else if (file !== undefined && file in hub.files) sendFile(hub, file, request, behaviour, response);
  else response.writeHead(404, { 'x-error-code': 'RepoNotFound' }).end('{"error": "Repository not found"}');
}

/** Starts a hub that stops when the test ends. */
export async function startHub(script: Hub['script'] = () => undefined): Promise<Hub> {
  const requests: HubRequest[] = [];
  const of = (file: string): HubRequest[] => requests.filter((request) => request.file === file);
  const hub: Hub = { url: '', requests, commit: COMMIT, files: modelFiles(), script, sent: {}, of };
  const server = createServer((incoming, response) => serve(hub, incoming, response));
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  hub.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return hub;
}

/** A directory that is removed when the test ends; that of `cli.ts` would load the whole command line. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'grpolab-hub-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export interface Fetched {
  cacheDir: string;
  /** Of the commit that the hub has now. */
  snapshot: string;
  blobs: string;
  notices: string[];
  progress: DownloadProgress[];
  get: (options?: HubOptions) => Promise<string>;
}

/** Resolves the hub's model into a cache of its own, without the environment of whoever runs the test. */
export function cacheOf(hub: Pick<Hub, 'url' | 'commit'>): Fetched {
  for (const name of ['HF_TOKEN', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_ENDPOINT'])
    vi.stubEnv(name, '');
  vi.stubEnv('HF_TOKEN_PATH', '/no/such/token');
  onTestFinished(() => void vi.unstubAllEnvs());
  const cacheDir = temporaryDirectory();
  const [notices, progress]: [string[], DownloadProgress[]] = [[], []];
  const repository = join(cacheDir, 'models--some--model');
  const defaults = { hubUrl: hub.url, cacheDir, onNotice: (line: string) => void notices.push(line) };
  return {
    ...{ cacheDir, notices, progress, blobs: join(repository, 'blobs') },
    snapshot: join(repository, 'snapshots', hub.commit),
    get: (options) =>
      resolveModel(MODEL, (seen) => progress.push(seen), { ...defaults, retryWaitSeconds: 0.01, ...options }),
  };
}

/** Changes bytes of `content`. */
export function damaged(content: Buffer): Buffer {
  const copy = Buffer.from(content);
  copy[copy.length >> 1] ^= 1;
  return copy;
}
