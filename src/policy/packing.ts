/** Training batches and log-probability passes as tensors of a few fixed shapes. */
import { dropoutKeys } from '../model/dropout';
import { ShapeError } from '../runtime/errors';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { packCompletions, packPrompts, packValues, rowValues } from './batch';
import type { MicroBatch, Sequence, TrainingRow } from './policy';

/** Tokens of one log-probability pass, at most (padding included). */
const tokensPerPass = 8192;

/** Which optional tensors a training batch has. */
export interface BatchFlags {
  old: boolean;
  reference: boolean;
  dropout: number;
}

/** Whether the items have a field. @throws ShapeError  when only some of them have it */
function allOrNone<K extends string>(key: K, items: readonly { [key in K]?: unknown }[]): boolean {
  const given = items.filter((item) => item[key] !== undefined).length;
  if (given > 0 && given < items.length)
    throw new ShapeError(`${key} is given for ${given} of ${items.length}; give it for all or for none`);
  return given > 0;
}

/** Per-token values of a row, none where they are not given. @throws ShapeError  when there is not one a token */
function checkedLength(values: ArrayLike<number> | undefined, row: TrainingRow): ArrayLike<number> {
  if (values === undefined) return [];
  if (values.length !== row.tokenIds.length)
    throw new ShapeError(
      `a row has ${row.tokenIds.length} tokens and ${values.length} values for them; expected as many`,
    );
  return values;
}

/** A micro-batch as tensors; groups are filled up to equal size with rows that do not count. */
export function packBatch(batch: MicroBatch, padId: number, dropoutRate: number) {
  const { groups } = batch;
  const everyRow = groups.flatMap((group) => group.rows);
  const flags: BatchFlags = {
    old: allOrNone('oldLogProbs', everyRow),
    reference: allOrNone('referenceLogProbs', everyRow),
    dropout: allOrNone('dropoutKey', groups) ? dropoutRate : 0,
  };
  allOrNone('advantage', everyRow);
  allOrNone('weights', everyRow);
  const size = Math.max(...groups.map((group) => group.rows.length));
  const filler = { tokenIds: [padId], mask: [0] };
  const rows = groups.flatMap(({ rows: own, promptIds }) =>
    Array.from({ length: size }, (_, i) => ({ row: own[i] ?? filler, promptLength: promptIds.length })),
  );
  const prompts = packPrompts(
    groups.map((group) => group.promptIds),
    padId,
  );
  const own = packCompletions(
    rows.map(({ row, promptLength }) => ({ tokenIds: row.tokenIds, promptLength })),
    padId,
  );
  const values = (pick: (row: TrainingRow) => ArrayLike<number> | undefined): Tensor =>
    packValues(
      rows.map(({ row }) => checkedLength(pick(row), row)),
      own.width,
    );
  const inputs = [prompts.ids, prompts.mask, prompts.positions, own.ids, own.positions];
  inputs.push(values((row) => row.mask ?? new Float32Array(row.tokenIds.length).fill(1)));
  inputs.push(values((row) => row.weights));
  inputs.push(tf.tensor1d(rows.map(({ row }) => ('advantage' in row ? (row.advantage ?? 0) : 0))));
  inputs.push(tf.tensor1d([batch.totalRows, batch.totalTokens, batch.totalMicroBatches]));
  if (flags.old) inputs.push(values((row) => row.oldLogProbs));
  if (flags.reference) inputs.push(values((row) => row.referenceLogProbs));
  if (flags.dropout > 0)
    inputs.push(packDropoutKeys(groups, size, prompts.ids.shape[1] as number, own.width));
  const unpack = (all: Float32Array): Float32Array[][] =>
    groups.map((group, g) =>
      group.rows.map((row, r) => rowValues(all, own.width, g * size + r, row.tokenIds.length)),
    );
  return { flags, inputs, unpack };
}

/** Keys of the tokens in the order of the shared layout: all prompts, then all completions. */
function packDropoutKeys(
  groups: MicroBatch['groups'],
  size: number,
  promptWidth: number,
  width: number,
): Tensor {
  const keys = new Int32Array(groups.length * (promptWidth + size * width));
  groups.forEach(({ dropoutKey, promptIds, rows }, g) => {
    const key = dropoutKey as { seed: number; example: string; visit: number };
    const promptKeys = dropoutKeys(key, promptIds.length);
    keys.set(promptKeys, (g + 1) * promptWidth - promptIds.length);
    rows.forEach((row, r) => {
      const rowKeys = dropoutKeys({ ...key, example: `${key.example} ${r}` }, row.tokenIds.length);
      keys.set(rowKeys, groups.length * promptWidth + (g * size + r) * width);
    });
  });
  return tf.tensor1d(keys, 'int32');
}

/**
 * Sequences in passes of bounded size. Neighbours with the same prompt form a group that computes it once, if all groups
 * of the pass can have the same size. @returns passes of groups of indices
 */
export function* logProbPasses(sequences: readonly Sequence[]): Generator<number[][]> {
  const groups: number[][] = [];
  sequences.forEach(({ promptIds }, i) => {
    const last = groups[groups.length - 1];
    if (last !== undefined && samePrompt(sequences[last[0]].promptIds, promptIds)) last.push(i);
    else groups.push([i]);
  });
  const longest = (group: readonly number[]): number =>
    Math.max(...group.map((i) => sequences[i].completionIds.length));
  const tokens = (group: readonly number[]): number =>
    sequences[group[0]].promptIds.length + group.length * longest(group);
  const order = groups.sort((a, b) => a.length - b.length || tokens(a) - tokens(b) || a[0] - b[0]);
  let pass: number[][] = [];
  for (const group of order) {
    const fits =
      pass.length === 0 ||
      (pass[0].length === group.length && (pass.length + 1) * tokens(group) <= tokensPerPass);
    if (!fits) {
      yield pass;
      pass = [];
    }
    pass.push(group);
  }
  if (pass.length > 0) yield pass;
}

function samePrompt(a: readonly number[], b: readonly number[]): boolean {
  return a === b || (a.length === b.length && a.every((id, i) => id === b[i]));
}
