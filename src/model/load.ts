/** Moving weights between Hugging Face directories and the device, tensor by tensor. */
import { ConfigError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import {
  checkTensors,
  expectedTensors,
  MATMUL_PRECISIONS,
  matmulProblem,
  nf4Problem,
  WEIGHT_DTYPES,
} from './config';
import type { MatmulPrecision, ModelConfig, WeightDtype } from './config';
import type { LoraAdapter, LoraModule } from './lora';
import { loraDelta, moduleName, moduleShape } from './lora';
import { toBfloat16 } from './half-precision';
import type { Matrix } from './matrix';
import { PanelMatrix, uploaded, widened } from './matrix';
import type { ModelWeights } from './model-weights';
import { openModelWeights } from './model-weights';
import type { LayerWeights, QwenWeights } from './qwen3';
import { elementCount } from './safetensors-header';
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
  /**
   * `float32` (default); `bfloat16`: matrices and embeddings in 16 bits, frozen; `nf4`: of those the projections in 4. Norms stay
   * in float32.
   */
  dtype?: WeightDtype;
  /** Of products with matrices in 16 or 4 bits; default: float32. */
  matmulPrecision?: MatmulPrecision;
  /** Gives elements [begin, end) of a tensor in bfloat16, where that is cheaper than to round all of it. */
  readBfloat16?: (name: string, begin: number, end: number) => Uint16Array;
}

/** Puts tensors on the device, and knows which. */
class WeightPlacer {
  private readonly made: (Tensor | PanelMatrix)[] = [];

  constructor(
    private readonly read: TensorReader,
    private readonly options: WeightOptions,
  ) {}

  private keep<T extends Tensor | PanelMatrix>(made: T): T {
    this.made.push(made);
    return made;
  }

  private place(make: () => Tensor): Tensor {
    const tensor = tf.tidy(() => {
      const constant = uploaded(make);
      return this.options.kind === 'variable' ? tf.variable(constant) : constant;
    });
    return this.keep(tensor);
  }

  vector(name: string, length: number): Tensor {
    return this.place(() => tf.tensor1d(this.read(name, [length])));
  }

  /** Rows of a file as they are: [rows, inputs]. */
  table(name: string, rows: number, inputs: number): Tensor {
    return this.place(() => tf.tensor2d(this.read(name, [rows, inputs]), [rows, inputs]));
  }

  /** Matrices of a file side by side, [inputs, outputs], as the options say. */
  matrix(fused: Fused, inputs: number, parts = 1): Matrix {
    const { dtype = 'float32', matmulPrecision: precision } = this.options;
    const { names, widths } = fused;
    if (dtype === 'bfloat16') return this.bfloat16(fused, inputs, parts);
    if (dtype === 'nf4') {
      const sources = names.map((name, i) => ({
        ...{ rows: widths[i], read: () => this.read(name, [widths[i], inputs]) },
      }));
      return this.keep(PanelMatrix.quantized(sources, inputs, { parts, precision }));
    }
    return this.place(() => {
      const rows = names.map((name, i) =>
        tf.tensor2d(this.read(name, [widths[i], inputs]), [widths[i], inputs]),
      );
      return tf.transpose(rows.length === 1 ? rows[0] : tf.concat(rows, 0));
    });
  }

  bfloat16({ names, widths }: Fused, inputs: number, parts = 1): PanelMatrix {
    const sources = names.map((name, i) => ({
      rows: widths[i],
      read: this.rowReader(name, widths[i], inputs),
    }));
    const { matmulPrecision: precision } = this.options;
    return this.keep(PanelMatrix.bfloat16(sources, inputs, { parts, precision }));
  }

  private rowReader(name: string, rows: number, inputs: number): (begin: number, end: number) => Uint16Array {
    const { readBfloat16: part } = this.options;
    if (part !== undefined) return (begin, end) => part(name, begin * inputs, end * inputs);
    const all = Uint16Array.from(this.read(name, [rows, inputs]), toBfloat16);
    return (begin, end) => all.slice(begin * inputs, end * inputs);
  }

  dispose(): void {
    for (const tensor of this.made) tensor.dispose();
  }
}

