/**
 * Tensor operations of the model that tfjs does not have, has without a gradient, or has in a form that reads values on
 * the host. All are traceable (runtime/compile.ts): static shapes, no value reads.
 */
import { availableParallelism } from 'node:os';
import { MAX_LOGITS } from './memory';
import type { Tensor, TensorInfo } from '../runtime/tf';
import { backend, binding, boolAttribute, intAttribute, tf, typeAttribute } from '../runtime/tf';

/**
 * The `save` function that tf.customGrad appends to its arguments. What a gradient needs must go through it: other
 * tensors of the forward pass are gone by then.
 */
function saveOf(args: readonly unknown[]): (tensors: Tensor[]) => void {
  return args[args.length - 1] as (tensors: Tensor[]) => void;
}

/** TensorFlow's GatherV2; tfjs's own gather checks its indices on the host at every call. */
function gatherOp(table: Tensor, indices: Tensor, axis: number, batchDims = 0): Tensor {
  const attributes = [
    intAttribute('batch_dims', batchDims),
    typeAttribute('Tparams', binding.TF_FLOAT),
    typeAttribute('Tindices', binding.TF_INT32),
    typeAttribute('Taxis', binding.TF_INT32),
  ];
  return backend.executeSingleOutput('GatherV2', attributes, [table, indices, tf.scalar(axis, 'int32')]);
}

/**
 * Rows of a table: out[n] = table[ids[n]].
 *
 * @param table  [V, D]
 * @param ids    [N] int32, each in 0..V-1
 * @returns      [N, D]; differentiable in `table` (rows that appear several times sum their gradients)
 */
export function gatherRows(table: Tensor, ids: Tensor): Tensor {
  const rows = table.shape[0];
  const types = [
    typeAttribute('T', binding.TF_FLOAT),
    typeAttribute('Tindices', binding.TF_INT32),
    typeAttribute('Tnumsegments', binding.TF_INT32),
  ];
  const gather = tf.customGrad((...args) => {
    saveOf(args)([ids]);
    return {
      value: gatherOp(args[0] as Tensor, ids, 0),
      gradFunc: (dy: Tensor, [savedIds]: Tensor[]) =>
        backend.executeSingleOutput('UnsortedSegmentSum', types, [dy, savedIds, tf.scalar(rows, 'int32')]),
    };
  });
  return gather(table);
}

/** Columns of a matrix: out[n] = matrix[:, ids[n]], [H, V] -> [N, H]. Not differentiable. */
function gatherColumns(matrix: Tensor, ids: Tensor): Tensor {
  return tf.transpose(gatherOp(matrix, ids, 1));
}

/** One value of each row: out[n] = x[n, ids[n]], [N, V] -> [N]. Not differentiable. */
export function pickPerRow(x: Tensor, ids: Tensor): Tensor {
  return tf.reshape(gatherOp(x, tf.expandDims(ids, 1), 1, 1), [x.shape[0]]);
}

/**
 * Writes rows of a cache in place: cache[indices[i]] = values[i]. The result shares the cache's memory.
 *
 * @param cache    [R, D]
 * @param indices  [N] int32
 * @param values   [N, D]
 */
export function writeRows(cache: Tensor, indices: Tensor, values: Tensor): Tensor {
  const inputs: TensorInfo[] = [cache, indices, values];
  return backend.executeSingleOutput('InplaceUpdate', [typeAttribute('T', binding.TF_FLOAT)], inputs);
}

/** As `writeRows`, into a copy: XLA has no in-place update. */
export function writeRowsCopy(cache: Tensor, indices: Tensor, values: Tensor): Tensor {
  const attributes = [typeAttribute('T', binding.TF_FLOAT), typeAttribute('Tindices', binding.TF_INT32)];
  return backend.executeSingleOutput('TensorScatterUpdate', attributes, [
    cache,
    tf.expandDims(indices, 1),
    values,
  ]);
}

