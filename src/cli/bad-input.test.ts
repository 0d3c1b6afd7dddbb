import { existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { copyModel, jsonLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';

const base = 'test/golden/tiny-qwen3/untied-f32';
const adapter = 'test/golden/lora/adapter';
const ids = jsonLines([{ token_ids: [1, 2, 3] }]);

/** One clear line on standard error that says where and what, nothing on standard output, exit code 2. */
async function refused(argv: string[], input: string, ...messages: (string | RegExp)[]): Promise<void> {
  const { code, stdout, stderr } = await runCli(argv, input);
  expect([code, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(/^grpolab: [^\n]{10,}\n$/);
  for (const message of messages) expect(stderr).toMatch(message);
}

function changeJson(file: string, change: (value: Record<string, unknown>) => void): void {
  const value = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  change(value);
  writeFileSync(file, JSON.stringify(value));
}

const onModel = (directory: string) => ['logprobs', '--model', directory, '--input', '-'];

describe('a damaged model', () => {
  it('without weights', async () => {
    const model = copyModel(base);
    rmSync(join(model, 'model.safetensors'));
    await refused(onModel(model), ids, 'expected model.safetensors');
  });

  it.each([100, 5_000, 400_000])('with weights cut after %i bytes', async (bytes) => {
    const model = copyModel(base);
    truncateSync(join(model, 'model.safetensors'), bytes);
    await refused(onModel(model), ids, 'model.safetensors');
  });

  it('with weights of other shapes than its configuration', async () => {
    const model = copyModel(base);
    changeJson(join(model, 'config.json'), (config) => (config.intermediate_size = 96));
    await refused(onModel(model), ids, /expected shape \[96, 64\]|expected shape \[64, 96\]/);
  });

  it('with fewer layers in the file than in the configuration', async () => {
    const model = copyModel(base);
    changeJson(join(model, 'config.json'), (config) => (config.num_hidden_layers = 4));
    await refused(onModel(model), ids, 'tensors are missing');
  });

  it('of an unknown architecture', async () => {
    const model = copyModel(base);
    changeJson(join(model, 'config.json'), (config) => (config.model_type = 'mamba'));
    await refused(onModel(model), ids, 'config.json: model_type', 'mamba');
    await refused(['doctor', '--model', model], '', 'model_type');
  });

  it('without a tokenizer', async () => {
    const model = copyModel(base);
    rmSync(join(model, 'tokenizer.json'));
    const message = 'the tokenizer is incomplete, missing: tokenizer.json';
    await refused(['generate', '--model', model, '--input', '-'], jsonLines([{ tweet: 'x' }]), message);
    await refused(['tokenize', '--model', model, '--input', '-'], jsonLines([{ text: 'x' }]), message);
  });

  it('whose configuration is not JSON', async () => {
    const model = copyModel(base);
    writeFileSync(join(model, 'config.json'), '{"model_type": "qw');
    await refused(onModel(model), ids, 'config.json: is not JSON');
  });

  it('that is not there, or is a file', async () => {
    await refused(onModel('/nowhere/model'), ids, 'expected a model directory or a hub id');
    await refused(onModel(join(base, 'config.json')), ids, 'expected a model directory or a hub id');
  });
});

describe('a wrong adapter', () => {
  const withAdapter = (directory: string, model = base) => [...onModel(model), '--adapter', directory];

  it('of another model', async () => {
    const other = copyModel(base);
    const config = join(other, 'adapter_config.json');
    writeFileSync(config, readFileSync(join(adapter, 'adapter_config.json')));
    changeJson(config, (value) => (value.r = 8));
    writeFileSync(
      join(other, 'adapter_model.safetensors'),
      readFileSync(join(adapter, 'adapter_model.safetensors')),
    );
    await refused(withAdapter(other), ids, 'Is it an adapter of another model?');
  });

  it('whose file is cut short', async () => {
    const directory = copyModel(adapter);
    truncateSync(join(directory, 'adapter_model.safetensors'), 20_000);
    await refused(withAdapter(directory), ids, 'adapter_model.safetensors');
  });

  it('that is not there, before anything is written', async () => {
    const output = join(temporaryDirectory(), 'merged');
    const argv = ['merge', '--model', base, '--adapter', '/nowhere', '--output', output];
    await refused(argv, '', '/nowhere');
    expect(existsSync(output)).toBe(false);
  });
});

describe('wrong input lines', () => {
  it.each([
    ['{"token_ids": [1, 2', 'stdin:1: not JSON'],
    ['{"token_ids": [1, 640, 2]}', 'stdin:1: token_ids[1] is 640; expected an integer in 0..639'],
    ['{"token_ids": [1, -1, 2]}', 'token_ids[1] is -1'],
    ['{"token_ids": [1, 2.5, 2]}', 'token_ids[1] is 2.5'],
    ['{"token_ids": [1, "2", 2]}', 'token_ids[1] is "2"'],
    ['{"token_ids": [1]}', 'prompt_length is 1 of 1 token_ids'],
    ['{"token_ids": [1, 2], "prompt_length": 2}', 'prompt_length is 2 of 2 token_ids'],
    ['{"token_ids": [1, 2], "prompt_length": 0}', 'prompt_length is 0; expected an integer >= 1'],
    ['{"tokens": [1]}', 'token_ids is missing'],
    ['', 'stdin: has no valid line'],
  ])('%s', async (line, message) => {
    await refused(onModel(base), `${line}\n`, message);
  });

  it('name the line, and are set aside when told to', async () => {
    const file = temporaryFile('ids.jsonl', `${ids}{"token_ids": []}\n${ids}`);
    const argv = ['logprobs', '--model', base, '--input', file, '--quiet'];
    await refused(argv, '', 'ids.jsonl:2: ');
    const { code, stdout, stderr } = await runCli([...argv, '--skip-invalid']);
    expect(code).toBe(0);
    expect(stdout.trimEnd().split('\n')).toHaveLength(2);
    expect(stderr).toContain('1 bad lines set aside in');
  });

  it.each([
    [{}, 'neither of text and messages'],
    [{ text: 'a', messages: [{ role: 'user', content: 'b' }] }, 'both of text and messages'],
    [{ messages: [] }, 'messages is []; expected a list of'],
    [{ messages: [{ role: 'user' }] }, 'messages.0.content is missing'],
    [{ text: 1 }, 'text is 1; expected a text'],
    [{ messages: [{ role: 'user', content: 'b' }], enable_thinking: 'no' }, 'expected true or false'],
  ])('of tokenize: %j', async (line, message) => {
    await refused(['tokenize', '--model', base, '--input', '-'], jsonLines([line]), message);
  });
});

describe('wrong files', () => {
  it.each([
    ['logprobs', '--model', base],
    ['generate', '--model', base],
    ['tokenize', '--model', base],
    ['reward'],
    ['split', '--output-dir', '/nowhere/out'],
  ])('%s says that its input is not there, or is a directory', async (...command) => {
    await refused([...command, '--input', '/nowhere/x.jsonl'], '', '/nowhere/x.jsonl: no such file');
    await refused([...command, '--input', 'test'], '', 'test: is a directory; expected a file');
  });

  it('split does not take a file for its output directory', async () => {
    const file = temporaryFile('out', 'mine');
    const records = jsonLines(
      Array.from({ length: 8 }, (_, i) => ({ tweet_id: String(i), tweet: 'a', reply: 'b' })),
    );
    await refused(['split', '--input', '-', '--output-dir', file], records, 'a file stands there');
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });

  it('reward says that its configuration has an unknown key, or is not there', async () => {
    const file = temporaryFile('reward.yaml', 'weihgts: {}\n');
    const argv = ['reward', '--input', '-', '--reward'];
    await refused([...argv, file], '', 'unknown key "weihgts"; did you mean "weights"');
    await refused([...argv, '/nowhere.yaml'], '', '/nowhere.yaml');
  });
});

describe('base weights', () => {
  // No model is there: what the words say is wrong before it is looked for.
  it.each(['generate', 'logprobs', 'bench'])(
    'that are not multiplied in bfloat16, and words that are no type or precision (%s)',
    async (command) => {
      const input = command === 'bench' ? [] : ['--input', '-'];
      const refuse = (message: string, ...own: string[]): Promise<void> =>
        refused([command, '--model', '/nowhere/model', ...input, ...own], ids, message);
      await refuse(
        'matmul_precision bfloat16 needs weights in bfloat16 or nf4',
        '--matmul-precision',
        'bfloat16',
      );
      await refuse('--dtype is "float16"; expected float32, bfloat16, nf4', '--dtype', 'float16');
      const words = ['--dtype', 'bfloat16', '--matmul-precision', 'nf4'];
      await refuse('--matmul-precision is "nf4"; expected float32, bfloat16', ...words);
    },
  );
});
