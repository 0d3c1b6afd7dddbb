/**
 * Parts of a training pass as single ops of the binding, each with its gradient (native/attention.cc, native/training.cc):
 * the same values as the graphs in ops.ts and qwen3.ts, to rounding, with fewer passes over memory and less kept for the
 * backward pass. They stand only where `takesOwnOps()` says so.
 */
import { ownOp } from '../runtime/compile';
import type { Tensor } from '../runtime/tf';
import { binding, floatAttribute, intAttribute, tf } from '../runtime/tf';
import type { OpAttribute } from '../runtime/tf';
import type { LoraFactors } from './lora';
import type { Matrix } from './matrix';
import { multiply, multiplyTransposed } from './matrix';

type Save = (tensors: Tensor[]) => void;

/** Whether a tensor is trained: the gradient of one that is not is given as zeros. */
const isTrained = (tensor: Tensor): boolean => tensor instanceof tf.Variable && tensor.trainable;

/** `rmsNorm` of [N, D]. */
export function fusedRmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  const [rows, size] = x.shape as [number, number];
  const op = tf.customGrad((...args) => {
    const [input, scale, save] = args as unknown as [Tensor, Tensor, Save];
    const attributes = [floatAttribute('eps', eps)];
    const [y, inverse] = ownOp('GrpolabRmsNorm', attributes, [input, scale], [[rows, size], [rows]]);
    save([input, scale, inverse]);
    return {
      value: y,
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const shapes = [[rows, size], [size]];
        const [dx, dweight] = ownOp('GrpolabRmsNormGrad', [], [...saved, dy], shapes);
        return [dx, isTrained(weight) ? dweight : tf.zeros([size])];
      },
    };
  });
  return op(x, weight);
}

/** silu of the first half of the columns times the second half: [N, 2 F] -> [N, F]. */
export function fusedGate(x: Tensor): Tensor {
  const [rows, columns] = x.shape as [number, number];
  const op = tf.customGrad((...args) => {
    const [input, save] = args as unknown as [Tensor, Save];
    save([input]);
    return {
      value: ownOp('GrpolabGate', [], [input], [[rows, columns / 2]])[0],
      gradFunc: (dy: Tensor, saved: Tensor[]) =>
        ownOp('GrpolabGateGrad', [], [...saved, dy], [[rows, columns]]),
    };
  });
  return op(x);
}

/**
 * Of p = softmax(logits [N, V] / temperature): log-probabilities of targets [N] and entropies, [2, N]; and onehot(target) - p
 * [N, V], in the logits' memory. Not differentiable.
 */
export function fusedSoftmax(
  logits: Tensor,
  targets: Tensor,
  temperature: number,
): { value: Tensor; errors: Tensor } {
  const shape = logits.shape as [number, number];
  const attributes = [floatAttribute('temperature', temperature)];
  const inputs = [logits, targets];
  const [value, errors] = ownOp('GrpolabSoftmax', attributes, inputs, [[2, shape[0]], shape]);
  return { value, errors };
}

/** An adapted part of a matrix: its factors and its first column. */
export interface AdaptedColumns {
  factors: LoraFactors;
  offset: number;
}

/** x W + scale x A B in each adapted range of columns; W is frozen. [N, I] -> [N, O] */
export function fusedLora(x: Tensor, w: Matrix, parts: readonly AdaptedColumns[], scale: number): Tensor {
  const [rows, inputs] = x.shape as [number, number];
  const outputs = w.shape[1] as number;
  const rank = parts.reduce((sum, { factors }) => sum + (factors.a.shape[1] as number), 0);
  const attributes: OpAttribute[] = [
    floatAttribute('scale', scale),
    { name: 'offsets', type: binding.TF_ATTR_INT, value: parts.map(({ offset }) => offset) },
    intAttribute('N', 2 * parts.length),
  ];
  const op = tf.customGrad((...args) => {
    const save = args[args.length - 1] as unknown as Save;
    const [input, ...factors] = args.slice(0, -1) as Tensor[];
    const base = multiply(input, w);
    const shapes = [
      [rows, outputs],
      [rows, rank],
    ];
    const [y, states] = ownOp('GrpolabLora', attributes, [base, input, ...factors], shapes);
    save([input, states, ...factors]);
    return {
      value: y,
      gradFunc: (dy: Tensor, [x1, states1, ...factors1]: Tensor[]) => {
        const [dstates, ...grads] = ownOp(
          'GrpolabLoraGrad',
          attributes,
          [x1, states1, dy, ...factors1],
          [[rows, rank], ...factors1.map((factor) => factor.shape)],
        );
        const through = multiplyTransposed(dy, w);
        const [dx] = ownOp('GrpolabLoraInput', attributes, [through, dstates, ...factors1], [[rows, inputs]]);
        return [dx, ...grads];
      },
    };
  });
  return op(x, ...parts.flatMap(({ factors }) => [factors.a as Tensor, factors.b as Tensor]));
}

/** What attention of prompts with their completions needs beside queries, keys and values; see `SharedPass` in qwen3.ts. */
export interface AttentionContext {
  qNorm: Tensor;
  kNorm: Tensor;
  eps: number;
  kvHeads: number;
  /** [N, 1, D / 2] */
  cos: Tensor;
  sin: Tensor;
  /** [P, Tp] ones after zeros. */
  mask: Tensor;
  /** Completions of a prompt. */
  group: number;
}

/** Queries, keys and values [N, (heads + 2 kvHeads) D] to what they attend to, [N, heads D]. */
export function fusedAttention(qkv: Tensor, context: AttentionContext): Tensor {
  const { qNorm, kNorm, kvHeads, cos, sin, mask } = context;
  const [tokens, columns] = qkv.shape as [number, number];
  const dim = qNorm.shape[0];
  const heads = columns / dim - 2 * kvHeads;
  const attributes = [
    floatAttribute('eps', context.eps),
    intAttribute('group', context.group),
    intAttribute('kv_heads', kvHeads),
  ];
  const op = tf.customGrad((...args) => {
    const [x, q, k, save] = args as unknown as [Tensor, Tensor, Tensor, Save];
    const inputs = [x, cos, sin, mask, q, k];
    const shapes = [
      [tokens, heads * dim],
      [tokens, heads],
    ];
    const [value, logSums] = ownOp('GrpolabAttention', attributes, inputs, shapes);
    save([...inputs, value, logSums]);
    return {
      value,
      gradFunc: (dy: Tensor, saved: Tensor[]) =>
        ownOp('GrpolabAttentionGrad', attributes, [...saved, dy], [[tokens, columns], [dim], [dim]]),
    };
  });
  return op(qkv, qNorm, kNorm);
}
