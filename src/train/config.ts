/** Experiment files: YAML with `_base_` inheritance, merged, checked by the schema, and turned into each loop's settings. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { z } from 'zod';
import { ConfigError, messageOf } from '../runtime/errors';
import { refuseSecrets } from '../rewards/chat-request';
import { parseStrict } from '../runtime/strict';
import { parseYaml } from '../runtime/yaml';
import { TINKER_ALPHA } from '../policy/tinker-protocol';
import type { LORA_TARGETS } from '../model/peft';
import type { AdapterConfig } from '../model/peft';
import { experimentSchema, grpoSchema, loraSchema, polychromicSchema } from './experiment-schema';
import type { distanceSchema, Experiment } from './experiment-schema';
import type { GrpoSettings } from './grpo';
import type { PolychromicSettings } from './polychromic';
import type { SftSettings } from './sft';

type LoraTarget = (typeof LORA_TARGETS)[number];
type Tree = Record<string, unknown>;

/** Where the study's GRPO differs from its SFT, whose values are the schema's defaults. */
const grpoTraining: Tree = {
  training: {
    epochs: 3,
    batch_size: 2,
    gradient_accumulation_steps: 8,
    learning_rate: 1e-5,
    warmup_ratio: 0.05,
    early_stopping_patience: 5,
  },
};

/** And its polychromic training. */
const polychromicTraining: Tree = { training: { batch_size: 2, gradient_accumulation_steps: 8 } };

/** Defaults that a server can keep to; those of an adapter where one is described. */
function remoteDefaults({ lora }: Tree): Tree {
  const adapter = isTree(lora) ? { lora: { alpha: TINKER_ALPHA, dropout: 0 } } : {};
  return { training: { max_grad_norm: 0 }, ...adapter };
}

const isTree = (value: unknown): value is Tree =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function merge(base: Tree, over: Tree): Tree {
  const result: Tree = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const old = result[key];
    result[key] = isTree(old) && isTree(value) ? merge(old, value) : value;
  }
  return result;
}

function readTree(file: string, seen: readonly string[] = []): Tree {
  const full = path.resolve(file);
  if (seen.includes(full))
    throw new ConfigError(`${file}: _base_ leads back to this file; remove one _base_`);
  let text: string;
  try {
    text = readFileSync(full, 'utf8');
  } catch (error) {
    throw new ConfigError(
      `${file}: expected a YAML file, found none that can be read (${messageOf(error).split('\n')[0]})`,
    );
  }
  const value = parseYaml(text, file);
  if (!isTree(value))
    throw new ConfigError(`${file}: expected keys and values, found ${JSON.stringify(value)}`);
  const { _base_: base, ...own } = value;
  const { task } = own;
  if (isTree(task) && typeof task.reward === 'string')
    own.task = { ...task, reward: path.resolve(path.dirname(full), task.reward) };
  if (base === undefined) return own;
  if (typeof base !== 'string')
    throw new ConfigError(`${file}: _base_ is ${JSON.stringify(base)}; expected a file name`);
  return merge(readTree(path.resolve(path.dirname(full), base), [...seen, full]), own);
}

/**
 * An experiment from keys and values, with the defaults of its method.
 * @throws ConfigError  naming every bad key; an unknown one with the nearest known one
 */
export function parseExperiment(tree: Record<string, unknown>, where = 'experiment'): Experiment {
  const own =
    tree.method === 'grpo' ? grpoTraining : tree.method === 'polychromic' ? polychromicTraining : {};
  const isRemote = isTree(tree.policy) && tree.policy.type === 'tinker';
  const full = merge(isRemote ? merge(own, remoteDefaults(tree)) : own, tree);
  refuseSecrets(full.policy, `${where}: policy`);
  return parseStrict(experimentSchema, full, where);
}

/** `a.b=value`, the value read as YAML. */
function assignment(text: string): Tree {
  const at = text.indexOf('=');
  if (at < 1) throw new ConfigError(`--set ${text}: expected key=value, such as training.learning_rate=1e-4`);
  const keys = text.slice(0, at).split('.');
  const value = parseYaml(text.slice(at + 1), `--set ${text.slice(0, at)}`);
  return keys.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value) as Tree;
}

/**
 * Reads an experiment file with its bases; paths inside are relative to the working directory, but for `_base_`,
 * `warm_start` and `task.reward`, which are relative to the file.
 * @param overrides  `a.b=value`, applied last, in order
 * @throws ConfigError  naming file and key; an unknown key with the nearest known one
 */
export function loadExperiment(file: string, overrides: readonly string[] = []): Experiment {
  const tree = overrides.map(assignment).reduce(merge, readTree(file));
  const experiment = parseExperiment(tree, file);
  const { warm_start: first } = experiment;
  return first === undefined
    ? experiment
    : { ...experiment, warm_start: path.isAbsolute(first) ? first : path.join(path.dirname(file), first) };
}

