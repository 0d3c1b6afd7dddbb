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
  setAsideAfter,
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
          expect.stringMatching(/checkpoint-10.*: checkpoint-10 is damaged and not used$/),
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
    writeFileSync(join(run, '.adapter_model.safetensors.123-4.tmp'), 'half');
    writeFileSync(join(run, 'metrics.jsonl'), '');
    expect(checkpointSteps(run)).toEqual([9, 20, 100]);
    await removeCheckpoints(run);
    expect(readdirSync(run)).toEqual(['metrics.jsonl']);
  });
});

describe('checkpoints after the one that is used', () => {
  it('are set aside, so that newer saves are not rotated away in their favour', async () => {
    const run = temporary();
    for (const step of [2, 4, 6]) await save(run, step);
    await setAsideAfter(run, 2);
    expect(readdirSync(run).sort()).toEqual(['checkpoint-2', 'damaged-checkpoint-4', 'damaged-checkpoint-6']);
    await save(run, 3);
    await rotateCheckpoints(run, 1, undefined);
    expect(checkpointSteps(run)).toEqual([3]);
  });

  it('do not count when their names are not those that a run writes', () => {
    const run = temporary();
    for (const name of ['checkpoint-007', 'checkpoint-x', 'my-checkpoint-3']) mkdirSync(join(run, name));
    expect(checkpointSteps(run)).toEqual([]);
  });
});

describe('the lock', () => {
  it('refuses a second run of the process, and is free again after release', async () => {
    const run = temporary();
    const first = await lockRun(run);
    await expect(lockRun(run)).rejects.toThrow(ConfigError);
    await expect(lockRun(join(run, '.'))).rejects.toThrow('another run of this process is training here');
    first.release();
    (await lockRun(run)).release();
    expect(readdirSync(run)).toEqual([]);
  });
});
