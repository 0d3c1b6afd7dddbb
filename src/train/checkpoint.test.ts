import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { CheckpointError, ConfigError } from '../runtime/errors';
import {
  checkpointSteps,
  latestCheckpoint,
  readCheckpoint,
  removeCheckpoints,
  rotateCheckpoints,
  saveCheckpoint,
} from './checkpoint';
import type { CheckpointState } from './checkpoint';
import { freshState } from './loop';
import { lockRun } from './run-lock';

function temporary(): string {
  const directory = mkdtempSync(join(tmpdir(), 'checkpoint-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function stateOf(step: number): CheckpointState {
  return {
    version: 1,
    loop: { ...freshState, step },
    data: 'd',
    files: { 'metrics.jsonl': 10 * step },
    monitor: { outside: {}, raised: [] },
  };
}

/** Writes a file that differs from step to step. */
const save = (run: string, step: number): Promise<void> =>
  saveCheckpoint(run, stateOf(step), async (directory) =>
    writeFileSync(join(directory, 'weights'), `weights of ${step}`),
  );

/** Flips one bit of a file. */
function damage(file: string, position: number): void {
  const bytes = readFileSync(file);
  bytes[position] ^= 1;
  writeFileSync(file, bytes);
}

describe('a checkpoint', () => {
  it('gives back what was saved', async () => {
    const run = temporary();
    await save(run, 3);
    expect(await readCheckpoint(join(run, 'checkpoint-3'))).toEqual(stateOf(3));
    expect(readFileSync(join(run, 'checkpoint-3', 'weights'), 'utf8')).toBe('weights of 3');
  });

  it('is not there, and leaves nothing behind, when writing it fails', async () => {
    const run = temporary();
    await save(run, 1);
    const failing = saveCheckpoint(run, stateOf(2), async (directory) => {
      writeFileSync(join(directory, 'weights'), 'half');
      throw new Error('no more');
    });
    await expect(failing).rejects.toThrow('no more');
    expect(readdirSync(run)).toEqual(['checkpoint-1']);
  });

  it('is not used when any byte of any of its files is another one: the one before is, by name', async () => {
    const run = temporary();
    for (const step of [5, 10]) await save(run, step);
    const last = join(run, 'checkpoint-10');
    for (const name of readdirSync(last)) {
      const { length } = readFileSync(join(last, name));
      for (const position of [0, length >> 1, length - 2]) {
        damage(join(last, name), position);
        const notices: string[] = [];
        const found = await latestCheckpoint(run, (line) => notices.push(line));
        expect(found?.state.loop.step, `${name}, byte ${position}`).toBe(5);
        expect(notices).toEqual([
          expect.stringMatching(/checkpoint-10.*: checkpoint-10 is not used, an earlier one is$/),
        ]);
        damage(join(last, name), position);
      }
    }
    expect((await latestCheckpoint(run, () => {}))?.state.loop.step).toBe(10);
  });

  it('is refused when a file of it is missing', async () => {
    const run = temporary();
    await save(run, 1);
    rmSync(join(run, 'checkpoint-1', 'weights'));
    await expect(readCheckpoint(join(run, 'checkpoint-1'))).rejects.toThrow(CheckpointError);
    expect(await latestCheckpoint(run, () => {})).toBeNull();
  });
});

describe('rotation', () => {
  it('keeps the newest and the best', async () => {
    const run = temporary();
    for (let step = 1; step <= 6; step++) {
      await save(run, 10 * step);
      await rotateCheckpoints(run, 3, 20);
    }
    expect(checkpointSteps(run)).toEqual([20, 40, 50, 60]);
    await rotateCheckpoints(run, 1, undefined);
    expect(checkpointSteps(run)).toEqual([60]);
  });

  it('sorts steps as numbers, and removes all with what unfinished saves have left', async () => {
    const run = temporary();
    for (const step of [9, 100, 20]) await save(run, step);
    mkdirSync(join(run, '.checkpoint-30.123.tmp'));
    writeFileSync(join(run, 'metrics.jsonl'), '');
    expect(checkpointSteps(run)).toEqual([9, 20, 100]);
    await removeCheckpoints(run);
    expect(readdirSync(run)).toEqual(['metrics.jsonl']);
  });
});

describe('the lock', () => {
  it('refuses a second run by the name of the process, and is free again after release', async () => {
    const run = temporary();
    const first = await lockRun(run);
    await expect(lockRun(run)).rejects.toThrow(ConfigError);
    await expect(lockRun(join(run, '.'))).rejects.toThrow(`process ${process.pid} is training here`);
    first.release();
    (await lockRun(run)).release();
    expect(readdirSync(run)).toEqual([]);
  });
});
