import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { goldenPath } from '../../test/golden';
import { readModelConfig } from './config';
import type { ModelConfig } from './config';
import type { Tensor } from '../runtime/tf';
import { buildWeights, weightTensors } from './load';
import { LoraAdapter } from './lora';
import {
  activationBytes,
  adapterBytes,
  cacheBytes,
  headBytes,
  mergedBytes,
  planMemory,
  weightBytes,
} from './memory';
import { LORA_TARGETS } from './peft';
import { QWEN3_SIZES } from './qwen3-sizes';

const shape = { P: 2, G: 4, Tp: 96, Tc: 100 };
const names = readdirSync(goldenPath('tiny-qwen3'));

/** Qwen3-8B as the study used it. */
const qwen8b: ModelConfig = {
  modelType: 'qwen3',
  vocabSize: 151_936,
  hiddenSize: 4096,
  intermediateSize: 12_288,
  numHiddenLayers: 36,
  numAttentionHeads: 32,
  numKeyValueHeads: 8,
  headDim: 128,
  rmsNormEps: 1e-6,
  ropeTheta: 1e6,
  maxPositionEmbeddings: 40_960,
  tieWordEmbeddings: false,
  dtype: 'bfloat16',
  eosTokenIds: [],
  padTokenId: null,
};

const loraConfig = (rank: number) => ({
  ...{ base_model_name_or_path: null, r: rank, lora_alpha: rank, lora_dropout: 0, use_rslora: false },
  target_modules: [...LORA_TARGETS],
});

