/** `runs/<name>/`: everything that a run leaves behind, written so that a crash at any moment loses at most what came after the latest checkpoint. */
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { stringify } from 'yaml';
import { CheckpointError, ConfigError, messageOf } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory, readJsonFile, strictJson, writeError } from '../runtime/files';
import { describeMachine, ownVersion, packageRoot, packageVersion } from '../runtime/machine';
import type { Policy } from '../policy/policy';
import {
  checkpointPath,
  checkpointSteps,
  latestCheckpoint,
  readCheckpoint,
  removeCheckpoints,
  removeUnfinished,
  rotateCheckpoints,
  saveCheckpoint,
  setAsideAfter,
} from './checkpoint';
import type { CheckpointState, LoopState } from './checkpoint';
import type { Experiment } from './experiment-schema';
import type { LoopResult, StepRecord } from './loop';
import { EventFile } from '../runtime/event-file';
import { Monitor } from './monitor';
import { parseYaml } from '../runtime/yaml';
import { lockRun } from './run-lock';
import type { RunLock } from './run-lock';
import { readMetrics } from './run-files';

/** What `trainer_state.json` holds; names as in transformers where it has them. */
export interface TrainerState {
  global_step: number;
  log_history: Record<string, number | null>[];
  /** of the evaluation that early stopping watches; null without one */
  best_metric: number | null;
  /** whose adapter is the run's, relative to the run directory; null: the last step's */
  best_model_checkpoint: string | null;
  interrupted: boolean;
  stopped_early: boolean;
  /** Reward components that run on a substitute, by name. */
  degraded: readonly string[];
  /** Alerts that were given, each once. */
  alerts: readonly string[];
}

/** A step whose gradient was not finite has values that JSON cannot hold; `train/skipped` says why they are null. */
function finiteOrNull(record: StepRecord): Record<string, number | null> {
  return Object.fromEntries(
    Object.entries(record).map(([key, value]) => [key, Number.isFinite(value) ? value : null]),
  );
}

const CONFIG = 'config.resolved.yaml';
/** Files that grow from step to step: a checkpoint keeps their lengths. */
const GROWING = ['metrics.jsonl', 'samples.jsonl'];
/** Directory of TensorBoard's event file, which grows too. */
const EVENTS = 'tb';
const FINAL = 'trainer_state.json';

/** The commit that the package's source is at; null outside a git checkout. */
function sourceCommit(): string | null {
  try {
    const git = (...args: string[]): string =>
      execFileSync('git', ['-C', packageRoot, ...args], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim();
    const changed = git('status', '--porcelain', '--untracked-files=no') !== '';
    return git('rev-parse', 'HEAD') + (changed ? ' with changes' : '');
  } catch {
    return null;
  }
}

/** What the run's numbers depend on beside its configuration. */
function environmentOf(tensorflow: string): Record<string, unknown> {
  const { platform, processor, cores } = describeMachine();
  return {
    grpolab: ownVersion(),
    commit: sourceCommit(),
    node: process.versions.node,
    tensorflow,
    tfjs: packageVersion('@tensorflow/tfjs-node-gpu'),
    ...{ platform, processor, cores },
    started: new Date().toISOString(),
  };
}

/** The first key whose values differ, as `training.epochs`; null when none does. */
function firstDifference(a: unknown, b: unknown, at = ''): string | null {
  const isTree = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isTree(a) || !isTree(b)) return JSON.stringify(a) === JSON.stringify(b) ? null : at;
  for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
    const found = firstDifference(a[key], b[key], at === '' ? key : `${at}.${key}`);
    if (found !== null) return found;
  }
  return null;
}

/** A run: its directory, its experiment, and whether it goes on with what is there. */
export interface OpenRunOptions {
  directory: string;
  experiment: Experiment;
  /** hash of the training data */
  data: string;
  /** Go on from the latest checkpoint. */
  resume?: boolean;
  /** Replace a run that is there; without it and without `resume` such a directory is refused. */
  overwrite?: boolean;
  /** The task is replies to tweets, with bounds for their reward and length. */
  replies: boolean;
  /** TensorFlow's version */
  tensorflow: string;
  /** gets warnings that a user should see at once */
  notify: (line: string) => void;
}

/** The files of a run: metrics, samples, checkpoints, alerts. One process has it at a time. */
export class RunDirectory {
  private monitor: Monitor;
  private events: EventFile | undefined;
  private readonly rows: Record<string, number | null>[] = [];
  /** Where a resumed run goes on: the checkpoint's directory and its loop state. */
  resumed: { directory: string; loop: LoopState } | null = null;

  private constructor(
    private readonly options: OpenRunOptions,
    private readonly lock: RunLock,
  ) {
    this.monitor = new Monitor({ replies: options.replies });
  }

  get directory(): string {
    return this.options.directory;
  }

