/** The schema of an experiment file: every key with its default, and the rules across keys. */
import { z } from 'zod';
import type { MatmulPrecision, WeightDtype } from '../model/config';
import { MATMUL_PRECISIONS, matmulProblem, WEIGHT_DTYPES } from '../model/config';
import { LORA_TARGETS } from '../model/peft';
import { TINKER_ALPHA } from '../policy/tinker-protocol';
import { addressSchema, keyVariableSchema } from '../rewards/chat-request';
import { embeddingSchema } from '../rewards/config';
import { taskSchema } from './own-task';

const share = z.number().min(0).max(1);
const belowOne = z.number().min(0).lt(1);
const positive = z.number().positive();
const natural = z.int().positive();

/** Settings of a fresh adapter: `lora` of an experiment. */
export const loraSchema = z.strictObject({
  r: natural.default(16).describe('rank'),
  alpha: positive.default(16).describe('scale is alpha / r'),
  dropout: belowOne.default(0.1).describe("on the adapter's input, in SFT only"),
  target_modules: z
    .array(z.enum(LORA_TARGETS))
    .min(1)
    .default([...LORA_TARGETS]),
});

const trainingSchema = z.strictObject({
  epochs: positive.default(2).describe('passes over the data; a fraction ends inside one'),
  max_steps: natural.optional().describe('optimiser steps, instead of epochs'),
  batch_size: natural.default(4).describe('examples (grpo: prompts) of a micro-batch'),
  gradient_accumulation_steps: natural.default(4).describe('micro-batches of an optimiser step'),
  learning_rate: positive.default(2e-4),
  lr_scheduler_type: z.enum(['cosine', 'linear', 'constant_with_warmup']).default('cosine'),
  warmup_ratio: share.default(0.03).describe('share of the steps'),
  weight_decay: z.number().min(0).default(0.01),
  max_grad_norm: z.number().min(0).default(1).describe('global norm; 0 does not clip'),
  adam_beta1: belowOne.default(0.9),
  adam_beta2: belowOne.default(0.999),
  adam_epsilon: positive.default(1e-8),
  max_length: natural.default(512).describe('tokens of prompt and reply'),
  gradient_checkpointing: z
    .boolean()
    .default(false)
    .describe(
      'compute layers again in the backward pass: about half the memory, a step takes half as long again',
    ),
  eval_steps: z.int().min(0).default(50).describe('optimiser steps between evaluations; 0: only at the ends'),
  save_steps: z.int().min(0).default(50).describe('optimiser steps between checkpoints; 0: only at the end'),
  save_total_limit: natural.default(3).describe('newest checkpoints kept, beside the best one'),
  early_stopping_patience: z
    .int()
    .min(0)
    .default(3)
    .describe(
      'evaluations without a better one (sft: eval/loss, grpo: eval/reward) that end the run; 0: never',
    ),
  sample_steps: natural.default(1).describe('rollouts of one step in so many are kept in samples.jsonl'),
  load_best_model_at_end: z
    .boolean()
    .default(true)
    .describe('the adapter of the best evaluation, not of the last step'),
});

/** How different texts are: `semantic` mean cosine distance of embeddings, `self_bleu` 1 - self-BLEU-4, `distinct_2`. */
export const distanceSchema = z.enum(['semantic', 'self_bleu', 'distinct_2']).default('semantic');

/** Settings of GRPO: `grpo` of an experiment. */
export const grpoSchema = z.strictObject({
  n_generations: z.int().min(2).default(4).describe('completions a prompt'),
  temperature: positive.default(0.8),
  top_p: positive.max(1).default(0.9),
  top_k: z.int().min(0).default(0).describe('0 keeps all tokens'),
  max_new_tokens: natural.default(100),
  min_new_tokens: z.int().min(0).default(0),
  kl_coeff: z.number().min(0).default(0.1).describe('beta, weight of the KL to the warm start'),
  kl_bias_correction: z.boolean().default(true).describe('k3 times the ratio, as TRL'),
  loss_type: z
    .enum(['grpo', 'dr_grpo', 'bnpo', 'dapo', 'cispo'])
    .default('grpo')
    .describe(
      "bnpo divides by a micro-batch's tokens, as TRL: it depends on batch_size; the others do not; cispo needs epsilon_high, its bound of the ratio, such as 5",
    ),
  epsilon: positive.default(0.2).describe('the ratio is clipped below 1 - epsilon'),
  epsilon_high: positive.optional().describe('and above 1 + epsilon_high; default: epsilon'),
  delta: positive.optional().describe('two-sided clipping: upper bound of the unclipped ratio'),
  ratio_level: z.enum(['token', 'sequence']).default('token'),
  num_iterations: natural.default(1).describe('updates on each batch of rollouts'),
  scale_rewards: z.enum(['group', 'batch', 'none']).default('group'),
  advantage_clip: positive.default(10),
  mask_truncated_completions: z.boolean().default(false),
  max_resamples: z.int().min(0).default(0).describe('times that a group of equal rewards is drawn again'),
  diversity_weight: z
    .number()
    .min(0)
    .default(0)
    .describe("weight of a group's diversity as a reward of the set (polychromic GRPO)"),
  diversity_distance: distanceSchema,
  loss_temperature: positive.optional().describe('of the log-probabilities; default: temperature, as TRL'),
});

