/**
 * LoRA (Hu et al. 2021, arXiv 2106.09685): y = x W + (alpha / r) (x A) B on the projections of every layer.
 * Here A is [in, r] and B is [r, out]: the transposes of the files' matrices (PEFT).
 */
import { ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { Tensor, Variable } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { ModelConfig } from './config';
import { LORA_TARGETS, loraScale } from './peft';
import type { Adapter, AdapterConfig } from './peft';

/** A projection of a layer that can carry an adapter. */
export type LoraModule = (typeof LORA_TARGETS)[number];

/** Input and output widths of a projection. */
export function moduleShape(config: ModelConfig, module: LoraModule): [number, number] {
  const { hiddenSize, intermediateSize, headDim } = config;
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  switch (module) {
    case 'q_proj':
      return [hiddenSize, queries];
    case 'k_proj':
    case 'v_proj':
      return [hiddenSize, keys];
    case 'o_proj':
      return [queries, hiddenSize];
    case 'gate_proj':
    case 'up_proj':
      return [hiddenSize, intermediateSize];
    case 'down_proj':
      return [intermediateSize, hiddenSize];
  }
}

/** The module's name in files and logs: `layers.3.self_attn.q_proj`. */
export function moduleName(layer: number, module: LoraModule): string {
  const block =
    module === 'gate_proj' || module === 'up_proj' || module === 'down_proj' ? 'mlp' : 'self_attn';
  return `layers.${layer}.${block}.${module}`;
}

/** The two factors of one adapted projection. */
export interface LoraFactors {
  /** [in, r] */
  a: Variable;
  /** [r, out] */
  b: Variable;
}

/** Row-major [rows, columns] -> [columns, rows]. */
function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) result[j * rows + i] = values[i * columns + j];
  return result;
}

/** An adapter's weights on the device. Owns its variables: `dispose` frees them. */
export class LoraAdapter {
  private readonly factors = new Map<string, LoraFactors>();
  readonly scale: number;

  /** @param matrices  PEFT's layout, A [r, in] and B [out, r] */
  constructor(
    readonly model: ModelConfig,
    readonly config: AdapterConfig,
    matrices: Adapter['matrices'],
    trainable = true,
  ) {
    this.scale = loraScale(config);
    const rank = config.r;
    const variable = (values: Float32Array, rows: number, columns: number): Variable =>
      tf.tidy(() => tf.variable(tf.tensor2d(transposed(values, rows, columns), [columns, rows]), trainable));
    for (let layer = 0; layer < model.numHiddenLayers; layer++) {
      for (const module of LORA_TARGETS) {
        const name = moduleName(layer, module);
        const matrix = matrices.get(name);
        if (matrix === undefined) continue;
        const [inputs, outputs] = moduleShape(model, module);
        if (matrix.a.length !== inputs * rank || matrix.b.length !== outputs * rank)
          throw new ShapeError(`${name}: factors of rank ${rank} do not fit [${inputs}, ${outputs}]`);
        this.factors.set(name, { a: variable(matrix.a, rank, inputs), b: variable(matrix.b, outputs, rank) });
      }
    }
  }

  /** A fresh adapter: A uniform in +-1/sqrt(in) (PEFT's Kaiming initialisation with a = sqrt 5), B zero. */
  static create(model: ModelConfig, config: AdapterConfig, seed: number): LoraAdapter {
    const matrices: Adapter['matrices'] = new Map();
    for (let layer = 0; layer < model.numHiddenLayers; layer++) {
      for (const module of LORA_TARGETS.filter((name) => config.target_modules.includes(name))) {
        const name = moduleName(layer, module);
        const [inputs, outputs] = moduleShape(model, module);
        const random = new Random(seed, 'lora', name);
        const bound = 1 / Math.sqrt(inputs);
        const a = Float32Array.from({ length: inputs * config.r }, () => (2 * random.uniform() - 1) * bound);
        matrices.set(name, { a, b: new Float32Array(outputs * config.r) });
      }
    }
    return new LoraAdapter(model, config, matrices);
  }

  get(layer: number, module: LoraModule): LoraFactors | undefined {
    return this.factors.get(moduleName(layer, module));
  }

  /** Every factor by name, `layers.0.self_attn.q_proj.lora_A`, in a fixed order. */
  named(): [string, Variable][] {
    return [...this.factors].flatMap(([name, { a, b }]) => [
      [`${name}.lora_A`, a] as [string, Variable],
      [`${name}.lora_B`, b] as [string, Variable],
    ]);
  }

  /** The adapter as PEFT's files hold it. */
  toPeft(): Adapter {
    const matrices: Adapter['matrices'] = new Map();
    for (const [name, { a, b }] of this.factors) {
      const [inputs, rank] = a.shape as [number, number];
      const outputs = b.shape[1] as number;
      matrices.set(name, {
        a: transposed(a.dataSync() as Float32Array, inputs, rank),
        b: transposed(b.dataSync() as Float32Array, rank, outputs),
      });
    }
    return { config: this.config, matrices };
  }

  /** Overwrites the weights with those of an adapter of the same shape. */
  assign({ config, matrices }: Adapter): void {
    const fits =
      matrices.size === this.factors.size && [...matrices.keys()].every((name) => this.factors.has(name));
    if (!fits || config.r !== this.config.r || loraScale(config) !== this.scale)
      throw new ShapeError(
        `an adapter of rank ${config.r} and scale ${loraScale(config)} on ${config.target_modules.join(', ')} cannot replace ` +
          `one of rank ${this.config.r} and scale ${this.scale} on ${this.config.target_modules.join(', ')}`,
      );
    const other = new LoraAdapter(this.model, config, matrices);
    const sources = new Map(other.named());
    for (const [name, variable] of this.named()) variable.assign(sources.get(name) as Variable as never);
    other.dispose();
  }

  /** Whether the model is as without it: a fresh adapter's B is zero. */
  get isNeutral(): boolean {
    return [...this.factors.values()].every(({ b }) => (b.dataSync() as Float32Array).every((x) => x === 0));
  }

  /** A frozen copy, e.g. the reference of a GRPO run. */
  clone(): LoraAdapter {
    return new LoraAdapter(this.model, this.config, this.toPeft().matrices, false);
  }

  dispose(): void {
    for (const { a, b } of this.factors.values()) tf.dispose([a, b]);
    this.factors.clear();
  }
}

/** (alpha / r) A B of one projection, [in, out]. */
export function loraDelta({ a, b }: LoraFactors, scale: number): Tensor {
  return tf.mul(tf.matMul(a as never, b as never), scale);
}
