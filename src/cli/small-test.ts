/** `grpolab small-test`: the whole study on 100 examples: split, SFT warm start, GRPO, before and after on held-out prompts. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { writeSplit } from '../data/split-files';
import { worldQuality } from '../data/world-law';
import { compareEvaluations, evaluateReplies } from '../eval/replies';
import type { ReplyEvaluation } from '../eval/replies';
import { exportFigures } from '../figures/export';
import { atomicWriteFile, ensureDirectory, strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import { parseExperiment } from '../train/config';
import { Stopwatch } from '../train/loop';
import type { LoopResult, StepRecord } from '../train/loop';
import { runExperiment } from '../train/run';
import type { RunResult } from '../train/run';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, Interrupted, LineWriter, notify } from './io';
import { chartFiles, chartsOf } from './small-test-charts';
import { prepareStudy } from './small-test-prepare';
import type { Study } from './small-test-prepare';
import { criteriaOf, reportLines, resultJson } from './small-test-report';
import type { SmallTestResult } from './small-test-report';
import { experimentOf, MAX_NEW_TOKENS } from './small-test-settings';

type Method = 'sft' | 'grpo';

/** What a run is made of: the study, where it reports to, and the time of each phase. */
interface Session {
  study: Study;
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

/** One training phase with its progress bar; after Ctrl-C what it has trained is saved. */
async function train(method: Method, { study, io, quiet, saved }: Session): Promise<RunResult> {
  const { label, note } = phases[method];
  const progress = new Progress({ label, unit: 'steps', stream: io.stderr, quiet });
  let last = '';
  try {
    const result = await runExperiment(parseExperiment(experimentOf(method, study.settings)), {
      train: method === 'sft' ? study.split.phase1 : study.split.phase2,
      reward: study.reward,
      signal: io.signal,
      overwrite: true,
      notify: (line) => notify(io, line),
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
async function evaluate(label: string, run: RunResult, session: Session): Promise<ReplyEvaluation> {
  const { study, io, quiet } = session;
  const { prompts, reward, isWorld, settings } = study;
  const total = prompts.length;
  const progress = new Progress({ label, unit: 'prompts', total, stream: io.stderr, quiet });
  try {
    const result = await evaluateReplies(run.policy, prompts, run.tokenizer, reward, {
      generations: settings.generations,
      ...{ temperature: 0.8, topP: 0.9, maxNewTokens: MAX_NEW_TOKENS, seed: settings.seed },
      signal: io.signal,
      examiner: isWorld ? (tweet, reply) => worldQuality(tweet, reply).total : undefined,
      onProgress: (share) => progress.update(share * total),
    });
    progress.finish(`reward ${result.reward.toFixed(3)}`);
    return result;
  } finally {
    progress.close();
  }
}

async function trainAndEvaluate(
  method: Method,
  session: Session,
): Promise<{ training: LoopResult; evaluation: ReplyEvaluation }> {
  const { label, evaluation: name } = phases[method];
  const run = await session.watch.measure(label, () => train(method, session));
  try {
    checkInterrupt(session.io);
    if (method === 'sft') run.policy.freezeReference();
    const evaluation = await session.watch.measure(name, () => evaluate(name, run, session));
    const { steps, history, interrupted, stoppedEarly, best } = run;
    return { training: { steps, history, interrupted, stoppedEarly, best }, evaluation };
  } finally {
    run.policy.dispose();
  }
}

/** Both phases. After Ctrl-C it says what is saved. @throws Interrupted */
async function runPhases(session: Session): Promise<SmallTestResult> {
  const { study, io, saved } = session;
  try {
    const sft = await trainAndEvaluate('sft', session);
    const grpo = await trainAndEvaluate('grpo', session);
    checkInterrupt(io);
    return {
      ...study.facts,
      before: sft.evaluation,
      after: grpo.evaluation,
      changes: compareEvaluations(sft.evaluation, grpo.evaluation, study.settings.seed),
      sft: sft.training,
      grpo: grpo.training,
      seconds: session.watch.seconds,
    };
  } catch (error) {
    const stopped = error instanceof Interrupted || (io.signal?.aborted && error === io.signal.reason);
    if (!stopped) throw error;
    if (saved.length > 0) notify(io, `stopped; the adapters trained so far are in ${saved.join(' and ')}`);
    throw new Interrupted();
  }
}

/** Makes the output directory a new run's: the results of an older one would not be those of the new adapters. */
async function openOutput({ settings: { output }, split }: Study): Promise<void> {
  await ensureDirectory(output);
  for (const name of ['result.json', 'report.md', ...chartFiles()])
    await rm(path.join(output, name), { force: true });
  await writeSplit(split, path.join(output, 'split'));
}

/** @returns 0, or 1 when a criterion fails; before all input is read and checked nothing is written */
export async function smallTest(args: Arguments, io: Io): Promise<number> {
  const study = await prepareStudy(args, io);
  for (const notice of study.notices) notify(io, `notice: ${notice}`);
  checkInterrupt(io);
  await openOutput(study);
  const watch = new Stopwatch();
  const session = { study, io, quiet: args.flag('quiet'), watch, saved: [] };
  const result = await runPhases(session);
  const { output, short } = study.settings;
  const figures = await watch.measure('figures', () => exportFigures(chartsOf(result), output));
  for (const notice of [...figures.notices, ...(figures.reason === undefined ? [] : [figures.reason])])
    notify(io, `notice: ${notice}`);
  const criteria = criteriaOf(result, short);
  const files = figures.files.map((file) => path.basename(file));
  const lines = reportLines(result, criteria, files);
  await atomicWriteFile(
    path.join(output, 'result.json'),
    `${strictJson({ ...resultJson(result), criteria }, 2)}\n`,
  );
  await atomicWriteFile(path.join(output, 'report.md'), `${lines.join('\n')}\n`);
  const writer = new LineWriter(io.stdout);
  if (args.flag('json')) await writer.line(strictJson({ ...resultJson(result), criteria, figures: files }));
  else for (const line of lines) await writer.line(line);
  await writer.flush();
  return criteria.some(({ passed }) => !passed) ? 1 : 0;
}
