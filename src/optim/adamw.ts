/**
 * AdamW as pure tensor functions over lists of tensors. What changes from step to step (learning rate, bias
 * corrections, clip coefficient) enters as scalars, so that a compiled step is traced once.
 */
import { ShapeError } from '../runtime/errors';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';

/** The settings of AdamW that stay the same in all steps. */
export interface AdamwOptions {
  /** Decay rates of the two moments. */
  betas: readonly [number, number];
  eps: number;
  /** Decoupled: parameters shrink by learningRate * weightDecay a step, whatever the gradient. */
  weightDecay: number;
}

/** The scalars of one step. */
export interface AdamwScalars {
  learningRate: Tensor;
  /** 1 - beta1^t and 1 - beta2^t for step t counted from 1 (`biasCorrections`). */
  correction1: Tensor;
  correction2: Tensor;
  /** Every gradient is multiplied by it (`clipCoefficient`, or 1). */
  clipCoefficient: Tensor;
}

/** New parameters and moments; a type, not an interface, so that it may leave a `tf.tidy`. */
export type AdamwResult = { params: Tensor[]; first: Tensor[]; second: Tensor[] };

/** 1 - beta^t of both moments. @param step  counted from 1 */
export function biasCorrections(step: number, betas: readonly [number, number]): [number, number] {
  return [1 - betas[0] ** step, 1 - betas[1] ** step];
}

/** sqrt of the sum of squares over all gradients. @returns scalar */
export function globalNorm(grads: readonly Tensor[]): Tensor {
  return tf.tidy(() => tf.sqrt(tf.addN(grads.map((grad) => tf.sum(tf.square(grad))))));
}

/**
 * The number that brings a gradient of this norm down to clipNorm: min(1, clipNorm / (norm + 1e-6)); 1 when clipNorm is 0.
 * Source: torch.nn.utils.clip_grad_norm_.
 */
export function clipCoefficient(norm: number, clipNorm: number): number {
  return clipNorm === 0 ? 1 : Math.min(1, clipNorm / (norm + 1e-6));
}

/**
 * One AdamW step. With g the clipped gradient:
 * m' = b1 m + (1 - b1) g; v' = b2 v + (1 - b2) g^2;
 * p' = p (1 - lr wd) - lr / (1 - b1^t) * m' / (sqrt(v') / sqrt(1 - b2^t) + eps).
 *
 * The lists have equal length: each parameter with its gradient and its two moments.
 *
 * @throws ShapeError  when the lists or the shapes in them do not match
 * Source: torch.optim.AdamW; Loshchilov and Hutter, arXiv 1711.05101.
 */
export function adamwUpdate(
  params: readonly Tensor[],
  grads: readonly Tensor[],
  first: readonly Tensor[],
  second: readonly Tensor[],
  scalars: AdamwScalars,
  { betas, eps, weightDecay }: AdamwOptions,
): AdamwResult {
  checkLists(params, { grads, first, second });
  const [beta1, beta2] = betas;
  return tf.tidy(() => {
    const keep = tf.sub(1, tf.mul(scalars.learningRate, weightDecay));
    const stepSize = tf.div(scalars.learningRate, scalars.correction1);
    const root2 = tf.sqrt(scalars.correction2);
    const result: AdamwResult = { params: [], first: [], second: [] };
    params.forEach((param, i) => {
      const grad = tf.mul(grads[i], scalars.clipCoefficient);
      const m = tf.add(tf.mul(first[i], beta1), tf.mul(grad, 1 - beta1));
      const v = tf.add(tf.mul(second[i], beta2), tf.mul(tf.square(grad), 1 - beta2));
      const denominator = tf.add(tf.div(tf.sqrt(v), root2), eps);
      result.params.push(tf.sub(tf.mul(param, keep), tf.mul(stepSize, tf.div(m, denominator))));
      result.first.push(m);
      result.second.push(v);
    });
    return result;
  });
}

function checkLists(params: readonly Tensor[], others: Record<string, readonly Tensor[]>): void {
  for (const [name, list] of Object.entries(others)) {
    if (list.length !== params.length)
      throw new ShapeError(`AdamW got ${params.length} parameters, but ${list.length} tensors in ${name}`);
    list.forEach((tensor, i) => {
      if (tensor.shape.join() !== params[i].shape.join())
        throw new ShapeError(
          `AdamW: ${name}[${i}] has shape [${tensor.shape.join()}]; its parameter has [${params[i].shape.join()}]`,
        );
    });
  }
}
