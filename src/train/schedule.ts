/** Which examples an optimiser step sees: epochs in seeded order, cut into steps. */
import { ConfigError } from '../runtime/errors';
import { Random } from '../runtime/random';

/** One optimiser step's examples. `visit` is the epoch, from 0. */
export interface StepPlan {
  step: number;
  /** Indices into the examples, with the epoch in which each is seen. */
  items: { index: number; visit: number }[];
}

/** Steps that `epochs` over n examples make; the last one of the run may be smaller. */
export function countSteps(n: number, perStep: number, epochs: number, maxSteps?: number): number {
  if (n === 0) throw new ConfigError('there is nothing to train on: the training data is empty');
  const steps = Math.max(1, Math.ceil((n * epochs) / perStep));
  return maxSteps === undefined ? steps : maxSteps;
}

/**
 * The examples of every step. Each epoch is a permutation decided by (seed, epoch) alone; steps run across the ends of
 * epochs, so all but the last have `perStep` examples.
 *
 * @param totalSteps  from `countSteps`; may be more than the epochs need, then further epochs follow
 * @param limit       examples in all (epochs x n), unless further epochs are asked for by totalSteps
 */
export function* planSteps(
  n: number,
  perStep: number,
  totalSteps: number,
  seed: number,
  limit = Infinity,
): Generator<StepPlan> {
  let [epoch, position, given] = [0, 0, 0];
  let order = new Random(seed, 'order', 0).shuffle(Array.from({ length: n }, (_, i) => i));
  for (let step = 1; step <= totalSteps; step++) {
    const items: StepPlan['items'] = [];
    while (items.length < perStep && given < limit) {
      if (position === n) {
        epoch++;
        position = 0;
        order = new Random(seed, 'order', epoch).shuffle(order.slice().sort((a, b) => a - b));
      }
      items.push({ index: order[position++], visit: epoch });
      given++;
    }
    if (items.length === 0) return;
    yield { step, items };
  }
}

/** How much of the data a run sees, and in what portions. */
export interface PlanSettings {
  epochs: number;
  /** Replaces the number of steps that the epochs make. */
  maxSteps?: number;
  /** Examples (GRPO: prompts) of a micro-batch. */
  batchSize: number;
  /** Micro-batches of an optimiser step. */
  accumulation: number;
  seed: number;
}

/** The steps of a run over n examples. @throws ConfigError  when there are none */
export function planRun(
  n: number,
  settings: PlanSettings,
): { totalSteps: number; steps: Generator<StepPlan> } {
  const { epochs, maxSteps, batchSize, accumulation, seed } = settings;
  const perStep = batchSize * accumulation;
  const totalSteps = countSteps(n, perStep, epochs, maxSteps);
  const limit = maxSteps === undefined ? Math.ceil(n * epochs) : Infinity;
  return { totalSteps, steps: planSteps(n, perStep, totalSteps, seed, limit) };
}

/** A list in parts of at most `size`. */
export function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) =>
    items.slice(i * size, (i + 1) * size),
  );
}