/**
 * RMSNorm over the last dimension: y = x / r * weight with r = sqrt(mean(x^2) + eps). Its gradient, with n = x / r and
 * g = dy * weight: dx = (g - n mean(g n)) / r, dweight = sum dy n. Source: Zhang and Sennrich 2019, eq. 4.
 *
 * @param x       [..., D]
 * @param weight  [D]
 */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  const op = tf.customGrad((...args) => {
    const [input, scale] = args as unknown as [Tensor, Tensor];
    const root = tf.sqrt(tf.add(tf.mean(tf.square(input), -1, true), eps));
    const normed = tf.div(input, root);
    saveOf(args)([normed, root, scale]);
    return {
      value: tf.mul(normed, scale),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [n, r, w] = saved;
        const g = tf.mul(dy, w);
        const dx = tf.div(tf.sub(g, tf.mul(n, tf.mean(tf.mul(g, n), -1, true))), r);
        const leading = dy.shape.slice(0, -1).map((_, axis) => axis);
        return [dx, tf.sum(tf.mul(dy, n), leading)];
      },
    };
  });
  return op(x, weight);
}

/**
 * Cosines and sines of the rotary embedding: angle = position * theta^(-2i/D).
 *
 * @param positions  [N] float32
 * @returns          two [N, 1, D/2]
 */
export function rotaryTable(positions: Tensor, headDim: number, theta: number): { cos: Tensor; sin: Tensor } {
  const half = headDim / 2;
  const frequencies = Float32Array.from({ length: half }, (_, i) =>
    Math.fround(1 / theta ** ((2 * i) / headDim)),
  );
  const angles = tf.mul(tf.reshape(positions, [-1, 1, 1]), tf.tensor1d(frequencies));
  return { cos: tf.cos(angles), sin: tf.sin(angles) };
}

/** Rotary position embedding, halves rotated as in Qwen and Llama: [N, heads, D] -> [N, heads, D]. */
export function rotate(x: Tensor, { cos, sin }: { cos: Tensor; sin: Tensor }): Tensor {
  const [a, b] = tf.split(x, 2, -1);
  return tf.concat([tf.sub(tf.mul(a, cos), tf.mul(b, sin)), tf.add(tf.mul(b, cos), tf.mul(a, sin))], -1);
}

/** x * sigmoid(x). */
export function silu(x: Tensor): Tensor {
  return tf.mul(x, tf.sigmoid(x));
}

/** x @ w with `transposed` for w given as [out, in]. */
function project(x: Tensor, head: Tensor, transposed: boolean): Tensor {
  const matMul = [boolAttribute('transpose_a', false), boolAttribute('transpose_b', transposed)];
  return backend.executeSingleOutput('MatMul', [typeAttribute('T', binding.TF_FLOAT), ...matMul], [x, head]);
}

/** The output matrix: `[H, V]`, or the tied embedding `[V, H]` with `transposed`. */
export interface OutputHead {
  matrix: Tensor;
  transposed: boolean;
  /** True when the matrix itself is trained. */
  trainable: boolean;
}

/** log softmax's parts of one chunk: log-probability of the target, entropy, probabilities. */
function headForward(h: Tensor, targets: Tensor, head: OutputHead, temperature: number) {
  const logits = tf.div(project(h, head.matrix, head.transposed), temperature);
  const max = tf.max(logits, -1, true);
  const shifted = tf.sub(logits, max);
  const exponentials = tf.exp(shifted);
  const sum = tf.sum(exponentials, -1, true);
  const probabilities = tf.div(exponentials, sum);
  const logSum = tf.log(sum);
  const entropy = tf.sub(tf.squeeze(logSum, [1]), tf.sum(tf.mul(probabilities, shifted), -1));
  const logProbs = tf.sub(pickPerRow(shifted, targets), tf.squeeze(logSum, [1]));
  return { value: tf.stack([logProbs, entropy]), probabilities };
}

