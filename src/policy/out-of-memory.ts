/** Errors of TensorFlow and Node that say that there is no memory, in words that say which settings to change. */
import { nf4Problem } from '../model/config';
import type { ModelConfig, WeightDtype } from '../model/config';
import { planMemory, SAMPLING_ROWS, weightBytes } from '../model/memory';
import type { PlanOptions, StepShape } from '../model/memory';
import { GRPO_SETTINGS, memoryAdvice, SHAPE_SETTINGS } from '../model/memory-advice';
import { MemoryError, messageOf } from '../runtime/errors';
import { formatBytes } from '../runtime/progress';
import type { MicroBatch, Prompt, SampleOptions, Sequence } from './policy';

/** TensorFlow's status RESOURCE_EXHAUSTED (8), of its allocators and of our ops; CUDA's; and Node's for a typed array. */
const SIGNS =
  /TF_Status: 8\b|RESOURCE_EXHAUSTED|OOM when|out of memory|_ALLOC_FAILED|Array buffer allocation failed/i;

/** What the error says, short: the tensor, where TensorFlow names it. */
function reasonOf(message: string): string {
  const tensor = /OOM when allocating tensor with shape\[[^\]]*\] and type \w+/.exec(message)?.[0];
  return tensor ?? message.replace(/^Invalid TF_Status: 8\s+Message: /, '').slice(0, 120);
}

/** The error itself, or where memory ran out one that says in what, and what to do. */
function explained(error: unknown, describe: () => { doing: string; advice: string }): unknown {
  if (!(error instanceof Error) || error instanceof MemoryError || !SIGNS.test(error.message)) return error;
  const { doing, advice } = describe();
  const reason = reasonOf(messageOf(error));
  return new MemoryError(`out of memory ${doing} (${reason}); ${advice}`, { cause: error });
}

/**
 * Loads weights.
 * @throws MemoryError  when there is no room for them
 */
export function loadWithAdvice<T>(load: () => T, config: ModelConfig, options: WatchOptions): T {
  const { dtype = 'float32', trainable } = options;
  try {
    return load();
  } catch (error) {
    throw explained(error, () => {
      const needed = weightBytes(config, dtype);
      const smaller = (['bfloat16', 'nf4'] as const)
        .filter((other) => other !== 'nf4' || nf4Problem(config) === null)
        .filter((other) => weightBytes(config, other) < needed);
      const named = smaller.map((other) => `${other} would need ${formatBytes(weightBytes(config, other))}`);
      const isFixed = trainable === 'all' || named.length === 0;
      const settings = isFixed ? '' : `dtype (--dtype) ${named.join(', ')}; or `;
      return {
        doing: `loading weights of ${formatBytes(needed)} (${dtype})`,
        advice: `${settings}take a smaller model`,
      };
    });
  }
}

/** What of a policy decides its memory. */
interface WatchOptions {
  dtype?: WeightDtype;
  trainable?: 'lora' | 'all';
  gradientCheckpointing?: boolean;
}

const NAMES = {
  sample: 'sampling for',
  logProbs: 'computing log-probabilities of',
  forwardBackward: 'in forward and backward of',
} as const;

/** Where there is no plan: the policy is not trained, or not by an adapter, or the pass is of no micro-batch. */
const REMEDIES: Readonly<Record<keyof typeof NAMES, string>> = {
  sample: 'draw fewer completions at a time (--n) or shorter ones (--max-new-tokens, max_new_tokens)',
  logProbs: 'take shorter sequences (training.max_length)',
  forwardBackward: 'lower training.batch_size or training.max_length',
};

/** Those, and what else there is to change. */
function remedyOf(part: keyof typeof NAMES, options: WatchOptions): string {
  const { dtype = 'float32', trainable, gradientCheckpointing = false } = options;
  const more = [
    ...(part === 'forwardBackward' && !gradientCheckpointing
      ? ['training.gradient_checkpointing: true']
      : []),
    ...(part !== 'forwardBackward' && dtype === 'float32' && trainable !== 'all'
      ? ['dtype: bfloat16 (--dtype)']
      : []),
  ];
  return [REMEDIES[part], ...more.map((setting) => `or set ${setting}`)].join(', ');
}

