import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { mergedBytes, planMemory } from '../model/memory';
import { readModelConfig } from '../model/config';
import { LocalPolicy } from '../policy/local';
import { ConfigError } from '../runtime/errors';
import { formatBytes } from '../runtime/progress';
import { tf } from '../runtime/tf';
import { parseExperiment } from './config';
import type { Experiment } from './experiment-schema';
import { memoryCheck, preflight, stepShape } from './preflight';
import { openPolicy, prepare } from './prepare';
import { runExperiment } from './run';

const model = goldenPath('tiny-qwen3', 'tied-f32');
const config = readModelConfig(model);
const records = Array.from({ length: 6 }, (_, i) => ({
  ...{ tweet_id: `t${i}`, tweet: `My plant number ${i} wilted.`, reply: 'Did you water it?' },
}));
/** A batch, or a length, that no machine has the memory for. */
const HUGE = 1_000_000_000;

function experimentOf(method: Experiment['method'], training: object = {}, rest: object = {}): Experiment {
  return parseExperiment({
    ...{ method, model, data: { train: 'given' }, output_dir: join(temporaryDirectory(), 'run') },
    ...{ lora: { r: 2, alpha: 2, dropout: 0 }, training: { max_length: 128, ...training }, ...rest },
  });
}

const check = async (experiment: Experiment, held: typeof records = []) => {
  const prepared = await prepare(experiment, { train: records, evaluation: held });
  const { ok, detail } = memoryCheck(prepared);
  return { ok, detail, planned: detail.split(' planned ')[0] };
};

describe('the memory check', () => {
  it('leaves out what SFT does not hold, and counts it where replies are sampled', async () => {
    const experiment = experimentOf('sft', { batch_size: 2 });
    const shape = stepShape(experiment);
    const options = { reference: false, fused: true };
    const alone = planMemory(config, shape, 2, { ...options, sampled: [] });
    expect(alone.merged).toBe(0);
    expect(await check(experiment)).toMatchObject({ ok: true, planned: formatBytes(alone.total) });
    const held = { P: 6, G: 64, Tp: 128, Tc: 20_000 };
    const settings = { evaluation: { n_generations: 64, max_new_tokens: 20_000 } };
    const evaluated = planMemory(config, shape, 2, { ...options, sampled: [held] });
    expect(evaluated.total - alone.total).toBeGreaterThan(mergedBytes(config));
    const withReplies = experimentOf('sft', { batch_size: 2 }, settings);
    expect((await check(withReplies, records)).planned).toBe(formatBytes(evaluated.total));
    const lossOnly = experimentOf('sft', { batch_size: 2 }, { evaluation: { n_generations: 0 } });
    expect((await check(lossOnly, records)).planned).toBe(formatBytes(alone.total));
  });

  it('counts the reference of GRPO, and the rows that are sampled at a time: of a whole step', async () => {
    const training = { batch_size: 1, gradient_accumulation_steps: 16, max_length: 4096 };
    const grpo = { n_generations: 4, max_new_tokens: 16 };
    const experiment = experimentOf('grpo', training, { grpo });
    const shape = { P: 1, G: 4, Tp: 4096, Tc: 16 };
    expect(stepShape(experiment)).toEqual(shape);
    const plan = planMemory(config, shape, 2, { sampled: [{ ...shape, P: 16 }] });
    expect((await check(experiment)).planned).toBe(formatBytes(plan.total));
  });

  it('counts the prompts of the diversity term of polychromic training', async () => {
    const polychromic = { n_generations: 3, max_new_tokens: 16, max_examples: 20 };
    const experiment = experimentOf('polychromic', { batch_size: 1, max_length: 4096 }, { polychromic });
    const shape = { P: 1, G: 3, Tp: 4096, Tc: 16 };
    const plan = planMemory(config, shape, 2, { reference: false, sampled: [{ ...shape, P: 20 }] });
    expect((await check(experiment)).planned).toBe(formatBytes(plan.total));
  });

  it('takes the settings that are in force', async () => {
    const settings = { batch_size: 64, gradient_checkpointing: true };
    const { planned } = await check(experimentOf('sft', settings, { dtype: 'bfloat16' }));
    const options = { dtype: 'bfloat16', recompute: true, reference: false, sampled: [] } as const;
    const plan = planMemory(config, { P: 64, G: 1, Tp: 128, Tc: 64 }, 2, options);
    expect(planned).toBe(formatBytes(plan.total));
  });

  it.each([
    ['sft', 'training.max_length, lora.r'],
    ['polychromic', 'training.max_length, lora.r, polychromic.n_generations, polychromic.max_new_tokens'],
    ['grpo', 'training.max_length, lora.r, grpo.n_generations, grpo.max_new_tokens'],
  ] as const)('says in one line what would make %s fit', async (method, others) => {
    const { ok, detail } = await check(experimentOf(method, { batch_size: HUGE }));
    expect(ok).toBe(false);
    expect(detail).toMatch(/ TiB planned \(P=1000000000.*\), [\d.]+ GiB available; /);
    expect(detail).toMatch(/; lower training\.batch_size \(\d+: [\d.]+ GiB\), /);
    expect(detail.endsWith(others)).toBe(true);
    expect(detail).not.toContain('\n');
  });
});

