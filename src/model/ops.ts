/**
 * Tensor operations of the model that tfjs does not have, has without a gradient, or has in a form that reads values on
 * the host. All are traceable (runtime/compile.ts): static shapes, no value reads.
 */
import { availableParallelism } from 'node:os';
import { takesOwnOps } from '../runtime/compile';
import { fusedGate, fusedRmsNorm, fusedSoftmax } from './fused';
import type { Matrix } from './matrix';
import { gatherOp, matMul, multiply, multiplyTransposed } from './matrix';
import { MAX_LOGITS } from './memory';
import type { Tensor, TensorInfo } from '../runtime/tf';
import { backend, binding, tf, typeAttribute } from '../runtime/tf';

/**
 * The `save` function that tf.customGrad appends to its arguments. What a gradient needs must go through it: other
 * tensors of the forward pass are gone by then.
 */
function saveOf(args: readonly unknown[]): (tensors: Tensor[]) => void {
  return args[args.length - 1] as (tensors: Tensor[]) => void;
}

/**
 * The same values, but not before `after` is there: each tensor times a one that is computed from `after`. TensorFlow
 * merges equal nodes of a graph, so what shall be computed twice, to save memory between, must look different the second
 * time; a comparison of values is what its optimiser cannot see through. (A NaN in `after` gives zeros; the gradients
 * that go with it are NaN already.)
 *
 * @param after  float32, any shape
 */
function delayed(tensors: readonly Tensor[], after: Tensor): Tensor[] {
  const first = tf.slice(tf.reshape(after, [after.size]), [0], [1]);
  const isNumber = tf.greaterEqual(tf.abs(first), 0);
  return tensors.map((tensor) => {
    const one = tf.reshape(tf.cast(isNumber, tensor.dtype), new Array<number>(tensor.rank).fill(1));
    return tf.mul(tensor, one);
  });
}

/** d f / d inputs, times dy, inside the backward pass of another gradient: tfjs has one tape, which this puts aside. */
function innerGradients(f: () => Tensor, inputs: Tensor[], dy: Tensor): Tensor[] {
  const { state } = tf.engine();
  const outer = state.activeTape;
  try {
    return tf.grads(f)(inputs, dy);
  } finally {
    state.activeTape = outer;
  }
}

/**
 * f(x), of which only x is kept for the backward pass: it computes f again (Chen et al. 2016, arXiv 1604.06174).
 *
 * @param f          uses no tensors of the forward pass but its arguments
 * @param constants  handed to f; not differentiated
 * @param variables  what f uses beside its arguments and needs gradients
 */