  /**
   * Takes the directory for this process: makes it, or goes on with what is there.
   *
   * @throws ConfigError      when another process has it, it holds a run and neither resume nor overwrite is asked for, or
   *                          a resumed run has another configuration or other data
   * @throws CheckpointError  when every checkpoint of a run to resume is damaged
   */
  static async open(options: OpenRunOptions): Promise<RunDirectory> {
    const { directory, resume = false } = options;
    await ensureDirectory(directory);
    const lock = await lockRun(directory);
    const run = new RunDirectory(options, lock);
    try {
      if (resume && existsSync(run.file(CONFIG))) await run.goOn();
      else {
        if (resume) options.notify(`${directory}: there is no run to resume; beginning one`);
        await run.begin();
      }
      run.events ??= await EventFile.open(run.file(EVENTS));
      return run;
    } catch (error) {
      run.close();
      throw error;
    }
  }

  /** Whether the run in a directory has ended of itself: there is nothing to resume. */
  static finishedSteps(directory: string): number | null {
    const file = path.join(directory, FINAL);
    if (!existsSync(file)) return null;
    const state = readJsonFile(file, CheckpointError) as TrainerState;
    return state.interrupted ? null : state.global_step;
  }

  /** Whether a directory has a run, or anything of one: it is not begun over. */
  static holdsRun(directory: string): boolean {
    if (!existsSync(directory)) return false;
    const sizeOf = (name: string): number =>
      statSync(path.join(directory, name), { throwIfNoEntry: false })?.size ?? -1;
    return (
      [CONFIG, FINAL, EVENTS].some((name) => sizeOf(name) >= 0) ||
      [...GROWING, 'run.log'].some((name) => sizeOf(name) > 0) ||
      checkpointSteps(directory).length > 0
    );
  }

  private async begin(): Promise<void> {
    const { directory, experiment, overwrite = false, tensorflow } = this.options;
    if (RunDirectory.holdsRun(directory) && !overwrite) {
      throw new ConfigError(
        `${directory}: holds a run already. Resume it (--resume), or give another output directory (--output).`,
      );
    }
    for (const name of [CONFIG, FINAL]) await rm(this.file(name), { force: true });
    await removeCheckpoints(directory);
    await this.emptyLogs();
    await atomicWriteFile(this.file('environment.json'), `${strictJson(environmentOf(tensorflow), 2)}\n`);
    await atomicWriteFile(this.file('run.log'), '');
    // Last: a directory that has it can be resumed.
    await atomicWriteFile(this.file(CONFIG), stringify(experiment));
  }

  private async goOn(): Promise<void> {
    const { directory, experiment, data, notify } = this.options;
    // A run may be resumed in another place, and with the server at another: where they are decides nothing.
    const placed = ({ policy, ...settings }: { policy?: object }): unknown => ({
      // Runs of builds without a choice were local, and in float32.
      dtype: 'float32',
      matmul_precision: 'float32',
      ...settings,
      output_dir: undefined,
      policy: {
        type: 'local',
        ...policy,
        base_url: undefined,
        api_key_env: undefined,
        timeout_seconds: undefined,
      },
    });
    const settings = parseYaml(readFileSync(this.file(CONFIG), 'utf8'), this.file(CONFIG));
    const saved = placed((settings ?? {}) as object);
    const now = placed(parseYaml(stringify(experiment), CONFIG) as object);
    const key = firstDifference(saved, now);
    if (key !== null) {
      throw new ConfigError(
        `${directory}: ${key} is not what the run began with (${CONFIG}); resume it with the same settings, or give another output directory.`,
      );
    }
    await removeUnfinished(directory);
    const found = await latestCheckpoint(directory, (line) => this.warn(line));
    if (found === null && checkpointSteps(directory).length > 0) {
      throw new CheckpointError(
        `${directory}: every checkpoint is damaged; give another output directory to begin anew.`,
      );
    }
    if (found === null) {
      notify(`${directory}: no checkpoint yet; beginning anew`);
      await this.emptyLogs();
      return;
    }
    const { directory: from, state } = found;
    if (state.data !== data) {
      throw new ConfigError(
        `${directory}: the training data is not what the run began with; resume it with the same data, or give another output directory.`,
      );
    }
    for (const name of GROWING) this.cutBack(name, state.files[name] ?? 0);
    this.events = await EventFile.open(this.file(EVENTS), state.files[EVENTS]);
    this.monitor = new Monitor({ replies: this.options.replies, state: state.monitor });
    this.rows.push(...readMetrics(directory));
    await setAsideAfter(directory, state.loop.step);
    this.resumed = { directory: from, loop: state.loop };
    this.log(`resumed after step ${state.loop.step}, from ${path.basename(from)}`);
  }