describe('the policy of an experiment', () => {
  const opened = async (settings: object): Promise<void> => {
    const experiment = parseExperiment({ method: 'sft', model, data: { train: 'given' }, ...settings });
    const policy = await openPolicy(await prepare(experiment, { train: records }));
    await policy.dispose();
  };

  it('keeps and multiplies its base weights as the settings say', async () => {
    const load = vi.spyOn(LocalPolicy, 'load');
    onTestFinished(() => load.mockRestore());
    await opened({});
    await opened({ dtype: 'bfloat16', matmul_precision: 'bfloat16' });
    const given = load.mock.calls.map(([{ dtype, matmulPrecision }]) => [dtype, matmulPrecision]);
    expect(given).toEqual([
      ['float32', 'float32'],
      ['bfloat16', 'bfloat16'],
    ]);
  });

  it('hands them to the weights, which refuse products in bfloat16 of weights in float32', () => {
    const load = (): unknown => LocalPolicy.load({ modelDirectory: model, matmulPrecision: 'bfloat16' });
    const before = tf.memory().numTensors;
    expect(load).toThrow(ConfigError);
    expect(load).toThrow(/matmul_precision bfloat16 needs weights in bfloat16 or nf4/);
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe('a run that does not fit by its plan', () => {
  it.each(['sft', 'polychromic', 'grpo'] as const)(
    'is listed without loading the model (%s)',
    async (method) => {
      const experiment = experimentOf(method, { batch_size: HUGE, max_steps: 3 });
      const before = tf.memory().numTensors;
      const report = await preflight(experiment, { train: records, pricePerHour: 2 });
      expect(report).toMatchObject({ totalSteps: 3, stepSeconds: [], etaSeconds: 0, cost: 0 });
      const failing = report.checks.filter(({ ok }) => !ok);
      expect(failing.map(({ name }) => name)).toEqual(['memory']);
      expect(report.checks.map(({ name }) => name).slice(-2)).toEqual(['memory', 'steps']);
      expect(tf.memory().numTensors).toBe(before);
    },
  );

  it('starts with a warning, which the log keeps', async () => {
    // No example is as long as it may be.
    const experiment = experimentOf('sft', { batch_size: 2, max_length: HUGE, max_steps: 1 });
    const lines: string[] = [];
    const result = await runExperiment(experiment, {
      train: records,
      notify: (line) => void lines.push(line),
    });
    await result.policy.dispose();
    expect(result.steps).toBe(1);
    expect(lines).toEqual([
      expect.stringMatching(/^memory may run out: [\d.]+ TiB planned .*; .*lower training/),
    ]);
    const log = join(experiment.output_dir, 'run.log');
    expect(existsSync(log)).toBe(true);
    expect(readFileSync(log, 'utf8')).toContain(`warning: ${lines[0]}`);
  });

  it('starts without one where it fits', async () => {
    const lines: string[] = [];
    const experiment = experimentOf('sft', { batch_size: 2, max_steps: 1 });
    const result = await runExperiment(experiment, {
      train: records,
      notify: (line) => void lines.push(line),
    });
    await result.policy.dispose();
    expect(lines).toEqual([]);
  });
});
