/**
 * What a training step holds in memory, by part, from the model's shape alone. Everything is float32 on the device, whatever
 * the files' type, but base weights in fewer bits where that was asked for. Letters: L layers, H hidden size, F feed-forward
 * size, V vocabulary, D head size, Q = heads x D, K = key-value heads x D, r rank; P prompts of Tp tokens with G completions of
 * Tc tokens each, lengths padded to 16.
 *
 * The factors of activations and head count the tensors that a pass keeps. `bench/memory.mjs` measures whole processes and
 * prints the plan beside them (LOG.md).
 */
import { ConfigError } from '../runtime/errors';
import { countParameters } from './config';
import type { ModelConfig, WeightDtype } from './config';
import { adapterShapes, LORA_TARGETS } from './peft';

/** One micro-batch: P prompts, G completions each, Tp and Tc tokens. */
export interface StepShape {
  P: number;
  G: number;
  Tp: number;
  Tc: number;
}

/** Bytes. */
export interface MemoryPlan {
  /** Frozen weights. */
  weights: number;
  /**
   * What sampling runs on: every matrix once more, laid out for decoding, and the adapter; beside weights in fewer than 32 bits
   * the adapter alone. 0 where nothing is sampled.
   */
  merged: number;
  /** LoRA factors: those that train, and the frozen ones of the reference, where there is one. */
  adapter: number;
  /** The accumulated gradient, and that of one more micro-batch before it is added. */
  gradients: number;
  /** AdamW's two moments, and its results before they replace what was there: three more. */
  optimizer: number;
  /** What the forward pass keeps for the backward pass. */
  activations: number;
  /** Logits of the output layer; of graphs probabilities, too. */
  head: number;
  /** Keys and values while sampling; 0 where nothing is sampled. */
  cache: number;
  /** The library itself, before any model. */
  runtime: number;
  /** The largest sum at one time: activations, head and cache are never all there together. */
  total: number;
}

const FLOAT = 4;
/** Logits that the output layer computes at a time, at most (`tokenLogProbs`). */
export const MAX_LOGITS = 2 ** 26;
/** Tensors of [tokens, V] that are alive together in the output layer: of graphs, and of ops that work in the logits' memory. */
const HEAD_TENSORS = { graphs: 3, fused: 1 };
/** Completions that are sampled side by side, at most (unless one prompt has more). */
export const SAMPLING_ROWS = 64;
/** Resident size of Node with TensorFlow loaded on the CPU, rounded up. */
const RUNTIME_BYTES = 500e6;

/** Lengths are rounded up to a multiple of this, so that a run traces a handful of shapes. */
export const bucketSize = 16;

/** A length rounded up to a multiple of `bucketSize`. */
export function bucket(length: number): number {
  return Math.max(bucketSize, Math.ceil(length / bucketSize) * bucketSize);
}

function widths(config: ModelConfig) {
  const Q = config.numAttentionHeads * config.headDim;
  const K = config.numKeyValueHeads * config.headDim;
  return {
    L: config.numHiddenLayers,
    H: config.hiddenSize,
    F: config.intermediateSize,
    V: config.vocabSize,
    Q,
    K,
  };
}

/** Elements of the matrices, norms aside. */
function matrixElements(config: ModelConfig): { projections: number; embeddings: number } {
  const { L, H, F, V, Q, K } = widths(config);
  const embeddings = (config.tieWordEmbeddings ? 1 : 2) * H * V;
  return { projections: L * (H * (Q + 2 * K) + Q * H + 3 * H * F), embeddings };
}

/**
 * 4 parameters; of a matrix in bfloat16 2; of one in 4 bits 33 / 64 (4 bits, and 8 for the scale of each block of 64), and 16 a
 * column (of its blocks' scales, twice quantised).
 */
export function weightBytes(config: ModelConfig, dtype: WeightDtype = 'float32'): number {
  const { projections, embeddings } = matrixElements(config);
  const { L, H, F, Q, K } = widths(config);
  const norms = FLOAT * (countParameters(config) - projections - embeddings);
  if (dtype === 'float32') return FLOAT * countParameters(config);
  if (dtype === 'bfloat16') return norms + 2 * (projections + embeddings);
  return norms + 2 * embeddings + (33 / 64) * projections + 16 * L * (Q + 2 * K + H + 2 * F + H);
}

/**
 * Of rank r: 4 L r (7 H + 3 (Q + 2 K) + Q + 5 F): all modules' A side by side, and a B of each on the diagonal of a matrix. In
 * float32 as well the weights once more, 4 (L (H (Q + 2 K) + Q H + 3 H F) + H V); by the binding's ops, of a bfloat16 checkpoint,
 * 2 of them, and of an untied embedding.
 */
export function mergedBytes(
  config: ModelConfig,
  dtype: WeightDtype = 'float32',
  rank = 0,
  fused = true,
): number {
  const { L, H, F, V, Q, K } = widths(config);
  const beside = FLOAT * L * rank * (7 * H + 3 * (Q + 2 * K) + Q + 5 * F);
  if (dtype !== 'float32') return beside;
  const copied = L * (H * (Q + 2 * K) + Q * H + 3 * H * F) + H * V;
  if (!fused || config.dtype !== 'bfloat16') return beside + FLOAT * copied;
  return beside + (FLOAT / 2) * (copied + (config.tieWordEmbeddings ? 0 : H * V));
}

