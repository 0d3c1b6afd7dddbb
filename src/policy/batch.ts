/** Lists of tokens as padded arrays of a few fixed shapes, so that compiled functions are traced a handful of times. */
import { ShapeError } from '../runtime/errors';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { bucket } from '../model/memory';
import type { PromptBatch } from '../model/qwen3';

/**
 * Prompts padded on the left. The caller disposes the tensors.
 * @throws ShapeError  when a prompt is empty: nothing would precede its completion's first token
 */
export function packPrompts(prompts: readonly (readonly number[])[], padId: number): PromptBatch {
  if (prompts.some((prompt) => prompt.length === 0))
    throw new ShapeError('a prompt has no tokens; expected at least one');
  const width = bucket(Math.max(...prompts.map((prompt) => prompt.length)));
  const shape: [number, number] = [prompts.length, width];
  const ids = new Int32Array(prompts.length * width).fill(padId);
  const mask = new Float32Array(ids.length);
  const positions = new Float32Array(ids.length);
  prompts.forEach((prompt, row) => {
    const start = row * width + width - prompt.length;
    prompt.forEach((id, i) => {
      ids[start + i] = id;
      mask[start + i] = 1;
      positions[start + i] = i;
    });
  });
  return {
    ids: tf.tensor2d(ids, shape, 'int32'),
    mask: tf.tensor2d(mask, shape),
    positions: tf.tensor2d(positions, shape),
  };
}

/** One completion of a packed batch. */
export interface PackedRow {
  tokenIds: readonly number[];
  promptLength: number;
}

/** Completions padded on the right, [rows, width]. The caller disposes the tensors. */
export function packCompletions(
  rows: readonly PackedRow[],
  padId: number,
): { ids: Tensor; positions: Tensor; width: number } {
  const width = bucket(Math.max(...rows.map((row) => row.tokenIds.length)));
  const shape: [number, number] = [rows.length, width];
  const ids = new Int32Array(rows.length * width).fill(padId);
  const positions = new Float32Array(ids.length);
  rows.forEach(({ tokenIds, promptLength }, row) => {
    for (let i = 0; i < width; i++) {
      if (i < tokenIds.length) ids[row * width + i] = tokenIds[i];
      positions[row * width + i] = promptLength + i;
    }
  });
  return { ids: tf.tensor2d(ids, shape, 'int32'), positions: tf.tensor2d(positions, shape), width };
}

/** Per-token values padded with `fill`, [rows, width]. The caller disposes the tensor. */
export function packValues(rows: readonly ArrayLike<number>[], width: number, fill = 0): Tensor {
  const values = new Float32Array(rows.length * width).fill(fill);
  rows.forEach((row, r) => {
    for (let i = 0; i < row.length; i++) values[r * width + i] = row[i];
  });
  return tf.tensor2d(values, [rows.length, width]);
}

/** Row r of a [rows, width] array, cut to its own length. */
export function rowValues(values: Float32Array, width: number, row: number, length: number): Float32Array {
  return values.slice(row * width, row * width + length);
}

/** Lets notebooks, signals and timers run between two pieces of native work. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
