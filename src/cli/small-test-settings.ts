/** The settings of `grpolab small-test`: how long each phase trains, at what rate, and what is sampled. */
import path from 'node:path';
import type { z } from 'zod';
import { packageRoot } from '../runtime/machine';
import type { experimentSchema } from '../train/experiment-schema';
import type { Arguments } from './arguments';

const fromHere = (file: string): string => path.relative(process.cwd(), path.join(packageRoot, file));

/** What this repository ships; the defaults of `--model` and `--data`, from whatever directory the command is called. */
export const SHIPPED = { model: fromHere('data/model'), data: fromHere('data/world/sample.jsonl') } as const;

/** Records that the small test trains on. */
export const TRAINING_EXAMPLES = 100;
/** Held-out prompts, at most. */
export const HELD_OUT_PROMPTS = 160;
/** Tokens of prompt and reply in training; a prompt must be shorter. */
export const MAX_LENGTH = 512;
/** Tokens of a sampled reply, at most. */
export const MAX_NEW_TOKENS = 48;

/** Epochs of SFT, steps of GRPO, replies to each held-out prompt. */
export const SIZES = {
  full: { sftEpochs: 3, grpoSteps: 60, generations: 4 },
  short: { sftEpochs: 1, grpoSteps: 12, generations: 2 },
} as const;

/**
 * Learning rates of GRPO. The shipped model has few parameters and takes a hundred times the rate of a large one; a
 * large pre-trained model gets four times the study's 1e-5, because it has 60 steps instead of epochs over all data.
 */
export const GRPO_RATES = { shipped: 3e-3, other: 4e-5 } as const;

export interface Settings {
  /** Directory of the model. */
  model: string;
  output: string;
  seed: number;
  short: boolean;
  sftEpochs: number;
  grpoSteps: number;
  /** Replies to each held-out prompt. */
  generations: number;
  /** Of GRPO. */
  learningRate: number;
}

export const isShipped = (kind: keyof typeof SHIPPED, name: string): boolean =>
  path.resolve(name) === path.resolve(SHIPPED[kind]);

/** @throws UsageError  for a number out of its range */
export function settingsOf(args: Arguments): Settings {
  const short = args.flag('short');
  const model = args.required('model');
  const size = short ? SIZES.short : SIZES.full;
  return {
    model,
    output: args.required('output'),
    seed: args.integer('seed', { min: 0 }),
    short,
    ...size,
    grpoSteps: args.given('grpo-steps') ? args.integer('grpo-steps', { min: 1 }) : size.grpoSteps,
    learningRate: args.given('learning-rate')
      ? args.number('learning-rate', { above: 0 })
      : GRPO_RATES[isShipped('model', model) ? 'shipped' : 'other'],
  };
}

/** The experiment of a phase; GRPO starts from the adapter that SFT left. */
export function experimentOf(
  method: 'sft' | 'grpo',
  { model, output, seed, sftEpochs, grpoSteps, learningRate }: Settings,
): z.input<typeof experimentSchema> {
  const training = { batch_size: 8, gradient_accumulation_steps: 1, eval_steps: 0, max_length: MAX_LENGTH };
  const common = {
    model,
    seed,
    data: { train: 'split' },
    output_dir: path.join(output, method),
  };
  if (method === 'sft')
    return { ...common, method, training: { ...training, epochs: sftEpochs, learning_rate: 2e-4 } };
  return {
    ...common,
    method,
    checkpoint_path: path.join(output, 'sft'),
    training: { ...training, max_steps: grpoSteps, learning_rate: learningRate, warmup_ratio: 0.05 },
    grpo: { n_generations: 8, temperature: 1, top_p: 1, max_new_tokens: MAX_NEW_TOKENS, kl_coeff: 0.05 },
  };
}
