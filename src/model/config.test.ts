import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CheckpointError } from '../runtime/errors';
import { checkTensors, countParameters, expectedTensors, readModelConfig } from './config';
import type { ModelConfig } from './config';
import { openModelWeights } from './model-weights';
import { writeSafetensors } from './safetensors-writer';

let dir: string;
beforeAll(() => (dir = mkdtempSync(join(tmpdir(), 'config-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const BASE = {
  model_type: 'qwen3',
  vocab_size: 20,
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 6,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
};

function readWith(changes: Record<string, unknown>, generation?: unknown): ModelConfig {
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...BASE, ...changes }));
  rmSync(join(dir, 'generation_config.json'), { force: true });
  if (generation) writeFileSync(join(dir, 'generation_config.json'), JSON.stringify(generation));
  return readModelConfig(dir);
}

describe('readModelConfig', () => {
  it('reads the styles of transformers 4 and 5 alike', () => {
    const old = readWith({ rope_theta: 5e5, torch_dtype: 'bfloat16', rope_scaling: null });
    const rope_parameters = { rope_theta: 5e5, rope_type: 'default' };
    expect(readWith({ rope_theta: undefined, rope_parameters, dtype: 'bfloat16' })).toEqual(old);
    expect(old).toMatchObject({ ropeTheta: 5e5, dtype: 'bfloat16' });
  });

  it('derives head_dim from the hidden size where it is absent', () => {
    expect(readWith({ head_dim: undefined }).headDim).toBe(2);
    expect(readWith({ head_dim: null }).headDim).toBe(2);
  });

  it('prefers the end and padding tokens of generation_config.json', () => {
    expect(readWith({ eos_token_id: 3 })).toMatchObject({ eosTokenIds: [3], padTokenId: null });
    const generation = { eos_token_id: [4, 5], pad_token_id: 6 };
    expect(readWith({ eos_token_id: 3, pad_token_id: 1 }, generation)).toMatchObject({
      eosTokenIds: [4, 5],
      padTokenId: 6,
    });
    expect(readWith({ eos_token_id: [1, 2] }, { do_sample: true }).eosTokenIds).toEqual([1, 2]);
  });

  it('refuses sizes that no model has, before they become a list of tensors', () => {
    expect(() => readWith({ num_hidden_layers: 3e9 })).toThrow(/num_hidden_layers.*10000.*found 3000000000/);
  });

  it('shows a value that is nested too deeply for JSON.stringify in one line', () => {
    writeFileSync(join(dir, 'config.json'), `{"model_type": ${'['.repeat(1e5)}${']'.repeat(1e5)}}`);
    expect(() => readModelConfig(dir)).toThrow(
      /model_type.*found a value that is nested too deeply to show$/,
    );
    expect(() => readModelConfig(dir)).toThrow(CheckpointError);
  });

  it('allows a sliding window that is switched off or begins after the last layer', () => {
    readWith({ sliding_window: 32, use_sliding_window: false });
    readWith({ sliding_window: 32, use_sliding_window: true, max_window_layers: 2 });
  });

  const refused: [Record<string, unknown>, RegExp][] = [
    [{ model_type: 'llama' }, /model_type: .*expected "qwen3"; found "llama"/],
    [{ hidden_act: 'gelu' }, /hidden_act: .*found "gelu"/],
    [{ attention_bias: true }, /attention_bias: .*found true/],
    [{ rope_scaling: { type: 'yarn', factor: 4 } }, /RoPE of type "yarn" is not supported. Supported: /],
    [{ rope_parameters: { rope_theta: 1, partial_rotary_factor: 0.5 } }, /partial_rotary_factor/],
    [{ quantization_config: { bits: 4 } }, /quantised/],
    [{ use_sliding_window: true, sliding_window: 32, max_window_layers: 1 }, /sliding window/],
    [{ layer_types: ['full_attention', 'sliding_attention'] }, /layer_types.1: .*found "sliding_attention"/],
    [{ hidden_size: undefined }, /hidden_size: .*found nothing/],
    [{ hidden_size: '8' }, /hidden_size: .*found "8"/],
    [{ num_hidden_layers: 0 }, /num_hidden_layers/],
    [{ num_key_value_heads: 3 }, /multiple of num_key_value_heads, found 4 and 3/],
    [{ head_dim: 5 }, /even integer head_dim, found 5/],
    [{ rope_theta: undefined }, /expected rope_theta/],
  ];
  it.each(refused)('refuses %j', (changes, message) => {
    expect(() => readWith(changes)).toThrow(CheckpointError);
    expect(() => readWith(changes)).toThrow(message);
    expect(() => readWith(changes)).toThrow(join(dir, 'config.json'));
  });

  it('names a missing or damaged file', () => {
    expect(() => readModelConfig(join(dir, 'none'))).toThrow(CheckpointError);
    writeFileSync(join(dir, 'config.json'), '{"model_type":');
    expect(() => readModelConfig(dir)).toThrow(CheckpointError);
  });
});

