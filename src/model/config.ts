import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { CheckpointError } from '../runtime/errors';
import { readJsonFile } from '../runtime/files';
import { elementCount, shownJson } from './safetensors-header';

/** How a model's base weights can be kept in memory; `nf4`: projections in 4 bits, the rest in bfloat16. */
export const WEIGHT_DTYPES = ['float32', 'bfloat16', 'nf4'] as const;
/** The type that base weights have in memory. */
export type WeightDtype = (typeof WEIGHT_DTYPES)[number];

/**
 * How products with the base weights are computed; `bfloat16`: of activations (and gradients) that are rounded to bfloat16,
 * summed in float32. (torch in bfloat16 rounds the results as well.)
 */
export const MATMUL_PRECISIONS = ['float32', 'bfloat16'] as const;
/** The precision of products with the base weights. */
export type MatmulPrecision = (typeof MATMUL_PRECISIONS)[number];

/** The reason why base weights of a dtype are not multiplied in a precision; null where they are. */
export function matmulProblem(dtype: WeightDtype, precision: MatmulPrecision): string | null {
  return precision === 'bfloat16' && dtype === 'float32'
    ? 'matmul_precision bfloat16 needs weights in bfloat16 or nf4: set dtype (--dtype) to bfloat16'
    : null;
}

/** The reason why a model's projections cannot be kept in NF4; null where they can. Its blocks of 64 run along the inputs. */
export function nf4Problem({
  hiddenSize,
  intermediateSize,
  numAttentionHeads,
  headDim,
}: ModelConfig): string | null {
  const inputs = [hiddenSize, numAttentionHeads * headDim, intermediateSize];
  const bad = inputs.find((size) => size % 64 !== 0 || size > 16_384);
  return bad === undefined
    ? null
    : `nf4 needs projections whose inputs are a multiple of 64 and at most 16384, this model has one of ${bad}: use bfloat16`;
}

/** Shape and constants of a Qwen3 model, from `config.json` and `generation_config.json`. */
export interface ModelConfig {
  modelType: 'qwen3';
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numHiddenLayers: number;
  numAttentionHeads: number;
  numKeyValueHeads: number;
  /** Size of one head; heads x headDim need not equal the hidden size. */
  headDim: number;
  rmsNormEps: number;
  ropeTheta: number;
  maxPositionEmbeddings: number;
  /** The output projection is the embedding matrix. */
  tieWordEmbeddings: boolean;
  /** Type that the weights are said to be stored in; each tensor's own type counts. */
  dtype: string | null;
  /** Tokens that end a completion, as generation uses them. */
  eosTokenIds: number[];
  padTokenId: number | null;
}

/** A tensor that a checkpoint must hold, under its Hugging Face name, [out, in] for matrices. */
export interface TensorShape {
  name: string;
  shape: readonly number[];
}

const size = z.int().positive();
/** Far above any model's: what is wrong in a file must not become a list that fills the memory. */
const layers = z.int().positive().max(10_000);
const tokenId = z.int().nonnegative();
const tokenIds = z.union([tokenId, z.array(tokenId)], { error: 'expected a token id or a list of them' });

/** The fields we read, with the values that this library can compute with; others are free. */
const configSchema = z.looseObject({
  model_type: z.literal('qwen3'),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: layers,
  num_attention_heads: size,
  num_key_value_heads: size,
  head_dim: size.nullish(),
  rms_norm_eps: z.number().positive(),
  rope_theta: z.number().positive().nullish(),
  rope_parameters: z.looseObject({ rope_theta: z.number().positive().nullish() }).nullish(),
  rope_scaling: z.looseObject({}).nullish(),
  max_position_embeddings: size,
  tie_word_embeddings: z.boolean().default(false),
  hidden_act: z.literal('silu').nullish(),
  attention_bias: z.literal(false).nullish(),
  dtype: z.string().nullish(),
  torch_dtype: z.string().nullish(),
  eos_token_id: tokenIds.nullish(),
  pad_token_id: tokenId.nullish(),
  use_sliding_window: z.boolean().nullish(),
  sliding_window: z.number().nullish(),
  max_window_layers: z.number().nullish(),
  layer_types: z.array(z.literal('full_attention')).nullish(),
});

type ConfigFile = z.infer<typeof configSchema>;

const generationSchema = z.looseObject({
  eos_token_id: tokenIds.nullish(),
  pad_token_id: tokenId.nullish(),
});

const SUPPORTED =
  'Supported: model_type qwen3 with hidden_act silu, no attention bias, default RoPE, full attention, unquantised';

/**
 * Reads the configuration of a model directory, in the style of transformers 4 (`rope_theta`, `torch_dtype`) or
 * 5 (`rope_parameters`, `dtype`).
 *
 * @throws CheckpointError  when the file is missing or damaged, or asks for what this library cannot compute
 */
