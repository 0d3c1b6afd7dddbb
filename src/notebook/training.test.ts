import { EventEmitter } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { jsonLines, parseLines, temporaryDirectory } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { SPLIT_FILES } from '../data/split-files';
import type { Reward } from '../rewards/reward';
import { ConfigError } from '../runtime/errors';
import { tf } from '../runtime/tf';
import { parseExperiment } from '../train/config';
import type { Experiment } from '../train/experiment-schema';
import { planRuns } from '../train/phases';
import type { PlannedRun } from '../train/phases';
import { stepShape } from '../train/preflight';
import { Interrupted } from './kernel';
import { checkRun, train, trainAll } from './training';
import type { NotebookRun, RunOutcome } from './training';

const KERNEL = Symbol.for('grpolab.kernel');

interface Shown {
  id?: string;
  update?: boolean;
  data: Record<string, unknown>;
  svg: string;
  html: string;
}

const interrupts = new EventEmitter();
const shown: Shown[] = [];
/** Called with what is shown, as it is shown. */
let onShow: (latest: Shown) => void;
/** Milliseconds that go by at every look at the clock. */
let pace: number;

beforeEach(() => {
  shown.length = 0;
  onShow = () => undefined;
  pace = 300;
  let now = Date.now();
  vi.spyOn(Date, 'now').mockImplementation(() => (now += pace));
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const display = (data: Record<string, unknown>, options: { id?: string; update?: boolean } = {}): void => {
    shown.push({ ...options, data, svg: String(data['image/svg+xml']), html: String(data['text/html']) });
    onShow(shown[shown.length - 1]);
  };
  Object.assign(globalThis, { [KERNEL]: { interrupts, display } });
});
afterEach(() => {
  expect(interrupts.listenerCount('interrupt')).toBe(0);
  vi.restoreAllMocks();
  Reflect.deleteProperty(globalThis, KERNEL);
});

/** Interrupts once, when a chart of this title shows these words. */
function interruptAt(words: string, title = ''): void {
  let done = false;
  onShow = ({ svg }) => {
    if (done || !svg.includes(words) || !svg.includes(title)) return;
    done = true;
    interrupts.emit('interrupt');
  };
}

const PLOTLY = 'application/vnd.plotly.v1+json';

/** The texts above the charts that were shown, in order; those at an end in brackets. */
const headings = (): string[] =>
  shown.map(({ svg, data }) => {
    const [, text] = /<tspan fill="[^"]*"> {2}([^<]*)</.exec(svg) ?? [];
    return PLOTLY in data ? `[${text}]` : text;
  });

/** Numbers of points of the first line of a chart. */
const pointsIn = ({ svg }: Shown): number =>
  (/<polyline points="([^"]*)"/.exec(svg)?.[1] ?? '').split(' ').filter((point) => point !== '').length;

const records = Array.from({ length: 8 }, (_, i) => ({
  ...{ tweet_id: `t${i}`, tweet: `My plant number ${i} wilted again.` },
  reply: i % 2 === 0 ? 'Did you water it this week?' : 'Oh no, that is sad.',
}));

function experimentOf(method: 'sft' | 'grpo', output: string, training: object = {}): Experiment {
  return parseExperiment({
    ...{ method, seed: 3, output_dir: output, data: { train: 'given' } },
    model: goldenPath('tiny-qwen3', 'tied-f32'),
    lora: { r: 2, dropout: 0.1 },
    training: {
      ...{ max_steps: 4, batch_size: 2, gradient_accumulation_steps: 1, learning_rate: 0.01 },
      ...{ warmup_ratio: 0, eval_steps: 2, max_length: 128, ...training },
    },
    ...(method === 'grpo' ? { grpo: { n_generations: 4, max_new_tokens: 6, temperature: 1, top_p: 1 } } : {}),
    evaluation: { n_generations: 2, max_new_tokens: 6 },
  });
}

/** Longer replies are better, so that there is something to learn. */
function lengthReward(score = (reply: string): number => Math.min(1, reply.length / 20)) {
  const replies: string[] = [];
  const result = (reply: string) => {
    replies.push(reply);
    return { total: score(reply), components: { length: score(reply) } };
  };
  const reward: Reward = {
    ...{ name: 'length', degraded: [] },
    score: async (_tweet, reply) => result(reply),
    scoreBatch: async (pairs) => pairs.map(({ reply }) => result(reply)),
  };
  return { reward, replies };
}

