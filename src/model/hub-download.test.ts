import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { cacheOf, checksumOf, damaged, startHub, temporaryDirectory } from '../../test/hub-server';
import type { Behaviour, Fetched, Hub } from '../../test/hub-server';

const WEIGHTS = 'model-00001-of-00002.safetensors';
const SIZE = 300_000;
const files = /^model-00001-of-00002\.safetensors$/;

/** What to do with the requests for the weights, in their order; then what a hub does. */
async function open(
  ...behaviours: Behaviour[]
): Promise<Fetched & { hub: Hub; partial: string; ranges: () => unknown[] }> {
  const hub = await startHub(({ file, n }) => (file === WEIGHTS ? behaviours[n] : undefined));
  const fetched = cacheOf(hub);
  const partial = join(fetched.blobs, `${checksumOf(WEIGHTS, hub.files[WEIGHTS])}.partial`);
  return { ...fetched, hub, partial, ranges: () => hub.of(WEIGHTS).map(({ headers }) => headers.range) };
}

/** Where each request began. */
const startsOf = (ranges: unknown[]): number[] =>
  ranges.map((range) => (range === undefined ? 0 : Number(/^bytes=(\d+)-$/.exec(String(range))?.[1])));

function expectWhole({ snapshot, blobs }: Fetched, hub: Hub): void {
  expect(readFileSync(join(snapshot, WEIGHTS)).equals(hub.files[WEIGHTS])).toBe(true);
  expect(readdirSync(blobs)).toEqual([checksumOf(WEIGHTS, hub.files[WEIGHTS])]);
}

describe('a dropped connection', () => {
  it('is taken up where it was, with one notice and progress that never falls', async () => {
    const opened = await open({ dropAfter: 100_000 }, { dropAfter: 50_000 }, { dropAfter: 0 });
    await opened.get({ files });
    // How much of a dropped answer arrives is for the network to say.
    const [first, second, third, fourth] = startsOf(opened.ranges());
    expect([first, third]).toEqual([0, fourth]);
    expect(second).toBeGreaterThan(0);
    expect(third).toBeGreaterThan(second);
    expect(fourth).toBeLessThanOrEqual(150_000);
    expect(opened.ranges()).toHaveLength(4);
    expectWhole(opened, opened.hub);
    const counts = opened.progress.map(({ loadedBytes }) => loadedBytes);
    expect(counts).toEqual([...counts].sort((a, b) => a - b));
    expect(counts.at(-1)).toBe(SIZE);
    expect(opened.notices).toEqual([
      expect.stringMatching(/^some\/model: model-00001\S+: .*; trying again \(said once\)$/),
    ]);
  });

  it('is what a stall counts as', async () => {
    const opened = await open({ stallAfter: 100_000 });
    await opened.get({ files, stallSeconds: 0.5 });
    expect(opened.ranges()).toEqual([undefined, 'bytes=100000-']);
    expect(opened.notices).toEqual([expect.stringContaining('no byte came for 0.5 s')]);
    expectWhole(opened, opened.hub);
  });

  it('is not what a slow one counts as', async () => {
    const opened = await open({ seconds: 2 });
    await opened.get({ files, stallSeconds: 1 });
    expect(opened.notices).toEqual([]);
    expect(opened.ranges()).toEqual([undefined]);
  });

  it('is given up after five new tries without a byte more, and the next run goes on', async () => {
    const opened = await open({ dropAfter: 100_000 }, ...Array<Behaviour>(5).fill({ dropAfter: 0 }));
    await expect(opened.get({ files })).rejects.toThrow(
      /download from the hub failed: .*Check the network and run again/,
    );
    expect(opened.ranges()).toHaveLength(6);
    const { size } = statSync(opened.partial);
    expect(size).toBeGreaterThan(0);
    expect(existsSync(join(opened.snapshot, WEIGHTS))).toBe(false);
    opened.progress.length = 0;
    await opened.get({ files });
    expect(startsOf(opened.ranges()).at(-1)).toBe(size);
    expect(opened.progress[0].loadedBytes).toBe(size);
    expectWhole(opened, opened.hub);
  });

  it('starts over where the server knows no ranges, but not for ever', async () => {
    const opened = await open({ dropAfter: 100_000 }, { ignoresRange: true });
    await opened.get({ files });
    expect(startsOf(opened.ranges())[1]).toBeGreaterThan(0);
    expect(opened.hub.sent[WEIGHTS]).toBe(100_000 + SIZE);
    expectWhole(opened, opened.hub);

    const broken = await open(...Array<Behaviour>(100).fill({ dropAfter: 100_000, ignoresRange: true }));
    await expect(broken.get({ files })).rejects.toThrow(/download from the hub failed/);
    expect(broken.ranges().length).toBeLessThan(30);
  });

  it('keeps nothing of another part than was asked for', async () => {
    const content = Buffer.from('another part');
    const headers = { 'content-range': `bytes 7-18/${SIZE}` };
    const opened = await open({ dropAfter: 100_000 }, { status: 206, headers, content });
    await opened.get({ files });
    const [first, second, third] = startsOf(opened.ranges());
    expect([first, third]).toEqual([0, 0]);
    expect(second).toBeGreaterThan(0);
    expectWhole(opened, opened.hub);
  });

  it('ends with what was left of it when it is aborted', async () => {
    const opened = await open({ stallAfter: 100_000 });
    const controller = new AbortController();
    const download = opened.get({ files, signal: controller.signal });
    await vi.waitFor(() => expect(opened.progress.at(-1)?.loadedBytes).toBe(100_000));
    controller.abort(new Error('enough'));
    await expect(download).rejects.toThrow(/^enough$/);
    expect(readdirSync(opened.blobs)).toEqual([expect.stringMatching(/\.partial$/)]);
    await opened.get({ files });
    expectWhole(opened, opened.hub);
  });
});

