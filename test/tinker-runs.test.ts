/** Whole runs of a policy on a server: what they learn, what they leave, and how they go on after either side has died. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stringify } from 'yaml';
import { describe, expect, it, onTestFinished } from 'vitest';
import { readModelConfig } from '../src/model/config';
import { readAdapter } from '../src/model/peft';
import { loadExperiment, parseExperiment } from '../src/train/config';
import type { StepRecord } from '../src/train/loop';
import { runExperiment } from '../src/train/run';
import type { RunHooks } from '../src/train/run';
import { jsonLines, parseLines, runCli, temporaryDirectory } from './cli';
import { goldenPath } from './golden';
import { TinkerServer } from './tinker-server';
import type { TinkerServerOptions } from './tinker-server';

const modelDirectory = path.resolve(goldenPath('tiny-qwen3', 'tied-f32'));
const COUNT = `module.exports = (record, completion) => completion.split('e').length - 1;`;
const lines = Array.from({ length: 8 }, (_, i) => ({
  ...{ question: `How many of item ${i}?`, answer: `There are ${i} here, three there.` },
}));
const STEPS = 6;

type Settings = Record<string, unknown>;

async function startServer(options: TinkerServerOptions = {}): Promise<TinkerServer> {
  const server = await TinkerServer.start({ modelDirectory, ...options });
  onTestFinished(() => server.dispose());
  return server;
}

const tinker = ({ baseUrl }: { baseUrl: string }): Settings => ({ type: 'tinker', base_url: baseUrl });

/** A file of an experiment on the counting task; `own` wins over what all have. */
function experiment(root: string, name: string, own: Settings): string {
  const file = path.join(root, `${name}.yaml`);
  writeFileSync(path.join(root, 'lines.jsonl'), jsonLines(lines));
  writeFileSync(path.join(root, 'count.cjs'), COUNT);
  const common = {
    model: modelDirectory,
    data: { train: path.join(root, 'lines.jsonl') },
    output_dir: path.join(root, name),
    task: { template: '{question}', completion: 'answer', reward: './count.cjs' },
    lora: { r: 4, alpha: 32, dropout: 0 },
    training: {
      ...{ max_steps: STEPS, batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 0.01 },
      ...{ warmup_ratio: 0, lr_scheduler_type: 'constant_with_warmup', eval_steps: 0, max_grad_norm: 0 },
      ...{ save_steps: 2 },
    },
  };
  writeFileSync(file, stringify({ ...common, ...own }));
  return file;
}

const grpo = {
  method: 'grpo',
  grpo: { n_generations: 8, temperature: 1, top_p: 1, max_new_tokens: 8, kl_coeff: 0.02 },
};

async function run(config: string, hooks: RunHooks = {}): Promise<StepRecord[]> {
  const result = await runExperiment(loadExperiment(config), { notify: () => undefined, ...hooks });
  await result.policy.dispose();
  return metricsOf(result.directory);
}

function metricsOf(output: string): StepRecord[] {
  const file = path.join(output, 'metrics.jsonl');
  return existsSync(file) ? parseLines<StepRecord>(readFileSync(file, 'utf8')) : [];
}

function factorsOf(output: string): number[] {
  const { matrices } = readAdapter(output, readModelConfig(modelDirectory));
  return [...matrices.values()].flatMap(({ a, b }) => [...a, ...b]);
}

const column = (rows: readonly StepRecord[], key: string): number[] => rows.map((row) => row[key]);

function expectClose(actual: readonly number[], expected: readonly number[], digits: number): void {
  expect(actual).toHaveLength(expected.length);
  const largest = Math.max(...actual.map((x, i) => Math.abs(x - expected[i])));
  expect(largest).toBeLessThan(10 ** -digits);
}

/** The learned values of two runs: what was sampled, and what came of it. */
function expectSameCourse(actual: readonly StepRecord[], expected: readonly StepRecord[]): void {
  expect(column(actual, 'step')).toEqual(column(expected, 'step'));
  expect(column(actual, 'train/avg_reward')).toEqual(column(expected, 'train/avg_reward'));
  expectClose(column(actual, 'train/grad_norm'), column(expected, 'train/grad_norm'), 4);
}