const adapterOf = (directory: string): Buffer =>
  readFileSync(path.join(directory, 'adapter_model.safetensors'));

/** Rows of a run's metrics without what differs from run to run. */
const courseOf = (directory: string): unknown[] =>
  parseLines<object>(readFileSync(path.join(directory, 'metrics.jsonl'), 'utf8')).map((row) =>
    Object.fromEntries(Object.entries(row).filter(([key]) => !/system|second/.test(key))),
  );

/** The adapter of a policy that is in memory. */
async function adapterInMemory({ policy }: NotebookRun): Promise<Buffer> {
  const directory = temporaryDirectory();
  await policy.save(directory);
  return adapterOf(directory);
}

describe('train', () => {
  it('shows a chart that moves with every step, and an interactive one at the end', async () => {
    const { reward } = lengthReward();
    const output = temporaryDirectory();
    const run = await train(experimentOf('grpo', output), {
      ...{ train: records, evaluation: records.slice(0, 2), reward, title: 'A <title> & "more"' },
    });
    expect(shown.map(({ update }) => update)).toEqual([false, ...Array<boolean>(5).fill(true)]);
    expect(new Set(shown.map(({ id }) => id)).size).toBe(1);
    // Step 0 is the evaluation before the first step.
    expect(headings().map((text) => text.replace(/,.*?(]?)$/, '$1'))).toEqual([
      ...[0, 1, 2, 3, 4].map((step) => `step ${step}/4`),
      '[finished after step 4/4]',
    ]);
    expect(shown.map(pointsIn)).toEqual([0, 1, 2, 3, 4, 4]);
    for (const { data } of shown.slice(0, -1)) expect(Object.keys(data)).toEqual(['image/svg+xml']);
    expect(shown[0].svg).toContain('A &lt;title&gt; &amp; &quot;more&quot;');

    const { data, layout } = shown[5].data[PLOTLY] as Record<'data', { name: string; x: number[] }[]> & {
      layout: { title: { text: string } };
    };
    expect(Object.keys(shown[5].data).sort()).toEqual([PLOTLY, 'image/svg+xml', 'text/plain']);
    const steps = Object.fromEntries(data.map(({ name, x }) => [name, x]));
    expect(steps).toMatchObject({
      Reward: [1, 2, 3, 4],
      'Reward, held out': [0, 2, 4],
      'KL to the reference': [1, 2, 3, 4],
      'Completion length': [1, 2, 3, 4],
    });
    expect(layout.title.text).toMatch(/^<b>A &lt;title&gt;.*<\/b> finished after step 4\/4, /);

    expect(run).toMatchObject({ steps: 4, directory: output, interrupted: false });
    expect(run.metrics.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4]);
    expect(run.history).toHaveLength(5);
  });

  it('draws at most four times a second, the first step and the end in any case', async () => {
    pace = 0;
    const experiment = experimentOf('sft', temporaryDirectory());
    await train(experiment, { train: records });
    expect(headings().map((text) => text.split(',')[0].replace(']', ''))).toEqual([
      'step 1/4',
      '[finished after step 4/4',
    ]);
    expect(shown[0].svg).toContain('sft, seed 3');
  });

  it.each(['sft', 'grpo'] as const)(
    'stops %s after the step at which it was interrupted, and goes on to the same bits when it is called again',
    async (method) => {
      const [whole, output] = [temporaryDirectory(), temporaryDirectory()];
      const options = { train: records, evaluation: records.slice(0, 2), reward: lengthReward().reward };
      await train(experimentOf(method, whole), options);
      shown.length = 0;

      const experiment = experimentOf(method, output);
      interruptAt('step 3/4');
      const stopped = train(experiment, options);
      await expect(stopped).rejects.toThrow(Interrupted);
      await expect(stopped).rejects.toThrow(
        `stopped after step 3; everything is saved in ${output}. Run the cell again to go on from there.`,
      );
      expect(headings().at(-1)).toMatch(/^\[stopped after step 3\/4, [^,]* s a step\]$/);
      expect(courseOf(output)).toEqual(courseOf(whole).slice(0, 4));

      shown.length = 0;
      const run = await train(experiment, options);
      expect(headings()).toEqual([
        expect.stringMatching(/^step 4\/4, .*, resumed after step 3$/),
        expect.stringMatching(/^\[finished after step 4\/4, .*, resumed after step 3\]$/),
      ]);
      expect(shown.map(pointsIn)).toEqual([4, 4]);
      expect(shown.map(({ update }) => update)).toEqual([false, true]);
      expect(run.metrics.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4]);
      expect(run.history.map(({ step }) => step)).toEqual([4]);
      expect(courseOf(output)).toEqual(courseOf(whole));
      expect(adapterOf(output).equals(adapterOf(whole))).toBe(true);
      expect((await adapterInMemory(run)).equals(adapterOf(whole))).toBe(true);
    },
  );

  it('begins anew after an interrupt that came before the first step', async () => {
    const [whole, output] = [temporaryDirectory(), temporaryDirectory()];
    const options = { train: records };
    await train(experimentOf('sft', whole), options);
    shown.length = 0;
    const experiment = experimentOf('sft', output);
    const stopped = train(experiment, options);
    interrupts.emit('interrupt');
    await expect(stopped).rejects.toThrow(`stopped after step 0; everything is saved in ${output}.`);
    expect(shown).toEqual([]);
    await train(experiment, options);
    expect(adapterOf(output).equals(adapterOf(whole))).toBe(true);
  });

  it('tells no rate and no length of steps that it did not do', async () => {
    const experiment = experimentOf('sft', temporaryDirectory());
    interruptAt('step 2/4');
    await expect(train(experiment, { train: records })).rejects.toThrow('after step 2');
    shown.length = 0;
    const stopped = train(experiment, { train: records });
    interrupts.emit('interrupt');
    await expect(stopped).rejects.toThrow('after step 2');
    expect(headings()).toEqual(['[stopped after step 2]']);
    await train(experiment, { train: records });
    shown.length = 0;
    await train(experiment, { train: records });
    expect(headings()).toEqual(['[already finished after step 4/4]']);
    expect(shown.map(pointsIn)).toEqual([4]);
  });

  it('opens a run that has ended without training, with the adapter that it left', async () => {
    const output = temporaryDirectory();
    const experiment = experimentOf('grpo', output, { eval_steps: 1 });
    // Every reply is worse than the ones before it: the best evaluation is the first after a step.
    let worth = 1;
    const falling = lengthReward(() => (worth *= 0.99));
    const options = { train: records, evaluation: records.slice(0, 2), reward: falling.reward };
    const trained = await train(experiment, options);
    expect(trained.best?.step).toBe(1);
    const [adapter, course, scored] = [adapterOf(output), courseOf(output), falling.replies.length];
    expect((await adapterInMemory(trained)).equals(adapter)).toBe(true);

    shown.length = 0;
    const opened = await train(experiment, options);
    expect(opened.history).toEqual([]);
    expect(opened).toMatchObject({ steps: 4, interrupted: false, best: trained.best });
    expect(opened.metrics).toEqual(trained.metrics);
    expect(falling.replies.length).toBe(scored);
    expect(headings()).toHaveLength(1);
    expect(adapterOf(output).equals(adapter)).toBe(true);
    expect((await adapterInMemory(opened)).equals(adapter)).toBe(true);
    expect(courseOf(output)).toEqual(course);
  });

  it('refuses other settings and other data in the directory of a run, and leaves the run as it was', async () => {
    const output = temporaryDirectory();
    const experiment = experimentOf('sft', output);
    await train(experiment, { train: records });
    const [adapter, course] = [adapterOf(output), courseOf(output)];
    const others = train(experimentOf('sft', output, { learning_rate: 0.02 }), { train: records });
    await expect(others).rejects.toThrow(ConfigError);
    await expect(others).rejects.toThrow(/training\.learning_rate is not what the run began with/);
    await expect(train(experiment, { train: records.slice(1) })).rejects.toThrow(/training data is not what/);
    expect(adapterOf(output).equals(adapter)).toBe(true);
    expect(courseOf(output)).toEqual(course);
    expect((await train(experiment, { train: records })).history).toEqual([]);
  });

  it('leaves alone a directory with files of a run whose settings are lost', async () => {
    const output = temporaryDirectory();
    writeFileSync(path.join(output, 'metrics.jsonl'), '{"step":1}\n');
    await expect(train(experimentOf('sft', output), { train: records })).rejects.toThrow(ConfigError);
    expect(readFileSync(path.join(output, 'metrics.jsonl'), 'utf8')).toBe('{"step":1}\n');
  });

  it('trains anew when that is asked for, with other settings too', async () => {
    const output = temporaryDirectory();
    const experiment = experimentOf('sft', output);
    await train(experiment, { train: records });
    const [adapter, course] = [adapterOf(output), courseOf(output)];
    const same = await train(experiment, { train: records, again: true });
    expect(same.history.map(({ step }) => step)).toEqual([1, 2, 3, 4]);
    expect(courseOf(output)).toEqual(course);
    expect(adapterOf(output).equals(adapter)).toBe(true);
    shown.length = 0;
    const other = experimentOf('sft', output, { learning_rate: 0.02, max_steps: 3 });
    expect((await train(other, { train: records, again: true })).metrics).toHaveLength(3);
    expect(headings().map((text) => text.split(',')[0])).toEqual([
      ...['step 1/3', 'step 2/3', 'step 3/3', '[finished after step 3/3'],
    ]);
    expect(adapterOf(output).equals(adapter)).toBe(false);
  });

  it('holds one policy a directory, however often a cell is run', async () => {
    const [output, relative] = [temporaryDirectory(), path.relative(process.cwd(), temporaryDirectory())];
    const experiment = experimentOf('sft', output);
    const none = tf.memory().numTensors;
    const counts: number[] = [];
    const runs: NotebookRun[] = [];
    const call = async (work: () => Promise<NotebookRun>): Promise<void> => {
      await work().then(
        (run) => runs.push(run),
        () => undefined,
      );
      counts.push(tf.memory().numTensors);
    };
    await call(() => train(experiment, { train: records }));
    await call(() => train(experiment, { train: records }));
    await call(() => train(experiment, { train: records, again: true }));
    await call(() => train({ ...experiment, output_dir: path.relative('', output) }, { train: records }));
    expect(new Set(counts).size).toBe(1);
    expect(runs).toHaveLength(4);
    // The policies of other directories are left alone; where a call fails none is left.
    const other = await train(experimentOf('sft', relative), { train: records });
    const both = tf.memory().numTensors;
    await call(() => train(experiment, { train: records.slice(1) }));
    expect(counts[4]).toBe(both - (counts[0] - none));
    await call(() => train(experiment, { train: records }));
    expect(counts[5]).toBe(both);
    interruptAt('step 2/4');
    await call(() => train(experiment, { train: records, again: true }));
    expect(counts[6]).toBe(counts[4]);
    expect((await adapterInMemory(other)).equals(adapterOf(relative))).toBe(true);
  });

  it('needs a notebook, and frees its policy where there is none', async () => {
    const { [KERNEL]: kernel } = globalThis as { [KERNEL]?: unknown };
    Reflect.deleteProperty(globalThis, KERNEL);
    const before = tf.memory().numTensors;
    const experiment = experimentOf('sft', temporaryDirectory());
    await expect(train(experiment, { train: records })).rejects.toThrow(/npm run lab/);
    expect(tf.memory().numTensors).toBe(before);
    // What is saved so far is gone on with, and what has ended cannot be shown either.
    Object.assign(globalThis, { [KERNEL]: kernel });
    await train(experiment, { train: records });
    const { numTensors } = tf.memory();
    Reflect.deleteProperty(globalThis, KERNEL);
    for (let i = 0; i < 2; i++) {
      await expect(train(experiment, { train: records })).rejects.toThrow(/npm run lab/);
      expect(tf.memory().numTensors).toBeLessThanOrEqual(numTensors);
    }
  });
});

