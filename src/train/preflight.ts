/** What to know before a long run: what it will do, whether it fits, and how long it will take. Nothing is written. */
import { accessSync, constants, existsSync, statfsSync } from 'node:fs';
import path from 'node:path';
import { countParameters } from '../model/config';
import { adapterBytes, planMemory } from '../model/memory';
import type { StepShape } from '../model/memory';
import { GRPO_SETTINGS, memoryAdvice, SHAPE_SETTINGS } from '../model/memory-advice';
import type { RunPolicy } from '../policy/policy';
import { defaultMode } from '../runtime/compile';
import { describeMachine } from '../runtime/machine';
import { formatBytes } from '../runtime/progress';
import { binding } from '../runtime/tf';
import { adapterConfig, grpoSettings, polychromicOf, polychromicSettings } from './config';
import type { Experiment } from './experiment-schema';
import { countWork, openPolicy, prepare, prepareWork } from './prepare';
import type { Prepared, PrepareOptions, Work } from './prepare';
import { RunDirectory } from './run-directory';

/** One line of the list. */
export interface PreflightCheck {
  name: string;
  ok: boolean;
  detail: string;
}

/** What a trial of a run's first steps says: its checks, its time, its cost. */
export interface Preflight {
  checks: PreflightCheck[];
  totalSteps: number;
  /**
   * Of the measured steps, in order, without the first, in which functions are compiled; polychromic: those without the
   * diversity term.
   */
  stepSeconds: number[];
  /** Median step x steps (polychromic: with its share of diversity terms); evaluations and saves come on top. */
  etaSeconds: number;
  cost: number | null;
}

const WARM_STEPS = 1;
const MEASURED_STEPS = 3;
/** More steps than are measured. */
const NEVER = 1e9;

/** The nearest directory on the way to a path that exists. */
function existingParent(place: string): string {
  const full = path.resolve(place);
  return existsSync(full) ? full : existingParent(path.dirname(full));
}

function outputCheck({ output_dir: directory }: Experiment, resume: boolean): PreflightCheck {
  const parent = existingParent(directory);
  const name = 'output';
  try {
    accessSync(parent, constants.W_OK);
  } catch {
    return { name, ok: false, detail: `${directory}: may not be written to; choose another directory` };
  }
  if (RunDirectory.holdsRun(directory) && !resume)
    return { name, ok: false, detail: `${directory}: holds a run already; --resume it, or choose another` };
  return { name, ok: true, detail: directory };
}

/** Room for the checkpoints that are kept, the best, one being written, and the logs. */
function diskCheck({ experiment, modelConfig }: Prepared): PreflightCheck {
  const { bavail, bsize } = statfsSync(existingParent(experiment.output_dir));
  const free = bavail * bsize;
  const { r, target_modules: targets } = adapterConfig(experiment);
  // An adapter and its two moments each.
  const needed =
    (experiment.training.save_total_limit + 2) * 3 * adapterBytes(modelConfig, r, targets) + 50e6;
  const detail = `${formatBytes(needed)} needed, ${formatBytes(free)} free`;
  return { name: 'disk', ok: needed <= free, detail };
}

/**
 * The largest micro-batch that an experiment can come to: P prompts (examples) of up to Tp tokens, G completions of up to
 * Tc tokens each; of an SFT example half is taken to be its reply.
 */
export function stepShape(experiment: Experiment): StepShape {
  const { batch_size: P, max_length: Tp } = experiment.training;
  const { method } = experiment;
  const grpo = method === 'grpo' ? grpoSettings(experiment) : null;
  const poly = method === 'polychromic' ? polychromicSettings(experiment) : null;
  const G = grpo?.groupSize ?? poly?.generations ?? 1;
  return { P, G, Tp, Tc: (grpo ?? poly)?.maxNewTokens ?? Math.ceil(Tp / 2) };
}

/** The batches that completions are sampled for: those of whole steps, and held-out prompts. */
function sampledShapes({ experiment, evaluation }: Pick<Prepared, 'experiment' | 'evaluation'>): StepShape[] {
  const { method, training, evaluation: held } = experiment;
  const shape = stepShape(experiment);
  const replies = { G: held.n_generations, Tp: shape.Tp, Tc: held.max_new_tokens };
  return [
    ...(method === 'grpo' ? [{ ...shape, P: shape.P * training.gradient_accumulation_steps }] : []),
    ...(method === 'polychromic' ? [{ ...shape, P: polychromicSettings(experiment).diversityExamples }] : []),
    ...(evaluation.length > 0 && held.n_generations > 0
      ? [{ ...replies, P: Math.min(evaluation.length, held.max_prompts) }]
      : []),
  ];
}

