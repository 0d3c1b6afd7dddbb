/** Which settings would make a step fit into memory, and what it would come to with each. */
import { formatBytes } from '../runtime/progress';
import { nf4Problem, WEIGHT_DTYPES } from './config';
import type { ModelConfig, WeightDtype } from './config';
import { planMemory } from './memory';
import type { PlanOptions, StepShape } from './memory';

/** A step that is planned: what `planMemory` takes. */
export interface PlannedStep {
  config: ModelConfig;
  shape: StepShape;
  /** of the adapter */
  rank: number;
  options?: PlanOptions;
}

/** One way to keep the base weights and the layers. */
export interface MemoryChoice {
  dtype: WeightDtype;
  /** Layers are computed again in the backward pass (training.gradient_checkpointing). */
  recompute: boolean;
  /** The plan's total, in bytes. */
  total: number;
}

/** The step's total for each type that the base weights can have, layers kept and recomputed. */
export function memoryChoices({ config, shape, rank, options }: PlannedStep): MemoryChoice[] {
  return WEIGHT_DTYPES.filter((dtype) => dtype !== 'nf4' || nf4Problem(config) === null).flatMap((dtype) =>
    [false, true].map((recompute) => ({
      ...{ dtype, recompute },
      total: planMemory(config, shape, rank, { ...options, dtype, recompute }).total,
    })),
  );
}

/** What is given up, in order: 16 bits are as good for most checkpoints, recomputing takes time, 4 bits lose digits. */
const COSTS: Readonly<Record<WeightDtype, number>> = { float32: 0, bfloat16: 1, nf4: 4 };
const RECOMPUTE_COST = 2;
const costOf = ({ dtype, recompute }: MemoryChoice): number =>
  COSTS[dtype] + (recompute ? RECOMPUTE_COST : 0);

/** Named at a time, at most. */
const SHOWN = 3;

/** The plan's total with other settings. */
function totalOf(
  { config, shape, rank, options }: PlannedStep,
  change: PlanOptions = {},
  P = shape.P,
): number {
  return planMemory(config, { ...shape, P }, rank, { ...options, ...change }).total;
}

/** Those that give up more than the step does, need less than it and less than any that gives up less; cheapest first. */
function smallerChoices(step: PlannedStep): MemoryChoice[] {
  const { dtype = 'float32', recompute = false } = step.options ?? {};
  let least = totalOf(step);
  return memoryChoices(step)
    .filter((choice) => COSTS[choice.dtype] >= COSTS[dtype] && Number(choice.recompute) >= Number(recompute))
    .sort((a, b) => costOf(a) - costOf(b))
    .filter(({ total }) => {
      const isSmaller = total < least && formatBytes(total) !== formatBytes(least);
      least = Math.min(least, total);
      return isSmaller;
    });
}

/** Each setting that differs from what is in force, and from the choice named before it. */
function describeChoices(choices: readonly MemoryChoice[], step: PlannedStep): string {
  const { dtype: now = 'float32', recompute: on = false } = step.options ?? {};
  const described = choices.map(({ dtype, recompute, total }, i) => {
    const goesOn = i > 0 && dtype === choices[i - 1].dtype && dtype !== now;
    const names = [
      ...(dtype === now || goesOn ? [] : [`dtype: ${dtype}`]),
      ...(recompute && !on ? ['training.gradient_checkpointing: true'] : []),
    ];
    return `${goesOn ? 'with ' : ''}${names.join(' with ')}${i === 0 ? ' would need' : ''} ${formatBytes(total)}`;
  });
  return described.join('; ');
}

/** The most prompts (examples) that fit, 0 when one is too many. */
function largestBatch(step: PlannedStep, change: PlanOptions, available: number): number {
  let [fits, high] = [0, step.shape.P];
  while (fits < high) {
    const middle = Math.ceil((fits + high) / 2);
    if (totalOf(step, change, middle) <= available) fits = middle;
    else high = middle - 1;
  }
  return fits;
}

/** Settings of all methods that decide a step's shape, for `memoryAdvice`. */
export const SHAPE_SETTINGS = ['training.batch_size', 'training.max_length', 'lora.r'] as const;
/** Those of GRPO. */
export const GRPO_SETTINGS = [...SHAPE_SETTINGS, 'grpo.n_generations', 'grpo.max_new_tokens'] as const;

/**
 * Which settings to change, in one line, each with the bytes that the step would come to: those of `dtype` and
 * `training.gradient_checkpointing` that fit, cheapest first; where none does, the smallest, and what else to lower.
 *
 * @param available  bytes; when it is not known, every choice that needs less than the step
 * @param lower  settings that make the batch smaller, `training.batch_size` the first
 */
export function memoryAdvice(
  step: PlannedStep,
  available?: number,
  lower: readonly string[] = GRPO_SETTINGS,
): string {
  const smaller = smallerChoices(step);
  const fitting = smaller.filter(({ total }) => total <= (available ?? Infinity)).slice(0, SHOWN);
  const named = describeChoices(fitting.length > 0 ? fitting : smaller.slice(-1), step);
  if (available === undefined) return `${named === '' ? '' : `${named}; or `}lower ${lower.join(', ')}`;
  if (fitting.length > 0) return named;
  // A smaller batch alone, else the smallest choice with it.
  const alone = largestBatch(step, {}, available);
  const { dtype, recompute } = smaller.at(-1) ?? step.options ?? {};
  const change = alone > 0 ? {} : { dtype, recompute };
  const batch = Math.max(1, alone > 0 ? alone : largestBatch(step, change, available));
  const bytes = formatBytes(totalOf(step, change, batch));
  const [first, ...others] = lower;
  const size = batch < step.shape.P ? ` (${batch}: ${bytes})` : '';
  const also = alone > 0 || named === '' ? '' : 'beside that, ';
  return `${named === '' ? '' : `even ${named}; `}${also}lower ${[`${first}${size}`, ...others].join(', ')}`;
}
