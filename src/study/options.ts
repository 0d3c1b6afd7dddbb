/** What may be chosen of the small test, and the settings that follow from it. */
import { z } from 'zod';
import type { Reward } from '../rewards/reward';
import { DEFAULTS, GRPO_RATES, isShipped, shippedPath, SIZES } from './settings';

const isReward = (value: unknown): boolean =>
  typeof value === 'string'
    ? value !== ''
    : typeof (value as Partial<Reward> | null | undefined)?.scoreBatch === 'function';

/** The options of the small test, each with its default. */
export const smallTestSchema = z.strictObject({
  model: z
    .string()
    .min(1)
    .default(() => shippedPath('model'))
    .describe('directory of a Hugging Face model, or a hub id; default: the model of this repository'),
  data: z
    .string()
    .min(1)
    .default(() => shippedPath('data'))
    .describe('JSONL records, or - for standard input; the first 100 train, the others are held out'),
  evaluationData: z.string().min(1).optional().describe('JSONL records whose tweets are held out, instead'),
  reward: z
    .custom<string | Reward>(isReward, {
      error: 'expected a Reward, heuristic, sharp, a YAML file, or a directory of train-reward',
    })
    .default(DEFAULTS.reward)
    .describe('heuristic, sharp, a YAML file, a directory of train-reward, or a reward that is open'),
  output: z.string().min(1).default(DEFAULTS.output).describe('directory where everything is written'),
  seed: z.int().min(0).default(DEFAULTS.seed).describe('of split, training and sampling'),
  short: z.boolean().default(false).describe('fewer steps and replies; the reward is not judged'),
  grpoSteps: z
    .int()
    .min(1)
    .optional()
    .describe(`optimiser steps of GRPO; default ${SIZES.full.grpoSteps}, short ${SIZES.short.grpoSteps}`),
  learningRate: z
    .number()
    .positive()
    .optional()
    .describe(
      `of GRPO; default ${GRPO_RATES.shipped} for the model of this repository, ${GRPO_RATES.other} for others`,
    ),
});

/** All may be left out. */
export type SmallTestOptions = z.input<typeof smallTestSchema>;

/** The small test's options, checked, every default filled in. */
export interface SmallTestSettings {
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

/** @param directory  of the model, which `model` may name by its hub id */
export function settingsOf(
  { model, output, seed, short, grpoSteps, learningRate }: z.output<typeof smallTestSchema>,
  directory: string,
): SmallTestSettings {
  const size = short ? SIZES.short : SIZES.full;
  return {
    ...{ model: directory, output, seed, short },
    ...size,
    grpoSteps: grpoSteps ?? size.grpoSteps,
    learningRate: learningRate ?? GRPO_RATES[isShipped('model', model) ? 'shipped' : 'other'],
  };
}
