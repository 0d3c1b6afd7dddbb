import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { copyModel, jsonLines, parseLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { readAdapter } from '../model/peft';
import { readModelConfig } from '../model/config';
import { openModelWeights } from '../model/model-weights';
import { writeSafetensors } from '../model/safetensors-writer';
import { grpoSettings, parseExperiment } from '../train/config';
import type { StepRecord } from '../train/loop';

const model = goldenPath('tiny-qwen3', 'tied-f32');

const records = Array.from({ length: 12 }, (_, i) => ({
  tweet_id: `t${Math.floor(i / 2)}`,
  tweet: `My plant number ${Math.floor(i / 2)} wilted again.`,
  reply: i % 2 === 0 ? 'Did you water it this week?' : 'Oh no, that is sad.',
  reply_likes: i,
}));
const data = (): string => temporaryFile('train.jsonl', jsonLines(records));

function experiment(text: string): string {
  return temporaryFile('experiment.yaml', text);
}

/** Puts a NaN into the model's weights, so that every gradient is one. */
async function breakWeights(directory: string): Promise<void> {
  const files = openModelWeights(directory);
  const tensors = new Map(
    [...files.tensors].map(([name, { shape }]) => [name, { shape, data: files.read(name) }] as const),
  );
  files.close();
  (tensors.get('model.norm.weight') as { data: Float32Array }).data[0] = NaN;
  await writeSafetensors(join(directory, 'model.safetensors'), tensors);
}

const sft = (output: string): string => `
method: sft
model: ${model}
data: { train: ${data()} }
output_dir: ${output}
lora: { r: 4 }
training: { max_steps: 2, batch_size: 2, gradient_accumulation_steps: 2, warmup_ratio: 0, eval_steps: 0 }
`;

describe('grpolab train', () => {
  it('goes on with a run of a build whose experiments had no policy, no dtype and no precision', async () => {
    const output = temporaryDirectory();
    const file = experiment(sft(output));
    expect((await runCli(['train', '--config', file, '--quiet'])).code).toBe(0);
    const config = join(output, 'config.resolved.yaml');
    const text = readFileSync(config, 'utf8');
    expect(text).toMatch(/^dtype: float32\nmatmul_precision: float32$/m);
    const older = text.replace(/^policy:\n {2}type: local\n/m, '');
    writeFileSync(config, older.replace(/^(dtype|matmul_precision): float32\n/gm, ''));
    expect(readFileSync(config, 'utf8')).not.toMatch(/^(policy|dtype|matmul_precision):/m);
    rmSync(join(output, 'trainer_state.json'));
    const { code, stderr } = await runCli(['train', '--config', file, '--resume', '--quiet']);
    expect(stderr).toBe('');
    expect(code).toBe(0);
  });

  it('takes a reward of a YAML file', async () => {
    const [output, reward] = [temporaryDirectory(), temporaryFile('own.yaml', 'preset: sharp\nname: own\n')];
    const file = experiment(`
method: grpo
model: ${model}
data: { train: ${data()} }
output_dir: ${output}
reward: ${reward}
lora: { r: 4 }
training: { max_steps: 1, batch_size: 2, gradient_accumulation_steps: 1 }
grpo: { n_generations: 2, max_new_tokens: 4 }
`);
    const { code, stderr } = await runCli(['train', '--config', file, '--quiet']);
    expect(stderr).toBe('');
    expect(code).toBe(0);
  });

  it('runs SFT and then GRPO from its adapter, and leaves what a run leaves', async () => {
    const [warm, output] = [temporaryDirectory(), temporaryDirectory()];
    const first = await runCli(['train', '--config', experiment(sft(warm)), '--json']);
    expect(first.stderr).toMatch(/^sft: 2\/2 steps/);
    expect(first.code).toBe(0);
    const grpo = experiment(`
method: grpo
model: ${model}
checkpoint_path: ${warm}
data: { train: ${data()} }
output_dir: ${output}
training: { max_steps: 2, batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 1.0e-3, warmup_ratio: 0 }
grpo: { n_generations: 3, max_new_tokens: 6 }
`);
    const second = await runCli(['train', '--config', grpo, '--set', 'grpo.temperature=1.0', '--json']);
    expect(second.code).toBe(0);
    const metrics = parseLines<StepRecord>(readFileSync(join(output, 'metrics.jsonl'), 'utf8'));
    expect(metrics.map(({ step }) => step)).toEqual([1, 2]);
    for (const key of [
      'policy_loss',
      'avg_reward',
      'kl_penalty',
      'total_loss',
      'entropy',
      'completion_tokens',
    ])
      for (const row of metrics) expect(row[`train/${key}`], key).toBeTypeOf('number');
    expect(metrics[0]['train/kl_penalty']).toBeCloseTo(0, 6);
    expect(metrics[1]['train/kl_penalty']).toBeGreaterThan(0);
    expect(metrics[1]['system/tensors']).toBe(metrics[0]['system/tensors']);
    const files = readdirSync(output);
    for (const name of [
      'adapter_model.safetensors',
      'adapter_config.json',
      'trainer_state.json',
      'training_args.json',
    ])
      expect(files).toContain(name);
    for (const name of ['config.resolved.yaml', 'samples.jsonl', 'run.log']) expect(files).toContain(name);
    const config = readModelConfig(model);
    const [a, b] = [warm, output].map((directory) => [...readAdapter(directory, config).matrices.values()]);
    expect(a.some((matrix, i) => matrix.b.some((value, k) => value !== b[i].b[k]))).toBe(true);
    const samples = parseLines<{ replies: string[]; rewards: number[] }>(
      readFileSync(join(output, 'samples.jsonl'), 'utf8'),
    );
    expect(samples.length).toBe(8);
    expect(samples[0].replies.length).toBe(3);
  });

  it('gives the same adapter to the last bit for the same seed', async () => {
    const outputs = [temporaryDirectory(), temporaryDirectory()];
    for (const output of outputs) await runCli(['train', '--config', experiment(sft(output))]);
    const [a, b] = outputs.map((output) => readFileSync(join(output, 'adapter_model.safetensors')));
    expect(a.equals(b)).toBe(true);
  });

  it.each([
    ['training: { learning_rat: 1 }', /training.*learning_rat.*learning_rate/],
    ['training: { batch_size: 0 }', /training\.batch_size/],
    ['grpo: {}', /grpo.*method: grpo/],
    ['_base_: missing.yaml', /missing\.yaml: expected a YAML file/],
    ['model: nowhere/such/dir', /nowhere/],
  ])('refuses a bad experiment in one line (%s)', async (line, message) => {
    const output = join(temporaryDirectory(), 'run');
    const text = `method: sft\nmodel: ${model}\ndata: { train: ${data()} }\noutput_dir: ${output}\n`;
    const own = line.startsWith('model') ? text.replace(/model: .*\n/, '') : text;
    const result = await runCli(['train', '--config', experiment(`${own}${line}\n`)]);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(message);
    expect(result.stderr.trim().split('\n').length).toBe(1);
    expect(readdirSync(join(output, '..')).length).toBe(0);
  });

  it('merges a file over its base', async () => {
    const output = temporaryDirectory();
    const base = experiment(sft(output));
    const file = experiment(
      `_base_: ${base.startsWith('/') ? `../${base.split('/').slice(-2).join('/')}` : base}\nseed: 7\n`,
    );
    const result = await runCli(['train', '--config', file]);
    expect(result.code).toBe(0);
    expect(readFileSync(join(output, 'config.resolved.yaml'), 'utf8')).toMatch(/seed: 7/);
  });
});

describe('a run that goes wrong', () => {
  it('skips steps without a finite gradient, names them, stops at the third and keeps the adapter', async () => {
    const output = temporaryDirectory();
    const broken = copyModel(model);
    const text = sft(output).replace(model, broken).replace('max_steps: 2', 'max_steps: 6');
    await breakWeights(broken);
    const result = await runCli(['train', '--config', experiment(text)]);
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/not finite at 3 steps in a row/);
    expect(result.stderr).toMatch(/step 1: the gradient is not finite, the update is skipped; examples t/);
    const metrics = parseLines<Record<string, number | null>>(
      readFileSync(join(output, 'metrics.jsonl'), 'utf8'),
    );
    expect(metrics.map((row) => [row['train/loss'], row['train/skipped']])).toEqual([
      [null, 1],
      [null, 1],
    ]);
    expect(readdirSync(output)).toContain('adapter_model.safetensors');
  });

  it.each([
    ['--set', 'reward=nosuch.yaml'],
    ['--set', 'training.max_length=5'],
    ['--set', 'a=['],
    ['--adapter', 'no/such/adapter'],
  ])('leaves an earlier run as it was when the input is bad (%s %s)', async (option, value) => {
    const output = temporaryDirectory();
    const config = experiment(sft(output));
    await runCli(['train', '--config', config]);
    const contents = (): string[][] =>
      readdirSync(output, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => [name, readFileSync(join(parentPath, name), 'utf8')]);
    const before = contents();
    const result = await runCli(['train', '--config', config, option, value]);
    expect(result.code).toBe(2);
    expect(result.stderr.trim().split('\n').length).toBe(1);
    expect(contents()).toEqual(before);
  });

  it('refuses a lora section that is not that of the checkpoint', async () => {
    const [warm, output] = [temporaryDirectory(), temporaryDirectory()];
    await runCli(['train', '--config', experiment(sft(warm))]);
    const text = sft(output).replace('r: 4', 'r: 8');
    const result = await runCli(['train', '--config', experiment(text), '--adapter', warm]);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(/lora\.r is 8, but the adapter in checkpoint_path has 4/);
    expect(readdirSync(output)).toEqual([]);
  });
});

describe('the defaults of an experiment', () => {
  it('are those of the study, by method', () => {
    const data = { train: 'x.jsonl' };
    const [sftRun, grpoRun] = (['sft', 'grpo'] as const).map((method) => parseExperiment({ method, data }));
    expect(sftRun.training).toMatchObject({
      ...{
        learning_rate: 2e-4,
        batch_size: 4,
        gradient_accumulation_steps: 4,
        epochs: 2,
        warmup_ratio: 0.03,
      },
    });
    expect(grpoRun.training).toMatchObject({
      ...{
        learning_rate: 1e-5,
        batch_size: 2,
        gradient_accumulation_steps: 8,
        epochs: 3,
        warmup_ratio: 0.05,
      },
    });
    const settings = grpoSettings(grpoRun);
    expect(settings).toMatchObject({ groupSize: 4, temperature: 0.8, topP: 0.9, maxNewTokens: 100 });
    expect(settings.lossTemperature).toBe(0.8);
    expect(settings.loss).toMatchObject({ type: 'grpo', beta: 0.1, epsilonLow: 0.2, epsilonHigh: 0.2 });
  });
});