describe('a busy hub', () => {
  it.each([429, 500, 503, 408])('is asked again after HTTP %s, for listings and files', async (status) => {
    const hub = await startHub(({ n }) => (n === 0 ? { status } : undefined));
    const fetched = cacheOf(hub);
    await fetched.get({ files });
    expectWhole(fetched, hub);
    expect(fetched.notices).toEqual([
      expect.stringContaining(`the hub answered HTTP ${status}; trying again`),
    ]);
  });

  it('is asked again after as long as it says, but not after an hour', async () => {
    const opened = await open({ status: 429, headers: { 'retry-after': '1' } });
    const begin = performance.now();
    await opened.get({ files });
    expect(performance.now() - begin).toBeGreaterThan(990);
    expect(opened.notices).toEqual([expect.stringContaining('trying again in 1 s, as it asks')]);

    const date = new Date(Date.now() + 3600_000).toUTCString();
    const hour = await open({ status: 429, headers: { 'retry-after': date } });
    await expect(hour.get({ files })).rejects.toThrow(/HTTP 429 and asks to wait 3\d\d\d s/);
  });

  it('gives a new address for one that has run out', async () => {
    const store = await startHub(({ n }) => (n === 0 ? { status: 403 } : undefined));
    const hub = await startHub(({ file, path }) =>
      file === undefined
        ? undefined
        : { status: 302, headers: { location: `${store.url}${path}?signature=secret` } },
    );
    const fetched = cacheOf(hub);
    await fetched.get({ files });
    expectWhole(fetched, hub);
    expect(fetched.notices).toEqual([
      expect.stringMatching(/127\.0\.0\.1:\d+, where the hub keeps the file, answered HTTP 403/),
    ]);
  });
});