export function recomputed(
  f: (x: Tensor, constants: Tensor[]) => Tensor,
  x: Tensor,
  constants: Tensor[],
  variables: Tensor[],
): Tensor {
  const op = tf.customGrad((...args) => {
    saveOf(args)([x, ...constants]);
    return {
      value: f(x, constants),
      gradFunc: (dy: Tensor, saved: Tensor[]) =>
        tf.tidy(() => {
          const [again, ...rest] = delayed(saved, dy);
          return innerGradients(() => f(again, rest), [again, ...variables], dy);
        }),
    };
  });
  return op(x, ...variables);
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
  if (takesOwnOps() && x.rank === 2) return fusedRmsNorm(x, weight, eps);
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

/** The gated unit of the feed-forward part: silu(g) u for g and u side by side, silu(g) = g sigmoid(g); [N, 2 F] -> [N, F]. */
export function gate(x: Tensor): Tensor {
  if (takesOwnOps()) return fusedGate(x);
  const [g, u] = tf.split(x, 2, 1);
  return tf.mul(tf.mul(g, tf.sigmoid(g)), u);
}

/** The output matrix: `[H, V]`, or the tied embedding `[V, H]` (a tensor) with `transposed`. */
export interface OutputHead {
  matrix: Matrix;
  transposed: boolean;
  /** True when the matrix itself is trained. */
  trainable: boolean;
}

/** Logits h W of states: [n, H] -> [n, V]. */
export const toVocabulary = (h: Tensor, { matrix, transposed }: OutputHead): Tensor =>
  transposed ? matMul(h, matrix as Tensor, true) : multiply(h, matrix);

/** W e: [n, V] -> [n, H]. */
const fromVocabulary = (e: Tensor, { matrix, transposed }: OutputHead): Tensor =>
  transposed ? matMul(e, matrix as Tensor) : multiplyTransposed(e, matrix);

/** x [n, V] with 1 added at each row's target. */
function addOneHot(x: Tensor, targets: Tensor): Tensor {
  const count = targets.shape[0] as number;
  const attributes = [typeAttribute('T', binding.TF_FLOAT), typeAttribute('Tindices', binding.TF_INT32)];
  const places = tf.stack([tf.range(0, count, 1, 'int32'), targets], 1);
  return backend.executeSingleOutput('TensorScatterAdd', attributes, [x, places, tf.ones([count])]);
}

/** log softmax's parts of one chunk: log-probability of the target and entropy [2, n], onehot(target) - probabilities [n, V]. */
function headForward(h: Tensor, targets: Tensor, head: OutputHead, temperature: number) {
  if (takesOwnOps()) return fusedSoftmax(toVocabulary(h, head), targets, temperature);
  const logits = tf.div(toVocabulary(h, head), temperature);
  const max = tf.max(logits, -1, true);
  const shifted = tf.sub(logits, max);
  const exponentials = tf.exp(shifted);
  const sum = tf.sum(exponentials, -1, true);
  const probabilities = tf.div(exponentials, sum);
  const logSum = tf.log(sum);
  const entropy = tf.sub(tf.squeeze(logSum, [1]), tf.sum(tf.mul(probabilities, shifted), -1));
  const logProbs = tf.sub(pickPerRow(shifted, targets), tf.squeeze(logSum, [1]));
  return { value: tf.stack([logProbs, entropy]), errors: addOneHot(tf.neg(probabilities), targets) };
}

/** d / d W = h^T (onehot - p) * scale, in the matrix's own layout; scale [n, 1] is the incoming gradient / T. */
function headMatrixGradient(scale: Tensor, h: Tensor, errors: Tensor, { transposed }: OutputHead): Tensor {
  const dz = tf.mul(errors, scale);
  return transposed ? tf.matMul(dz as never, h as never, true) : tf.matMul(h as never, dz as never, true);
}

/**
 * Tokens of each chunk of the head. Above `limit` logits it runs in chunks; TensorFlow may run as many at once as it has
 * threads, so together they keep to the limit.
 */
function chunkSizes(tokens: number, vocabulary: number, limit: number): number[] {
  if (tokens * vocabulary <= limit) return [tokens];
  const size = Math.max(1, Math.floor(limit / availableParallelism() / vocabulary));
  return Array.from({ length: Math.ceil(tokens / size) }, (_, i) => Math.min(size, tokens - i * size));
}

/**
 * Log-probabilities of given tokens, and entropies, of softmax(h W / temperature), without keeping the logits of a large
 * batch: tokens go through the head in chunks, and what the gradient in `h` needs, [N, H], is computed at once (where no
 * gradient is taken, TensorFlow drops it). Only a trained matrix needs the errors again: of a single chunk they
 * are kept, of several computed once more.
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
  const sizes = chunkSizes(tokens, head.matrix.shape[head.transposed ? 0 : 1] as number, limit);
  const chunks = (x: Tensor): Tensor[] => tf.split(x, sizes, 0);
  const op = tf.customGrad((...args) => {
    const ids = chunks(targets);
    const forward = chunks(args[0] as Tensor).map((h0, i) =>
      tf.tidy(() => {
        const { value, errors } = headForward(h0, ids[i], head, temperature);
        // T d log p(target) / d h = W (onehot - p). As one product: where p(target) is near 1, rounding would leave nothing of
        // the difference of two.
        const direction = fromVocabulary(errors, head);
        return head.trainable && sizes.length === 1 ? { value, direction, errors } : { value, direction };
      }),
    );
    const concat = (key: 'value' | 'direction', axis: number): Tensor =>
      tf.concat(
        forward.map((part) => part[key]),
        axis,
      );
    const needed = [concat('direction', 0)];
    if (head.trainable) needed.push(args[0] as Tensor, targets);
    if (forward[0].errors !== undefined) needed.push(forward[0].errors);
    saveOf(args)(needed);
    return {
      value: concat('value', 1),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const scale = tf.div(tf.reshape(tf.slice(dy, [0, 0], [1, tokens]), [tokens, 1]), temperature);
        const dh = tf.mul(saved[0], scale);
        return head.trainable ? [dh, matrixGradient(scale, saved)] : [dh];
      },
    };
  });
  const matrixGradient = (scale: Tensor, [, h1, targets1, kept]: Tensor[]): Tensor => {
    const [again] = kept === undefined ? delayed([h1], scale) : [h1];
    const [scales, ids] = [chunks(scale), chunks(targets1)];
    const parts = chunks(again).map((h0, i) =>
      tf.tidy(() => {
        const errors = kept ?? headForward(h0, ids[i], head, temperature).errors;
        return headMatrixGradient(scales[i], h0, errors, head);
      }),
    );
    return tf.addN(parts);
  };
  const [logProbs, entropies] = tf.unstack(op(...(head.trainable ? [h, head.matrix as Tensor] : [h])));
  return { logProbs, entropies };
}
