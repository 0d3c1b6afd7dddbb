import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { goldenPath, readGolden } from '../../test/golden';
import { checkTensors, countParameters, readModelConfig } from './config';
import { openModelWeights } from './model-weights';
import type { ModelWeights } from './model-weights';
import { openSafetensors } from './safetensors';
import { writeSafetensors } from './safetensors-writer';

const MODELS = readdirSync(goldenPath('tiny-qwen3'));

function withWeights<T>(model: string, use: (weights: ModelWeights) => T): T {
  const weights = openModelWeights(goldenPath('tiny-qwen3', model));
  try {
    return use(weights);
  } finally {
    weights.close();
  }
}

/** Bit for bit, and much faster than comparing arrays as values. */
const sameBytes = (x: ArrayBufferView, y: ArrayBufferView) =>
  Buffer.from(x.buffer, x.byteOffset, x.byteLength).equals(Buffer.from(y.buffer, y.byteOffset, y.byteLength));

/** The model whose name has one ending in place of another, where there is one. */
const partner = (model: string, ending: string, other: string) =>
  model.endsWith(ending) ? MODELS.find((name) => name === model.slice(0, -ending.length) + other) : undefined;

describe.each(MODELS)('the checkpoint %s', (model) => {
  const dir = goldenPath('tiny-qwen3', model);
  const config = readModelConfig(dir);

  it('is described by its config.json', () => {
    const raw = readGolden<Record<string, unknown>>('tiny-qwen3', model, 'config.json');
    expect(config).toMatchObject({
      vocabSize: raw.vocab_size,
      hiddenSize: raw.hidden_size,
      intermediateSize: raw.intermediate_size,
      numHiddenLayers: raw.num_hidden_layers,
      numAttentionHeads: raw.num_attention_heads,
      numKeyValueHeads: raw.num_key_value_heads,
      headDim: raw.head_dim,
      rmsNormEps: raw.rms_norm_eps,
      tieWordEmbeddings: raw.tie_word_embeddings,
      dtype: raw.dtype ?? raw.torch_dtype,
      ropeTheta: raw.rope_theta ?? (raw.rope_parameters as Record<string, unknown>).rope_theta,
    });
    const generation = readGolden<Record<string, unknown>>('tiny-qwen3', model, 'generation_config.json');
    expect(config.eosTokenIds).toEqual([generation.eos_token_id].flat());
    expect(config.padTokenId).toBe(generation.pad_token_id);
  });

  it('holds exactly the tensors that its configuration asks for', () => {
    withWeights(model, ({ tensors }) => {
      checkTensors(config, tensors.values(), model);
      const stored = [...tensors.values()].reduce(
        (sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1),
        0,
      );
      expect(countParameters(config)).toBe(stored);
    });
  });

  it('gives finite weights', () => {
    withWeights(model, (weights) => {
      for (const name of weights.tensors.keys()) {
        expect(weights.read(name).every(Number.isFinite), name).toBe(true);
      }
    });
  });
});

describe('the same weights', () => {
  const sharded = MODELS.filter((model) =>
    existsSync(goldenPath('tiny-qwen3', model, 'model.safetensors.index.json')),
  );
  it.each(sharded)('are read from shards and from one file: %s', (model) => {
    const whole = partner(model, '-sharded', '');
    expect(whole).toBeDefined();
    withWeights(model, (shards) =>
      withWeights(whole!, (single) => {
        expect(new Set(shards.tensors.keys())).toEqual(new Set(single.tensors.keys()));
        for (const name of single.tensors.keys()) {
          expect(sameBytes(shards.read(name), single.read(name)), name).toBe(true);
        }
      }),
    );
  });

  it.each(MODELS.filter((model) => partner(model, '-f32', '-bf16')))(
    'are rounded to bfloat16 as torch does: %s',
    async (model) => {
      const dir = mkdtempSync(join(tmpdir(), 'rounded-'));
      try {
        const path = join(dir, 'model.safetensors');
        const data = (weights: ModelWeights) =>
          new Map(
            [...weights.tensors].map(([name, { shape }]) => [name, { shape, data: weights.read(name) }]),
          );
        await writeSafetensors(path, withWeights(model, data), { dtype: 'BF16', metadata: { format: 'pt' } });
        const ours = openSafetensors(path);
        withWeights(partner(model, '-f32', '-bf16')!, (torch) => {
          for (const name of torch.tensors.keys())
            expect(sameBytes(ours.readBytes(name), torch.readBytes(name)), name).toBe(true);
        });
        ours.close();
      } finally {
        rmSync(dir, { recursive: true });
      }
    },
  );
});

describe('the writer', () => {
  it('gives the bytes that Python gives for the adapter of the golden files', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'writer-'));
    try {
      const path = goldenPath('lora', 'adapter', 'adapter_model.safetensors');
      const file = openSafetensors(path);
      const tensors = new Map(
        [...file.tensors].map(([name, { shape }]) => [name, { shape, data: file.read(name) }]),
      );
      await writeSafetensors(join(dir, 'copy'), tensors, { metadata: file.metadata });
      file.close();
      expect(readFileSync(join(dir, 'copy')).equals(readFileSync(path))).toBe(true);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