export function readModelConfig(dir: string): ModelConfig {
  const path = join(dir, 'config.json');
  const file = parseFile(path, configSchema);
  refuseUnsupported(file, path);
  const generation = readGenerationConfig(dir);
  const ropeTheta = file.rope_parameters?.rope_theta ?? file.rope_theta;
  if (ropeTheta == null) throw new CheckpointError(`${path}: expected rope_theta > 0, found none`);
  const headDim = file.head_dim ?? file.hidden_size / file.num_attention_heads;
  if (!Number.isInteger(headDim) || headDim % 2 !== 0) {
    throw new CheckpointError(`${path}: expected an even integer head_dim, found ${headDim}`);
  }
  if (file.num_attention_heads % file.num_key_value_heads !== 0) {
    const { num_attention_heads: heads, num_key_value_heads: shared } = file;
    throw new CheckpointError(
      `${path}: expected num_attention_heads to be a multiple of num_key_value_heads, found ${heads} and ${shared}`,
    );
  }
  return {
    modelType: file.model_type,
    vocabSize: file.vocab_size,
    hiddenSize: file.hidden_size,
    intermediateSize: file.intermediate_size,
    numHiddenLayers: file.num_hidden_layers,
    numAttentionHeads: file.num_attention_heads,
    numKeyValueHeads: file.num_key_value_heads,
    headDim,
    rmsNormEps: file.rms_norm_eps,
    ropeTheta,
    maxPositionEmbeddings: file.max_position_embeddings,
    tieWordEmbeddings: file.tie_word_embeddings,
    dtype: file.dtype ?? file.torch_dtype ?? null,
    eosTokenIds: [generation.eos_token_id ?? file.eos_token_id ?? []].flat(),
    padTokenId: generation.pad_token_id ?? file.pad_token_id ?? null,
  };
}

/** Every tensor of the model; a tied checkpoint needs no `lm_head.weight`. */
export function expectedTensors(config: ModelConfig): TensorShape[] {
  const { hiddenSize: hidden, intermediateSize: inner, headDim } = config;
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const tensors: TensorShape[] = [];
  const add = (name: string, ...shape: number[]) => tensors.push({ name: `${name}.weight`, shape });
  add('model.embed_tokens', config.vocabSize, hidden);
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const at = `model.layers.${layer}`;
    add(`${at}.input_layernorm`, hidden);
    add(`${at}.self_attn.q_proj`, queries, hidden);
    add(`${at}.self_attn.k_proj`, keys, hidden);
    add(`${at}.self_attn.v_proj`, keys, hidden);
    add(`${at}.self_attn.o_proj`, hidden, queries);
    add(`${at}.self_attn.q_norm`, headDim);
    add(`${at}.self_attn.k_norm`, headDim);
    add(`${at}.post_attention_layernorm`, hidden);
    add(`${at}.mlp.gate_proj`, inner, hidden);
    add(`${at}.mlp.up_proj`, inner, hidden);
    add(`${at}.mlp.down_proj`, hidden, inner);
  }
  add('model.norm', hidden);
  if (!config.tieWordEmbeddings) add('lm_head', config.vocabSize, hidden);
  return tensors;
}

/** Number of weights; tied embeddings count once. */
export function countParameters(config: ModelConfig): number {
  return expectedTensors(config).reduce((sum, { shape }) => sum + elementCount(shape), 0);
}

/**
 * Compares the tensors of a checkpoint with those that its configuration asks for, before any is read.
 * A tied checkpoint may repeat the embedding as `lm_head.weight`, as Qwen3-0.6B's does.
 *
 * @throws CheckpointError  naming the first tensor that is missing, unexpected or of another shape
 */
export function checkTensors(config: ModelConfig, found: Iterable<TensorShape>, where: string): void {
  const shapes = new Map([...found].map(({ name, shape }) => [name, shape]));
  const expected = expectedTensors(config);
  const missing = expected.filter(({ name }) => !shapes.has(name));
  if (missing.length > 0) {
    throw new CheckpointError(
      `${where}: ${missing.length} of ${expected.length} tensors are missing, first "${missing[0].name}". ` +
        'The weights are incomplete, or config.json is that of another model.',
    );
  }
  for (const { name, shape } of expected) {
    if (shapes.get(name)!.join() !== shape.join()) {
      throw new CheckpointError(
        `${where}: tensor "${name}": expected shape [${shape.join(', ')}] from config.json, ` +
          `found [${shapes.get(name)!.join(', ')}]. config.json is that of another model.`,
      );
    }
    shapes.delete(name);
  }
  if (config.tieWordEmbeddings) shapes.delete('lm_head.weight');
  const [unexpected] = shapes.keys();
  if (unexpected !== undefined) {
    throw new CheckpointError(
      `${where}: ${shapes.size} tensors that a ${config.modelType} model does not have, first "${unexpected}"`,
    );
  }
}

/** A JSON file of a model directory, checked. */
export function parseFile<T extends z.ZodType>(path: string, schema: T): z.infer<T> {
  const value = readJsonFile(path, CheckpointError);
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const { path: field, message } = result.error.issues[0];
  const given = field.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | null)?.[key], value);
  throw new CheckpointError(`${path}: ${field.join('.') || 'file'}: ${message}; found ${shownJson(given)}`);
}

/** Defaults of generation; empty where a model has none. */
export function readGenerationConfig(dir: string): z.infer<typeof generationSchema> {
  const path = join(dir, 'generation_config.json');
  return existsSync(path) ? parseFile(path, generationSchema) : {};
}

/** What a model may ask for beyond the shapes, and this library would silently compute wrongly. */
function refuseUnsupported(file: ConfigFile, path: string): void {
  const refuse = (found: string) => {
    throw new CheckpointError(`${path}: ${found} is not supported. ${SUPPORTED}.`);
  };
  for (const rope of [file.rope_parameters, file.rope_scaling]) {
    const type = rope?.rope_type ?? rope?.type ?? 'default';
    if (type !== 'default') refuse(`RoPE of type ${shownJson(type)}`);
    for (const key of Object.keys(rope ?? {})) {
      if (!['rope_theta', 'rope_type', 'type'].includes(key)) refuse(`the RoPE setting ${key.slice(0, 80)}`);
    }
  }
  if (file.quantization_config != null) refuse('a quantised checkpoint (quantization_config)');
  const windowed = (file.max_window_layers ?? 0) < file.num_hidden_layers;
  if (file.use_sliding_window && file.sliding_window != null && windowed) refuse('a sliding window');
}