function optimiserOf({ training }: Experiment) {
  return {
    learningRate: training.learning_rate,
    schedule: training.lr_scheduler_type,
    warmupRatio: training.warmup_ratio,
    betas: [training.adam_beta1, training.adam_beta2] as const,
    eps: training.adam_epsilon,
    weightDecay: training.weight_decay,
    clipNorm: training.max_grad_norm,
    epochs: training.epochs,
    maxSteps: training.max_steps,
    batchSize: training.batch_size,
    accumulation: training.gradient_accumulation_steps,
  };
}

/** What `trainSft` needs of an experiment. */
export function sftSettings(experiment: Experiment): SftSettings {
  return { ...optimiserOf(experiment), seed: experiment.seed };
}

/** The polychromic part of an experiment, with its defaults. */
export function polychromicOf({ polychromic }: Experiment): z.output<typeof polychromicSchema> {
  return polychromic ?? polychromicSchema.parse({});
}

/** What `trainPolychromic` needs of an experiment, every default filled in. */
export function polychromicSettings(experiment: Experiment): PolychromicSettings {
  const polychromic = polychromicOf(experiment);
  return {
    ...sftSettings(experiment),
    lambda: polychromic.lambda,
    diversityEvery: polychromic.every,
    diversityExamples: polychromic.max_examples,
    generations: polychromic.n_generations,
    temperature: polychromic.temperature,
    topP: polychromic.top_p,
    maxNewTokens: polychromic.max_new_tokens,
    credit: polychromic.credit,
  };
}

/** The distance that an experiment's training uses. */
export function distanceOf({ polychromic, grpo, method }: Experiment): z.output<typeof distanceSchema> {
  const chosen = method === 'grpo' ? grpo?.diversity_distance : polychromic?.distance;
  return chosen ?? 'semantic';
}

/** What `trainGrpo` needs of an experiment, every default filled in. */
export function grpoSettings(experiment: Experiment): GrpoSettings {
  const grpo = experiment.grpo ?? grpoSchema.parse({});
  return {
    ...optimiserOf(experiment),
    seed: experiment.seed,
    groupSize: grpo.n_generations,
    temperature: grpo.temperature,
    topP: grpo.top_p,
    topK: grpo.top_k,
    maxNewTokens: grpo.max_new_tokens,
    minNewTokens: grpo.min_new_tokens,
    lossTemperature: grpo.loss_temperature ?? grpo.temperature,
    numIterations: grpo.num_iterations,
    advantageScale: grpo.scale_rewards,
    advantageClip: grpo.advantage_clip,
    maskTruncated: grpo.mask_truncated_completions,
    maxResamples: grpo.max_resamples,
    diversityWeight: grpo.diversity_weight,
    loss: {
      kind: 'grpo',
      type: grpo.loss_type,
      epsilonLow: grpo.epsilon,
      epsilonHigh: grpo.epsilon_high ?? grpo.epsilon,
      delta: grpo.delta,
      beta: grpo.kl_coeff,
      klBiasCorrection: grpo.kl_bias_correction,
      ratioLevel: grpo.ratio_level,
      maxCompletionLength: grpo.max_new_tokens,
    },
  };
}

/**
 * The experiment with the adapter of its checkpoint in place of `lora`, as it will really run.
 * @throws ConfigError  when `lora` was given and the checkpoint's adapter is another one
 */
export function withCheckpoint(experiment: Experiment, checkpoint: AdapterConfig): Experiment {
  const { r, lora_alpha: alpha, lora_dropout: dropout } = checkpoint;
  const effective = { r, alpha, dropout, target_modules: checkpoint.target_modules as LoraTarget[] };
  const { lora } = experiment;
  const shown = (value: unknown): string =>
    Array.isArray(value) ? [...value].sort().join(', ') : String(value);
  for (const key of ['r', 'alpha', 'dropout', 'target_modules'] as const)
    if (lora !== undefined && shown(lora[key]) !== shown(effective[key]))
      throw new ConfigError(
        `lora.${key} is ${shown(lora[key])}, but the adapter in checkpoint_path has ${shown(effective[key])}: remove lora, or start from another checkpoint`,
      );
  return { ...experiment, lora: effective };
}

/** The adapter that a run starts with when it has no checkpoint_path. */
export function adapterConfig({ lora: given, model, policy }: Experiment): AdapterConfig {
  const isRemote = policy.type === 'tinker';
  const lora = given ?? loraSchema.parse(isRemote ? { alpha: TINKER_ALPHA, dropout: 0 } : {});
  return {
    base_model_name_or_path: model,
    r: lora.r,
    lora_alpha: lora.alpha,
    lora_dropout: lora.dropout,
    use_rslora: false,
    target_modules: [...lora.target_modules],
  };
}
