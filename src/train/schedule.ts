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

/** A list in parts of at most `size`. */
export function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) =>
    items.slice(i * size, (i + 1) * size),
  );
}
