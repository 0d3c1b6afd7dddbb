/** What the golden tests of the model share: full logits, and comparisons that name the largest difference. */
import { expect } from 'vitest';
import { toVocabulary } from '../src/model/ops';
import { forwardPrompts } from '../src/model/qwen3';
import type { LocalPolicy } from '../src/policy/local';
import { tf } from '../src/runtime/tf';

/** Logits of every position of a padded batch, [B][T][V] flattened. */
export function fullLogits(
  policy: LocalPolicy,
  ids: readonly (readonly number[])[],
  mask: readonly (readonly number[])[],
  positions: readonly (readonly number[])[],
): Float32Array {
  return tf.tidy(() => {
    const network = { config: policy.config, weights: policy.weights, adapter: policy.adapter };
    const batch = {
      ids: tf.tensor2d(ids as number[][], undefined, 'int32'),
      mask: tf.tensor2d(mask as number[][], undefined, 'float32'),
      positions: tf.tensor2d(positions as number[][], undefined, 'float32'),
    };
    const { hidden } = forwardPrompts(network, batch);
    return toVocabulary(hidden, policy.weights.head).dataSync() as Float32Array;
  });
}

/** log softmax(logits[t])[ids[t + 1]] in double precision, from a row of flat logits. */
export function nextLogProbs(
  logits: Float32Array,
  vocabulary: number,
  ids: readonly number[],
  offset: number,
): number[] {
  return ids.slice(1).map((target, t) => {
    const row = logits.subarray((offset + t) * vocabulary, (offset + t + 1) * vocabulary);
    const max = row.reduce((a, b) => Math.max(a, b), -Infinity);
    const sum = row.reduce((a, b) => a + Math.exp(b - max), 0);
    return row[target] - max - Math.log(sum);
  });
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i] - b[i]);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

/** ||a - b|| / ||b||. */
export function relativeDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  let [difference, norm] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    difference += (a[i] - b[i]) ** 2;
    norm += b[i] ** 2;
  }
  return Math.sqrt(difference / norm);
}

/** Row-major [rows, columns] -> [columns, rows]. */
export function transpose(values: ArrayLike<number>, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) result[j * rows + i] = values[i * columns + j];
  return result;
}
