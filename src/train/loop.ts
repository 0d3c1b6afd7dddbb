/** What the training loops share: the optimiser's settings, what a step reports, and what stops a run. */
import { NumericError } from '../runtime/errors';
import type { OptimStepResult, Policy } from '../policy/policy';
import { learningRateAt, warmupStepsOf } from '../optim/schedule';
import type { ScheduleKind } from '../optim/schedule';

/** Settings of the optimiser, common to all methods. */
export interface OptimiserSettings {
  learningRate: number;
  schedule: ScheduleKind;
  warmupRatio: number;
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
  /** Gradients are scaled down to this global norm; 0 leaves them. */
  clipNorm: number;
}

/** One row of `metrics.jsonl`: `step` and values by path, e.g. `train/loss`. */
export interface StepRecord {
  step: number;
  [key: string]: number;
}

/** What a loop tells and asks while it runs. */
export interface LoopHooks {
  onStep?: (record: StepRecord, totalSteps: number) => void | Promise<void>;
  /** Measured after step 0 (before training), every `evalEvery` steps and at the end; its values join the records. */
  evaluate?: (step: number) => Promise<Record<string, number>>;
  evalEvery?: number;
  /** Called when a step's gradient was not finite and nothing was updated. `ids` are the examples of the step. */
  onSkipped?: (step: number, ids: readonly string[]) => void;
  /** Ends the run after the current step, without a last evaluation. */
  signal?: AbortSignal;
}

/** How a loop ended. */
export interface LoopResult {
  steps: number;
  history: StepRecord[];
  interrupted: boolean;
}

/** Three non-finite gradients in a row end a run: the weights are as they were before the first of them. */
const maxSkipped = 3;

/** Applies the pending gradient with the rate of this step, and counts updates that were skipped. */
export class Updater {
  private skippedInARow = 0;
  skipped = 0;

  constructor(
    private readonly policy: Policy,
    private readonly settings: OptimiserSettings,
    private readonly totalSteps: number,
  ) {}

  /** @param step  counted from 1  @throws NumericError  after three non-finite gradients in a row */
  async update(step: number): Promise<OptimStepResult & { learningRate: number }> {
    const { settings, totalSteps } = this;
    const learningRate = learningRateAt(
      {
        kind: settings.schedule,
        learningRate: settings.learningRate,
        totalSteps,
        warmupSteps: warmupStepsOf(settings.warmupRatio, totalSteps),
      },
      step - 1,
    );
    const { betas, eps, weightDecay, clipNorm } = settings;
    const result = await this.policy.optimStep({ learningRate, betas, eps, weightDecay, clipNorm });
    this.skippedInARow = result.skipped ? this.skippedInARow + 1 : 0;
    if (result.skipped) this.skipped++;
    if (this.skippedInARow === maxSkipped)
      throw new NumericError(
        `the gradient was not finite at ${maxSkipped} steps in a row, the last is step ${step}: lower the learning rate, ` +
          'or look for broken examples among those that run.log names; the weights are those of the last good step',
      );
    return { ...result, learningRate };
  }
}

/** Seconds that a piece of work took, added up by name. */
export class Stopwatch {
  readonly seconds: Record<string, number> = {};

  async measure<T>(name: string, work: () => Promise<T>): Promise<T> {
    const begin = performance.now();
    try {
      return await work();
    } finally {
      this.seconds[name] = (this.seconds[name] ?? 0) + (performance.now() - begin) / 1000;
    }
  }
}

export function meanOf(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((a, b) => a + b, 0) / values.length;
}

/** Runs the hook's evaluation when it is due. */
export async function evaluateWhenDue(
  hooks: LoopHooks,
  step: number,
  last: boolean,
): Promise<Record<string, number>> {
  const { evaluate, evalEvery = 0 } = hooks;
  if (hooks.signal?.aborted) return {};
  const due = last || step === 0 || (evalEvery > 0 && step % evalEvery === 0);
  return evaluate !== undefined && due ? evaluate(step) : {};
}