const POLYCHROMIC_SETTINGS = ['polychromic.n_generations', 'polychromic.max_new_tokens'];

/** What lowers the memory of each method. */
const LOWER: Readonly<Record<Experiment['method'], readonly string[]>> = {
  sft: SHAPE_SETTINGS,
  polychromic: [...SHAPE_SETTINGS, ...POLYCHROMIC_SETTINGS],
  grpo: GRPO_SETTINGS,
};

/** Whether the plan fits into what is free now, before the model is loaded; if not, which settings would make it fit. */
export function memoryCheck(prepared: Prepared): PreflightCheck {
  const { experiment, evaluation, modelConfig: config } = prepared;
  const { method, dtype, training } = experiment;
  const shape = stepShape(experiment);
  const isOnGpu = binding.isUsingGpuDevice();
  const options = {
    ...{ recompute: training.gradient_checkpointing, fused: defaultMode() === 'graph' && !isOnGpu, dtype },
    ...{ sampled: sampledShapes(prepared), reference: method === 'grpo' },
  };
  const step = { config, shape, rank: adapterConfig(experiment).r, options };
  const plan = planMemory(config, shape, step.rank, options);
  const { memoryAvailableBytes, gpus } = describeMachine();
  const available = isOnGpu ? gpus[0]?.memoryFreeBytes : memoryAvailableBytes;
  const held = evaluation.length === 0 ? '' : `, ${evaluation.length} held-out records`;
  const { P, G, Tp, Tc } = shape;
  const shown = `P=${P}, G=${G}, up to ${Tp} + ${Tc} tokens${held}`;
  // In some containers the driver's files are not there, and nothing says what of a GPU is free.
  const ok = available === undefined || plan.total <= available;
  const free = available === undefined ? 'unknown how much is' : formatBytes(available);
  const advice = ok ? '' : `; ${memoryAdvice(step, available, LOWER[method])}`;
  return {
    ...{ name: 'memory', ok },
    detail: `${formatBytes(plan.total)} planned (${shown}), ${free} available${advice}`,
  };
}

function deviceOf({ policy }: Experiment): string {
  if (policy.type === 'tinker') return `Tinker server at ${policy.base_url}`;
  const device = binding.isUsingGpuDevice() ? 'gpu' : 'cpu';
  return `${device}, TensorFlow ${binding.TF_Version}, ${defaultMode()} mode, ${describeMachine().cores} cores`;
}

function checksOf(
  prepared: Prepared,
  work: Pick<Work, 'totalSteps' | 'count'>,
  memory: PreflightCheck | null,
  resume: boolean,
): PreflightCheck[] {
  const { experiment, records, evaluation, modelConfig } = prepared;
  const { reward } = prepared.task;
  const { method, seed, training, model } = experiment;
  const degraded = reward.degraded.length === 0 ? '' : ` (degraded: ${reward.degraded.join('; ')})`;
  const batch = `${training.batch_size} x ${training.gradient_accumulation_steps} a step`;
  const fine = (name: string, detail: string): PreflightCheck => ({ name, ok: true, detail });
  return [
    fine('config', `${method}, seed ${seed}, learning rate ${training.learning_rate}, ${batch}`),
    fine(
      'data',
      `${records.length} records (${work.count} ${method === 'grpo' ? 'prompts' : 'examples'}), ${evaluation.length} held out`,
    ),
    fine('model', `${model}, ${countParameters(modelConfig).toLocaleString('en-US')} parameters`),
    fine('start', experiment.checkpoint_path ?? 'a fresh adapter'),
    fine('reward', `${reward.name}${degraded}`),
    fine('device', deviceOf(experiment)),
    outputCheck(experiment, resume),
    diskCheck(prepared),
    ...(memory === null ? [] : [memory]),
    fine('steps', String(work.totalSteps)),
  ];
}

