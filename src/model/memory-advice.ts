/** Which settings would make a step fit into memory, and what it would come to with each. */
import { formatBytes } from '../runtime/progress';
import { WEIGHT_DTYPES } from './config';
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

/** The step's total for each type of the base weights, layers kept and recomputed. */
export function memoryChoices({ config, shape, rank, options }: PlannedStep): MemoryChoice[] {
  return WEIGHT_DTYPES.flatMap((dtype) =>
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

/** Those that give up more than the step does, need less than it and less than any that gives up less; cheapest first. */
function smallerChoices(step: PlannedStep): MemoryChoice[] {
  const { dtype = 'float32', recompute = false } = step.options ?? {};
  let least = planMemory(step.config, step.shape, step.rank, step.options).total;
  return memoryChoices(step)
    .filter((choice) => COSTS[choice.dtype] >= COSTS[dtype] && Number(choice.recompute) >= Number(recompute))
    .sort((a, b) => costOf(a) - costOf(b))
    .filter(({ total }) => {
      const isSmaller = total < least;
      least = Math.min(least, total);
      return isSmaller;
    });
}

/** Each setting that differs from what is in force, and what differs from the choice named before it. */
function describeChoices(
  choices: readonly MemoryChoice[],
  { dtype: now = 'float32', recompute: on = false },
) {
  let before: WeightDtype | undefined;
  return choices.map(({ dtype, recompute, total }, i) => {
    const names = [
      ...(dtype === now || dtype === before ? [] : [`dtype: ${dtype}`]),
      ...(recompute && !on ? ['training.gradient_checkpointing: true'] : []),
    ];
    const along = dtype === before && dtype !== now ? 'with ' : '';
    before = dtype;
    return `${along}${names.join(' and ')} ${i === 0 ? 'would need ' : ''}${formatBytes(total)}`;
  });
}

/** Settings that decide a step's shape, for `memoryAdvice`: of all methods, and of GRPO. */
export const SHAPE_SETTINGS = ['training.batch_size', 'training.max_length', 'lora.r'] as const;
export const GRPO_SETTINGS = [...SHAPE_SETTINGS, 'grpo.n_generations', 'grpo.max_new_tokens'] as const;

/**
 * Which settings to change, in one line, each with the bytes that the step would come to: those of `dtype` and
 * `training.gradient_checkpointing` that fit, cheapest first; where none does, the smallest, and what else to lower.
 *
 * @param available  bytes; when it is not known, every choice that needs less than the step
 * @param lower  settings that make the batch smaller
 */
export function memoryAdvice(
  step: PlannedStep,
  available: number | undefined,
  lower: readonly string[] = GRPO_SETTINGS,
): string {
  const smaller = smallerChoices(step);
  const fitting = smaller.filter(({ total }) => total <= (available ?? Infinity)).slice(0, SHOWN);
  const others = `lower ${lower.join(', ')}`;
  if (fitting.length > 0) {
    const named = describeChoices(fitting, step.options ?? {}).join('; ');
    return available === undefined ? `${named}; or ${others}` : named;
  }
  const least = smaller.at(-1);
  const single = leastBatch(step, least);
  if (least === undefined) return `${others}${single}`;
  const [named] = describeChoices([least], step.options ?? {});
  return `even ${named}; beside that, ${others}${single}`;
}

/** What one prompt (example) at a time would come to, where that is less. */
function leastBatch({ config, shape, rank, options }: PlannedStep, least?: MemoryChoice): string {
  const settings = { ...options, ...(least && { dtype: least.dtype, recompute: least.recompute }) };
  const totalOf = (P: number): number => planMemory(config, { ...shape, P }, rank, settings).total;
  return totalOf(1) < totalOf(shape.P) ? ` (training.batch_size: 1 comes to ${formatBytes(totalOf(1))})` : '';
}
