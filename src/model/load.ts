/** Moving weights between Hugging Face directories and the device, tensor by tensor. */
import { ConfigError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { checkTensors, expectedTensors } from './config';
import type { ModelConfig, WeightDtype } from './config';
import type { LoraAdapter, LoraModule } from './lora';
import { loraDelta, moduleName, moduleShape } from './lora';
import { toBfloat16 } from './half-precision';
import type { Matrix } from './matrix';
import { PanelMatrix, widened } from './matrix';
import { openModelWeights } from './model-weights';
import type { LayerWeights, QwenWeights } from './qwen3';
import type { TensorSource } from './safetensors-writer';

/** Gives a tensor's values in the file's layout ([out, in] for matrices), row-major. */
export type TensorReader = (name: string, shape: readonly number[]) => Float32Array;

/** Rows and row offset of each file tensor inside a fused matrix. */
interface Fused {
  names: string[];
  widths: number[];
}

function qkvParts(config: ModelConfig, layer: number): Fused {
  const [q, kv] = [config.numAttentionHeads * config.headDim, config.numKeyValueHeads * config.headDim];
  const at = `model.layers.${layer}.self_attn`;
  return { names: ['q', 'k', 'v'].map((x) => `${at}.${x}_proj.weight`), widths: [q, kv, kv] };
}

function gateUpParts(config: ModelConfig, layer: number): Fused {
  const at = `model.layers.${layer}.mlp`;
  const width = config.intermediateSize;
  return { names: [`${at}.gate_proj.weight`, `${at}.up_proj.weight`], widths: [width, width] };
}

/** How device tensors are made: `constant` for frozen weights, `variable` for trained ones. */
export type TensorKind = 'constant' | 'variable';

/** How weights are put on the device. */
export interface WeightOptions {
  kind?: TensorKind;
  /** `bfloat16`: matrices and embeddings in 16 bits, frozen; `nf4`: of those the projections in 4. Norms stay in float32 (default). */
  dtype?: WeightDtype;
  /** Gives a tensor's values in bfloat16, where that is cheaper than to round those in float32. */
  readBfloat16?: (name: string, shape: readonly number[]) => Uint16Array;
}

/**
 * Puts a model's weights on the device: matrices transposed to [in, out], q/k/v and gate/up fused.
 * A tied embedding is the output head as it is.
 *
 * @throws ConfigError  for trained weights in bfloat16
 */
export function buildWeights(
  config: ModelConfig,
  read: TensorReader,
  { kind = 'constant', dtype = 'float32', readBfloat16 }: WeightOptions = {},
): QwenWeights {
  if (dtype === 'bfloat16' && kind === 'variable')
    throw new ConfigError(
      'weights in bfloat16 are frozen: train an adapter (trainable: lora), or use float32',
    );
  const made: (Tensor | PanelMatrix)[] = [];
  const place = (make: () => Tensor): Tensor => {
    const tensor = tf.tidy(() => (kind === 'variable' ? tf.variable(make()) : make()));
    made.push(tensor);
    return tensor;
  };
  const half = readBfloat16 ?? ((name, shape) => Uint16Array.from(read(name, shape), toBfloat16));
  const keep = (matrix: PanelMatrix): PanelMatrix => {
    made.push(matrix);
    return matrix;
  };
  const halves = ({ names, widths }: Fused, inputs: number, parts: number): PanelMatrix =>
    keep(PanelMatrix.fromRows(names.map((name, i) => half(name, [widths[i], inputs])), inputs, parts)); // prettier-ignore
  const quantized = ({ names, widths }: Fused, inputs: number, parts: number): PanelMatrix =>
    keep(PanelMatrix.quantized(names.map((name, i) => read(name, [widths[i], inputs])), inputs, parts)); // prettier-ignore
  const vector = (name: string, length: number): Tensor => place(() => tf.tensor1d(read(name, [length])));
  const matrix = (fused: Fused, inputs: number, parts = 1): Matrix => {
    if (dtype !== 'float32') return (dtype === 'nf4' ? quantized : halves)(fused, inputs, parts);
    const { names, widths } = fused;
    return place(() => {
      const rows = names.map((name, i) => tf.tensor2d(read(name, [widths[i], inputs]), [widths[i], inputs]));
      return tf.transpose(rows.length === 1 ? rows[0] : tf.concat(rows, 0));
    });
  };
  const { hiddenSize, intermediateSize, headDim, vocabSize } = config;
  const layer = (index: number): LayerWeights => {
    const at = `model.layers.${index}`;
    return {
      inputNorm: vector(`${at}.input_layernorm.weight`, hiddenSize),
      qkv: matrix(qkvParts(config, index), hiddenSize),
      qNorm: vector(`${at}.self_attn.q_norm.weight`, headDim),
      kNorm: vector(`${at}.self_attn.k_norm.weight`, headDim),
      o: matrix(
        { names: [`${at}.self_attn.o_proj.weight`], widths: [hiddenSize] },
        config.numAttentionHeads * headDim,
      ),
      postNorm: vector(`${at}.post_attention_layernorm.weight`, hiddenSize),
      gateUp: matrix(gateUpParts(config, index), hiddenSize, 2),
      down: matrix({ names: [`${at}.mlp.down_proj.weight`], widths: [hiddenSize] }, intermediateSize),
    };
  };
  const rows = (name: string): Fused => ({ names: [name], widths: [vocabSize] });
  const outputMatrix = (): Matrix => {
    const lmHead = rows('lm_head.weight');
    return dtype === 'nf4' ? halves(lmHead, hiddenSize, 1) : matrix(lmHead, hiddenSize);
  };
  try {
    const table = rows('model.embed_tokens.weight');
    const embedding =
      dtype !== 'float32'
        ? halves(table, hiddenSize, 1)
        : place(() => tf.tensor2d(read(table.names[0], [vocabSize, hiddenSize]), [vocabSize, hiddenSize]));
    const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => layer(i));
    const finalNorm = vector('model.norm.weight', hiddenSize);
    const trainable = kind === 'variable';
    const head = config.tieWordEmbeddings
      ? { matrix: embedding, transposed: dtype === 'float32', trainable }
      : { matrix: outputMatrix(), transposed: false, trainable };
    return { embedding, layers, finalNorm, head };
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  }
}