/** Settings of polychromic training: `polychromic` of an experiment. */
export const polychromicSchema = z.strictObject({
  lambda: z.number().default(0.3).describe('weight of the diversity of own completions'),
  n_generations: z.int().min(2).default(3).describe('completions a prompt'),
  temperature: positive.default(0.9),
  top_p: positive
    .max(1)
    .default(1)
    .describe(
      'has to be 1: the gradient needs the probabilities of what was drawn, over the whole vocabulary',
    ),
  max_new_tokens: natural.default(100),
  distance: distanceSchema,
  credit: z
    .enum(['leave_one_out', 'pairs'])
    .default('leave_one_out')
    .describe('pairs (semantic only): unbiased too, but noisier'),
  every: natural.default(5).describe('optimiser steps between diversity terms'),
  max_examples: natural.default(4).describe('examples of a step whose prompts are sampled'),
});

const evaluationSchema = z.strictObject({
  n_generations: z
    .int()
    .min(0)
    .default(4)
    .describe('replies a held-out prompt at each evaluation; 0: no replies, only the loss of sft'),
  temperature: positive.default(0.7),
  top_p: positive.max(1).default(0.9),
  max_new_tokens: natural.default(100),
  max_prompts: natural.default(32),
});

/** Where the model is trained: here, or by a server that speaks the Tinker protocol. */
const policySchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('local') }),
  z.strictObject({
    type: z.literal('tinker'),
    base_url: addressSchema.describe("the server's address"),
    base_model: z
      .string()
      .min(1)
      .optional()
      .describe("the model's name at the server; default: the only one that it has"),
    api_key_env: keyVariableSchema.default('none'),
    timeout_seconds: positive.default(1800).describe('of one operation on the server, compilation included'),
  }),
]);

/** The settings that decide whether a server can do what an experiment asks for. */
interface RemoteSettings {
  policy: { type: 'local' | 'tinker' };
  lora?: z.output<typeof loraSchema>;
  training: z.output<typeof trainingSchema>;
  grpo?: z.output<typeof grpoSchema>;
  polychromic?: z.output<typeof polychromicSchema>;
  method: 'sft' | 'polychromic' | 'grpo';
  dtype: WeightDtype;
  matmul_precision: MatmulPrecision;
}

/** What a Tinker server cannot do is refused, never left out. */
function remoteProblems(config: RemoteSettings): { path: string[]; message: string }[] {
  if (config.policy.type !== 'tinker') return [];
  const { training, lora, method, dtype, matmul_precision: precision } = config;
  const grpo = config.grpo ?? grpoSchema.parse({});
  const polychromic = config.polychromic ?? polychromicSchema.parse({});
  const problems: { path: string[]; message: string }[] = [];
  const require = (isFine: boolean, key: string, value: unknown, expected: string): void => {
    if (isFine) return;
    const message = `is ${String(value)}, but a Tinker server ${expected}`;
    problems.push({ path: key.split('.'), message });
  };
  const { max_grad_norm: norm, gradient_checkpointing: recompute } = training;
  require(dtype === 'float32', 'dtype', dtype, 'decides that itself; remove it');
  require(precision === 'float32', 'matmul_precision', precision, 'decides that itself; remove it');
  require(norm === 0, 'training.max_grad_norm', norm, 'does not clip gradients; set it to 0');
  require(!recompute, 'training.gradient_checkpointing', recompute, 'decides that itself; remove it');
  if (lora !== undefined) {
    const { alpha, dropout, target_modules: targets } = lora;
    require(alpha === TINKER_ALPHA, 'lora.alpha', alpha, `always has ${TINKER_ALPHA}; set it so`);
    require(dropout === 0, 'lora.dropout', dropout, 'has none; set it to 0');
    const isFull = new Set(targets).size === LORA_TARGETS.length;
    require(isFull, 'lora.target_modules', targets.join(', '), 'adapts all seven; remove the list');
  }
  const told = 'tells log-probabilities at temperature 1 alone; set it to 1';
  if (method === 'grpo') {
    const temperature = grpo.loss_temperature ?? grpo.temperature;
    require(temperature === 1, 'grpo.loss_temperature', temperature, told);
    const { min_new_tokens: least } = grpo;
    require(least === 0, 'grpo.min_new_tokens', least, 'knows no least length; set it to 0');
  }
  if (method === 'polychromic')
    require(polychromic.temperature === 1, 'polychromic.temperature', polychromic.temperature, told);
  return problems;
}

