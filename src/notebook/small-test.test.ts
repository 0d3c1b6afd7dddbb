import { EventEmitter } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { jsonLines, parseLines, temporaryDirectory, temporaryFile } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { openOutput, readSmallTest } from '../study/output';
import type { WrittenSmallTest } from '../study/output';
import { openSmallTest } from '../study/prepare';
import type { SmallTest } from '../study/prepare';
import { trainSmallTest as trainPlainly } from '../study/run';
import type { LoopResult } from '../train/loop';
import { Interrupted } from './kernel';
import { evaluateSmallTest, finishSmallTest, trainSmallTest } from './small-test';
import type { SmallTestRuns } from './small-test';

// Without a browser the charts are JSON alone, and the tests do not draw.
vi.stubEnv('GRPOLAB_CHROME', '/nowhere');

const KERNEL = Symbol.for('grpolab.kernel');
const STEPS = 3;

const interrupts = new EventEmitter();
const shown: string[] = [];
let onShow: (latest: string) => void;

beforeEach(() => {
  shown.length = 0;
  onShow = () => undefined;
  // A second goes by at every look at the clock: every step is drawn.
  let now = Date.now();
  vi.spyOn(Date, 'now').mockImplementation(() => (now += 1000));
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const display = (data: Record<string, string>): void => {
    shown.push(data['image/svg+xml'] ?? data['text/plain']);
    onShow(shown[shown.length - 1]);
  };
  Object.assign(globalThis, { [KERNEL]: { interrupts, display } });
});
afterEach(() => {
  vi.restoreAllMocks();
  Reflect.deleteProperty(globalThis, KERNEL);
});

// Two steps of SFT: the first has a rate of 0.
const lines = jsonLines(
  Array.from({ length: 30 }, (_, i) => ({
    tweet_id: `t${i}`,
    tweet: `My plant number ${i} wilted again.`,
    reply: i % 2 === 0 ? 'Did you water it this week?' : 'Oh no, that is sad.',
  })),
);

/** Cell 5 of the notebook. */
async function open(data: string, output: string): Promise<SmallTest> {
  const model = goldenPath('tiny-qwen3', 'tied-f32');
  const test = await openSmallTest({ model, data, output, short: true, grpoSteps: STEPS, seed: 3 });
  await openOutput(test);
  return test;
}

/** The cells from the warm start to the verdict. */
async function runAll(test: SmallTest): Promise<WrittenSmallTest & { runs: SmallTestRuns }> {
  const sft = await trainSmallTest('sft', test);
  const before = await evaluateSmallTest('evaluate before', sft, test);
  const grpo = await trainSmallTest('grpo', test);
  const after = await evaluateSmallTest('evaluate after', grpo, test);
  const runs = { sft, before, grpo, after };
  return { ...(await finishSmallTest(test, runs)), runs };
}

/** A result as its file has it, without what differs from run to run. */
function comparable(output: string): unknown {
  const { settings, criteria, sft, grpo, ...result } = readSmallTest(output);
  const rest = Object.fromEntries(Object.entries(result).filter(([key]) => key !== 'seconds'));
  const course = ({ history, ...phase }: LoopResult) => ({
    ...phase,
    history: history.map((row) =>
      Object.fromEntries(Object.entries(row).filter(([key]) => !/system|second/.test(key))),
    ),
  });
  return { ...rest, criteria, settings: { ...settings, output: '' }, sft: course(sft), grpo: course(grpo) };
}

const adapterOf = (output: string): Buffer =>
  readFileSync(path.join(output, 'sft', 'adapter_model.safetensors'));

/** Steps of a phase in the chart of the training. */
function chartSteps(output: string, phase: 'sft' | 'grpo'): number[] {
  const text = readFileSync(path.join(output, 'training_curves.json'), 'utf8');
  const found: { step: number }[] = (JSON.parse(text) as { data: Record<string, { step: number }[]> }).data[
    phase
  ];
  return found.map(({ step }) => step);
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i + 1);

