/**
 * Qwen3 with an adapter, written once more for one sequence, from tfjs's own ops: products with frozen matrices are
 * y = R(x) R(W) and dx = R(dy) R(W)^T with R of rounding.ts, and nothing else is rounded.
 */
import type { ModelConfig } from '../src/model/config';
import { rounded } from './rounding';
import type { Tensor } from '../src/runtime/tf';
import { tf } from '../src/runtime/tf';

type Tensor2D = ReturnType<typeof tf.tensor2d>;
type Save = (tensors: Tensor[]) => void;

/** A base model, and how its products with frozen matrices are computed. */
export interface ReferenceModel {
  config: ModelConfig;
  /** A weight under its Hugging Face name, row-major, as it is in memory: rounded or quantised, and read back. */
  weight: (name: string, shape: readonly number[]) => Float32Array;
  /** Times what B A x is added. */
  scale: number;
}

/** Factors of an adapter by their names, `lora_A` [inputs, rank] and `lora_B` [rank, outputs]. */
export type Factors = ReadonlyMap<string, Tensor>;

const matMul = (a: Tensor, b: Tensor, transposeB = false): Tensor =>
  tf.matMul(a as Tensor2D, b as Tensor2D, false, transposeB);

/** R of every number; not differentiable. */
const r = (x: Tensor): Tensor => tf.tensor((x.dataSync() as Float32Array).map(rounded), x.shape);

/** x W^T of rows [outputs, inputs] that are frozen. */
function frozen(x: Tensor, rows: Tensor): Tensor {
  const op = tf.customGrad((...args) => {
    const [input, save] = args as unknown as [Tensor, Save];
    const w = r(rows);
    save([w]);
    return {
      value: matMul(r(input), w, true),
      gradFunc: (dy: Tensor, saved: Tensor[]) => matMul(r(dy), saved[0]),
    };
  });
  return op(x);
}

/** log softmax(h W^T)[target] of each row, for a frozen W [V, H]. */
function headLogProbs(h: Tensor, rows: Tensor, targets: readonly number[]): Tensor {
  const vocabulary = rows.shape[0] as number;
  const chosen = tf.oneHot(tf.tensor1d([...targets], 'int32'), vocabulary);
  const op = tf.customGrad((...args) => {
    const [input, save] = args as unknown as [Tensor, Save];
    const w = r(rows);
    const logits = matMul(r(input), w, true);
    // d log p(target) / d logits is the one-hot target - p.
    const direction = matMul(r(tf.sub(chosen, tf.softmax(logits))), w);
    save([direction]);
    return {
      value: tf.sum(tf.mul(tf.logSoftmax(logits), chosen), 1),
      gradFunc: (dy: Tensor, saved: Tensor[]) => tf.mul(tf.expandDims(dy, 1), saved[0]),
    };
  });
  return op(h);
}

/** x / sqrt(mean x^2 + eps) * weight, over the last axis. */
function norm(x: Tensor, weight: Tensor, eps: number): Tensor {
  const square = tf.mean(tf.square(x), -1, true);
  return tf.mul(tf.div(x, tf.sqrt(tf.add(square, eps))), weight);
}

/** Rotates [H, T, D] by the positions 0..T-1: halves of the last axis are the two coordinates. */
function rotate(x: Tensor, theta: number): Tensor {
  const [, length, size] = x.shape as [number, number, number];
  const angles = Array.from({ length }, (_, t) =>
    Array.from({ length: size }, (__, i) => t / theta ** ((2 * (i % (size / 2))) / size)),
  );
  const table = (f: (x: number) => number): Tensor => tf.tensor2d(angles.map((row) => row.map(f)));
  const [first, second] = tf.split(x, 2, -1);
  const turned = tf.concat([tf.neg(second), first], -1);
  return tf.add(tf.mul(x, table(Math.cos)), tf.mul(turned, table(Math.sin)));
}

/** One model's layers. */
class Reference {
  constructor(
    private readonly model: ReferenceModel,
    private readonly factors: Factors,
  ) {}

  tensor(name: string, ...shape: number[]): Tensor {
    return tf.tensor(this.model.weight(`${name}.weight`, shape), shape);
  }

