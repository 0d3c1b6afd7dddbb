/** Training in a cell: a chart that moves while the run goes on, a run that survives "Interrupt Kernel". */
import path from 'node:path';
import type { FigureSpec, JsonObject } from '../figures/spec';
import { drawTrainingCurves } from '../figures/training-curves';
import { curvesOfMetrics, trainingPanels } from '../figures/training-panels';
import type { MetricsRow } from '../figures/training-panels';
import type { RunPolicy } from '../policy/policy';
import type { Experiment } from '../train/experiment-schema';
import type { StepRecord } from '../train/loop';
import type { PlannedRun } from '../train/phases';
import { preflight } from '../train/preflight';
import type { Preflight } from '../train/preflight';
import type { PrepareOptions } from '../train/prepare';
import { messageOf } from '../runtime/errors';
import { formatDuration } from '../runtime/progress';
import { runExperiment } from '../train/run';
import type { RunResult } from '../train/run';
import { RunDirectory } from '../train/run-directory';
import { readMetrics } from '../train/run-files';
import { plotlyBundle } from './figures';
import { Display, Interrupted, interruptible, requireNotebook } from './kernel';
import { escapeHtml } from './html';
import { liveChartSvg, progressText } from './live-chart';
import type { RunProgress } from './live-chart';
import { withProgress } from './progress';
import { showTable } from './tables';

/** How often a chart moves, at most. */
const REDRAW_MS = 250;

/** What `train` may be given in place of what the experiment names. */
export interface NotebookTrainOptions extends Pick<PrepareOptions, 'train' | 'evaluation' | 'reward'> {
  /** Above the chart; default: method and seed. */
  title?: string;
  /** Train anew, in place of the run that the directory holds; default: go on with it. */
  again?: boolean;
}

export interface NotebookRun extends RunResult {
  /** Every step of the run, also those of earlier processes. */
  metrics: MetricsRow[];
}

/** A figure with a line above it. */
function titled(figure: FigureSpec, title: string, explanation: string): FigureSpec {
  const { layout, height } = figure;
  const margin = { ...(layout.margin as JsonObject), t: 88 };
  const text = `<b>${escapeHtml(title)}</b> ${escapeHtml(explanation)}`;
  const heading = { text, x: 0.01, y: 0.99, yanchor: 'top', font: { size: 14 } };
  return {
    ...figure,
    height: height + 36,
    layout: { ...layout, height: height + 36, margin, title: heading },
  };
}

/** The chart of one run, in an output of its own. */
class LiveChart {
  private readonly target = new Display();
  private rows: MetricsRow[] = [];
  private drawn = 0;
  private readonly begin = Date.now();
  private before = 0;
  private totalSteps = 0;
  private isBroken = false;

  constructor(
    private readonly title: string,
    private readonly directory: string,
  ) {}

  step(record: StepRecord, totalSteps: number): void {
    this.totalSteps = totalSteps;
    // The first step of this process: what a resumed run did before stands in its file.
    if (this.rows.length === 0 && record.step > 1) {
      this.rows = readMetrics(this.directory).filter(({ step }) => Number(step) < record.step);
      this.before = record.step - 1;
    }
    this.rows.push(record);
    if (this.isBroken || Date.now() - this.drawn < REDRAW_MS) return;
    try {
      this.draw();
    } catch (error) {
      // A chart is no reason to lose a run.
      this.isBroken = true;
      process.stderr.write(`the chart cannot be drawn any more: ${messageOf(error)}\n`);
    }
  }

  /** Draws the end of the run: still for frontends without plotly, interactive for the others. */
  end(how: string, rows: MetricsRow[]): void {
    // Steps that this process did not do say nothing of its speed, and where it stopped before one, nothing of their number.
    if (this.rows.length === 0) {
      this.before = Number(rows[rows.length - 1]?.step ?? 0);
      this.totalSteps = how === 'stopped' ? 0 : this.before;
    }
    this.rows = rows;
    const panels = trainingPanels(curvesOfMetrics(rows));
    if (panels.length === 0) return;
    const progress = this.progress(how);
    const still = { 'image/svg+xml': liveChartSvg(panels, progress) };
    const figure = drawTrainingCurves(curvesOfMetrics(rows));
    this.target.show({ ...plotlyBundle(titled(figure, this.title, progressText(progress))), ...still });
  }

  private draw(): void {
    const panels = trainingPanels(curvesOfMetrics(this.rows));
    if (panels.length === 0) return;
    this.drawn = Date.now();
    this.target.show({ 'image/svg+xml': liveChartSvg(panels, this.progress()) });
  }

  private progress(ended?: string): RunProgress {
    const step = Number(this.rows[this.rows.length - 1]?.step ?? 0);
    const seconds = (Date.now() - this.begin) / 1000;
    const { title, totalSteps, before } = this;
    return { title, step, totalSteps, seconds, before: Math.min(before, step), ended };
  }
}

