/** The published Qwen3 models' shapes, to plan for one before it is downloaded; and their memory as a table. */
import { countParameters } from './config';
import type { ModelConfig } from './config';
import { planMemory } from './memory';
import type { StepShape } from './memory';

/** What all of them share. Source: their `config.json`. */
const common = {
  modelType: 'qwen3' as const,
  dtype: 'bfloat16',
  padTokenId: 151_643,
  vocabSize: 151_936,
  numKeyValueHeads: 8,
  headDim: 128,
  maxPositionEmbeddings: 40_960,
  ropeTheta: 1e6,
  rmsNormEps: 1e-6,
  eosTokenIds: [151_645, 151_643],
} satisfies Partial<ModelConfig>;

/** By name; the study's is Qwen3-8B. */
export const QWEN3_SIZES: Readonly<Record<'Qwen3-0.6B' | 'Qwen3-4B' | 'Qwen3-8B', ModelConfig>> = {
  'Qwen3-0.6B': {
    ...{ ...common, numHiddenLayers: 28, hiddenSize: 1024, intermediateSize: 3072 },
    ...{ numAttentionHeads: 16, tieWordEmbeddings: true },
  },
  'Qwen3-4B': {
    ...{ ...common, numHiddenLayers: 36, hiddenSize: 2560, intermediateSize: 9728 },
    ...{ numAttentionHeads: 32, tieWordEmbeddings: true },
  },
  'Qwen3-8B': {
    ...{ ...common, numHiddenLayers: 36, hiddenSize: 4096, intermediateSize: 12_288 },
    ...{ numAttentionHeads: 32, tieWordEmbeddings: false },
  },
};

/** One model's memory in GiB (2^30 bytes), by part; see `MemoryPlan`. */
export interface MemoryRow {
  model: string;
  parameters: string;
  weights: number;
  'merged copy': number;
  'adapters, gradients, optimiser': number;
  activations: number;
  'output layer': number;
  cache: number;
  total: number;
}

/**
 * The memory plan of a step on a GPU as rows of a table.
 * @param rank  of the adapter
 * @throws ConfigError  when the shape or the rank is not of integers >= 1
 */
export function memoryRows(
  configs: Readonly<Record<string, ModelConfig>>,
  shape: StepShape,
  rank: number,
  recompute = false,
): MemoryRow[] {
  const gib = (bytes: number): number => bytes / 2 ** 30;
  return Object.entries(configs).map(([model, config]) => {
    const plan = planMemory(config, shape, rank, { recompute, fused: false });
    return {
      model,
      parameters: `${(countParameters(config) / 1e9).toFixed(2)} billion`,
      weights: gib(plan.weights),
      'merged copy': gib(plan.merged),
      'adapters, gradients, optimiser': gib(plan.adapter + plan.gradients + plan.optimizer),
      activations: gib(plan.activations),
      'output layer': gib(plan.head),
      cache: gib(plan.cache),
      total: gib(plan.total),
    };
  });
}