describe('checkTensors', () => {
  it('accepts exactly the tensors of the model, and a repeated embedding where it is tied', () => {
    const config = readWith({});
    const tensors = expectedTensors(config);
    checkTensors(config, tensors, 'model');
    checkTensors(config, [...tensors, { name: 'lm_head.weight', shape: [20, 8] }], 'model');
    expect(tensors).toHaveLength(2 + 2 * 11);
  });

  it('names what is missing, of another shape, or too much', () => {
    const config = readWith({ tie_word_embeddings: false });
    const tensors = expectedTensors(config);
    const check = (found: typeof tensors) => () => checkTensors(config, found, 'model');
    expect(check(tensors.slice(0, -1))).toThrow(/model: 1 of 25 tensors are missing, first "lm_head.weight"/);
    const wider = tensors.map((t) =>
      t.name.endsWith('1.mlp.up_proj.weight') ? { ...t, shape: [13, 8] } : t,
    );
    expect(check(wider)).toThrow(/layers.1.mlp.up_proj.weight": expected shape \[12, 8\].*found \[13, 8\]/);
    const biased = [...tensors, { name: 'model.layers.0.self_attn.q_proj.bias', shape: [24] }];
    expect(check(biased)).toThrow(/1 tensors that a qwen3 model does not have, first "model.*q_proj.bias"/);
  });

  it('counts tied embeddings once', () => {
    const tied = countParameters(readWith({}));
    expect(countParameters(readWith({ tie_word_embeddings: false })) - tied).toBe(20 * 8);
    // By hand: embeddings, then per layer q, o [24, 8], k, v [12, 8], 3 x [12, 8], norms 2 x 8 + 2 x 6; last norm.
    expect(tied).toBe(160 + 2 * (2 * 192 + 2 * 96 + 3 * 96 + 28) + 8);
  });
});

describe('openModelWeights', () => {
  const one = (name: string) => new Map([[name, { shape: [2], data: new Float32Array([1, 2]) }]]);
  const index = (home: string, weight_map: unknown) =>
    writeFileSync(join(home, 'model.safetensors.index.json'), JSON.stringify({ weight_map }));

  it('finds each tensor in its shard', async () => {
    const home = mkdtempSync(join(dir, 'shards-'));
    await writeSafetensors(join(home, 's1.safetensors'), one('a'));
    await writeSafetensors(join(home, 's2.safetensors'), one('b'));
    index(home, { a: 's1.safetensors', b: 's2.safetensors' });
    const weights = openModelWeights(home);
    expect([...weights.tensors.keys()]).toEqual(['a', 'b']);
    expect(Array.from(weights.read('b'))).toEqual([1, 2]);
    expect(() => weights.read('c')).toThrow(/there is no tensor "c"/);
    weights.close();
  });

  it('refuses shards that are missing, incomplete, ambiguous or elsewhere', async () => {
    const home = mkdtempSync(join(dir, 'bad-shards-'));
    await writeSafetensors(join(home, 's1.safetensors'), one('a'));
    await writeSafetensors(join(home, 's2.safetensors'), one('a'));
    const opening = (map: unknown) => () => {
      index(home, map);
      openModelWeights(home).close();
    };
    expect(opening({ a: 's3.safetensors' })).toThrow(/s3.safetensors: cannot be opened/);
    expect(opening({ a: 's1.safetensors', b: 's1.safetensors' })).toThrow(/expected tensor "b".*found none/);
    expect(opening({ a: 's1.safetensors', b: 's2.safetensors' })).toThrow(CheckpointError);
    for (const shard of ['../s1.safetensors', 'x/../../s1.safetensors', join(home, 's1.safetensors'), '..']) {
      expect(opening({ a: shard }), shard).toThrow(/lies outside the model's directory/);
    }
    expect(opening({ a: 3 })).toThrow(/weight_map.a/);
    expect(opening(undefined)).toThrow(CheckpointError);
  });

  it('says what it looked for', () => {
    expect(() => openModelWeights(join(dir, 'none'))).toThrow(
      /expected model.safetensors.*no such directory/,
    );
    const home = mkdtempSync(join(dir, 'empty-'));
    expect(() => openModelWeights(home)).toThrow(/found neither/);
  });

  it('reads through the links of a hub cache', async () => {
    const home = mkdtempSync(join(dir, 'cache-'));
    await writeSafetensors(join(home, 'model.safetensors'), one('a'));
    const linked = mkdtempSync(join(dir, 'snapshot-'));
    symlinkSync(join(home, 'model.safetensors'), join(linked, 'model.safetensors'));
    const weights = openModelWeights(linked);
    expect(Array.from(weights.read('a'))).toEqual([1, 2]);
    weights.close();
  });
});
