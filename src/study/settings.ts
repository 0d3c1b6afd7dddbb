/**
 * The constants of the small test: how long each phase trains, at what rate, and what is sampled. It imports nothing
 * heavy: the command line's help reads it.
 */
import path from 'node:path';
import { packageRoot } from '../runtime/machine';

const SHIPPED = { model: 'data/model', data: 'data/world/sample.jsonl' } as const;

const placeOf = (kind: keyof typeof SHIPPED): string => path.join(packageRoot, SHIPPED[kind]);

/** Where the model or the data of this repository are, from the working directory. */
export const shippedPath = (kind: keyof typeof SHIPPED): string =>
  path.relative(process.cwd(), placeOf(kind)) || '.';

export const isShipped = (kind: keyof typeof SHIPPED, name: string): boolean =>
  path.resolve(name) === placeOf(kind);

/** What holds where nothing else is asked for. */
export const DEFAULTS = { reward: 'heuristic', output: 'runs/small-test', seed: 42 } as const;

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
