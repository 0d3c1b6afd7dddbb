/** `grpolab train`: experiments from YAML files, one, or the phases and seeds of a study; and the list before them. */
import path from 'node:path';
import { ConfigError } from '../runtime/errors';
import { strictJson } from '../runtime/files';
import { formatDuration, Progress } from '../runtime/progress';
import { loadExperiment } from '../train/config';
import type { Experiment } from '../train/experiment-schema';
import type { StepRecord } from '../train/loop';
import { planRuns, seedDirectory } from '../train/phases';
import type { Phase } from '../train/phases';
import { preflight } from '../train/preflight';
import type { Preflight } from '../train/preflight';
import { runExperiment } from '../train/run';
import { RunDirectory } from '../train/run-directory';
import type { RunHooks } from '../train/run';
import type { Arguments } from './arguments';
import { UsageError } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter, notify } from './io';
import { loadBar, withDownloadBar } from './open-model';

/** A run of the command, with what it is called among several. */
interface NamedRun {
  name: string;
  experiment: Experiment;
  /** The run of phase 1 that has to have ended before. */
  after?: string;
}

/** `1,2` as numbers. @throws UsageError */
function integers(args: Arguments, name: string, allowed: (value: number) => boolean): number[] {
  const text = args.required(name);
  const values = text.split(',').map((part) => (/^\d+$/.test(part.trim()) ? Number(part) : NaN));
  if (
    values.every((value) => Number.isSafeInteger(value) && allowed(value)) &&
    new Set(values).size === values.length
  )
    return values;
  const expected = name === 'phases' ? '1, 2 or 1,2' : 'different integers >= 0, such as 42,123,456';
  throw new UsageError(`--${name} is "${text}"; expected ${expected}`, 'train');
}

const PHASE_ONE = 'phase1.';

/** The options that stand for a key of the file; they win over it and over --set. */
function withOptions(experiment: Experiment, args: Arguments): Experiment {
  const data = args.text('data');
  return {
    ...experiment,
    model: args.text('model') ?? experiment.model,
    checkpoint_path: args.text('adapter') ?? experiment.checkpoint_path,
    output_dir: args.text('output') ?? experiment.output_dir,
    data: data === undefined ? experiment.data : { ...experiment.data, train: data },
  };
}

/** The runs of `--phases`: phase 2 is the file's experiment, phase 1 the one that it names as `warm_start`. */
function phaseRuns(args: Arguments): NamedRun[] {
  const file = args.required('config');
  const overrides = args.list('set');
  if (args.given('adapter'))
    throw new UsageError('--adapter has no use with --phases: phase 2 starts from phase 1', 'train');
  const phases = integers(args, 'phases', (value) => value === 1 || value === 2).sort() as Phase[];
  const experiment = loadExperiment(
    file,
    overrides.filter((text) => !text.startsWith(PHASE_ONE)),
  );
  const { warm_start: first } = experiment;
  const warmStart =
    first === undefined
      ? undefined
      : loadExperiment(
          first,
          overrides.flatMap((text) => (text.startsWith(PHASE_ONE) ? [text.slice(PHASE_ONE.length)] : [])),
        );
  const seeds = args.given('seeds') ? integers(args, 'seeds', (value) => value >= 0) : [experiment.seed];
  const model = args.text('model');
  const withModel = (base: Experiment): Experiment => ({ ...base, model: model ?? base.model });
  return planRuns({
    experiment: withModel(experiment),
    warmStart: warmStart && withModel(warmStart),
    ...{ phases, seeds, output: args.text('output'), split: args.text('data') },
  }).map(({ phase, seed, experiment: planned }) => ({
    ...{ name: `phase ${phase}, seed ${seed}`, experiment: planned },
    after: phase === 2 ? planned.checkpoint_path : undefined,
  }));
}

function runsOf(args: Arguments): NamedRun[] {
  if (args.given('phases')) return phaseRuns(args);
  const experiment = withOptions(loadExperiment(args.required('config'), args.list('set')), args);
  if (!args.given('seeds')) return [{ name: experiment.method, experiment }];
  return integers(args, 'seeds', (value) => value >= 0).map((seed) => ({
    name: `seed ${seed}`,
    experiment: { ...experiment, seed, output_dir: seedDirectory(experiment.output_dir, seed) },
  }));
}

function noteOf(record: StepRecord, before: string): string {
  const value = (key: string, digits: number): string => record[key].toFixed(digits);
  if ('train/avg_reward' in record) {
    const length = 'train/reply_characters' in record ? ` length ${value('train/reply_characters', 0)}` : '';
    const kl = 'train/kl_penalty' in record ? ` KL ${value('train/kl_penalty', 2)}` : '';
    return `reward ${value('train/avg_reward', 3)}${kl}${length}`;
  }
  return 'train/loss' in record ? `loss ${value('train/loss', 3)}` : before;
}

interface Outcome {
  name: string;
  directory: string;
  steps: number;
  last: StepRecord | null;
}

