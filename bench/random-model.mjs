// Writes a random Qwen3 checkpoint to benchmark with: the race's shapes S and M in float32, those of Qwen3-0.6B, 4B and 8B in
// bfloat16, above 4 GB in shards with an index. No tokenizer: `grpolab bench` needs none.
// usage: node bench/random-model.mjs S|M|0.6B|4B|8B OUTPUT_DIRECTORY [LAYERS]     (needs the build)
import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(import.meta.url);
const { expectedTensors, readModelConfig } = require('../dist/model/config.js');
const { QWEN3_SIZES } = require('../dist/model/qwen3-sizes.js');
const { writeSafetensors } = require('../dist/model/safetensors-writer.js');
const { Random } = require('../dist/runtime/random.js');

const SHARD_BYTES = 4e9;

/** A published size's `config.json`. */
function published(name) {
  const size = QWEN3_SIZES[name];
  return {
    ...{ num_hidden_layers: size.numHiddenLayers, hidden_size: size.hiddenSize, head_dim: size.headDim },
    ...{ num_attention_heads: size.numAttentionHeads, num_key_value_heads: size.numKeyValueHeads },
    ...{ intermediate_size: size.intermediateSize, vocab_size: size.vocabSize, torch_dtype: 'bfloat16' },
    tie_word_embeddings: size.tieWordEmbeddings,
  };
}

const SHAPES = {
  S: {
    ...{ num_hidden_layers: 4, hidden_size: 256, num_attention_heads: 4, num_key_value_heads: 2 },
    ...{ intermediate_size: 768, vocab_size: 2048 },
  },
  M: {
    ...{ num_hidden_layers: 12, hidden_size: 768, num_attention_heads: 12, num_key_value_heads: 4 },
    ...{ intermediate_size: 2048, vocab_size: 32_768 },
  },
  '0.6B': published('Qwen3-0.6B'),
  '4B': published('Qwen3-4B'),
  '8B': published('Qwen3-8B'),
};
const [name, output, layers] = process.argv.slice(2);
if (SHAPES[name] === undefined || output === undefined || !(Number(layers ?? 1) >= 1)) {
  console.error(
    `usage: node bench/random-model.mjs ${Object.keys(SHAPES).join('|')} OUTPUT_DIRECTORY [LAYERS]`,
  );
  process.exit(2);
}
mkdirSync(output, { recursive: true });
const config = {
  ...{ architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3', head_dim: 64, hidden_act: 'silu' },
  ...{ attention_bias: false, torch_dtype: 'float32', rms_norm_eps: 1e-6, rope_theta: 1e6 },
  ...{ max_position_embeddings: 4096, tie_word_embeddings: true, eos_token_id: 1, pad_token_id: 0 },
  ...SHAPES[name],
  ...(layers === undefined ? {} : { num_hidden_layers: Number(layers) }),
};
writeFileSync(path.join(output, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);

// Draws of a pool, in stretches that begin anywhere in it: billions of draws would take minutes.
const random = new Random(7, 'weights');
const pool = Float32Array.from({ length: 1 << 22 }, () => 0.02 * random.normal());
function values(tensor, shape) {
  const result = new Float32Array(shape.reduce((a, b) => a * b, 1));
  if (tensor.includes('norm')) return result.fill(1);
  for (let at = 0; at < result.length;) {
    const begin = random.integer(pool.length);
    const stretch = pool.subarray(begin, begin + Math.min(1 << 16, result.length - at));
    result.set(stretch, at);
    at += stretch.length;
  }
  return result;
}

const dtype = config.torch_dtype === 'bfloat16' ? 'BF16' : 'F32';
const shards = [];
let bytes = Infinity;
for (const { name: tensor, shape } of expectedTensors(readModelConfig(output))) {
  const size = shape.reduce((a, b) => a * b, dtype === 'BF16' ? 2 : 4);
  if (bytes + size > SHARD_BYTES) {
    shards.push(new Map());
    bytes = 0;
  }
  shards.at(-1).set(tensor, { shape, data: () => values(tensor, shape) });
  bytes += size;
}
const number = (i) => String(i).padStart(5, '0');
const places = {};
for (const [i, shard] of shards.entries()) {
  const file =
    shards.length === 1
      ? 'model.safetensors'
      : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
  for (const tensor of shard.keys()) places[tensor] = file;
  await writeSafetensors(path.join(output, file), shard, { dtype, metadata: { format: 'pt' } });
}
if (shards.length > 1) {
  const index = { metadata: {}, weight_map: places };
  writeFileSync(path.join(output, 'model.safetensors.index.json'), `${JSON.stringify(index, null, 2)}\n`);
}