/** Seconds of the first steps, the warm-up left out; the weights that they train are thrown away. */
async function measureSteps(work: Work, options: PreflightOptions): Promise<number[]> {
  const controller = new AbortController();
  const signal =
    options.signal === undefined ? controller.signal : AbortSignal.any([controller.signal, options.signal]);
  const seconds: number[] = [];
  let begin = performance.now();
  await work.run(
    { sample: () => undefined, text: () => undefined },
    {
      signal,
      onStep: ({ step }) => {
        if (step > 0) seconds.push((performance.now() - begin) / 1000);
        options.onStep?.(Math.min(seconds.length, WARM_STEPS + MEASURED_STEPS), WARM_STEPS + MEASURED_STEPS);
        if (seconds.length === WARM_STEPS + MEASURED_STEPS) controller.abort();
        begin = performance.now();
      },
    },
  );
  options.signal?.throwIfAborted();
  return seconds.length > WARM_STEPS ? seconds.slice(WARM_STEPS) : seconds;
}

export interface PreflightOptions extends PrepareOptions {
  resume?: boolean;
  pricePerHour?: number;
  onStep?: (done: number, total: number) => void;
}

function middleOf(values: readonly number[]): number {
  return values.slice().sort((a, b) => a - b)[values.length >> 1] ?? 0;
}

/**
 * Seconds of the measured steps, and of a mean step of the run. Polychromic's diversity term joins one step in `every`: its
 * steps are measured without it, then with it.
 */
async function measure(
  prepared: Prepared,
  policy: RunPolicy,
  options: PreflightOptions,
): Promise<{ stepSeconds: number[]; meanSeconds: number }> {
  const { experiment } = prepared;
  const at = (of: Experiment): Promise<number[]> =>
    measureSteps(prepareWork({ ...prepared, evaluation: [], experiment: of }, policy), options);
  if (experiment.method !== 'polychromic') {
    const stepSeconds = await at(experiment);
    return { stepSeconds, meanSeconds: middleOf(stepSeconds) };
  }
  const polychromic = polychromicOf(experiment);
  const stepSeconds = await at({ ...experiment, polychromic: { ...polychromic, every: NEVER } });
  const withTerm = await at({ ...experiment, polychromic: { ...polychromic, every: 1 } });
  const [plain, full] = [middleOf(stepSeconds), middleOf(withTerm)];
  return { stepSeconds, meanSeconds: plain + (full - plain) / polychromic.every };
}

/**
 * The list, and the time of the run from three measured steps (on the real model, data and reward; in memory only). A model
 * that does not fit is not loaded.
 * @throws ConfigError, DataError, CheckpointError  for what would stop the run before its first step
 */
export async function preflight(given: Experiment, options: PreflightOptions = {}): Promise<Preflight> {
  const { resume = false } = options;
  const prepared = await prepare(given, options);
  try {
    // The memory of a server is its own.
    const memory = prepared.experiment.policy.type === 'local' ? memoryCheck(prepared) : null;
    if (memory?.ok === false) {
      const work = countWork(prepared);
      const { totalSteps } = work;
      const checks = checksOf(prepared, work, memory, resume);
      return { checks, totalSteps, stepSeconds: [], etaSeconds: 0, cost: costOf(0, options) };
    }
    return await tryRun(prepared, memory, options);
  } finally {
    if (options.reward === undefined) prepared.task.reward.dispose?.();
  }
}

function costOf(seconds: number, { pricePerHour }: PreflightOptions): number | null {
  return pricePerHour === undefined ? null : (pricePerHour * seconds) / 3600;
}

/** The checks, and where all are fine a few steps. */
async function tryRun(
  prepared: Prepared,
  memory: PreflightCheck | null,
  options: PreflightOptions,
): Promise<Preflight> {
  const policy = await openPolicy(prepared, options);
  try {
    // Without held-out data no evaluation comes between the measured steps.
    const work = prepareWork({ ...prepared, evaluation: [] }, policy);
    const checks = checksOf(prepared, work, memory, options.resume ?? false);
    const isFine = checks.every(({ ok }) => ok);
    const { stepSeconds, meanSeconds } = isFine
      ? await measure(prepared, policy, options)
      : { stepSeconds: [], meanSeconds: 0 };
    const etaSeconds = work.totalSteps * meanSeconds;
    const cost = costOf(etaSeconds, options);
    return { checks, totalSteps: work.totalSteps, stepSeconds, etaSeconds, cost };
  } finally {
    await policy.dispose();
  }
}
