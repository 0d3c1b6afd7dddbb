/** One experiment from its description to a finished run directory. */
import path from 'node:path';
import type { Tokenizer } from '../model/tokenizer';
import type { RunPolicy } from '../policy/policy';
import { defaultMode } from '../runtime/compile';
import { messageOf, NumericError } from '../runtime/errors';
import { binding, tf } from '../runtime/tf';
import type { Experiment } from './experiment-schema';
import type { LoopHooks, LoopResult, StepRecord } from './loop';
import { memoryCheck } from './preflight';
import { dataHash, openPolicy, prepare, prepareWork } from './prepare';
import type { Prepared, PrepareOptions } from './prepare';
import { RunDirectory } from './run-directory';

/** What a caller may give and watch. */
export interface RunHooks extends PrepareOptions {
  onStep?: (record: StepRecord, totalSteps: number) => void;
  /** Go on from the latest checkpoint of the run directory; begin where there is none. */
  resume?: boolean;
  /** Replace a run that the directory holds. */
  overwrite?: boolean;
}

export interface RunResult extends LoopResult {
  directory: string;
  policy: RunPolicy;
  tokenizer: Tokenizer;
}

/** Memory and tensors, for every row of the metrics. */
function resources(): Record<string, number> {
  return { 'system/tensors': tf.memory().numTensors, 'system/rss_bytes': process.memoryUsage().rss };
}

/**
 * Runs an experiment from `checkpoint_path` when given, else from a fresh adapter. The caller disposes the policy of the
 * result. Bad input is found before the run directory is touched.
 * @throws ConfigError, DataError, CheckpointError
 * @throws NumericError  after three steps in a row without a finite gradient; it names the last good checkpoint, and the
 *                       adapter is saved as it was before them
 */
export async function runExperiment(given: Experiment, hooks: RunHooks = {}): Promise<RunResult> {
  const prepared = await prepare(given, hooks);
  const { experiment, tokenizer } = prepared;
  const registryFile = path.join(experiment.output_dir, 'tinker-models.json');
  const memory = memoryWarning(prepared);
  // Before the model is loaded: the system may end the process then, without a word.
  if (memory !== null) hooks.notify?.(memory);
  const policy = await openPolicy(prepared, { ...hooks, registryFile });
  let run: RunDirectory | undefined;
  try {
    const work = prepareWork(prepared, policy);
    run = await RunDirectory.open({
      ...{ directory: experiment.output_dir, experiment, data: dataHash(prepared) },
      ...{ resume: hooks.resume, overwrite: hooks.overwrite },
      ...{ replies: experiment.task === undefined, tensorflow: binding.TF_Version },
      notify: hooks.notify ?? (() => undefined),
    });
    if (run.resumed !== null) await policy.load(run.resumed.directory, { optimiser: true });
    run.log(`${experiment.method} on ${prepared.records.length} records, model ${experiment.model}`);
    run.log(`${engineOf(experiment)}, Node ${process.versions.node}`);
    if (memory !== null) run.log(`warning: ${memory}`);
    const isScored = experiment.method === 'grpo' || prepared.evaluation.length > 0;
    const degraded = isScored ? prepared.task.reward.degraded : [];
    for (const name of degraded) run.log(`degraded: ${name}`);
    try {
      const result = await work.run(run, loopHooks(run, policy, experiment, hooks));
      const takeBest = experiment.training.load_best_model_at_end;
      await run.finish(policy, result, { degraded, takeBest });
      return { ...result, directory: experiment.output_dir, policy, tokenizer };
    } catch (error) {
      await afterFailure(run, policy, error);
      throw error;
    }
  } catch (error) {
    await policy.dispose();
    throw error;
  } finally {
    run?.close();
    if (hooks.reward === undefined) prepared.task.reward.dispose?.();
  }
}

/** Leaves the reason in the log, and of a run that diverged the adapter as it was before. */
async function afterFailure(run: RunDirectory, policy: RunPolicy, error: unknown): Promise<void> {
  logFailure(run, error);
  if (!(error instanceof NumericError)) return;
  await policy.save(run.directory);
  const latest = run.latestCheckpointName();
  if (latest !== null) error.message += `; the last good checkpoint is ${path.join(run.directory, latest)}`;
}

/** That a run may not fit, and what would; null where it does, or a server has the model. */
function memoryWarning(prepared: Prepared): string | null {
  if (prepared.experiment.policy.type !== 'local') return null;
  const { ok, detail } = memoryCheck(prepared);
  return ok ? null : `memory may run out: ${detail}`;
}

function engineOf({ policy }: Experiment): string {
  if (policy.type === 'tinker') return `Tinker server at ${policy.base_url}`;
  const device = binding.isUsingGpuDevice() ? 'gpu' : 'cpu';
  return `TensorFlow ${binding.TF_Version} on ${device}, ${defaultMode()} mode`;
}

/** Where the disk is full the log cannot tell: that must not hide the cause. */
function logFailure(run: RunDirectory, error: unknown): void {
  try {
    run.log(`failed: ${messageOf(error)}`);
  } catch {
    // The error itself is on its way to the user.
  }
}

function loopHooks(
  run: RunDirectory,
  policy: RunPolicy,
  { method, training }: Experiment,
  hooks: RunHooks,
): LoopHooks {
  const watched =
    method === 'grpo'
      ? ({ key: 'eval/reward', better: 'higher' } as const)
      : ({ key: 'eval/loss', better: 'lower' } as const);
  return {
    onStep: (record, totalSteps) => {
      Object.assign(record, resources());
      run.metrics(record);
      hooks.onStep?.(record, totalSteps);
    },
    onSkipped: (step, ids) =>
      run.warn(`step ${step}: the gradient is not finite, the update is skipped; examples ${ids.join(', ')}`),
    resume: run.resumed?.loop,
    checkpoint: (state) => run.checkpoint(policy, state, training.save_total_limit),
    saveEvery: training.save_steps,
    earlyStopping: { ...watched, patience: training.early_stopping_patience },
    signal: hooks.signal,
    evalEvery: training.eval_steps,
  };
}