describe('a run on a server', () => {
  it('learns by SFT what a run here learns, to the same adapter', async () => {
    const [server, root] = [await startServer(), temporaryDirectory()];
    const there = await run(experiment(root, 'there', { method: 'sft', policy: tinker(server) }));
    const here = await run(experiment(root, 'here', { method: 'sft' }));
    expectClose(column(there, 'train/loss'), column(here, 'train/loss'), 4);
    expectClose(column(there, 'train/grad_norm'), column(here, 'train/grad_norm'), 3);
    expect(here[STEPS - 1]['train/loss']).toBeLessThan(here[0]['train/loss'] - 0.1);
    expectClose(factorsOf(path.join(root, 'there')), factorsOf(path.join(root, 'here')), 3);
    expect(server.applied('optim_step')).toHaveLength(STEPS + 1);
    expect(server.applied('forward_backward')).toHaveLength(STEPS);
  });

  it('learns by GRPO from the warm start, which is its reference, with one sampler a step', async () => {
    const [server, root] = [await startServer(), temporaryDirectory()];
    const policy = tinker(server);
    experiment(root, 'warm', { method: 'sft', policy });
    const second = { ...grpo, policy, warm_start: 'warm.yaml', checkpoint_path: path.join(root, 'warm') };
    const file = experiment(root, 'grpo', second);
    const { code, stderr } = await runCli([
      ...['train', '--config', file, '--phases', '1,2', '--set', 'training.max_steps=10', '--quiet'],
      ...['--set', 'training.learning_rate=0.01', '--output', path.join(root, 'study')],
    ]);
    expect(stderr).toBe('');
    expect(code).toBe(0);
    const rows = metricsOf(path.join(root, 'study', 'phase2', 'seed_42'));
    const rewards = column(rows, 'train/avg_reward');
    const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
    expect(mean(rewards.slice(-3))).toBeGreaterThan(mean(rewards.slice(0, 3)) + 0.2);
    expect(Math.abs(rows[0]['train/kl_per_token'])).toBeLessThan(1e-6);
    expect(rows[9]['train/kl_per_token']).toBeGreaterThan(0.001);
    // A server does not tell the entropy, and nothing stands in for it.
    expect(rows.some((row) => 'train/entropy' in row)).toBe(false);
    const samplers = server.asked('save_weights_for_sampler');
    expect(samplers.filter(({ body }) => 'sampling_session_seq_id' in body)).toHaveLength(10);
    // Both phases have freed their places.
    expect(server.applied('unload_model')).toHaveLength(server.applied('create_model').length);
  });

  it('is polychromic as well, at temperature 1', async () => {
    const [server, root] = [await startServer(), temporaryDirectory()];
    const settings = { temperature: 1, every: 2, max_new_tokens: 6 };
    const own = { method: 'polychromic', policy: tinker(server), polychromic: settings };
    const rows = await run(experiment(root, 'polychromic', own));
    expect(rows.map((row) => 'train/diversity' in row)).toEqual([false, true, false, true, false, true]);
    expect(() => parseExperiment({ ...own, data: { train: 'x' }, polychromic: {} })).toThrow(
      /polychromic\.temperature: is 0\.9, .* set it to 1/,
    );
  });

  it('measures steps before a long run, and leaves nothing on the server', async () => {
    const [server, root] = [await startServer(), temporaryDirectory()];
    const file = experiment(root, 'dry', { ...grpo, policy: tinker(server) });
    const { code, stdout } = await runCli(['train', '--config', file, '--dry-run', '--quiet']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/ok {3}device {3}Tinker server at http:\/\/127\.0\.0\.1:\d+\n/);
    expect(stdout).toMatch(/s a step measured/);
    expect(stdout).not.toMatch(/memory/);
    expect(server.applied('unload_model')).toHaveLength(server.applied('create_model').length);
    expect(existsSync(path.join(root, 'dry'))).toBe(false);
  });
});

