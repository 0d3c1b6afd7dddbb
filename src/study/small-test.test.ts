import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { describe, expect, it, vi } from 'vitest';
import { jsonLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { loadReward } from '../rewards/config';
import type { Reward } from '../rewards/reward';
import { ConfigError } from '../runtime/errors';
import { tf } from '../runtime/tf';
import { Stopwatch } from '../train/loop';
import type { LoopResult } from '../train/loop';
import type { RunResult } from '../train/run';
import {
  chartFiles,
  evaluateSmallTest,
  openOutput,
  openSmallTest,
  smallTestExperiment,
  smallTestResult,
  trainSmallTest,
  writeSmallTest,
} from '.';
import type { SmallTest, SmallTestMethod, SmallTestOptions, SmallTestResult, WrittenSmallTest } from '.';

// Without a browser the charts are JSON alone, and the tests do not draw.
vi.stubEnv('GRPOLAB_CHROME', '/nowhere');

const model = goldenPath('tiny-qwen3', 'tied-f32');

const lines = jsonLines(
  Array.from({ length: 14 }, (_, i) => ({
    tweet_id: `t${i}`,
    tweet: `My plant number ${i} wilted again.`,
    reply: i % 2 === 0 ? 'Did you water it this week?' : 'Oh no, that is sad.',
  })),
);

async function trainAndEvaluate(method: SmallTestMethod, test: SmallTest) {
  const steps: number[] = [];
  const run = await trainSmallTest(method, test, { onStep: ({ step }) => steps.push(step) });
  try {
    expect(steps).toHaveLength(run.steps);
    const shares: number[] = [];
    const evaluation = await evaluateSmallTest(run, test, { onProgress: (share) => shares.push(share) });
    expect(shares.at(-1)).toBe(1);
    return { run, evaluation };
  } finally {
    await run.policy.dispose();
  }
}

/** Every step, as a notebook takes them. */
async function smallTest(options: SmallTestOptions): Promise<WrittenSmallTest> {
  const test = await openSmallTest(options);
  await openOutput(test);
  const watch = new Stopwatch();
  const sft = await watch.measure('sft', () => trainAndEvaluate('sft', test));
  const grpo = await watch.measure('grpo', () => trainAndEvaluate('grpo', test));
  const evaluations = { before: sft.evaluation, after: grpo.evaluation };
  const { seconds } = watch;
  return writeSmallTest(smallTestResult(test, { ...evaluations, sft: sft.run, grpo: grpo.run, seconds }));
}

/** A result as its file has it, without what differs from run to run. */
function comparable(file: string): unknown {
  const { settings, seconds, sft, grpo, ...rest } = JSON.parse(readFileSync(file, 'utf8')) as SmallTestResult;
  const course = ({ history, ...phase }: LoopResult) => ({
    ...phase,
    history: history.map((row) =>
      Object.fromEntries(Object.entries(row).filter(([key]) => !/system|second/.test(key))),
    ),
  });
  expect(Object.keys(seconds).at(-1)).toBe('figures');
  return { ...rest, settings: { ...settings, output: '' }, sft: course(sft), grpo: course(grpo) };
}

describe('the small test, step by step', () => {
  it('finds and writes what the command does', async () => {
    const data = temporaryFile('data.jsonl', lines);
    const [output, theirs] = [temporaryDirectory(), temporaryDirectory()];
    const { result, criteria, report, files, notices } = await smallTest({
      ...{ model, data, output, short: true, grpoSteps: 2, seed: 3 },
    });
    expect(criteria.map(({ judged }) => judged)).toEqual([true, false, true, true, true]);
    expect(notices).toEqual([expect.stringContaining('only the JSON was written')]);
    expect(files.charts.map((file) => path.relative(output, file))).toEqual([
      'training_curves.json',
      'before_after.json',
    ]);
    expect(readFileSync(files.report, 'utf8')).toBe(`${report.join('\n')}\n`);
    expect(Object.keys(result.seconds)).toEqual(['sft', 'grpo', 'figures']);
    // SFT's policy is its own reference.
    expect(result.before.kl).toBe(0);
    expect(result.after.kl).toBeGreaterThan(0);

    const options = ['--data', data, '--short', '--grpo-steps', '2', '--seed', '3', '--quiet'];
    await runCli(['small-test', '--model', model, '--output', theirs, ...options]);
    expect(comparable(files.result)).toEqual(comparable(path.join(theirs, 'result.json')));
    expect(readdirSync(output).sort()).toEqual(readdirSync(theirs).sort());
  });
});

describe('opening a small test', () => {
  const open = (options: object): Promise<SmallTest> =>
    openSmallTest({ model, ...options }, { stdin: Readable.from([lines]) });

  it.each<[string, object, RegExp]>([
    ['an unknown option', { lerningRate: 1 }, /unknown key "lerningRate"; did you mean "learningRate"/],
    ['a seed below 0', { seed: -1 }, /small test: seed is -1/],
    ['no GRPO steps', { grpoSteps: 0 }, /grpoSteps is 0/],
    ['a rate of 0', { learningRate: 0 }, /learningRate is 0/],
    ['a reward that is none', { reward: {} }, /reward: expected a Reward, heuristic/],
    ['a reward that is not there', { reward: '/nowhere.yaml' }, /reward "\/nowhere.yaml": cannot be read/],
    ['an empty output', { output: '' }, /output is ""/],
  ])('refuses %s', async (_name, options, message) => {
    const opened = open({ data: '-', ...options });
    await expect(opened).rejects.toThrow(ConfigError);
    await expect(opened).rejects.toThrow(message);
  });

  it('reads and writes nothing else: the notices and the facts are in the result', async () => {
    const output = path.join(temporaryDirectory(), 'out');
    const test = await open({ data: '-', output, grpoSteps: 7, learningRate: 0.5 });
    expect(existsSync(output)).toBe(false);
    expect(test.notices[0]).toMatch(/fewer than 2 other tweets follow the first 100 records/);
    expect(test.facts).toMatchObject({ model, data: '-', reward: 'heuristic', n: { heldOut: 3 } });
    const { training, ...experiment } = smallTestExperiment('grpo', test);
    expect(training).toMatchObject({ max_steps: 7, learning_rate: 0.5 });
    expect(experiment).toMatchObject({ checkpoint_path: path.join(output, 'sft'), seed: 42 });
    expect(smallTestExperiment('sft', test).output_dir).toBe(path.join(output, 'sft'));
  });

  it('has the model and the data of this repository where none are named', async () => {
    const { facts, isWorld } = await openSmallTest();
    expect([facts.model, facts.data]).toEqual(['data/model', 'data/world/sample.jsonl']);
    expect(facts.settings).toMatchObject({ learningRate: 3e-3, output: 'runs/small-test', short: false });
    expect(isWorld).toBe(true);
  });

  it('takes a reward that is open, and leaves it open where it fails', async () => {
    const dispose = vi.fn();
    const reward: Reward = { ...(await loadReward('sharp')), dispose };
    const options = { reward, data: temporaryFile('data.jsonl', lines) };
    const test = await open(options);
    expect([test.reward, test.facts.reward]).toEqual([reward, 'sharp']);
    await expect(open({ ...options, data: '/nowhere.jsonl' })).rejects.toThrow(/no such file/);
    expect(dispose).not.toHaveBeenCalled();
  });
});

describe("a small test's steps", () => {
  it('leave nothing behind but what the caller disposes, and refuse a directory that holds a run', async () => {
    const data = temporaryFile('data.jsonl', lines);
    const test = await openSmallTest({ model, data, output: temporaryDirectory(), short: true });
    await openOutput(test);
    const train = async (hooks: object = {}): Promise<RunResult> => {
      const run = await trainSmallTest('sft', test, hooks);
      await run.policy.dispose();
      return run;
    };
    await train();
    const { numTensors } = tf.memory();
    await expect(train()).rejects.toThrow(ConfigError);
    await train({ overwrite: true });
    expect(tf.memory().numTensors).toBe(numTensors);
  });

  it('begin with the results of an older run removed', async () => {
    const data = temporaryFile('data.jsonl', lines);
    const test = await openSmallTest({ model, data, output: temporaryDirectory() });
    const { output } = test.settings;
    for (const name of ['result.json', 'report.md', ...chartFiles()])
      writeFileSync(path.join(output, name), 'of an older run');
    const { files } = await openOutput(test);
    expect(readFileSync(files.phase1, 'utf8').trim().split('\n')).toHaveLength(test.facts.n.phase1);
    expect(readdirSync(output)).toEqual(['split']);
  });
});
