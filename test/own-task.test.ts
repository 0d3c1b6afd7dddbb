/** A task that is not about tweets, from its files to what a run leaves: a reward module counts a letter. */
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { stringify } from 'yaml';
import { describe, expect, it } from 'vitest';
import { loadReward } from '../src/rewards/config';
import { loadExperiment } from '../src/train/config';
import type { StepRecord } from '../src/train/loop';
import { dataHash, prepare } from '../src/train/prepare';
import { runExperiment } from '../src/train/run';
import type { RunHooks } from '../src/train/run';
import { jsonLines, parseLines, runCli, temporaryDirectory } from './cli';
import { goldenPath } from './golden';

const COUNT = `module.exports = async (record, completion) => {
  const count = completion.split(record.letter).length - 1;
  return { total: count, components: { count, length: completion.length } };
};`;

const lines = Array.from({ length: 8 }, (_, i) => ({
  ...{ question: `How many of item ${i}?`, letter: 'e', answer: `There are ${i} here, three there.` },
}));

/** An experiment file with its data and reward beside it. */
function writeTask(settings: Record<string, unknown> = {}): { root: string; config: string; output: string } {
  const root = temporaryDirectory();
  const [config, output] = [path.join(root, 'experiment.yaml'), path.join(root, 'run')];
  writeFileSync(path.join(root, 'lines.jsonl'), jsonLines(lines));
  writeFileSync(path.join(root, 'held.jsonl'), jsonLines(lines.slice(0, 2)));
  writeFileSync(path.join(root, 'count.js'), COUNT);
  const experiment = {
    method: 'grpo',
    model: path.resolve(goldenPath('tiny-qwen3', 'tied-f32')),
    data: { train: path.join(root, 'lines.jsonl') },
    output_dir: output,
    task: { template: '{question} ({letter})', completion: 'answer', reward: './count.js' },
    lora: { r: 4, dropout: 0 },
    training: {
      ...{ max_steps: 14, batch_size: 4, gradient_accumulation_steps: 1, learning_rate: 0.03 },
      ...{ warmup_ratio: 0, lr_scheduler_type: 'constant_with_warmup', eval_steps: 0 },
    },
    grpo: { n_generations: 8, temperature: 1, top_p: 1, max_new_tokens: 8, kl_coeff: 0 },
    ...settings,
  };
  writeFileSync(config, stringify(experiment));
  return { root, config, output };
}

const metricsOf = (output: string): StepRecord[] =>
  parseLines<StepRecord>(readFileSync(path.join(output, 'metrics.jsonl'), 'utf8'));

const adapterOf = (output: string): Buffer => readFileSync(path.join(output, 'adapter_model.safetensors'));

async function run(config: string, hooks: RunHooks = {}): Promise<void> {
  await (await runExperiment(loadExperiment(config), hooks)).policy.dispose();
}

const short = {
  ...{ max_steps: 2, batch_size: 2, gradient_accumulation_steps: 1, warmup_ratio: 0, eval_steps: 1 },
};
const held = (root: string): string => `data.eval=${path.join(root, 'held.jsonl')}`;
const evaluation = { n_generations: 2, max_new_tokens: 6 };