/**
 * Reads a model directory's weights, after checking every name and shape against its configuration.
 * @throws CheckpointError  naming the file and the tensor
 */
export function loadWeights(
  dir: string,
  config: ModelConfig,
  options: Omit<WeightOptions, 'readBfloat16'> = {},
): QwenWeights {
  const files = openModelWeights(dir);
  try {
    checkTensors(
      config,
      [...files.tensors].map(([name, { shape }]) => ({ name, shape })),
      dir,
    );
    const readBfloat16 = (name: string): Uint16Array => files.readBfloat16(name);
    return buildWeights(config, (name) => files.read(name), { ...options, readBfloat16 });
  } finally {
    files.close();
  }
}

/**
 * Random weights as transformers initialises them: normal with standard deviation `scale`, norms 1; projections into the
 * residual stream scaled by 1/sqrt(2 layers) (GPT-2) when `residual` is set.
 */
export function randomWeights(
  config: ModelConfig,
  seed: number,
  {
    scale = 0.02,
    residual = false,
    ...options
  }: { scale?: number; residual?: boolean } & Omit<WeightOptions, 'readBfloat16'> = {},
): QwenWeights {
  const read: TensorReader = (name, shape) => {
    const size = shape.reduce((a, b) => a * b, 1);
    if (name.includes('norm')) return new Float32Array(size).fill(1);
    const random = new Random(seed, 'weights', name);
    const intoResidual = residual && /(o_proj|down_proj)\.weight$/.test(name);
    const deviation = intoResidual ? scale / Math.sqrt(2 * config.numHiddenLayers) : scale;
    return Float32Array.from({ length: size }, () => random.normal() * deviation);
  };
  return buildWeights(config, read, options);
}