describe('the memory plan', () => {
  it.each(names)('counts the bytes of weights and adapter that are really made (%s)', (name) => {
    const config = readModelConfig(goldenPath('tiny-qwen3', name));
    const weights = buildWeights(config, (_, dims) => new Float32Array(dims.reduce((a, b) => a * b, 1)));
    const adapter = LoraAdapter.create(config, loraConfig(3), 0);
    const bytes = (tensors: { size: number }[]): number =>
      tensors.reduce((sum, { size }) => sum + 4 * size, 0);
    expect(weightBytes(config)).toBe(bytes(weightTensors(weights)));
    const matrices = weights.layers.flatMap((w) => [w.qkv, w.o, w.gateUp, w.down]);
    const copied = bytes([...matrices, weights.head.matrix] as Tensor[]);
    expect(mergedBytes(config, 'float32', 0, false)).toBe(copied);
    // By the binding's ops, of a bfloat16 checkpoint: half, and an embedding that is not the head.
    const halves = config.dtype === 'bfloat16' ? copied / 2 : copied;
    const table = config.tieWordEmbeddings ? 0 : bytes([weights.embedding as Tensor]) / 2;
    expect(mergedBytes(config)).toBe(halves + (config.dtype === 'bfloat16' ? table : 0));
    expect(adapterBytes(config, 3)).toBe(bytes(adapter.named().map(([, variable]) => variable)));
    adapter.dispose();
    weightTensors(weights).forEach((tensor) => tensor.dispose());
  });

  it('gives the known size of the adapter of Qwen3-8B with rank 16: 43.6 million numbers', () => {
    expect(adapterBytes(qwen8b, 16) / 4).toBe(43_646_976);
  });

  it('gives the cache of Qwen3-8B by hand', () => {
    const tokens = 2 * 96 + 8 * 112; // 100 padded to 112
    expect(cacheBytes(qwen8b, shape)).toBe(4 * 2 * 36 * 1024 * tokens);
  });

  it('shares the prompt among its completions', () => {
    for (const fused of [true, false]) {
      const shared = activationBytes(qwen8b, { P: 1, G: 8, Tp: 512, Tc: 16 }, 16, { fused });
      const apart = activationBytes(qwen8b, { P: 8, G: 1, Tp: 512, Tc: 16 }, 16, { fused });
      expect(apart / shared).toBeGreaterThan(4);
    }
  });

  it.each([true, false])(
    "counts one layer and the layers' inputs when layers are recomputed (fused %s)",
    (fused) => {
      const N = 2 * 96 + 8 * 112; // 100 padded to 112
      const bytes = (layers: number, recompute: boolean): number =>
        activationBytes({ ...qwen8b, numHiddenLayers: layers }, shape, 16, { recompute, fused });
      const layer = bytes(2, false) - bytes(1, false);
      const underWay = bytes(1, false) - layer;
      expect(underWay > 0).toBe(fused);
      expect(bytes(36, false)).toBe(36 * layer + underWay);
      expect(bytes(36, true)).toBe(layer + underWay + 4 * 36 * N * 4096);
      const [kept, again] = [false, true].map((recompute) =>
        planMemory(qwen8b, shape, 16, { recompute, fused }),
      );
      expect(kept.total - again.total).toBe(kept.activations - again.activations);
    },
  );

  it('counts no pairs of tokens when attention is fused: twice the length, twice the bytes', () => {
    const bytes = (Tp: number, fused: boolean): number =>
      activationBytes(qwen8b, { P: 1, G: 1, Tp, Tc: Tp }, 16, { fused });
    expect(bytes(512, true)).toBe(2 * bytes(256, true));
    expect(bytes(512, false)).toBeGreaterThan(2.1 * bytes(256, false));
  });

  it('bounds the output layer, however long the batch', () => {
    expect(headBytes(qwen8b, { ...shape, P: 1000 })).toBe(headBytes(qwen8b, { ...shape, P: 64 }));
    expect(headBytes(qwen8b, shape, { fused: false })).toBe(3 * headBytes(qwen8b, shape));
  });

  it('sums what is there at one time', () => {
    const { total, activations, head, cache, ...lasting } = planMemory(qwen8b, shape, 16);
    const kept = Object.values(lasting).reduce((a, b) => a + b, 0);
    expect(total).toBe(kept + Math.max(activations + head, cache));
  });

  it('leaves out what a step does not hold: the copy of the weights and the cache without sampling, the reference', () => {
    const grpo = planMemory(qwen8b, shape, 16);
    const sft = planMemory(qwen8b, shape, 16, { sampled: [], reference: false });
    expect([sft.merged, sft.cache]).toEqual([0, 0]);
    expect(sft.adapter).toBe(adapterBytes(qwen8b, 16));
    expect(grpo.adapter).toBe(2 * sft.adapter);
    const lasting = grpo.total - Math.max(grpo.activations + grpo.head, grpo.cache);
    const held = lasting - grpo.merged - sft.adapter;
    expect(sft.total).toBe(held + sft.activations + sft.head);
    const evaluated = planMemory(qwen8b, shape, 16, {
      sampled: [shape, { ...shape, P: 8 }],
      reference: false,
    });
    expect(evaluated.cache).toBe(cacheBytes(qwen8b, { ...shape, P: 8 }));
    expect(evaluated.merged).toBe(grpo.merged);
  });

  /** Whole processes with Qwen3-0.6B's shape, rank 16, 8 sequences of 64 + 48 tokens, in GiB. */
  it.each([
    ['grpo', 'float32', false, 5.82],
    ['grpo', 'float32', true, 4.83],
    ['grpo', 'bfloat16', false, 3.51],
    ['grpo', 'bfloat16', true, 2.5],
    ['sft', 'float32', true, 3.64],
    ['sft', 'bfloat16', true, 2.39],
  ] as const)(
    'is within 10 %% of what %s took in %s (recomputed: %s)',
    (method, dtype, recompute, measured) => {
      const isGrpo = method === 'grpo';
      const batch = isGrpo ? { P: 2, G: 4, Tp: 64, Tc: 48 } : { P: 8, G: 1, Tp: 64, Tc: 48 };
      const what = isGrpo ? {} : { sampled: [], reference: false };
      const { total } = planMemory(QWEN3_SIZES['Qwen3-0.6B'], batch, 16, { dtype, recompute, ...what });
      expect(Math.abs(total / 2 ** 30 / measured - 1)).toBeLessThan(0.1);
    },
  );

  it('refuses a shape that is not of positive integers', () => {
    expect(() => planMemory(qwen8b, { ...shape, G: 0 }, 16)).toThrow('G is 0; expected an integer >= 1');
    expect(() => planMemory(qwen8b, shape, 1.5)).toThrow('rank is 1.5');
  });
});
