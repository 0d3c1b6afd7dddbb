/** What the training loops share: the optimiser's settings, what a step reports, what stops a run, and how it goes on. */
import { NumericError } from '../runtime/errors';
import type { OptimStepResult, Policy } from '../policy/policy';
import { learningRateAt, warmupStepsOf } from '../optim/schedule';
import type { ScheduleKind } from '../optim/schedule';
import type { LoopState } from './checkpoint';
import type { StepPlan } from './schedule';

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

/** Which evaluation is the best, and when a run without a better one ends. */
export interface EarlyStopping {
  /** of the evaluation, e.g. `eval/loss` */
  key: string;
  better: 'lower' | 'higher';
  /** evaluations without a better one after which the run ends; 0: it never does */
  patience: number;
}

/** What a loop tells and asks while it runs. */
export interface LoopHooks {
  onStep?: (record: StepRecord, totalSteps: number) => void | Promise<void>;
  /** Measured after step 0 (before training), every `evalEvery` steps and at the end; its values join the records. */
  evaluate?: (step: number) => Promise<Record<string, number>>;
  evalEvery?: number;
  earlyStopping?: EarlyStopping;
  /** Saves all that is needed to go on: every `saveEvery` steps, at a best evaluation, and when the run ends. */
  checkpoint?: (state: LoopState) => Promise<void>;
  saveEvery?: number;
  /** Goes on from here: the policy must be as it was at that step. */
  resume?: LoopState;
  /** Called when a step's gradient was not finite and nothing was updated. `ids` are the examples of the step. */
  onSkipped?: (step: number, ids: readonly string[]) => void;
  /** Ends the run after the current step, with the evaluation that is due there: a resumed run must not miss it. */
  signal?: AbortSignal;
}

/** How a loop ended. */
export interface LoopResult {
  steps: number;
  /** Of the steps of this process: a resumed run has the earlier ones in `metrics.jsonl`. */
  history: StepRecord[];
  interrupted: boolean;
  /** No better evaluation came for as long as the patience lasted. */
  stoppedEarly: boolean;
  /** The best evaluation, when one was looked for. */
  best: LoopState['best'];
}

/** Three non-finite gradients in a row end a run: the weights are as they were before the first of them. */
const maxSkipped = 3;

/** The state before the first step. */
export const freshState: LoopState = {
  ...{ step: 0, skippedInARow: 0, best: null, evaluationsWithoutBest: 0, carried: {} },
};

/**
 * The course of one run, from its first step, or the one after a checkpoint, to its last. A loop takes its steps from
 * `left`, applies the gradient with `update`, and hands what it measured to `end`, which says whether that was the last.
 */
export class Course {
  private readonly state: LoopState;
  private readonly history: StepRecord[] = [];
  private lastSkipped = 0;

  constructor(
    private readonly policy: Policy,
    private readonly settings: OptimiserSettings,
    readonly totalSteps: number,
    private readonly hooks: LoopHooks,
  ) {
    this.state = structuredClone(hooks.resume ?? freshState);
  }

  /** Numbers that a method carries from step to step and that a checkpoint keeps. */
  get carried(): Record<string, number> {
    return this.state.carried;
  }

  /** The steps that are left, after the evaluation that precedes the first one. */
  async *left(plan: Iterable<StepPlan>): AsyncGenerator<StepPlan> {
    if (this.aborted || this.stoppedEarly) return;
    if (this.state.step === 0) {
      const values = await this.evaluateWhenDue(0, false);
      if (Object.keys(values).length > 0) await this.report({ step: 0, ...values });
    }
    for (const next of plan) if (next.step > this.state.step) yield next;
  }

  /**
   * Applies the pending gradient with the rate of this step.
   * @param ids  of the step's examples, for the message when nothing was updated
   * @throws NumericError  after three non-finite gradients in a row
   */
  async update(step: number, ids: readonly string[]): Promise<OptimStepResult & { learningRate: number }> {
    const { settings, totalSteps, state } = this;
    const { betas, eps, weightDecay, clipNorm } = settings;
    const warmupSteps = warmupStepsOf(settings.warmupRatio, totalSteps);
    const schedule = {
      kind: settings.schedule,
      learningRate: settings.learningRate,
      totalSteps,
      warmupSteps,
    };
    const learningRate = learningRateAt(schedule, step - 1);
    const result = await this.policy.optimStep({ learningRate, betas, eps, weightDecay, clipNorm });
    // Several updates of one step count once.
    if (result.skipped && this.lastSkipped !== step) state.skippedInARow++;
    if (!result.skipped && this.lastSkipped !== step) state.skippedInARow = 0;
    if (result.skipped) this.lastSkipped = step;
    if (result.skipped) this.hooks.onSkipped?.(step, ids);
    if (state.skippedInARow === maxSkipped)
      throw new NumericError(
        `the gradient was not finite at ${maxSkipped} steps in a row, the last is step ${step}: lower the learning rate, ` +
          'or look for broken examples among those that run.log names; the weights are those of the last good step',
      );
    return { ...result, learningRate };
  }

  /** Evaluates, reports and saves what is due after a step. @returns the result when the run ends with it */
  async end(record: StepRecord): Promise<LoopResult | null> {
    const { state, hooks, totalSteps } = this;
    const { step } = record;
    const values = await this.evaluateWhenDue(step, step === totalSteps);
    await this.report({ ...record, ...values });
    state.step = step;
    const improved = this.judge(step, values);
    const last = step === totalSteps || this.stoppedEarly || this.aborted;
    const due = (hooks.saveEvery ?? 0) > 0 && step % (hooks.saveEvery as number) === 0;
    if (due || improved || last) await hooks.checkpoint?.(structuredClone(state));
    // Ctrl-C may have come during the save.
    return last || this.aborted ? this.result() : null;
  }

  /** The result of a run that has no step left, or takes none. */
  result(): LoopResult {
    const { step: steps, best } = this.state;
    const { stoppedEarly } = this;
    const interrupted = this.aborted && steps < this.totalSteps && !stoppedEarly;
    return { steps, history: this.history, interrupted, stoppedEarly, best };
  }

  private get aborted(): boolean {
    return this.hooks.signal?.aborted === true;
  }

  private get stoppedEarly(): boolean {
    const { patience = 0 } = this.hooks.earlyStopping ?? {};
    return patience > 0 && this.state.evaluationsWithoutBest >= patience;
  }

  private async report(record: StepRecord): Promise<void> {
    this.history.push(record);
    await this.hooks.onStep?.(record, this.totalSteps);
  }

  private async evaluateWhenDue(step: number, last: boolean): Promise<Record<string, number>> {
    const { evaluate, evalEvery = 0 } = this.hooks;
    const due = last || step === 0 || (evalEvery > 0 && step % evalEvery === 0);
    return evaluate !== undefined && due ? evaluate(step) : {};
  }

  /** Compares an evaluation with the best one. @returns whether it is better */
  private judge(step: number, values: Readonly<Record<string, number>>): boolean {
    const { state } = this;
    const { earlyStopping } = this.hooks;
    const value = earlyStopping === undefined ? undefined : values[earlyStopping.key];
    if (earlyStopping === undefined || value === undefined) return false;
    const sign = earlyStopping.better === 'lower' ? -1 : 1;
    const better = Number.isFinite(value) && (state.best === null || sign * value > sign * state.best.value);
    if (better) state.best = { step, value };
    state.evaluationsWithoutBest = better ? 0 : state.evaluationsWithoutBest + 1;
    return better;
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

/** The mean, 0 of no values. */
export function meanOf(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((a, b) => a + b, 0) / values.length;
}