/**
 * Runs an experiment under a live chart. A run that the directory holds already is gone on with, or, when it has ended,
 * opened as it is; one with other settings or data is refused. "Interrupt Kernel" ends it after the current step, with
 * everything saved, and the same cell goes on from there. The policy of the result is freed when its cell is run again.
 *
 * @throws Interrupted  when the run was interrupted; it says where it is saved
 * @throws ConfigError, DataError, CheckpointError, NumericError  as `train.runExperiment`
 */
export async function train(
  experiment: Experiment,
  options: NotebookTrainOptions = {},
): Promise<NotebookRun> {
  const { title = `${experiment.method}, seed ${experiment.seed}`, again = false, ...given } = options;
  const { output_dir: directory } = experiment;
  requireNotebook();
  const chart = new LiveChart(title, directory);
  const resume = !again && RunDirectory.holdsRun(directory);
  const finished = resume && RunDirectory.finishedSteps(directory) !== null;
  const result = await interruptible(async (signal) => {
    await keepPolicy(directory, null);
    return runExperiment(experiment, {
      ...given,
      ...{ signal, resume, overwrite: again },
      notify: (line) => process.stderr.write(`${line}\n`),
      onStep: (record, totalSteps) => chart.step(record, totalSteps),
    });
  });
  // A server has few places, and what was trained there is on the disk.
  if (result.interrupted || experiment.policy.type === 'tinker') await result.policy.dispose();
  else await keepPolicy(directory, result.policy);
  const metrics = readMetrics(directory);
  const how = result.interrupted ? 'stopped' : result.stoppedEarly ? 'stopped early' : 'finished';
  chart.end(finished ? 'already finished' : how, metrics);
  if (!result.interrupted) return { ...result, metrics };
  throw new Interrupted(
    `stopped after step ${result.steps}; everything is saved in ${directory}. Run the cell again to go on from there.`,
  );
}

/** Policies of runs that cells have made, by directory: a cell that is run again replaces its own. */
const policies = new Map<string, RunPolicy>();

/** Keeps the policy of a run for the next cells, and frees the one that an earlier run of the same directory left. */
async function keepPolicy(directory: string, policy: RunPolicy | null): Promise<void> {
  const place = path.resolve(directory);
  await policies.get(place)?.dispose();
  policies.delete(place);
  if (policy !== null) policies.set(place, policy);
}

/** One run of several, when it has ended: a row of a table. */
export interface RunOutcome {
  phase: number;
  seed: number;
  method: string;
  steps: number;
  /** mean reward of the last step's rollouts; of SFT its loss. null where the run has no such value */
  'last train reward': number | null;
  'last train loss': number | null;
  'held-out reward': number | null;
  'held-out loss': number | null;
  'KL, nats a completion': number | null;
  directory: string;
}

function outcomeOf(
  { phase, seed, experiment }: PlannedRun,
  steps: number,
  rows: readonly MetricsRow[],
): RunOutcome {
  const last = (key: string): number | null =>
    rows.reduce<number | null>((latest, row) => row[key] ?? latest, null);
  return {
    ...{ phase, seed, method: experiment.method, steps },
    'last train reward': last('train/avg_reward'),
    'last train loss': last('train/loss'),
    'held-out reward': last('eval/reward'),
    'held-out loss': last('eval/loss'),
    'KL, nats a completion': last('train/kl_penalty'),
    directory: experiment.output_dir,
  };
}

/**
 * Runs of `train.planRuns`, one after the other, each under its chart. Run again after an interruption, it goes on where it
 * stopped: what has ended is not trained again.
 * @throws Interrupted and as `train`
 */
export async function trainAll(
  runs: readonly PlannedRun[],
  options: Omit<NotebookTrainOptions, 'title'> = {},
): Promise<RunOutcome[]> {
  return interruptible(async (signal) => {
    const outcomes: RunOutcome[] = [];
    for (const run of runs) {
      const title = `Phase ${run.phase} (${run.experiment.method}), seed ${run.seed}`;
      // It came when the run before had no step left to stop after.
      if (signal.aborted)
        throw new Interrupted(`stopped before ${title}. Run the cell again to go on from there.`);
      const { steps, metrics, directory } = await train(run.experiment, { ...options, title });
      await keepPolicy(directory, null);
      outcomes.push(outcomeOf(run, steps, metrics));
    }
    return outcomes;
  });
}

/**
 * The list before a long run, as `grpolab train --dry-run`: what will be done, whether it fits, and how long it will take,
 * from a few steps that are measured and thrown away.
 * @throws ConfigError, DataError, CheckpointError  for what would stop the run before its first step
 */
export async function checkRun({ experiment }: Pick<PlannedRun, 'experiment'>): Promise<Preflight> {
  const resume = RunDirectory.holdsRun(experiment.output_dir);
  const report = await withProgress({ label: 'measure', unit: 'steps' }, (progress, signal) =>
    preflight(experiment, {
      ...{ signal, resume },
      onStep: (done, total) => {
        progress.total = total;
        progress.update(done);
      },
    }),
  );
  const { checks, etaSeconds, totalSteps } = report;
  const time = `${formatDuration(etaSeconds)} for ${totalSteps} steps, evaluations and saves not counted`;
  showTable([...checks, { name: 'time', ok: true, detail: time }]);
  return report;
}