/** One experiment. */
export const experimentSchema = z
  .strictObject({
    method: z.enum(['sft', 'polychromic', 'grpo']),
    model: z.string().default('data/model').describe('directory of a Hugging Face model, or a hub id'),
    dtype: z
      .enum(WEIGHT_DTYPES)
      .default('float32')
      .describe(
        'of the frozen base weights: bfloat16 takes half the memory, and is exact for a bfloat16 checkpoint; nf4 is 4-bit',
      ),
    matmul_precision: z
      .enum(MATMUL_PRECISIONS)
      .default('float32')
      .describe(
        'of products with base weights in bfloat16 or nf4: bfloat16 rounds activations and gradients to it, sums in float32',
      ),
    policy: policySchema.prefault({ type: 'local' }).describe('what trains and samples'),
    warm_start: z
      .string()
      .optional()
      .describe('experiment file of phase 1, from this file; train --phases 1,2 runs it first'),
    checkpoint_path: z.string().optional().describe('PEFT adapter to start from; the reference of grpo'),
    data: z.strictObject({
      train: z.string().describe('JSONL records'),
      eval: z.string().optional().describe('JSONL records, held out'),
      max_examples: natural.optional().describe('use this many records from the start of train'),
      max_eval_examples: natural.default(64),
    }),
    output_dir: z.string().default('runs/experiment'),
    seed: z.int().min(0).default(42),
    reward: z
      .string()
      .optional()
      .describe('heuristic (the default), sharp, a YAML file, or a directory of train-reward'),
    task: taskSchema.optional().describe('prompts and reward of your own, in place of replies to tweets'),
    lora: loraSchema.optional().describe('a fresh adapter; with checkpoint_path, that of the checkpoint'),
    training: trainingSchema.default(trainingSchema.parse({})),
    polychromic: polychromicSchema.optional(),
    grpo: grpoSchema.optional(),
    embedding: embeddingSchema.prefault({ kind: 'lexical' }).describe('of semantic diversity'),
    evaluation: evaluationSchema.prefault({}),
  })
  .superRefine((config, context) => {
    for (const { path, message } of remoteProblems(config))
      context.addIssue({ code: 'custom', path, message });
    const { policy, dtype, matmul_precision: precision } = config;
    const products = policy.type === 'local' ? matmulProblem(dtype, precision) : null;
    if (products !== null)
      context.addIssue({
        code: 'custom',
        path: ['matmul_precision'],
        message: `is ${precision}, but dtype is ${dtype}; ${products}`,
      });
    if (config.task !== undefined && config.reward !== undefined)
      context.addIssue({
        code: 'custom',
        path: ['reward'],
        message: `is ${config.reward}, but the task has a reward of its own (task.reward); remove one of them`,
      });
    for (const method of ['polychromic', 'grpo'] as const)
      if (config.method !== method && config[method] !== undefined)
        context.addIssue({
          code: 'custom',
          path: [method],
          message: `belongs to method: ${method}; remove it, or change the method`,
        });
    const { polychromic, grpo } = config;
    if (grpo !== undefined && grpo.diversity_weight > 0 && grpo.n_generations < 3)
      context.addIssue({
        code: 'custom',
        path: ['grpo', 'n_generations'],
        message: `is ${grpo.n_generations}; diversity_weight needs groups of 3 or more, to credit each completion against the others`,
      });
    if (grpo?.loss_type === 'cispo' && (grpo.epsilon_high === undefined || grpo.epsilon_high < 1))
      context.addIssue({
        code: 'custom',
        path: ['grpo', 'epsilon_high'],
        message: `is ${grpo.epsilon_high ?? 'missing'}; cispo bounds the ratio itself by it: expected 1 or more, such as 5`,
      });
    if (
      grpo?.delta !== undefined &&
      grpo.loss_type !== 'cispo' &&
      grpo.delta <= 1 + (grpo.epsilon_high ?? grpo.epsilon)
    )
      context.addIssue({
        code: 'custom',
        path: ['grpo', 'delta'],
        message: `is ${grpo.delta}; expected more than 1 + epsilon_high (${1 + (grpo.epsilon_high ?? grpo.epsilon)}), or clipping above would have no effect`,
      });
    if (polychromic?.top_p !== undefined && polychromic.top_p !== 1)
      context.addIssue({
        code: 'custom',
        path: ['polychromic', 'top_p'],
        message: `is ${polychromic.top_p}; expected 1, since the gradient needs log-probabilities of what was drawn`,
      });
    if (polychromic?.credit === 'pairs' && polychromic.distance !== 'semantic')
      context.addIssue({
        code: 'custom',
        path: ['polychromic', 'credit'],
        message: `is pairs, but ${polychromic.distance} is no mean over pairs; use distance: semantic, or credit: leave_one_out`,
      });
    if (config.grpo !== undefined && config.grpo.min_new_tokens > config.grpo.max_new_tokens)
      context.addIssue({
        code: 'custom',
        path: ['grpo', 'min_new_tokens'],
        message: `is ${config.grpo.min_new_tokens}, above max_new_tokens (${config.grpo.max_new_tokens}); lower it`,
      });
  })
  .transform(({ task, reward, ...rest }) =>
    task === undefined
      ? { ...rest, task, reward: reward ?? 'heuristic' }
      : { ...rest, task, reward: undefined },
  );

/** One experiment, every default filled in: what an experiment file (YAML) says. */
export type Experiment = z.output<typeof experimentSchema>;