describe('trainAll', () => {
  /** Two phases of each seed, in a directory of their own. */
  function plan(seeds = [5, 6]): PlannedRun[] {
    const output = temporaryDirectory();
    for (const name of [SPLIT_FILES.phase1, SPLIT_FILES.phase2])
      writeFileSync(path.join(output, name), jsonLines(records));
    return planRuns({
      warmStart: experimentOf('sft', 'unused/sft', { max_steps: 2 }),
      experiment: experimentOf('grpo', 'unused/grpo', { max_steps: 2 }),
      ...{ phases: [1, 2], seeds, output, split: output },
    });
  }

  const rows = (runs: readonly PlannedRun[]) =>
    runs.map(({ experiment }) => courseOf(experiment.output_dir) as Record<string, number>[]);
  const adapters = (runs: readonly PlannedRun[]): string[] =>
    runs.map(({ experiment }) => adapterOf(experiment.output_dir).toString('base64'));
  const options = { evaluation: records.slice(0, 2), reward: lengthReward().reward };
  const placeless = (outcomes: readonly RunOutcome[]) =>
    outcomes.map((row, i) => ({ ...row, directory: `run ${i}` }));

  /** What an uninterrupted call leaves; trained once for all tests. */
  async function trainWhole() {
    const runs = plan();
    const { numTensors } = tf.memory();
    const outcomes = placeless(await trainAll(runs, options));
    expect(tf.memory().numTensors).toBe(numTensors);
    return { outcomes, ends: ends(), rows: rows(runs), adapters: adapters(runs) };
  }
  let trained: ReturnType<typeof trainWhole> | undefined;
  const whole = () => (trained ??= trainWhole());

  /** Title and end of each run that was shown. */
  const ends = (): string[] =>
    shown.flatMap(({ svg, data }) => {
      const [, title, text] =
        /<tspan font-weight="bold">([^<]*)<\/tspan><tspan[^>]*> {2}([^<,]*)/.exec(svg) ?? [];
      return PLOTLY in data ? [`${title}: ${text}`] : [];
    });

  it('trains phase after phase of seed after seed, and tells how each ended', async () => {
    const { outcomes, ...left } = await whole();
    expect(outcomes.map(({ phase, seed, method, steps }) => [phase, seed, method, steps])).toEqual([
      [1, 5, 'sft', 2],
      [2, 5, 'grpo', 2],
      [1, 6, 'sft', 2],
      [2, 6, 'grpo', 2],
    ]);
    expect(left.ends).toEqual([
      'Phase 1 (sft), seed 5: finished after step 2/2',
      'Phase 2 (grpo), seed 5: finished after step 2/2',
      'Phase 1 (sft), seed 6: finished after step 2/2',
      'Phase 2 (grpo), seed 6: finished after step 2/2',
    ]);
    const [sft, grpo] = left.rows.map((course) => course[2]);
    expect(outcomes[0]).toMatchObject({
      'last train reward': null,
      'last train loss': sft['train/loss'],
      'held-out reward': sft['eval/reward'],
      'held-out loss': sft['eval/loss'],
      'KL, nats a completion': null,
    });
    expect(outcomes[1]).toMatchObject({
      'last train reward': grpo['train/avg_reward'],
      'last train loss': null,
      'held-out reward': grpo['eval/reward'],
      'held-out loss': null,
      'KL, nats a completion': grpo['train/kl_penalty'],
    });
    for (const value of [sft['train/loss'], sft['eval/loss'], grpo['train/avg_reward'], grpo['eval/reward']])
      expect(value).toBeTypeOf('number');
    // Seeds differ, and each phase 2 starts from the phase 1 of its seed.
    expect(new Set(left.adapters).size).toBe(4);
    const runs = plan();
    expect(runs[3].experiment.checkpoint_path).toBe(runs[2].experiment.output_dir);
  });

  it('trains only what is missing when it is called again, to the same bits', async () => {
    const expected = await whole();
    const runs = plan();
    shown.length = 0;
    // Inside the second run.
    interruptAt('step 1/2', 'Phase 2');
    await expect(trainAll(runs, options)).rejects.toThrow(/stopped after step 1; .*phase2/);
    expect(ends()).toEqual([
      'Phase 1 (sft), seed 5: finished after step 2/2',
      'Phase 2 (grpo), seed 5: stopped after step 1/2',
    ]);
    expect(existsSync(runs[2].experiment.output_dir)).toBe(false);
    shown.length = 0;
    onShow = () => undefined;
    const outcomes = await trainAll(runs, options);
    expect(ends().map((text) => text.split(': ')[1])).toEqual([
      'already finished after step 2/2',
      ...Array<string>(3).fill('finished after step 2/2'),
    ]);
    expect(shown.map(({ update }) => update)).toEqual([
      ...[false], // opened
      ...[false, true], // its second step, the end
      ...[false, true, true, true],
      ...[false, true, true, true],
    ]);
    expect(adapters(runs)).toEqual(expected.adapters);
    expect(rows(runs)).toEqual(expected.rows);
    expect(placeless(outcomes)).toEqual(expected.outcomes);
    expect(outcomes.map(({ directory }) => directory)).toEqual(runs.map((run) => run.experiment.output_dir));
    const { numTensors } = tf.memory();
    expect(placeless(await trainAll(runs.slice(0, 2), options))).toEqual(expected.outcomes.slice(0, 2));
    expect(tf.memory().numTensors).toBe(numTensors);
    // Of a step whose loss was not finite there is none: the one before it is the last.
    const file = path.join(runs[0].experiment.output_dir, 'metrics.jsonl');
    const [before, first, second] = readFileSync(file, 'utf8').split('\n');
    const none = (text: string): string => 'null'.padEnd(text.length);
    const broken = second.replace(/(?<="train\/loss":)[^,}]+/, none);
    writeFileSync(file, `${[before, first, broken].join('\n')}\n`);
    const [{ 'last train loss': loss }] = await trainAll(runs.slice(0, 1), options);
    expect(loss).toBe((JSON.parse(first) as Record<string, number>)['train/loss']);
  });

  it('begins no further run after an interrupt that came at the end of one', async () => {
    const runs = plan([5]);
    interruptAt('step 2/2');
    const stopped = trainAll(runs, options);
    await expect(stopped).rejects.toThrow(Interrupted);
    await expect(stopped).rejects.toThrow(/before Phase 2 \(grpo\), seed 5.*Run the cell again/);
    expect(ends()).toEqual(['Phase 1 (sft), seed 5: finished after step 2/2']);
    expect(existsSync(runs[1].experiment.output_dir)).toBe(false);
    onShow = () => undefined;
    expect(await trainAll(runs, options)).toHaveLength(2);
    expect(ends().slice(1)).toEqual([
      'Phase 1 (sft), seed 5: already finished after step 2/2',
      'Phase 2 (grpo), seed 5: finished after step 2/2',
    ]);
  });
});

