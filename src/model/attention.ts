/**
 * Attention as a graph of TensorFlow's ops: of prompts to themselves, of completions to their prompt and to themselves, with the
 * prompt's keys and values shared by its completions. One op of the binding computes the same on a CPU (fused.ts).
 */
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { ModelConfig } from './config';
import { matMul } from './matrix';

/** Keys and values of one layer, each [B, kvHeads, T, D]. */
export interface KeyValues {
  keys: Tensor;
  values: Tensor;
}

/** What is added to the score of a key that must not be seen. */
export const blocked = -1e9;

/** [T, T] additive mask: 0 where key <= query, else -1e9. */
export function causalBias(length: number): Tensor {
  const steps = tf.range(0, length, 1, 'float32');
  return tf.mul(tf.cast(tf.greater(tf.expandDims(steps, 0), tf.expandDims(steps, 1)), 'float32'), blocked);
}

/** Additive mask of padding, from a [B, T] mask of ones and zeros: 0 or -1e9. */
export function paddingBias(mask: Tensor): Tensor {
  return tf.mul(tf.sub(1, mask), blocked);
}

/** [B*T, heads, D] -> [B, heads, T, D]. */
export function splitRows(x: Tensor, rows: number): Tensor {
  const [tokens, heads, dim] = x.shape as [number, number, number];
  return tf.transpose(tf.reshape(x, [rows, tokens / rows, heads, dim]), [0, 2, 1, 3]);
}

/** [B, heads, T, D] -> [B*T, heads*D]. */
export function joinRows(x: Tensor): Tensor {
  const [rows, heads, length, dim] = x.shape as [number, number, number, number];
  return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [rows * length, heads * dim]);
}

/** Attention of the prompts to themselves. q [P, heads, Tp, D], bias [P, 1, 1, Tp, Tp] -> [P, heads, Tp, D]. */
export function attendPrompt(
  config: ModelConfig,
  q: Tensor,
  { keys, values }: KeyValues,
  bias: Tensor,
): Tensor {
  const [rows, heads, length, dim] = q.shape as [number, number, number, number];
  const kv = config.numKeyValueHeads;
  const rep = heads / kv;
  const scaled = tf.mul(tf.reshape(q, [rows, kv, rep * length, dim]), dim ** -0.5);
  const scores = tf.reshape(matMul(scaled, keys, true), [rows, kv, rep, length, length]);
  const weights = tf.reshape(tf.softmax(tf.add(scores, bias)), [rows, kv, rep * length, length]);
  return tf.reshape(matMul(weights, values), [rows, heads, length, dim]);
}

/**
 * Swaps the order of two outer dimensions of what is laid out [outer, inner, kv, n, width]: from rows of completions
 * [P*G, kv, n, width] to rows of prompts [P, kv, G*n, width] and back.
 */
function regroup(x: Tensor, outer: readonly [number, number, number], n: number, shape: number[]): Tensor {
  if (x.shape.join() === shape.join()) return x;
  return tf.reshape(tf.transpose(tf.reshape(x, [...outer, n, shape[3]]), [0, 2, 1, 3, 4]), shape);
}

/**
 * Attention of completions to their prompt and to themselves.
 * q [P*G, heads, Tq, D]; prompt [P, kv, Tp, D]; own [P*G, kv, Tk, D];
 * promptBias [P, 1, 1, 1, 1, Tp]; ownBias broadcasts to [P*G, kv, rep, Tq, Tk] -> [P*G, heads, Tq, D].
 */
export function attendCompletion(
  config: ModelConfig,
  q: Tensor,
  prompt: KeyValues,
  own: KeyValues,
  promptBias: Tensor,
  ownBias: Tensor,
): Tensor {
  const [rows, heads, tq, dim] = q.shape as [number, number, number, number];
  const [prompts, kv, tp] = prompt.keys.shape as [number, number, number];
  const tk = own.keys.shape[2] as number;
  const [group, rep] = [rows / prompts, heads / config.numKeyValueHeads];
  const n = rep * tq; // queries of one key-value head in one row
  const byPrompt = (x: Tensor, width: number): Tensor =>
    regroup(x, [prompts, group, kv], n, [prompts, kv, group * n, width]);
  const byRow = (x: Tensor, width: number): Tensor =>
    regroup(x, [prompts, kv, group], n, [rows, kv, n, width]);
  const scaled = tf.mul(tf.reshape(q, [rows, kv, n, dim]), dim ** -0.5);
  const onKeys = byRow(matMul(byPrompt(scaled, dim), prompt.keys, true), tp);
  const toPrompt = tf.add(tf.reshape(onKeys, [prompts, group, kv, rep, tq, tp]), promptBias);
  const toOwn = tf.add(tf.reshape(matMul(scaled, own.keys, true), [rows, kv, rep, tq, tk]), ownBias);
  const scores = tf.concat(
    [tf.reshape(toPrompt, [rows, kv, n, tp]), tf.reshape(toOwn, [rows, kv, n, tk])],
    -1,
  );
  const [onPrompt, onOwn] = tf.split(tf.softmax(scores), [tp, tk], -1);
  const fromPrompt = byRow(matMul(byPrompt(onPrompt, tp), prompt.values), dim);
  return tf.reshape(tf.add(fromPrompt, matMul(onOwn, own.values)), [rows, heads, tq, dim]);
}