/**
 * d log p(target) / d h = (W[:, target] - W p) / T, so no [N, V] one-hot is formed; with a trained matrix
 * d / d W = h^T (onehot - p) / T is needed too.
 */
function headBackward(
  dy: Tensor,
  h: Tensor,
  probabilities: Tensor,
  targets: Tensor,
  head: OutputHead,
  temperature: number,
): { dh: Tensor; dw: Tensor | null } {
  const scale = tf.div(tf.expandDims(dy, 1), temperature);
  const targetRows = head.transposed
    ? gatherOp(head.matrix, targets, 0)
    : gatherColumns(head.matrix, targets);
  const expected = project(probabilities, head.matrix, !head.transposed);
  const dh = tf.mul(tf.sub(targetRows, expected), scale);
  if (!head.trainable) return { dh, dw: null };
  const vocabulary = head.transposed ? head.matrix.shape[0] : head.matrix.shape[1];
  const dz = tf.mul(tf.sub(tf.oneHot(targets as never, vocabulary as number), probabilities), scale);
  const dw = head.transposed
    ? tf.matMul(dz as never, h as never, true)
    : tf.matMul(h as never, dz as never, true);
  return { dh, dw };
}

/**
 * Tokens of each chunk of the head. Above `limit` logits it runs in chunks and recomputes its logits in the backward pass;
 * TensorFlow may run as many chunks at once as it has threads, so together they keep to the limit.
 */
function chunkSizes(tokens: number, vocabulary: number, limit: number): number[] {
  if (tokens * vocabulary <= limit) return [tokens];
  const size = Math.max(1, Math.floor(limit / availableParallelism() / vocabulary));
  return Array.from({ length: Math.ceil(tokens / size) }, (_, i) => Math.min(size, tokens - i * size));
}

/**
 * Log-probabilities of given tokens, and entropies, of softmax(h W / temperature), without keeping the logits of a large
 * batch: tokens go through the head in chunks.
 *
 * @param h        [N, H]
 * @param targets  [N] int32
 * @param limit    logits that are held at once, about
 * @returns        logProbs [N] (differentiable in `h`, and in the head's matrix when it is trained), entropies [N] (not)
 */
export function tokenLogProbs(
  h: Tensor,
  targets: Tensor,
  head: OutputHead,
  temperature: number,
  limit = MAX_LOGITS,
): { logProbs: Tensor; entropies: Tensor } {
  const tokens = h.shape[0];
  const vocabulary = head.transposed ? head.matrix.shape[0] : (head.matrix.shape[1] as number);
  const sizes = chunkSizes(tokens, vocabulary, limit);
  const recompute = sizes.length > 1;
  const inputs = head.trainable ? [h, head.matrix] : [h];
  const op = tf.customGrad((...args) => {
    const hidden = args[0] as Tensor;
    const targetParts = tf.split(targets, sizes, 0);
    const forward = tf
      .split(hidden, sizes, 0)
      .map((h0, i) => headForward(h0, targetParts[i], head, temperature));
    saveOf(args)(recompute ? [hidden, targets] : [hidden, targets, forward[0].probabilities]);
    return {
      value: tf.concat(
        forward.map((f) => f.value),
        1,
      ),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const dys = tf.split(tf.squeeze(tf.slice(dy, [0, 0], [1, tokens]), [0]), sizes, 0);
        const ids = tf.split(saved[1], sizes, 0);
        const back = tf.split(saved[0], sizes, 0).map((h0, i) => {
          const p = recompute ? headForward(h0, ids[i], head, temperature).probabilities : saved[2];
          return headBackward(dys[i], h0, p, ids[i], head, temperature);
        });
        const dh = tf.concat(
          back.map((b) => b.dh),
          0,
        );
        return head.trainable ? [dh, tf.addN(back.map((b) => b.dw as Tensor))] : [dh];
      },
    };
  });
  const both = op(...inputs);
  const [logProbs, entropies] = tf.unstack(both);
  return { logProbs, entropies };
}
