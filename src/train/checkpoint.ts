/**
 * Checkpoints: `checkpoint-<step>/` with adapter, optimiser moments, the state of the loop, and a checksum of every file.
 * A checkpoint is written under another name and renamed when all of it is on the disk, so what bears its name is whole;
 * checksums find what went wrong afterwards.
 */
import { createHash } from 'node:crypto';
import { createReadStream, readdirSync } from 'node:fs';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { CheckpointError, messageOf } from '../runtime/errors';
import { atomicWriteFile, readJsonFile, strictJson, writeError } from '../runtime/files';
import { parseStrict } from '../runtime/strict';
import { monitorStateSchema } from './monitor';

const bestSchema = z.strictObject({ step: z.int(), value: z.number() });

/** Where a loop stands: all that it needs to go on as if it had never stopped, beside the policy's own state. */
export const loopStateSchema = z.strictObject({
  /** optimiser steps done */
  step: z.int().min(0),
  /** non-finite gradients in a row */
  skippedInARow: z.int().min(0),
  /** the best evaluation so far */
  best: bestSchema.nullable(),
  /** evaluations since then */
  evaluationsWithoutBest: z.int().min(0),
  /** numbers that a method carries from step to step, by name */
  carried: z.record(z.string(), z.number()),
});

/** Where a loop stands: all that it needs to go on as if it had never stopped, beside the policy's own state. */
export type LoopState = z.output<typeof loopStateSchema>;

/** `trainer_state.json` of a checkpoint. */
const checkpointSchema = z.strictObject({
  version: z.literal(1),
  loop: loopStateSchema,
  /** hash of the data that the run trains on */
  data: z.string(),
  /** bytes of the run's growing files at this step: what comes after is of steps that a resumed run does again */
  files: z.record(z.string(), z.int().min(0)),
  /** what the monitor remembers */
  monitor: monitorStateSchema,
});

/** `trainer_state.json` of a checkpoint. */
export type CheckpointState = z.output<typeof checkpointSchema>;

const STATE_FILE = 'trainer_state.json';
const CHECKSUM_FILE = 'checksums.json';
const NAME = /^checkpoint-(0|[1-9]\d*)$/;
/** Of a checkpoint, or of a file that was being written. */
const TEMPORARY = /^\.(checkpoint-\d+\.\d+|.+\.\d+-\d+)\.tmp$/;

async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

async function sync(place: string): Promise<void> {
  const handle = await open(place, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Steps of the checkpoints in a run directory, oldest first. */
export function checkpointSteps(runDirectory: string): number[] {
  const steps = readdirSync(runDirectory).flatMap((name) => NAME.exec(name)?.[1] ?? []);
  return steps.map(Number).sort((a, b) => a - b);
}

/** The directory of a run's checkpoint at a step. */
export function checkpointPath(runDirectory: string, step: number): string {
  return path.join(runDirectory, `checkpoint-${step}`);
}

/** Removes what a process that was killed inside a save has left. */
export async function removeUnfinished(runDirectory: string): Promise<void> {
  for (const name of readdirSync(runDirectory)) {
    if (TEMPORARY.test(name)) await rm(path.join(runDirectory, name), { recursive: true, force: true });
  }
}

/**
 * Writes a checkpoint; an older one of the same step is replaced.
 *
 * @param write  writes the policy's files into the directory that it is given
 * @throws DataError  when the disk refuses; what was there before is as it was
 */
export async function saveCheckpoint(
  runDirectory: string,
  state: CheckpointState,
  write: (directory: string) => Promise<void>,
): Promise<void> {
  const target = checkpointPath(runDirectory, state.loop.step);
  const temporary = path.join(runDirectory, `.checkpoint-${state.loop.step}.${process.pid}.tmp`);
  try {
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary);
    await write(temporary);
    await atomicWriteFile(path.join(temporary, STATE_FILE), `${strictJson(state, 2)}\n`);
    const names = readdirSync(temporary).sort();
    const sums: Record<string, string> = {};
    for (const name of names) sums[name] = await hashFile(path.join(temporary, name));
    await atomicWriteFile(path.join(temporary, CHECKSUM_FILE), `${strictJson(sums, 2)}\n`);
    await sync(temporary);
    // A directory cannot replace another one that holds files: the old one goes first, and resuming then finds the one before.
    await rm(target, { recursive: true, force: true });
    await rename(temporary, target);
    await sync(runDirectory);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw writeError(target, error);
  }
}

/** Removes a checkpoint under another name: one that is half removed must not look like one. */
async function removeCheckpoint(runDirectory: string, step: number): Promise<void> {
  const doomed = path.join(runDirectory, `.checkpoint-${step}.0.tmp`);
  await rename(checkpointPath(runDirectory, step), doomed);
  await rm(doomed, { recursive: true, force: true });
}

/** Sets aside the checkpoints after a step, which were found damaged: they must not count as the newest any more. */
export async function setAsideAfter(runDirectory: string, step: number): Promise<void> {
  for (const later of checkpointSteps(runDirectory).filter((each) => each > step)) {
    const aside = path.join(runDirectory, `damaged-checkpoint-${later}`);
    await rm(aside, { recursive: true, force: true });
    await rename(checkpointPath(runDirectory, later), aside);
  }
}

/** Removes every checkpoint, and what unfinished saves have left. */
export async function removeCheckpoints(runDirectory: string): Promise<void> {
  await removeUnfinished(runDirectory);
  for (const step of checkpointSteps(runDirectory)) await removeCheckpoint(runDirectory, step);
}

/** Removes all but the newest `keep` checkpoints and the best one. */
export async function rotateCheckpoints(
  runDirectory: string,
  keep: number,
  best: number | undefined,
): Promise<void> {
  const old = checkpointSteps(runDirectory).slice(0, -keep);
  for (const step of old) {
    if (step !== best) await removeCheckpoint(runDirectory, step);
  }
}

/** @throws CheckpointError  naming the file whose bytes are not those that were written */
export async function readCheckpoint(directory: string): Promise<CheckpointState> {
  const file = path.join(directory, CHECKSUM_FILE);
  const sums = readJsonFile(file, CheckpointError) as Record<string, unknown>;
  if (typeof sums !== 'object' || sums === null || !(STATE_FILE in sums))
    throw new CheckpointError(`${file}: expected the checksums of a checkpoint`);
  for (const [name, expected] of Object.entries(sums)) {
    const member = path.join(directory, path.basename(name));
    const found = await hashFile(member).catch((error: unknown) => {
      throw new CheckpointError(`${member}: cannot be read (${messageOf(error)})`);
    });
    if (found !== expected)
      throw new CheckpointError(`${member}: its bytes are not those that were saved (checksum differs)`);
  }
  const state = path.join(directory, STATE_FILE);
  return parseStrict(checkpointSchema, readJsonFile(state, CheckpointError), state);
}

/**
 * The newest checkpoint that is whole, or null when there is none. One that is damaged is named to `notify`, and the one
 * before it is taken.
 */
export async function latestCheckpoint(
  runDirectory: string,
  notify: (line: string) => void,
): Promise<{ directory: string; state: CheckpointState } | null> {
  for (const step of checkpointSteps(runDirectory).reverse()) {
    const directory = checkpointPath(runDirectory, step);
    try {
      return { directory, state: await readCheckpoint(directory) };
    } catch (error) {
      notify(`${messageOf(error)}: checkpoint-${step} is damaged and not used`);
    }
  }
  return null;
}