describe('the checksum', () => {
  it.each([WEIGHTS, 'tokenizer.json'])('of %s is compared before the file gets its name', async (name) => {
    const only = new RegExp(`^${name}$`);
    const hub = await startHub(({ file, n }) =>
      file !== undefined && n === 0 ? { content: damaged(hub.files[file]) } : undefined,
    );
    const { get, blobs, snapshot } = cacheOf(hub);
    const kind = name === WEIGHTS ? 'SHA-256' : 'git SHA-1';
    const message = `${name}: expected ${hub.files[name].length} bytes with ${kind} ${checksumOf(name, hub.files[name])}, received others`;
    await expect(get({ files: only })).rejects.toThrow(message);
    expect(readdirSync(blobs)).toEqual([]);
    expect(existsSync(join(snapshot, name))).toBe(false);
    await get({ files: only });
    expect(readFileSync(join(snapshot, name)).equals(hub.files[name])).toBe(true);
  });

  it('counts the bytes of an earlier try, and more bytes than the file has are refused', async () => {
    const opened = await open({ dropAfter: 100_000 }, ...Array<Behaviour>(5).fill({ status: 500 }));
    await expect(opened.get({ files })).rejects.toThrow(/HTTP 500/);
    writeFileSync(opened.partial, damaged(readFileSync(opened.partial)));
    await expect(opened.get({ files })).rejects.toThrow(/received others/);
    expect(readdirSync(opened.blobs)).toEqual([]);

    const content = Buffer.concat([opened.hub.files[WEIGHTS], Buffer.alloc(50_000)]);
    const long = await open({ content, stallAfter: SIZE + 1000 });
    await expect(long.get({ files, stallSeconds: 5 })).rejects.toThrow(/received more/);
    expect(readdirSync(long.blobs)).toEqual([]);
    // Given up at once, not after the stall.
    expect(long.notices).toEqual([]);
  });
});

/** The built library in a program of its own, which downloads the weights of a hub into a cache. */
function writeProgram(): string {
  const program = join(temporaryDirectory(), 'program.cjs');
  writeFileSync(
    program,
    `const [hubUrl, cacheDir] = process.argv.slice(2);
    const seen = ({ loadedBytes }) => console.log(loadedBytes);
    require(${JSON.stringify(resolve('dist/model/hub.js'))})
      .resolveModel('some/model', seen, { hubUrl, cacheDir, files: ${String(files)} })
      .then(console.log, (error) => { console.error(error); process.exit(1); });`,
  );
  return program;
}

function start(program: string, hub: Hub, { cacheDir }: Fetched): ChildProcess & { text: () => string } {
  const child = spawn(process.execPath, [program, hub.url, cacheDir]);
  let text = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data: Buffer) => (text += data.toString()));
  return Object.assign(child, { text: () => text });
}

describe('several processes', () => {
  it('go on where one was killed, at once', async () => {
    const opened = await open({ stallAfter: 100_000 });
    const child = start(writeProgram(), opened.hub, opened);
    await vi.waitFor(() => expect(statSync(opened.partial).size).toBe(100_000), { timeout: 20_000 });
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(readdirSync(opened.blobs).filter((name) => name.endsWith('.lock'))).toHaveLength(1);
    await opened.get({ files });
    expect(opened.ranges()).toEqual([undefined, 'bytes=100000-']);
    expectWhole(opened, opened.hub);
  });

  it('download a file once between them, and all know how far it is', async () => {
    const opened = await open({ seconds: 1.5 });
    const program = writeProgram();
    const first = start(program, opened.hub, opened);
    await vi.waitFor(() => expect(opened.hub.sent[WEIGHTS]).toBeGreaterThan(0), { timeout: 20_000 });
    const others = [start(program, opened.hub, opened), start(program, opened.hub, opened)];
    await Promise.all([opened.get({ files }), ...[first, ...others].map((child) => once(child, 'exit'))]);
    for (const child of [first, ...others]) expect(child.text()).toContain(`${SIZE}\n${opened.snapshot}\n`);
    expect(opened.hub.sent[WEIGHTS]).toBe(SIZE);
    expect(opened.progress.some(({ loadedBytes }) => loadedBytes > 0 && loadedBytes < SIZE)).toBe(true);
    expectWhole(opened, opened.hub);
  });

  it('take over from one that is killed while they wait', async () => {
    const opened = await open({ stallAfter: 100_000 });
    const child = start(writeProgram(), opened.hub, opened);
    await vi.waitFor(() => expect(statSync(opened.partial).size).toBe(100_000), { timeout: 20_000 });
    const download = opened.get({ files });
    await vi.waitFor(() => expect(opened.progress.at(-1)?.loadedBytes).toBe(100_000));
    await delay(300);
    expect(opened.ranges()).toHaveLength(1);
    child.kill('SIGKILL');
    await download;
    expect(opened.ranges()).toEqual([undefined, 'bytes=100000-']);
    expectWhole(opened, opened.hub);
  });
});
