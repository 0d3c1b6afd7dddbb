import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import type * as FileSystem from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { temporaryDirectory } from '../../test/hub-server';
import { withLock } from './hub-lock';

/** What another process does between this one's look for others and its own flag. */
const meanwhile = vi.hoisted(() => ({ act: undefined as (() => void) | undefined }));
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof FileSystem>();
  const writeFile = (path: string, text: string): void => {
    const { act } = meanwhile;
    meanwhile.act = undefined;
    act?.();
    fs.writeFileSync(path, text);
  };
  return { ...fs, writeFileSync: writeFile };
});

/** The number of a process that has ended. */
const deadProcess = (): number => spawnSync(process.execPath, ['-e', '']).pid;

describe('withLock', () => {
  it('lets one in at a time, whoever comes when', async () => {
    const path = join(temporaryDirectory(), 'file');
    let [inside, most, done] = [0, 0, 0];
    const work = async (): Promise<void> => {
      most = Math.max(most, ++inside);
      await delay(5);
      inside--;
      done++;
    };
    await Promise.all(Array.from({ length: 8 }, () => withLock(path, work)));
    expect([most, done]).toEqual([1, 8]);
    expect(readdirSync(join(path, '..'))).toEqual([]);
  });

  it('is not taken by two that look at the same time', async () => {
    const path = join(temporaryDirectory(), 'file');
    const flag = `${path}.elsewhere-1-00.lock`;
    meanwhile.act = () => writeFileSync(flag, '');
    let waited = 0;
    await withLock(path, () => Promise.resolve(expect(waited).toBe(2)), {
      onWait: () => void (++waited === 2 && rmSync(flag)),
    });
  });

  it('is given up by work that fails, and others with a similar name do not hold it', async () => {
    const path = join(temporaryDirectory(), 'file');
    await expect(withLock(path, () => Promise.reject(new Error('failed')))).rejects.toThrow('failed');
    expect(await withLock(`${path}2`, () => withLock(path, () => Promise.resolve('in')))).toBe('in');
  });

  it('passes over a holder that is dead, and removes its flag', async () => {
    const path = join(temporaryDirectory(), 'file');
    const flag = `${path}.${hostname()}-${deadProcess()}-00.lock`;
    writeFileSync(flag, '');
    let waited = 0;
    await withLock(path, () => Promise.resolve(), { onWait: () => waited++ });
    expect([waited, existsSync(flag)]).toEqual([0, false]);
  });

  it.each([
    ['another machine', 'elsewhere', deadProcess()],
    ['a living process', hostname(), process.pid],
  ])(
    'waits for a holder of %s until it is gone, or without a sign of life for a minute',
    async (_name, host, pid) => {
      const path = join(temporaryDirectory(), 'file');
      const flag = `${path}.${host}-${pid}-00.lock`;
      for (const end of [
        () => rmSync(flag),
        () => utimesSync(flag, new Date(), new Date(Date.now() - 61_000)),
      ]) {
        writeFileSync(flag, '');
        let waited = 0;
        await withLock(path, () => Promise.resolve(expect(waited).toBe(2)), {
          onWait: () => void (++waited === 2 && end()),
        });
      }
    },
  );

  it('ends the waiting when it is aborted', async () => {
    const path = join(temporaryDirectory(), 'file');
    writeFileSync(`${path}.${hostname()}-${process.pid}-00.lock`, '');
    const controller = new AbortController();
    const waiting = withLock(path, () => Promise.resolve(), {
      signal: controller.signal,
      onWait: () => controller.abort(new Error('enough')),
    });
    await expect(waiting).rejects.toThrow('enough');
    expect(readdirSync(join(path, '..'))).toHaveLength(1);
  });
});
