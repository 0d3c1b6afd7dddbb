// Writes a random Qwen3 checkpoint to benchmark with: the race's shapes S and M in float32, Qwen3-0.6B's in bfloat16. No
// tokenizer: `grpolab bench` needs none.
// usage: node bench/random-model.mjs S|M|0.6B OUTPUT_DIRECTORY     (needs the build)
import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(import.meta.url);
const { readModelConfig } = require('../dist/model/config.js');
const { randomWeights, fileTensors } = require('../dist/model/load.js');
const { writeSafetensors } = require('../dist/model/safetensors-writer.js');

const shapes = {
  S: {
    num_hidden_layers: 4,
    hidden_size: 256,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    intermediate_size: 768,
    vocab_size: 2048,
  },
  '0.6B': {
    num_hidden_layers: 28,
    hidden_size: 1024,
    head_dim: 128,
    num_attention_heads: 16,
    num_key_value_heads: 8,
    intermediate_size: 3072,
    vocab_size: 151_936,
    torch_dtype: 'bfloat16',
  },
  M: {
    num_hidden_layers: 12,
    hidden_size: 768,
    num_attention_heads: 12,
    num_key_value_heads: 4,
    intermediate_size: 2048,
    vocab_size: 32768,
  },
};
const [shape, output] = process.argv.slice(2);
if (shapes[shape] === undefined || output === undefined) {
  console.error('usage: node bench/random-model.mjs S|M|0.6B OUTPUT_DIRECTORY');
  process.exit(2);
}
mkdirSync(output, { recursive: true });
const config = {
  ...{
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    head_dim: 64,
    hidden_act: 'silu',
    attention_bias: false,
    torch_dtype: 'float32',
  },
  ...shapes[shape],
  ...{
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    max_position_embeddings: 4096,
    tie_word_embeddings: true,
  },
  ...{ eos_token_id: 1, pad_token_id: 0 },
};
writeFileSync(path.join(output, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
const parsed = readModelConfig(output);
const dtype = config.torch_dtype === 'bfloat16' ? 'BF16' : 'F32';
const weights = fileTensors(parsed, randomWeights(parsed, 7));
await writeSafetensors(path.join(output, 'model.safetensors'), weights, { dtype });