describe('a run goes on', () => {
  /** What an uninterrupted run does. */
  async function whole(server: TinkerServer, root: string): Promise<StepRecord[]> {
    return run(experiment(root, 'whole', { ...grpo, policy: tinker(server) }));
  }

  it('after its process was killed, and frees the places that it had', async () => {
    const [server, root] = [await startServer(), temporaryDirectory()];
    const expected = await whole(server, root);
    const file = experiment(root, 'killed', { ...grpo, policy: tinker(server) });
    const output = path.join(root, 'killed');
    const child = spawn(process.execPath, ['bin/grpolab.mjs', 'train', '--config', file], {
      stdio: 'ignore',
    });
    const ended = once(child, 'exit');
    while (metricsOf(output).length < 3 && child.exitCode === null) await delay(20);
    child.kill('SIGKILL');
    await ended;
    expect(existsSync(path.join(output, 'trainer_state.json'))).toBe(false);
    const before = server.applied('unload_model').length;
    expectSameCourse(await run(file, { resume: true }), expected);
    // Two that the killed process had, and two of the one that went on.
    expect(server.applied('unload_model')).toHaveLength(before + 4);
    expect(existsSync(path.join(output, 'tinker-models.json'))).toBe(false);
  });

  it.each([true, false])('after the server was restarted, its database kept: %s', async (keepDatabase) => {
    const [server, root] = [await startServer(), temporaryDirectory()];
    const expected = keepDatabase ? await whole(server, root) : [];
    const file = experiment(root, 'cut', { ...grpo, policy: tinker(server) });
    const output = path.join(root, 'cut');
    const restart = ({ step }: StepRecord): void => {
      if (step === 3) void server.restart({ keepDatabase });
    };
    const failed = run(file, { onStep: restart });
    await expect(failed).rejects.toThrow(
      /the models that it trained are gone\. Go on from the last checkpoint/,
    );
    expect(column(metricsOf(output), 'step')).toEqual([1, 2, 3]);
    if (keepDatabase) {
      expectSameCourse(await run(file, { resume: true }), expected);
      return;
    }
    await expect(run(file, { resume: true })).rejects.toThrow(
      /load_weights: 404 .*checkpoint-2: its training state is tinker:\/\/\S+, which this server does not have/,
    );
    // Nothing that was there is lost: the adapter of the checkpoint can be used without the server.
    expect(factorsOf(path.join(output, 'checkpoint-2')).length).toBeGreaterThan(0);
  });

  it('with the server at another address, but not with another model', async () => {
    const [server, root] = [await startServer(), temporaryDirectory()];
    const file = experiment(root, 'moved', { ...grpo, policy: tinker(server) });
    const controller = new AbortController();
    const stop = ({ step }: StepRecord): void => {
      if (step === 2) controller.abort();
    };
    await run(file, { onStep: stop, signal: controller.signal });
    const set = (...more: string[]): Promise<unknown> =>
      runExperiment(loadExperiment(file, more), { resume: true }).then(({ policy }) => policy.dispose());
    const elsewhere = server.baseUrl.replace('127.0.0.1', 'localhost');
    await expect(set('policy.base_model=other')).rejects.toThrow(/the server has no model "other"/);
    await set(`policy.base_url=${elsewhere}`, 'policy.timeout_seconds=99');
    expect(column(metricsOf(path.join(root, 'moved')), 'step')).toEqual([1, 2, 3, 4, 5, 6]);
  });
});

describe('what a server cannot do', () => {
  const policy = { type: 'tinker', base_url: 'http://localhost:1' };
  const parse = (own: Settings): unknown =>
    parseExperiment({ method: 'grpo', data: { train: 'x' }, policy, ...own });

  it.each<[string, Settings, RegExp]>([
    ['clip gradients', { training: { max_grad_norm: 1 } }, /training.max_grad_norm: is 1, .* set it to 0/],
    [
      'another alpha',
      { lora: { alpha: 16 }, grpo: { temperature: 1 } },
      /lora.alpha: is 16, .* always has 32/,
    ],
    ['dropout', { lora: { dropout: 0.1 }, grpo: { temperature: 1 } }, /lora.dropout: is 0.1, .* has none/],
    [
      'some modules',
      { lora: { target_modules: ['q_proj'] } },
      /lora.target_modules: is q_proj, .* all seven/,
    ],
    ['tempered log-probabilities', {}, /grpo.loss_temperature: is 0.8, .* temperature 1 alone/],
    ['a least length', { grpo: { temperature: 1, min_new_tokens: 2 } }, /grpo.min_new_tokens: is 2/],
    ['recomputing', { training: { gradient_checkpointing: true } }, /gradient_checkpointing: is true/],
    ['a type of the base weights', { dtype: 'nf4' }, /dtype: is nf4, .* decides that itself; remove it/],
    [
      'a precision of products',
      { matmul_precision: 'bfloat16' },
      /matmul_precision: is bfloat16, but a Tinker server decides that itself; remove it(?!.*set dtype)/,
    ],
    ['an address that is none', { policy: { type: 'tinker', base_url: 'x' } }, /base_url: expected an http/],
    [
      'a password in the address',
      { policy: { ...policy, base_url: 'http://a:b@c' } },
      /without user name, password/,
    ],
    ['a key in the file', { policy: { ...policy, api_key: 'tml-1' } }, /"api_key" may not stand/],
  ])('is refused: %s', (_, own, message) => {
    expect(() => parse(own)).toThrow(message);
  });

  it('has defaults that a server keeps to, and draws at any temperature', () => {
    const given = parse({ grpo: { temperature: 0.8, loss_temperature: 1 }, lora: { r: 8 } });
    expect(given).toMatchObject({
      training: { max_grad_norm: 0 },
      lora: { r: 8, alpha: 32, dropout: 0 },
      policy: { timeout_seconds: 1800, api_key_env: 'none' },
    });
  });

  it('needs a warm start that a server has trained', async () => {
    const [server, root] = [await startServer(), temporaryDirectory()];
    await run(experiment(root, 'warm', { method: 'sft' }));
    const start = { checkpoint_path: path.join(root, 'warm'), policy: tinker(server) };
    await expect(run(experiment(root, 'grpo', { ...grpo, ...start }))).rejects.toThrow(
      /warm: has no tinker\.json; expected a checkpoint that was trained on a server/,
    );
    expect(server.requests).toHaveLength(0);
    expect(existsSync(path.join(root, 'grpo'))).toBe(false);
  });
});