/** One run with its progress bar. @returns null for one that had ended before */
async function trainOne(
  { name, experiment, after }: NamedRun,
  args: Arguments,
  io: Io,
): Promise<Outcome | null> {
  const resume = args.flag('resume');
  const { output_dir: directory } = experiment;
  const finished = resume ? RunDirectory.finishedSteps(directory) : null;
  if (finished !== null) {
    notify(io, `${directory}: the run has ended after step ${finished}; there is nothing to resume`);
    return null;
  }
  if (after !== undefined && RunDirectory.finishedSteps(after) === null)
    throw new ConfigError(
      `${after}: phase 1 has not ended there, and phase 2 starts from it. Train it first: --phases 1 --resume.`,
    );
  const progress = new Progress({
    ...{ label: name, unit: 'steps', stream: io.stderr, quiet: args.flag('quiet') },
  });
  let note = '';
  const hooks: RunHooks = {
    ...{ signal: io.signal, resume, notify: (line) => notify(io, line) },
    onStep: (record, totalSteps) => {
      progress.total = totalSteps;
      note = noteOf(record, note);
      progress.update(record.step, note);
    },
  };
  try {
    const result = await withDownloadBar(args, io, (onDownload) =>
      runExperiment(experiment, { ...hooks, onDownload, onLoad: loadBar(args, io) }),
    );
    await result.policy.dispose();
    progress.finish(note);
    if (result.interrupted) notify(io, `saved after step ${result.steps}; go on with --resume`);
    return { name, directory: result.directory, steps: result.steps, last: result.history.at(-1) ?? null };
  } finally {
    progress.close();
  }
}

function listOf({ checks, stepSeconds, totalSteps, etaSeconds, cost }: Preflight): string[] {
  const lines = checks.map(({ name, ok, detail }) => `${ok ? 'ok  ' : 'FAIL'} ${name.padEnd(8)} ${detail}`);
  if (stepSeconds.length === 0) return lines;
  const shown = stepSeconds.map((seconds) => seconds.toFixed(2)).join(', ');
  const price = cost === null ? '' : `, cost ${cost.toFixed(2)}`;
  return [
    ...lines,
    `ok   time     ${shown} s a step measured: ${formatDuration(etaSeconds)} for ${totalSteps} steps, evaluations and saves not counted${price}`,
  ];
}

/** The pre-flight list of every run. A warm start that has not been trained yet is left out of its phase 2. */
async function dryRun(runs: readonly NamedRun[], args: Arguments, io: Io): Promise<number> {
  const pricePerHour = args.given('price-per-hour') ? args.number('price-per-hour', { min: 0 }) : undefined;
  const output = new LineWriter(io.stdout);
  let passed = true;
  const reports: object[] = [];
  for (const { name, experiment } of runs) {
    const finished = args.flag('resume') ? RunDirectory.finishedSteps(experiment.output_dir) : null;
    if (finished !== null) {
      notify(
        io,
        `${experiment.output_dir}: the run has ended after step ${finished}; there is nothing to resume`,
      );
      continue;
    }
    const progress = new Progress({
      ...{ label: 'measure', unit: 'steps', stream: io.stderr, quiet: args.flag('quiet') },
    });
    const follows = runs.some((run) => run.experiment.output_dir === experiment.checkpoint_path);
    try {
      const report = await preflight(follows ? { ...experiment, checkpoint_path: undefined } : experiment, {
        ...{ signal: io.signal, pricePerHour, resume: args.flag('resume') },
        notify: (line) => notify(io, line),
        onStep: (done, total) => {
          progress.total = total;
          progress.update(done);
        },
      });
      passed &&= report.checks.every(({ ok }) => ok);
      reports.push({ name, ...report });
      if (args.flag('json')) continue;
      if (runs.length > 1) await output.line(`${name}: ${experiment.output_dir}`);
      for (const line of listOf(report)) await output.line(line);
    } finally {
      progress.close();
    }
  }
  if (args.flag('json'))
    await output.line(
      strictJson(args.given('phases') || args.given('seeds') ? { runs: reports } : (reports[0] ?? null)),
    );
  await output.flush();
  return passed ? 0 : 1;
}

export async function train(args: Arguments, io: Io): Promise<number> {
  const runs = runsOf(args);
  if (args.flag('dry-run')) return dryRun(runs, args, io);
  if (args.given('price-per-hour')) throw new UsageError('--price-per-hour belongs to --dry-run', 'train');
  const isStudy = args.given('phases') || args.given('seeds');
  const output = new LineWriter(io.stdout);
  const outcomes: Outcome[] = [];
  for (const run of runs) {
    const outcome = await trainOne(run, args, io);
    if (outcome !== null) {
      outcomes.push(outcome);
      const where = `adapter and logs in ${path.resolve(outcome.directory)}`;
      if (!args.flag('json'))
        await output.line(`${isStudy ? `${run.name}: ` : ''}${outcome.steps} steps; ${where}`);
    }
    await output.flush();
    checkInterrupt(io);
  }
  if (args.flag('json')) {
    const single = ({ directory, steps, last }: Outcome): object => ({ directory, steps, last });
    if (isStudy) await output.line(strictJson({ runs: outcomes }));
    else if (outcomes.length > 0) await output.line(strictJson(single(outcomes[0])));
    else
      await output.line(
        strictJson({
          directory: runs[0].experiment.output_dir,
          steps: RunDirectory.finishedSteps(runs[0].experiment.output_dir),
          last: null,
        }),
      );
    await output.flush();
  }
  return 0;
}