function buildLayer(config: ModelConfig, placer: WeightPlacer, index: number): LayerWeights {
  const { hiddenSize, intermediateSize, headDim } = config;
  const at = `model.layers.${index}`;
  const one = (name: string): Fused => ({ names: [`${at}.${name}.weight`], widths: [hiddenSize] });
  return {
    inputNorm: placer.vector(`${at}.input_layernorm.weight`, hiddenSize),
    qkv: placer.matrix(qkvParts(config, index), hiddenSize),
    qNorm: placer.vector(`${at}.self_attn.q_norm.weight`, headDim),
    kNorm: placer.vector(`${at}.self_attn.k_norm.weight`, headDim),
    o: placer.matrix(one('self_attn.o_proj'), config.numAttentionHeads * headDim),
    postNorm: placer.vector(`${at}.post_attention_layernorm.weight`, hiddenSize),
    gateUp: placer.matrix(gateUpParts(config, index), hiddenSize, 2),
    down: placer.matrix(one('mlp.down_proj'), intermediateSize),
  };
}

/**
 * Puts a model's weights on the device: matrices transposed to [in, out], q/k/v and gate/up fused.
 * A tied embedding is the output head as it is.
 *
 * @throws ConfigError  for trained weights in fewer than 32 bits, sizes that these cannot have, and unknown types
 */
export function buildWeights(
  config: ModelConfig,
  read: TensorReader,
  options: WeightOptions = {},
): QwenWeights {
  const { kind = 'constant', dtype = 'float32', matmulPrecision = 'float32' } = options;
  const trainable = kind === 'variable';
  if (!WEIGHT_DTYPES.includes(dtype))
    throw new ConfigError(`dtype is "${String(dtype)}"; expected ${WEIGHT_DTYPES.join(', ')}`);
  if (!MATMUL_PRECISIONS.includes(matmulPrecision))
    throw new ConfigError(
      `matmul precision is "${String(matmulPrecision)}"; expected ${MATMUL_PRECISIONS.join(', ')}`,
    );
  if (dtype !== 'float32' && trainable)
    throw new ConfigError(
      `weights in ${dtype} are frozen: train an adapter (trainable: lora), or use float32`,
    );
  const problem = (dtype === 'nf4' ? nf4Problem(config) : null) ?? matmulProblem(dtype, matmulPrecision);
  if (problem !== null) throw new ConfigError(problem);
  const { hiddenSize, vocabSize, tieWordEmbeddings: tied } = config;
  const placer = new WeightPlacer(read, options);
  const words = (name: string): Fused => ({ names: [name], widths: [vocabSize] });
  const [input, output] = [words('model.embed_tokens.weight'), words('lm_head.weight')];
  try {
    // The largest come first: what reading them takes beside themselves is gone when the rest is there.
    const isFloat = dtype === 'float32';
    const embedding = isFloat
      ? placer.table(input.names[0], vocabSize, hiddenSize)
      : placer.bfloat16(input, hiddenSize);
    const untied = (): Matrix =>
      isFloat ? placer.matrix(output, hiddenSize) : placer.bfloat16(output, hiddenSize);
    const head = { matrix: tied ? embedding : untied(), transposed: tied && isFloat, trainable };
    const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => buildLayer(config, placer, i));
    return { embedding, layers, finalNorm: placer.vector('model.norm.weight', hiddenSize), head };
  } catch (error) {
    placer.dispose();
    throw error;
  }
}

/** Told of how much of a model's files has been read, in bytes. */
export type OnLoad = (loadedBytes: number, totalBytes: number) => void;

/** Reads tensors of files, and tells how far that is. */
function toldReaders(files: ModelWeights, onLoad: OnLoad = () => undefined) {
  const total = [...files.tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  let loaded = 0;
  /** Of a tensor so many elements have been read: all unless told. */
  const tell = (name: string, elements?: number): void => {
    const { byteLength = 0, shape = [] } = files.tensors.get(name) ?? {};
    loaded += elements === undefined ? byteLength : byteLength * (elements / elementCount(shape));
    onLoad(Math.round(loaded), total);
  };
  return {
    read: (name: string): Float32Array => {
      const values = files.read(name);
      tell(name);
      return values;
    },
    readBfloat16: (name: string, begin: number, end: number): Uint16Array => {
      const values = files.readBfloat16(name, begin, end);
      tell(name, end - begin);
      return values;
    },
  };
}

/**
 * Reads a model directory's weights, after checking every name and shape against its configuration.
 * @throws CheckpointError  naming the file and the tensor
 */
export function loadWeights(
  dir: string,
  config: ModelConfig,
  { onLoad, ...options }: Omit<WeightOptions, 'readBfloat16'> & { onLoad?: OnLoad } = {},
): QwenWeights {
  const files = openModelWeights(dir);
  try {
    checkTensors(
      config,
      [...files.tensors].map(([name, { shape }]) => ({ name, shape })),
      dir,
    );
    const { read, readBfloat16 } = toldReaders(files, onLoad);
    return buildWeights(config, read, { ...options, readBfloat16 });
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