  private async emptyLogs(): Promise<void> {
    await rm(this.file(EVENTS), { recursive: true, force: true });
    for (const name of GROWING) await atomicWriteFile(this.file(name), '');
  }

  /** What a file holds beyond the checkpoint is of steps that will be done again. */
  private cutBack(name: string, bytes: number): void {
    const file = this.file(name);
    if (!existsSync(file)) this.append(name, '');
    if (statSync(file).size >= bytes) return truncateSync(file, bytes);
    const content = readFileSync(file);
    this.warn(`${file} has ${content.length} bytes, ${bytes} at the checkpoint: rows are missing from it`);
    truncateSync(file, content.lastIndexOf('\n') + 1);
  }

  file(name: string): string {
    return path.join(this.directory, name);
  }

  private append(name: string, line: string): void {
    try {
      appendFileSync(this.file(name), line === '' ? '' : `${line}\n`);
    } catch (error) {
      throw writeError(this.file(name), error);
    }
  }

  log(line: string): void {
    this.append('run.log', `${new Date().toISOString()} ${line}`);
  }

  metrics(record: StepRecord): void {
    const row = finiteOrNull(record);
    this.rows.push(row);
    this.append('metrics.jsonl', strictJson(row));
    const { step, ...values } = record;
    this.events?.scalars(step, values);
    for (const { message } of this.monitor.check(record)) this.warn(message);
  }

  warn(line: string): void {
    this.log(`warning: ${line}`);
    this.options.notify(line);
  }

  sample(value: unknown): void {
    this.append('samples.jsonl', strictJson(value));
  }

  /** Replies to show beside the numbers, in TensorBoard's Text tab. */
  text(step: number, tag: string, markdown: string): void {
    this.events?.text(step, tag, markdown);
  }

  /** Saves all that a resumed run needs, keeping the newest checkpoints and the best. */
  async checkpoint(policy: Policy, loop: LoopState, keep: number): Promise<void> {
    const files: CheckpointState['files'] = {};
    for (const name of GROWING) {
      const descriptor = openSync(this.file(name), 'r+');
      try {
        fsyncSync(descriptor);
      } finally {
        closeSync(descriptor);
      }
      files[name] = statSync(this.file(name)).size;
    }
    this.events?.sync();
    files[EVENTS] = this.events?.size ?? 0;
    const { data } = this.options;
    const state: CheckpointState = { version: 1, loop, data, files, monitor: this.monitor.state };
    await saveCheckpoint(this.directory, state, (directory) => policy.save(directory, { optimiser: true }));
    await rotateCheckpoints(this.directory, keep, loop.best?.step);
    this.log(`checkpoint-${loop.step}`);
  }

  /** The newest checkpoint's name, for messages. */
  latestCheckpointName(): string | null {
    const step = checkpointSteps(this.directory).pop();
    return step === undefined ? null : path.basename(checkpointPath(this.directory, step));
  }

  /**
   * The final files: adapter, training_args.json and, last, trainer_state.json. With `takeBest` the adapter is that of the
   * best evaluation.
   */
  async finish(
    policy: Policy,
    result: LoopResult,
    { degraded, takeBest }: { degraded: readonly string[]; takeBest: boolean },
  ): Promise<void> {
    const { experiment } = this.options;
    const { best } = result;
    const useBest = takeBest && !result.interrupted && best !== null && best.step !== result.steps;
    const tookBest = useBest && (await this.loadBest(policy, best.step));
    await policy.save(this.directory);
    const state: TrainerState = {
      global_step: result.steps,
      best_metric: best?.value ?? null,
      best_model_checkpoint: tookBest ? `checkpoint-${best.step}` : null,
      interrupted: result.interrupted,
      stopped_early: result.stoppedEarly,
      degraded,
      alerts: this.monitor.state.raised,
      log_history: this.rows,
    };
    await atomicWriteFile(this.file('training_args.json'), `${strictJson(experiment, 2)}\n`);
    await atomicWriteFile(this.file(FINAL), `${strictJson(state, 2)}\n`);
    const how = result.interrupted ? 'stopped' : result.stoppedEarly ? 'stopped early' : 'finished';
    this.log(`${how} after step ${result.steps}`);
  }

  /** @returns false, with a warning, when the checkpoint is damaged: the adapter is then the last step's */
  private async loadBest(policy: Policy, step: number): Promise<boolean> {
    const directory = checkpointPath(this.directory, step);
    try {
      await readCheckpoint(directory);
    } catch (error) {
      this.warn(
        `${messageOf(error)}: the adapter is that of the last step, not of step ${step}, which was the best`,
      );
      return false;
    }
    await policy.load(directory);
    this.log(`the adapter of step ${step} is the best`);
    return true;
  }

  /** Lets another process have the directory. */
  close(): void {
    this.events?.close();
    this.events = undefined;
    this.lock.release();
  }
}