describe('checkRun', () => {
  function grpo(): { experiment: Experiment } {
    const data = path.join(temporaryDirectory(), 'data.jsonl');
    writeFileSync(data, jsonLines(records));
    const output = path.join(temporaryDirectory(), 'run');
    return {
      experiment: { ...experimentOf('grpo', output, { max_steps: 50 }), data: { train: data } } as Experiment,
    };
  }

  it('measures a few steps under a progress bar, shows what it found in a table, and writes nothing', async () => {
    const run = grpo();
    const before = tf.memory().numTensors;
    const report = await checkRun(run);
    expect(tf.memory().numTensors).toBe(before);
    expect(existsSync(run.experiment.output_dir)).toBe(false);
    expect(report).toMatchObject({ totalSteps: 50, cost: null });
    expect(report.stepSeconds).toHaveLength(3);
    expect(report.checks.every(({ ok }) => ok)).toBe(true);

    const lines = shown.map(({ data }) => String(data['text/plain']));
    const bars = lines.slice(0, -1);
    expect(bars.length).toBeGreaterThan(2);
    expect(bars.at(-1)).toMatch(/^measure: 4\/4 steps in \d/);
    expect(new Set(shown.slice(0, -1).map(({ id }) => id)).size).toBe(1);
    const table = lines[lines.length - 1].split('\n');
    expect(table.slice(1).map((line) => line.split(' ')[0])).toEqual([
      ...[
        'config',
        'data',
        'model',
        'start',
        'reward',
        'device',
        'output',
        'disk',
        'memory',
        'steps',
        'time',
      ],
    ]);
    // Two prompts of up to 128 tokens, four completions of up to 6 to each.
    expect(table.find((line) => line.startsWith('memory'))).toContain('P=2, G=4, up to 128 + 6 tokens');
    expect(table.at(-1)).toMatch(/^time +yes +\d+:\d\d for 50 steps/);
    expect(shown.at(-1)?.html).toContain('<table>');
  });

  it('can be interrupted, and leaves nothing behind', async () => {
    const run = grpo();
    const before = tf.memory().numTensors;
    onShow = () => interrupts.emit('interrupt');
    await expect(checkRun(run)).rejects.toThrow(Interrupted);
    expect(tf.memory().numTensors).toBe(before);
    expect(existsSync(run.experiment.output_dir)).toBe(false);
    expect(shown.some(({ html }) => html.includes('<table>'))).toBe(false);
  });

  it('plans the largest micro-batch of each method', () => {
    const [sft, grpo] = (['sft', 'grpo'] as const).map((method) => stepShape(experimentOf(method, 'unused')));
    expect(sft).toEqual({ P: 2, G: 1, Tp: 128, Tc: 64 });
    expect(grpo).toEqual({ P: 2, G: 4, Tp: 128, Tc: 6 });
    const polychromic = parseExperiment({
      ...{ method: 'polychromic', data: { train: 'given' } },
      training: { batch_size: 3, max_length: 65 },
      polychromic: { n_generations: 5, max_new_tokens: 7 },
    });
    expect(stepShape(polychromic)).toEqual({ P: 3, G: 5, Tp: 65, Tc: 7 });
  });
});