describe('the small test in a notebook', () => {
  it('finds the same when GRPO is interrupted and everything is run again', async () => {
    const data = temporaryFile('data.jsonl', lines);
    const [whole, output] = [temporaryDirectory(), temporaryDirectory()];
    const expected = await runAll(await open(data, whole));
    expect(expected.criteria.map(({ judged }) => judged)).toEqual([true, false, true, true, true]);
    expect(expected.criteria[0].value).toBe(`${expected.result.sft.steps} SFT and 3 GRPO steps, 0 skipped`);
    expect(expected.files.result).toBe(path.join(whole, 'result.json'));

    // SFT learned the first phase, as without a notebook, and GRPO the second.
    const plain = await open(data, temporaryDirectory());
    await (await trainPlainly('sft', plain)).policy.dispose();
    expect(expected.result.sft.steps).toBe(2);
    expect(adapterOf(whole).equals(adapterOf(plain.settings.output))).toBe(true);
    const samples = readFileSync(path.join(whole, 'grpo', 'samples.jsonl'), 'utf8');
    const asked = parseLines<{ prompt_id: string }>(samples).map((line) => line.prompt_id);
    const phase2 = plain.split.phase2.map((record) => record.tweet_id);
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.filter((id) => !phase2.includes(id))).toEqual([]);

    // What a reader sees while it runs: charts under their titles, bars under their labels.
    for (const words of [
      'SFT warm start',
      'evaluate before: 6/6 prompts in',
      '>GRPO<',
      'evaluate after: 6/6',
    ])
      expect(
        shown.some((text) => text.includes(words)),
        words,
      ).toBe(true);
    // The warm start is its own reference.
    expect(expected.result.before.kl).toBe(0);
    expect(expected.result.after.kl).toBeGreaterThan(0);
    expect(expected.result.before).not.toHaveProperty('seconds');
    expect(Object.keys(expected.result.seconds)).toEqual([
      ...['SFT warm start', 'evaluate before', 'GRPO', 'evaluate after', 'figures'],
    ]);
    expect(Object.values(expected.result.seconds).every((seconds) => seconds > 0)).toBe(true);

    onShow = (text) => text.includes('>GRPO<') && text.includes('step 2/3') && interrupts.emit('interrupt');
    const stopped = runAll(await open(data, output));
    await expect(stopped).rejects.toThrow(Interrupted);
    await expect(stopped).rejects.toThrow(/after step 2; .*grpo/);
    expect(() => readSmallTest(output)).toThrow(/there is no such result/);

    // As after a restart of the kernel: from the first cell.
    onShow = () => undefined;
    const { runs, criteria, result, report } = await runAll(await open(data, output));
    expect(comparable(output)).toEqual(comparable(whole));
    expect(chartSteps(output, 'grpo')).toEqual(range(STEPS));
    expect(chartSteps(output, 'sft')).toEqual(range(result.sft.steps));
    expect(criteria).toEqual(expected.criteria);
    expect(report.join('\n')).toContain('| memory ');
    expect(runs.grpo.history.map(({ step }) => step)).toEqual(range(STEPS));
    // The count of tensors of another process says nothing of this one's memory.
    expect(runs.grpo.history.map((row) => 'system/tensors' in row)).toEqual([false, false, true]);
    expect(runs.sft.history.map((row) => 'system/tensors' in row)).not.toContain(true);
    expect(result.grpo).toMatchObject({ steps: STEPS, interrupted: false });
  });

  it('judges the steps of an earlier process, and draws what they have', async () => {
    const data = temporaryFile('data.jsonl', lines);
    const output = temporaryDirectory();
    const test = await open(data, output);
    const sft = await trainSmallTest('sft', test);
    const before = await evaluateSmallTest('evaluate', sft, test);
    await trainSmallTest('grpo', test);
    // As if the last step had had no finite gradient, in a file of the same length.
    const file = path.join(output, 'grpo', 'metrics.jsonl');
    const rows = readFileSync(file, 'utf8').split('\n');
    const none = (text: string): string => 'null'.padEnd(text.length);
    rows[2] = rows[2]
      .replace('"train/skipped":0', '"train/skipped":1')
      .replace(/(?<="train\/(kl_penalty|entropy)":)[^,}]+/g, none);
    writeFileSync(file, rows.join('\n'));

    const grpo = await trainSmallTest('grpo', test);
    expect(grpo.history.map((row) => row['train/skipped'])).toEqual([0, 0, 1]);
    const { criteria, files } = await finishSmallTest(test, { sft, before, grpo, after: before });
    expect(criteria.map(({ passed }) => passed)).toEqual([false, true, true, true, true]);
    expect(criteria[0].value).toContain('3 GRPO steps, 1 skipped');
    expect(chartSteps(output, 'grpo')).toEqual([1, 2]);
    const saved = JSON.parse(readFileSync(files.result, 'utf8')) as { grpo: LoopResult };
    expect(saved.grpo.history[2]).toMatchObject({ step: 3, 'train/skipped': 1, 'train/kl_penalty': null });

    const again = await trainSmallTest('sft', test, { again: true });
    expect(again.history.every((row) => Number.isFinite(row['system/tensors']))).toBe(true);
    expect(again.seconds).toBeGreaterThan(0);
  });

  it('ends an evaluation that is interrupted, and measures the same when it is run again', async () => {
    const test = await open(temporaryFile('data.jsonl', lines), temporaryDirectory());
    const sft = await trainSmallTest('sft', test);
    const expected = await evaluateSmallTest('evaluate', sft, test);
    onShow = (text) => text.startsWith('evaluate') && interrupts.emit('interrupt');
    await expect(evaluateSmallTest('evaluate', sft, test)).rejects.toThrow(Interrupted);
    expect(interrupts.listenerCount('interrupt')).toBe(0);
    onShow = () => undefined;
    expect(await evaluateSmallTest('evaluate', sft, test)).toEqual({
      ...expected,
      seconds: expect.any(Number) as number,
    });
  });
});
