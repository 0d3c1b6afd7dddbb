import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { cacheOf, startHub } from '../../test/hub-server';
import type { Behaviour } from '../../test/hub-server';
import { CheckpointError } from '../runtime/errors';

/** Nobody's. Without the usual beginning, as that of a hub of one's own. */
const TOKEN = 'secret-0123456789';
const BEARER = `Bearer ${TOKEN}`;
const WEIGHTS = 'model-00001-of-00002.safetensors';

describe('the token', () => {
  it('is that of HF_TOKEN, on every request to the hub', async () => {
    const hub = await startHub();
    const { get } = cacheOf(hub);
    vi.stubEnv('HF_TOKEN', ` ${TOKEN}\n`);
    await get();
    expect(new Set(hub.requests.map(({ headers }) => headers.authorization))).toEqual(new Set([BEARER]));
  });

  it('is that of the file where there is no HF_TOKEN, and none without both', async () => {
    const hub = await startHub();
    const { get, cacheDir } = cacheOf(hub);
    await get();
    expect(hub.requests.every(({ headers }) => headers.authorization === undefined)).toBe(true);
    const file = join(cacheDir, 'token');
    writeFileSync(file, `${TOKEN}\n`);
    vi.stubEnv('HF_TOKEN_PATH', file);
    await get();
    expect(hub.requests.at(-1)?.headers.authorization).toBe(BEARER);
    vi.stubEnv('HF_TOKEN_PATH', '');
    vi.stubEnv('HF_HOME', cacheDir);
    await get();
    expect(hub.requests.at(-1)?.headers.authorization).toBe(BEARER);
  });

  it('is not sent to another host, neither by a redirect nor by the next page of a listing', async () => {
    const store = await startHub();
    const hub = await startHub(({ path, file }) =>
      file === WEIGHTS
        ? { status: 302, headers: { location: `${store.url}${path}?signature=1` } }
        : undefined,
    );
    const { get } = cacheOf(hub);
    vi.stubEnv('HF_TOKEN', TOKEN);
    const { url } = hub;
    // Only the address of the next page is made from it.
    hub.url = store.url;
    await get({ hubUrl: url });
    expect(store.of(WEIGHTS)).toHaveLength(1);
    expect(store.requests.some(({ path }) => path.includes('/tree/'))).toBe(true);
    expect(store.requests.every(({ headers }) => headers.authorization === undefined)).toBe(true);
    expect(hub.of(WEIGHTS)[0].headers.authorization).toBe(BEARER);
  });

  it('follows a redirect within the hub, as of a model that was renamed', async () => {
    const hub = await startHub(({ path, n }) =>
      path.endsWith('/revision/main') && n === 0
        ? { status: 307, headers: { location: `${path}?again` } }
        : undefined,
    );
    const { get } = cacheOf(hub);
    vi.stubEnv('HF_TOKEN', TOKEN);
    await get();
    expect(hub.requests[1].headers.authorization).toBe(BEARER);
  });

  it('with a character that no token has is an error that does not show it', async () => {
    const hub = await startHub();
    const { get } = cacheOf(hub);
    vi.stubEnv('HF_TOKEN', `${TOKEN}\n${TOKEN}`);
    const error = await get().catch((reason: unknown) => String(reason));
    expect(error).toMatch(/HF_TOKEN holds white space/);
    expect(error).not.toContain(TOKEN);
    expect(hub.requests).toEqual([]);
  });

  it('is not shown by the error of an address that holds a password', async () => {
    const { get } = cacheOf(await startHub());
    const error = await get({ hubUrl: 'http://me:hidden@127.0.0.1:9' }).catch((reason: unknown) =>
      String(reason),
    );
    expect(error).toMatch(/HF_ENDPOINT is not the address of a hub/);
    expect(error).not.toContain('hidden');
  });
});

describe('a refusal', () => {
  const gated = { 'x-error-code': 'GatedRepo' };
  it.each<[string, boolean, Behaviour, RegExp]>([
    [
      '401 without a token',
      false,
      { status: 401 },
      /no public model of this name: .* set HF_TOKEN .*\(HTTP 401\)/,
    ],
    ['401 of a token', true, { status: 401 }, /does not accept the token in HF_TOKEN: make a new token/],
    [
      'a gated model without a token',
      false,
      { status: 401, headers: gated },
      /gated: accept its conditions at http\S+\/some\/model, and set HF_TOKEN/,
    ],
    [
      'a gated model and a token',
      true,
      { status: 403, headers: gated },
      /the account of the token in HF_TOKEN may not read it: accept/,
    ],
    ['404', false, { status: 404 }, /not found on the hub: check the name/],
    [
      '404 of a revision',
      false,
      { status: 404, headers: { 'x-error-code': 'RevisionNotFound' } },
      /no revision "main"/,
    ],
    ['another one', false, { status: 418 }, /the hub answered \(HTTP 418\)/],
  ])('%s is one line that says what to do, at once', async (_name, hasToken, behaviour, expected) => {
    const hub = await startHub(() => behaviour);
    const { get, notices } = cacheOf(hub);
    vi.stubEnv('HF_TOKEN', hasToken ? TOKEN : '');
    const error = (await get().catch((reason: unknown) => reason)) as Error;
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(expected);
    expect(error.message).toMatch(/^some\/model: .*directory of a model that you have\.$/);
    expect(error.message).not.toContain(TOKEN);
    expect([hub.requests.length, notices]).toEqual([1, []]);
  });

  it('comes with the files of a gated model, whose listing is public', async () => {
    const hub = await startHub(({ file }) =>
      file === undefined ? undefined : { status: 401, headers: gated },
    );
    await expect(cacheOf(hub).get()).rejects.toThrow(/the model is gated/);
  });
});