/** Every weight's tensor, in a fixed order, without repeating a tied head. */
export function weightTensors({ embedding, layers, finalNorm, head }: QwenWeights): Tensor[] {
  const inLayers = layers.flatMap((w) => [
    ...[w.inputNorm, w.qkv, w.qNorm, w.kNorm, w.o, w.postNorm, w.gateUp, w.down],
  ]);
  const all = [embedding, ...inLayers, finalNorm, ...(head.matrix === embedding ? [] : [head.matrix])];
  return all.map((matrix) => (matrix instanceof PanelMatrix ? matrix.panels : matrix));
}

/** A fused matrix with an adapter merged in: W + (alpha / r) A B in every adapted projection. */
export function mergedMatrix(
  w: Matrix,
  layer: number,
  modules: readonly LoraModule[],
  adapter: LoraAdapter,
): Tensor {
  const widths = modules.map((module) => moduleShape(adapter.model, module)[1]);
  const deltas = modules.map((module, i) => {
    const factors = adapter.get(layer, module);
    return factors === undefined ? tf.zeros([w.shape[0], widths[i]]) : loraDelta(factors, adapter.scale);
  });
  return tf.add(widened(w), deltas.length === 1 ? deltas[0] : tf.concat(deltas, 1));
}

/** The matrices of a layer, with the projections that stand side by side in each. */
export const fusedModules: readonly (readonly ['qkv' | 'o' | 'gateUp' | 'down', readonly LoraModule[]])[] = [
  ['qkv', ['q_proj', 'k_proj', 'v_proj']],
  ['o', ['o_proj']],
  ['gateUp', ['gate_proj', 'up_proj']],
  ['down', ['down_proj']],
];

/** One projection as its file has it, [out, in], with the adapter merged in when there is one. */
function projection(
  config: ModelConfig,
  w: Matrix,
  layer: number,
  modules: readonly LoraModule[],
  index: number,
  adapter: LoraAdapter | null,
): Float32Array {
  const widths = modules.map((module) => moduleShape(config, module)[1]);
  const offset = widths.slice(0, index).reduce((a, b) => a + b, 0);
  const tensor = tf.tidy(() => {
    const part = tf.slice(widened(w), [0, offset], [w.shape[0], widths[index]]);
    const factors = adapter?.get(layer, modules[index]);
    return tf.transpose(factors === undefined ? part : tf.add(part, loraDelta(factors, adapter?.scale ?? 0)));
  });
  const values = tensor.dataSync() as Float32Array;
  tensor.dispose();
  return values;
}

/** The weights under their Hugging Face names, [out, in], read from the device one at a time; an adapter is merged in. */
export function fileTensors(
  config: ModelConfig,
  weights: QwenWeights,
  adapter: LoraAdapter | null = null,
): Map<string, TensorSource> {
  const data = new Map<string, () => Float32Array>();
  const whole = (name: string, tensor: Tensor): void =>
    void data.set(name, () => tensor.dataSync() as Float32Array);
  const transposed = (name: string, matrix: Matrix): void =>
    void data.set(name, () => {
      const rows = tf.tidy(() => tf.transpose(widened(matrix)));
      const values = rows.dataSync() as Float32Array;
      rows.dispose();
      return values;
    });
  const { embedding, head } = weights;
  if (embedding instanceof PanelMatrix) transposed('model.embed_tokens.weight', embedding);
  else whole('model.embed_tokens.weight', embedding);
  if (!config.tieWordEmbeddings) transposed('lm_head.weight', head.matrix);
  whole('model.norm.weight', weights.finalNorm);
  for (const [index, w] of weights.layers.entries()) {
    const at = `model.layers.${index}`;
    whole(`${at}.input_layernorm.weight`, w.inputNorm);
    whole(`${at}.self_attn.q_norm.weight`, w.qNorm);
    whole(`${at}.self_attn.k_norm.weight`, w.kNorm);
    whole(`${at}.post_attention_layernorm.weight`, w.postNorm);
    for (const [key, modules] of fusedModules)
      modules.forEach((module, i) =>
        data.set(`model.${moduleName(index, module)}.weight`, () =>
          projection(config, w[key], index, modules, i, adapter),
        ),
      );
  }
  return new Map(
    expectedTensors(config).map(({ name, shape }) => [
      name,
      { shape, data: data.get(name) as () => Float32Array },
    ]),
  );
}