/** One adapter: 4 r times the sum of in + out over its projections. */
export function adapterBytes(
  config: ModelConfig,
  rank: number,
  targets: readonly string[] = LORA_TARGETS,
): number {
  let elements = 0;
  for (const { a, b } of adapterShapes({ r: rank, target_modules: [...targets] }, config).values())
    elements += a[0] * a[1] + b[0] * b[1];
  return FLOAT * elements;
}

/** How a pass runs. */
export interface PassOptions {
  /** Layers are computed again in the backward pass (training.gradient_checkpointing). */
  recompute?: boolean;
  /** By the binding's own ops (default: as on a CPU), or by graphs that keep more (a GPU, XLA, op by op). */
  fused?: boolean;
  /** Of the base weights (default: float32). */
  dtype?: WeightDtype;
}

/**
 * What the layers keep for the backward pass, N = P Tp + P G Tc tokens.
 *
 * Fused: 4 N (L (4 H + 2 Q + 2 K + 3 F + 7 r) + 4 H + 2 Q + 4 K + 4 F): of each layer its input, what its products take and what
 * the fused ops need again; of one layer the gradients that are under way.
 * Graphs: 4 L (N (4 H + 7 Q + 6 K + 5 F + 7 r) + 2.5 heads (P Tp^2 + P G Tc (Tp + Tc))): the results of single ops, and the
 * scores and weights of every pair of tokens that attend.
 * With recomputation: one layer, and the inputs of the others.
 */
export function activationBytes(
  config: ModelConfig,
  { P, G, Tp, Tc }: StepShape,
  rank: number,
  { recompute = false, fused = true }: PassOptions = {},
): number {
  const { L, H, F, Q, K } = widths(config);
  const [prompt, completion] = [bucket(Tp), bucket(Tc)];
  const tokens = P * prompt + P * G * completion;
  const pairs = P * prompt ** 2 + P * G * completion * (prompt + completion);
  const layer = fused
    ? tokens * (4 * H + 2 * Q + 2 * K + 3 * F + 7 * rank)
    : tokens * (4 * H + 7 * Q + 6 * K + 5 * F + 7 * rank) + 2.5 * config.numAttentionHeads * pairs;
  const underWay = fused ? tokens * (4 * H + 2 * Q + 4 * K + 4 * F) : 0;
  return FLOAT * (underWay + (recompute ? layer + L * tokens * H : L * layer));
}

/**
 * 4 min(P G Tc V, 2^26), of graphs three times as much: larger outputs are computed in chunks, 2^26 logits at a time over all
 * threads.
 */
export function headBytes(
  config: ModelConfig,
  { P, G, Tc }: StepShape,
  { fused = true }: PassOptions = {},
): number {
  const tensors = fused ? HEAD_TENSORS.fused : HEAD_TENSORS.graphs;
  return FLOAT * tensors * Math.min(P * G * bucket(Tc) * config.vocabSize, MAX_LOGITS);
}

/** 4 x 2 L K (P Tp + P G Tc), of the prompts that are sampled together: those whose completions make up to 64 rows. */
export function cacheBytes(config: ModelConfig, { P, G, Tp, Tc }: StepShape): number {
  const { L, K } = widths(config);
  const prompts = Math.min(P, Math.max(1, Math.floor(SAMPLING_ROWS / G)));
  return FLOAT * 2 * L * K * (prompts * bucket(Tp) + prompts * G * bucket(Tc));
}

/** What a step does beside its passes. */
export interface PlanOptions extends PassOptions {
  /**
   * Batches that completions are sampled for, the largest of which decides the cache; none: as SFT without held-out replies, no
   * copy of the weights and no cache. Default: the step's own, as GRPO.
   */
  sampled?: readonly StepShape[];
  /** A frozen copy of the adapter is kept as the reference, as GRPO does (default); SFT and polychromic training have none. */
  reference?: boolean;
}

/**
 * The plan of a training step with LoRA. With A the bytes of one adapter (`adapterBytes`): adapters 2 A (1 A without a
 * reference), gradients 2 A, optimiser 5 A; total = what lasts + max(activations + head, cache).
 * @throws ConfigError  when the shape or the rank is not of integers >= 1
 */
export function planMemory(
  config: ModelConfig,
  shape: StepShape,
  rank: number,
  { sampled = [shape], reference = true, ...pass }: PlanOptions = {},
): MemoryPlan {
  for (const [name, value] of Object.entries({ ...shape, rank }))
    if (!Number.isInteger(value) || value < 1)
      throw new ConfigError(`${name} is ${value}; expected an integer >= 1`);
  const one = adapterBytes(config, rank);
  const parts = {
    weights: weightBytes(config, pass.dtype),
    merged: sampled.length === 0 ? 0 : mergedBytes(config, pass.dtype, rank, pass.fused),
    adapter: (reference ? 2 : 1) * one,
    gradients: 2 * one,
    optimizer: 5 * one,
    activations: activationBytes(config, shape, rank, pass),
    head: headBytes(config, shape, pass),
    cache: Math.max(0, ...sampled.map((batch) => cacheBytes(config, batch))),
    runtime: RUNTIME_BYTES,
  };
  const { activations, head, cache, ...lasting } = parts;
  const kept = Object.values(lasting).reduce((sum, bytes) => sum + bytes, 0);
  return { ...parts, total: kept + Math.max(activations + head, cache) };
}
