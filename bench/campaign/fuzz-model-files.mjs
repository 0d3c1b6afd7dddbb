// tokenizer.json, config.json and adapters, damaged as trees, as texts and as bytes; what is accepted is then used.
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { golden, library } from './library.mjs';
import { mutateBytes, mutateTree, toJson } from './mutate.mjs';

const { GrpolabError } = library('runtime/errors');
const parse = (file) => JSON.parse(readFileSync(file, 'utf8'));

/** A damaged copy of a JSON file. */
function spoil(value, random, weigh) {
  const kind = random.integer(20);
  if (kind === 0) return mutateBytes(Buffer.from(JSON.stringify(value, null, random.pick([0, 2]))), random);
  const tree = mutateTree(value, random, weigh);
  const text = toJson(tree);
  return kind === 1 ? mutateBytes(Buffer.from(text), random) : Buffer.from(text);
}

/** Of thousands of tokens and merges a few are enough; the rest of the file is as often hit. */
function lightPlaces(random) {
  return (all) => {
    const light = all.filter(([at]) => Object.keys(at).length < 100);
    return random.pick(random.integer(4) > 0 && light.length > 0 ? light : all);
  };
}

const TEXTS = [
  '',
  'Hello, world!',
  'My plant  wilted\n again 123',
  '<|im_start|>x<|im_end|>',
  '\u{1f600} é\ud800 ﷺ',
];

function tokenizerTarget(directory) {
  const source = golden('tiny-qwen3', 'tied-f32');
  const { loadTokenizer } = library('model/tokenizer');
  cpSync(source, directory, { recursive: true, filter: (file) => !file.endsWith('.safetensors') });
  const names = ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json'];
  const files = Object.fromEntries(names.map((name) => [name, parse(path.join(source, name))]));
  const template = readFileSync(path.join(source, 'chat_template.jinja'));
  return async (random) => {
    for (const name of names) writeFileSync(path.join(directory, name), JSON.stringify(files[name]));
    writeFileSync(
      path.join(directory, 'chat_template.jinja'),
      random.integer(12) === 0 ? mutateBytes(template, random) : template,
    );
    const name = random.pick([names[0], names[0], names[0], names[0], names[1], names[1], names[2]]);
    writeFileSync(path.join(directory, name), spoil(files[name], random, lightPlaces(random)));
    const tokenizer = await loadTokenizer(directory);
    for (const text of TEXTS) {
      const ids = tokenizer.encode(text);
      if (!ids.every((id) => Number.isSafeInteger(id) && id >= 0))
        return `ids ${JSON.stringify(ids).slice(0, 200)}`;
      if (typeof tokenizer.decode(ids, { skipSpecialTokens: true }) !== 'string') return 'decoded no text';
    }
    tokenizer.applyChatTemplate([{ role: 'user', content: 'Hi' }], { addGenerationPrompt: true });
  };
}

function configTarget(directory) {
  const { readModelConfig, countParameters, checkTensors } = library('model/config');
  const config = parse(golden('tiny-qwen3', 'tied-f32', 'config.json'));
  const generation = parse(golden('tiny-qwen3', 'tied-f32', 'generation_config.json'));
  const older = { ...config, rope_theta: 1e6, torch_dtype: 'bfloat16', rope_scaling: null };
  delete older.rope_parameters;
  return (random) => {
    const base = random.pick([config, config, older]);
    const other = random.integer(5) === 0;
    writeFileSync(path.join(directory, 'config.json'), other ? JSON.stringify(base) : spoil(base, random));
    writeFileSync(
      path.join(directory, 'generation_config.json'),
      other ? spoil(generation, random) : JSON.stringify(generation),
    );
    const read = readModelConfig(directory);
    const sizes = [
      read.vocabSize,
      read.hiddenSize,
      read.headDim,
      read.numHiddenLayers,
      read.numKeyValueHeads,
    ];
    if (!sizes.every((size) => Number.isSafeInteger(size) && size > 0)) return `sizes ${sizes.join()}`;
    if (!(countParameters(read) > 0)) return 'no parameters';
    const refusal = refusalOf(() => checkTensors(read, [{ name: 'x', shape: [1] }], directory));
    if (!/tensors are missing/.test(refusal)) return `a model without tensors: ${refusal}`;
  };
}

function refusalOf(action) {
  try {
    action();
    return 'none';
  } catch (error) {
    return String(error);
  }
}

/** `adapter_config.json` is damaged, or the weights are: their header or their bytes. */
function adapterTarget(directory) {
  const { readAdapter } = library('model/peft');
  const { readModelConfig } = library('model/config');
  const model = readModelConfig(golden('tiny-qwen3', 'untied-f32'));
  const source = golden('lora', 'adapter');
  const config = parse(path.join(source, 'adapter_config.json'));
  const weights = readFileSync(path.join(source, 'adapter_model.safetensors'));
  const headerBytes = Number(weights.readBigUInt64LE());
  const header = JSON.parse(weights.subarray(8, 8 + headerBytes).toString());
  const withHeader = (text) => {
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([prefix, text, weights.subarray(8 + headerBytes)]);
  };
  return (random) => {
    const kind = random.integer(10);
    rmSync(path.join(directory, 'adapter_model.safetensors'), { force: true, recursive: true });
    writeFileSync(
      path.join(directory, 'adapter_config.json'),
      kind < 6 ? spoil(config, random) : JSON.stringify(config),
    );
    const changed =
      kind === 8 ? withHeader(spoil(header, random)) : mutateBytes(weights, random, 0, 8 + headerBytes);
    if (random.integer(100) > 0)
      writeFileSync(path.join(directory, 'adapter_model.safetensors'), kind < 8 ? weights : changed);
    const { matrices, config: read } = readAdapter(directory, model);
    for (const { a, b } of matrices.values()) {
      if (a.length % read.r !== 0 || b.length % read.r !== 0) return 'factors of another rank';
    }
  };
}

const TARGETS = {
  'fuzz-tokenizer': tokenizerTarget,
  'fuzz-config': configTarget,
  'fuzz-adapter': adapterTarget,
};

export function prepare(directory, part) {
  return { Allowed: GrpolabError, attempt: TARGETS[part](directory) };
}
