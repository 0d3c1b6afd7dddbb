/** `grpolab small-test`: the whole study on 100 examples: split, SFT warm start, GRPO, before and after on held-out prompts. */
import path from 'node:path';
import type { ReplyEvaluation } from '../eval/replies';
import { strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import type { SmallTestOptions } from '../study/options';
import { openOutput, writeSmallTest } from '../study/output';
import { openSmallTest } from '../study/prepare';
import type { SmallTest } from '../study/prepare';
import { resultJson, smallTestResult } from '../study/result';
import type { SmallTestResult } from '../study/result';
import { evaluateSmallTest, trainSmallTest } from '../study/run';
import type { SmallTestMethod } from '../study/run';
import { Stopwatch } from '../train/loop';
import type { LoopResult, StepRecord } from '../train/loop';
import type { RunResult } from '../train/run';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, Interrupted, LineWriter, notify } from './io';
import { withDownloadBar } from './open-model';

/** What a run is made of: the test, where it reports to, and the time of each phase. */
interface Session {
  test: SmallTest;
  io: Io;
  quiet: boolean;
  watch: Stopwatch;
  /** Directories of the adapters that are saved so far. */
  saved: string[];
}

const phases = {
  sft: {
    label: 'SFT warm start',
    evaluation: 'evaluate before',
    note: (r: StepRecord): string => `loss ${(r['train/loss'] ?? NaN).toFixed(3)}`,
  },
  grpo: {
    label: 'GRPO',
    evaluation: 'evaluate after',
    note: (r: StepRecord): string =>
      `reward ${(r['train/avg_reward'] ?? NaN).toFixed(3)} KL ${(r['train/kl_penalty'] ?? NaN).toFixed(2)}`,
  },
} as const;

/** @throws UsageError  for a number out of its range */
function optionsOf(args: Arguments): SmallTestOptions {
  return {
    model: args.required('model'),
    data: args.required('data'),
    evaluationData: args.text('eval-data'),
    reward: args.required('reward'),
    output: args.required('output'),
    seed: args.integer('seed', { min: 0 }),
    short: args.flag('short'),
    grpoSteps: args.given('grpo-steps') ? args.integer('grpo-steps', { min: 1 }) : undefined,
    learningRate: args.given('learning-rate') ? args.number('learning-rate', { above: 0 }) : undefined,
  };
}

/** One training phase with its progress bar; after Ctrl-C what it has trained is saved. */
async function train(method: SmallTestMethod, { test, io, quiet, saved }: Session): Promise<RunResult> {
  const { label, note } = phases[method];
  const progress = new Progress({ label, unit: 'steps', stream: io.stderr, quiet });
  let last = '';
  try {
    const result = await trainSmallTest(method, test, {
      ...{ signal: io.signal, overwrite: true, notify: (line) => notify(io, line) },
      onStep: (record, totalSteps) => {
        progress.total = totalSteps;
        last = note(record);
        progress.update(record.step, last);
      },
    });
    saved.push(result.directory);
    progress.finish(last);
    return result;
  } finally {
    progress.close();
  }
}

/** The policy's replies to the held-out prompts, with a progress bar. */
async function evaluate(
  label: string,
  run: RunResult,
  { test, io, quiet }: Session,
): Promise<ReplyEvaluation> {
  const total = test.prompts.length;
  const progress = new Progress({ label, unit: 'prompts', total, stream: io.stderr, quiet });
  try {
    const result = await evaluateSmallTest(run, test, {
      signal: io.signal,
      onProgress: (share) => progress.update(share * total),
    });
    progress.finish(`reward ${result.reward.toFixed(3)}`);
    return result;
  } finally {
    progress.close();
  }
}

async function trainAndEvaluate(
  method: SmallTestMethod,
  session: Session,
): Promise<{ training: LoopResult; evaluation: ReplyEvaluation }> {
  const { label, evaluation: name } = phases[method];
  const run = await session.watch.measure(label, () => train(method, session));
  try {
    checkInterrupt(session.io);
    const evaluation = await session.watch.measure(name, () => evaluate(name, run, session));
    return { training: run, evaluation };
  } finally {
    await run.policy.dispose();
  }
}

/** Both phases. After Ctrl-C it says what is saved. @throws Interrupted */
async function runPhases(session: Session): Promise<SmallTestResult> {
  const { test, io, saved, watch } = session;
  try {
    const sft = await trainAndEvaluate('sft', session);
    const grpo = await trainAndEvaluate('grpo', session);
    checkInterrupt(io);
    return smallTestResult(test, {
      ...{ before: sft.evaluation, after: grpo.evaluation },
      ...{ sft: sft.training, grpo: grpo.training, seconds: watch.seconds },
    });
  } catch (error) {
    const stopped = error instanceof Interrupted || (io.signal?.aborted && error === io.signal.reason);
    if (!stopped) throw error;
    if (saved.length > 0) notify(io, `stopped; the adapters trained so far are in ${saved.join(' and ')}`);
    throw new Interrupted();
  }
}

/** The steps after everything is read and checked. @returns 0, or 1 when a criterion fails */
async function runSmallTest(test: SmallTest, args: Arguments, io: Io): Promise<number> {
  for (const notice of test.notices) notify(io, `notice: ${notice}`);
  checkInterrupt(io);
  await openOutput(test);
  const session = { test, io, quiet: args.flag('quiet'), watch: new Stopwatch(), saved: [] };
  const written = await writeSmallTest(await runPhases(session));
  for (const notice of written.notices) notify(io, `notice: ${notice}`);
  const { result, criteria, report, files } = written;
  const figures = files.charts.map((file) => path.basename(file));
  const writer = new LineWriter(io.stdout);
  if (args.flag('json')) await writer.line(strictJson({ ...resultJson(result), criteria, figures }));
  else for (const line of report) await writer.line(line);
  await writer.flush();
  return criteria.some(({ passed }) => !passed) ? 1 : 0;
}

/** @returns 0, or 1 when a criterion fails; before all input is read and checked nothing is written */
export async function smallTest(args: Arguments, io: Io): Promise<number> {
  const options = optionsOf(args);
  const context = { signal: io.signal, stdin: io.stdin, notify: (line: string) => notify(io, line) };
  const test = await withDownloadBar(args, io, (onDownload) =>
    openSmallTest(options, { ...context, onDownload }),
  );
  try {
    return await runSmallTest(test, args, io);
  } finally {
    test.reward.dispose?.();
  }
}