  private project(x: Tensor, name: string, outputs: number): Tensor {
    const base = frozen(x, this.tensor(name, outputs, x.shape[1] as number));
    const [a, b] = ['lora_A', 'lora_B'].map((factor) => this.factors.get(`${name.slice(6)}.${factor}`));
    return a === undefined ? base : tf.add(base, tf.mul(matMul(matMul(x, a), b as Tensor), this.model.scale));
  }

  private norm(x: Tensor, name: string, size: number): Tensor {
    return norm(x, this.tensor(name, size), this.model.config.rmsNormEps);
  }

  private attention(x: Tensor, at: string): Tensor {
    const { numAttentionHeads, numKeyValueHeads, headDim, hiddenSize, ropeTheta } = this.model.config;
    const length = x.shape[0] as number;
    /** [H, T, D] */
    const heads = (name: string, count: number): Tensor =>
      tf.transpose(
        tf.reshape(this.project(x, `${at}.${name}_proj`, count * headDim), [length, count, headDim]),
        [1, 0, 2],
      );
    const placed = (name: string, count: number): Tensor =>
      rotate(this.norm(heads(name, count), `${at}.${name}_norm`, headDim), ropeTheta);
    const [keys, values] = [placed('k', numKeyValueHeads), heads('v', numKeyValueHeads)].map((all) =>
      tf.gather(
        all,
        Array.from({ length: numAttentionHeads }, (_, h) =>
          Math.floor((h * numKeyValueHeads) / numAttentionHeads),
        ),
      ),
    );
    const later = tf.tensor2d(
      Array.from({ length: length ** 2 }, (_, i) => (i % length > Math.floor(i / length) ? -1e9 : 0)),
      [length, length],
    );
    const scores = tf.div(matMul(placed('q', numAttentionHeads), keys, true), Math.sqrt(headDim));
    const mixed = matMul(tf.softmax(tf.add(scores, later)), values);
    const flat = tf.reshape(tf.transpose(mixed, [1, 0, 2]), [length, numAttentionHeads * headDim]);
    return this.project(flat, `${at}.o_proj`, hiddenSize);
  }

  private feedForward(x: Tensor, at: string): Tensor {
    const { intermediateSize, hiddenSize } = this.model.config;
    const [gate, up] = ['gate', 'up'].map((name) => this.project(x, `${at}.${name}_proj`, intermediateSize));
    return this.project(tf.mul(tf.mul(gate, tf.sigmoid(gate)), up), `${at}.down_proj`, hiddenSize);
  }

  /** Log-probabilities of tokens of the vocabulary, [N], after the last as many positions. */
  logProbs(ids: readonly number[], targets: readonly number[]): Tensor {
    const { vocabSize, hiddenSize, numHiddenLayers, tieWordEmbeddings: tied } = this.model.config;
    const table = this.tensor('model.embed_tokens', vocabSize, hiddenSize);
    let hidden: Tensor = tf.gather(table, [...ids]);
    for (let i = 0; i < numHiddenLayers; i++) {
      const at = `model.layers.${i}`;
      const x = this.norm(hidden, `${at}.input_layernorm`, hiddenSize);
      hidden = tf.add(hidden, this.attention(x, `${at}.self_attn`));
      const y = this.norm(hidden, `${at}.post_attention_layernorm`, hiddenSize);
      hidden = tf.add(hidden, this.feedForward(y, `${at}.mlp`));
    }
    const ends = tf.slice(hidden, [ids.length - targets.length, 0], [targets.length, hiddenSize]);
    const last = this.norm(ends, 'model.norm', hiddenSize);
    return headLogProbs(last, tied ? table : this.tensor('lm_head', vocabSize, hiddenSize), targets);
  }
}

/** Log-probabilities of a completion's tokens, [T], differentiable in the factors. The caller is in a `tidy`. */
export function referenceLogProbs(
  model: ReferenceModel,
  factors: Factors,
  promptIds: readonly number[],
  completionIds: readonly number[],
): Tensor {
  const ids = [...promptIds, ...completionIds].slice(0, -1);
  return new Reference(model, factors).logProbs(ids, completionIds);
}