describe('a task of one’s own', () => {
  it('is learned by GRPO: the counted letter becomes frequent', async () => {
    const { config, output } = writeTask();
    const result = await runCli(['train', '--config', config, '--json']);
    expect(result.stderr).toMatch(/^grpo: 14\/14 steps/);
    expect(result.code).toBe(0);
    const rewards = metricsOf(output).map((row) => row['train/avg_reward']);
    const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
    expect(mean(rewards.slice(-3))).toBeGreaterThan(2 * mean(rewards.slice(0, 3)));
    for (const row of metricsOf(output)) expect(row['reward/count']).toBe(row['train/avg_reward']);
    const samples = parseLines<{ prompt_id: string; replies: string[]; rewards: number[] }>(
      readFileSync(path.join(output, 'samples.jsonl'), 'utf8'),
    );
    expect(new Set(samples.map(({ prompt_id }) => prompt_id))).toEqual(
      new Set(lines.map((_, i) => `${i + 1}`)),
    );
    for (const { replies, rewards: own } of samples)
      expect(own).toEqual(replies.map((text) => text.split('e').length - 1));
  });

  it.each(['sft', 'polychromic'])(
    'is learned from its completions by %s, with held-out prompts',
    async (method) => {
      const { root, config, output } = writeTask({
        ...{ method, evaluation, training: short, grpo: undefined },
        ...(method === 'polychromic' ? { polychromic: { every: 1, max_new_tokens: 6 } } : {}),
      });
      const result = await runCli(['train', '--config', config, '--set', held(root)]);
      expect(result.code).toBe(0);
      for (const row of metricsOf(output).slice(-1))
        for (const key of ['train/loss', 'eval/loss', 'eval/reward', 'eval/semantic_diversity'])
          expect(row[key], key).toBeTypeOf('number');
    },
  );

  it('pays for the diversity of a group, and is measured on held-out prompts by GRPO', async () => {
    const grpo = { n_generations: 3, max_new_tokens: 6, diversity_weight: 0.5 };
    const { root, config, output } = writeTask({ evaluation, training: short, grpo });
    expect((await runCli(['train', '--config', config, '--set', held(root)])).code).toBe(0);
    const last = metricsOf(output).at(-1) as StepRecord;
    for (const key of ['train/diversity', 'eval/reward']) expect(last[key], key).toBeTypeOf('number');
  });

  it('goes on from another directory to the same bits, and not with another reward', async () => {
    const training = { ...short, max_steps: 3, save_steps: 1 };
    const grpo = { n_generations: 4, max_new_tokens: 6 };
    const [whole, parted] = [writeTask({ training, grpo }), writeTask({ training, grpo })];
    await run(whole.config);
    const controller = new AbortController();
    await run(parted.config, { signal: controller.signal, onStep: () => controller.abort() });
    expect(metricsOf(parted.output).length).toBe(1);
    const reward = path.join(parted.root, 'count.js');
    writeFileSync(reward, COUNT.replace('total: count', 'total: -count'));
    await expect(run(parted.config, { resume: true })).rejects.toThrow(
      'the training data is not what the run began',
    );
    writeFileSync(reward, COUNT);
    const before = process.cwd();
    process.chdir(parted.root);
    try {
      await run('experiment.yaml', { resume: true });
    } finally {
      process.chdir(before);
    }
    expect(metricsOf(parted.output).length).toBe(3);
    expect(adapterOf(parted.output).equals(adapterOf(whole.output))).toBe(true);
  });

  it('is refused in one line before a directory is made', async () => {
    const { root, config } = writeTask();
    for (const [setting, message] of [
      ['task.template="{nothing}"', /lines\.jsonl:1: field nothing is missing/],
      ['task.reward=nowhere.js', /nowhere\.js: the task's reward: no such file/],
      [
        'task.template={nothing}',
        /task\.template is .*: expected a text; put one that begins with \{ in quotes/,
      ],
      ['reward=sharp', /reward: is sharp, but the task has a reward of its own/],
    ] as const) {
      const result = await runCli(['train', '--config', config, '--set', setting]);
      expect(result.code).toBe(2);
      expect(result.stderr).toMatch(message);
      expect(result.stderr.trim().split('\n').length).toBe(1);
    }
    expect(readdirSync(root)).not.toContain('run');
    await expect(run(config, { reward: await loadReward('heuristic') })).rejects.toThrow(
      'a reward on (tweet, reply) was given to a task of its own',
    );
  });

  it('ends with the path of a reward that fails on the way', async () => {
    const { root, config } = writeTask();
    writeFileSync(path.join(root, 'count.js'), 'exports.reward = () => { throw new Error("no service"); };');
    const result = await runCli(['train', '--config', config]);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(
      /count\.js: the reward of a completion of .*lines\.jsonl:\d throws: no service/,
    );
  });

  it('has records in its data’s hash whole, since the reward may look at all of them', async () => {
    const { config } = writeTask();
    const experiment = loadExperiment(config);
    const hashes = [];
    for (const letter of ['e', 'f'])
      hashes.push(dataHash(await prepare(experiment, { train: lines.map((line) => ({ ...line, letter })) })));
    expect(hashes[0]).not.toBe(hashes[1]);
  });
});

describe('the example of a task of one’s own', () => {
  it('is ready to run', async () => {
    const prepared = await prepare(loadExperiment('configs/tasks/question_small.yaml'), {});
    expect(prepared.experiment.task).toBeDefined();
    const { task, records } = prepared;
    expect([records.length, task.reward.name]).toEqual([100, 'question.mjs']);
    const prompt = { id: records[0].id, tokenIds: [1], record: records[0] };
    const scores = await task.score(
      ['What is it?', 'It is. What?', 'No.', ''].map((text) => ({ prompt, text })),
    );
    expect(scores.map(({ total }) => total)).toEqual([1, 1, 0, 0]);
  });
});