/** Watches what a policy computes, and knows which settings would have it need less. */
export class MemoryWatch {
  /** The adapter's frozen copy is kept: GRPO. */
  hasReference = false;
  private hasSampled = false;
  private hasTrained = false;

  /** @param rank  of the adapter that is trained; null without one */
  constructor(
    private readonly config: ModelConfig,
    private readonly rank: number | null,
    private readonly options: WatchOptions,
    private readonly isFused: () => boolean,
  ) {}

  /**
   * Runs a part of a step.
   * @throws MemoryError  when memory runs out: with what was done, the shape, and which settings to change
   */
  async run<T>(part: keyof typeof NAMES, shape: () => StepShape, body: () => T | Promise<T>): Promise<T> {
    this.hasSampled ||= part === 'sample';
    this.hasTrained ||= part === 'forwardBackward';
    try {
      return await body();
    } catch (error) {
      throw explained(error, () => this.describe(part, shape()));
    }
  }

  private describe(part: keyof typeof NAMES, shape: StepShape): { doing: string; advice: string } {
    const { P, G, Tp, Tc } = shape;
    const what = part === 'forwardBackward' ? 'a micro-batch of ' : '';
    const doing = `${NAMES[part]} ${what}${P} x ${G} completions, up to ${Tp} + ${Tc} tokens`;
    const isTraining = this.hasReference || this.hasTrained;
    const { rank } = this;
    const hasPlan = isTraining && part !== 'logProbs' && this.options.trainable !== 'all';
    if (rank === null || !hasPlan) return { doing, advice: remedyOf(part, this.options) };
    return { doing, advice: this.adviceOf(part === 'sample', shape, rank) };
  }

  /** While sampling nothing is kept for a backward pass: what that takes is left out, and what would lower it. */
  private adviceOf(isSampling: boolean, shape: StepShape, rank: number): string {
    const { dtype, gradientCheckpointing } = this.options;
    const options: PlanOptions = {
      ...{ dtype, recompute: isSampling || gradientCheckpointing, fused: this.isFused() },
      ...{ reference: this.hasReference, sampled: this.hasSampled ? [shape] : [] },
    };
    const step = { config: this.config, shape: isSampling ? NO_STEP : shape, rank, options };
    const planned = formatBytes(planMemory(step.config, step.shape, rank, options).total);
    const training = this.hasReference ? GRPO_SETTINGS : SHAPE_SETTINGS;
    return `planned: ${planned}; ${memoryAdvice(step, undefined, isSampling ? SAMPLING_SETTINGS : training)}`;
  }
}

const NO_STEP: StepShape = { P: 1, G: 1, Tp: 1, Tc: 1 };
const SAMPLING_SETTINGS = ['training.batch_size', 'training.max_length', 'max_new_tokens'];

/** The largest batch that is sampled at a time. */
export function samplingShape(
  prompts: readonly Prompt[],
  { groupSize: G, maxNewTokens: Tc }: SampleOptions,
): StepShape {
  const P = Math.min(prompts.length, Math.max(1, Math.floor(SAMPLING_ROWS / G)));
  return { P, G, Tp: longest(prompts.map(({ tokenIds }) => tokenIds)), Tc };
}

/** Of groups of sequences. */
export function groupShape(groups: MicroBatch['groups']): StepShape {
  const rows = groups.flatMap((group) => group.rows.map(({ tokenIds }) => tokenIds));
  const G = groups.reduce((most, group) => Math.max(most, group.rows.length), 1);
  return { P: groups.length, G, Tp: longest(groups.map(({ promptIds }) => promptIds)), Tc: longest(rows) };
}

/** Of sequences in groups of indices, as `logProbPasses` makes them. */
export function sequenceShape(
  groups: readonly (readonly number[])[],
  sequences: readonly Sequence[],
): StepShape {
  const rows = groups.flat().map((i) => sequences[i]);
  const [prompts, completions] = [rows.map((row) => row.promptIds), rows.map((row) => row.completionIds)];
  return { P: groups.length, G: groups[0].length, Tp: longest(prompts), Tc: longest(completions) };
}

function longest(sequences: readonly (readonly number[])[]): number {
  return sequences.reduce((most, { length }) => Math.max(most, length), 1);
}
