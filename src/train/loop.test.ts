import { describe, expect, it } from 'vitest';
import { learningRateAt } from '../optim/schedule';
import type { OptimStepOptions, Policy } from '../policy/policy';
import { NumericError } from '../runtime/errors';
import type { LoopState } from './checkpoint';
import { Course, freshState, meanOf, Stopwatch } from './loop';
import type { LoopHooks, LoopResult, OptimiserSettings } from './loop';

const settings: OptimiserSettings = {
  learningRate: 0.5,
  schedule: 'cosine',
  warmupRatio: 0.2,
  betas: [0.8, 0.95],
  eps: 1e-7,
  weightDecay: 0.01,
  clipNorm: 2,
};

/** A policy whose updates are skipped as told; its other verbs must not be called. */
function stubPolicy(skips: readonly boolean[]): { policy: Policy; updates: OptimStepOptions[] } {
  const updates: OptimStepOptions[] = [];
  const refuse = (): never => {
    throw new Error('not expected in this test');
  };
  const policy: Policy = {
    sample: refuse,
    logProbs: refuse,
    forwardBackward: refuse,
    save: refuse,
    load: refuse,
    optimStep: (options) => {
      const skipped = skips[updates.length] ?? false;
      updates.push(options);
      return Promise.resolve({ gradNorm: skipped ? NaN : 1.5, skipped });
    },
  };
  return { policy, updates };
}

const record = (step: number) => ({ step, 'train/loss': 1 / step });
const plan = (steps: number) => Array.from({ length: steps }, (_, i) => ({ step: i + 1, items: [] }));

/** Runs a course of nothing but updates. */
async function drive(
  totalSteps: number,
  hooks: LoopHooks,
  skips: readonly boolean[] = [],
): Promise<{ result: LoopResult; updates: OptimStepOptions[]; steps: number[] }> {
  const { policy, updates } = stubPolicy(skips);
  const course = new Course(policy, settings, totalSteps, hooks);
  const steps: number[] = [];
  for await (const { step } of course.left(plan(totalSteps))) {
    steps.push(step);
    await course.update(step, [`example ${step}`]);
    const result = await course.end(record(step));
    if (result !== null) return { result, updates, steps };
  }
  return { result: course.result(), updates, steps };
}

describe('Course', () => {
  it('hands the settings on, with the rate of the schedule at every step', async () => {
    const { updates } = await drive(10, {});
    const rates = updates.map(({ learningRate }) => learningRate);
    expect(rates).toEqual(
      rates.map((_, i) =>
        learningRateAt({ kind: 'cosine', learningRate: 0.5, totalSteps: 10, warmupSteps: 2 }, i),
      ),
    );
    expect(rates.slice(0, 3)).toEqual([0, 0.25, 0.5]);
    const { betas, eps, weightDecay, clipNorm } = settings;
    for (const update of updates) expect(update).toMatchObject({ betas, eps, weightDecay, clipNorm });
  });

  it('ends with an error at the third skipped update in a row, and names the examples of each', async () => {
    const seen: [number, readonly string[]][] = [];
    const hooks: LoopHooks = { onSkipped: (step, ids) => seen.push([step, ids]) };
    await expect(drive(10, hooks, [false, true, true, true])).rejects.toThrow(NumericError);
    expect(seen).toEqual([2, 3, 4].map((step) => [step, [`example ${step}`]]));
  });

  it('goes on when an update between skipped ones works', async () => {
    const pattern = [true, true, false, true, true, false, true];
    expect((await drive(7, {}, pattern)).result.steps).toBe(7);
  });

  it('counts skipped updates in a row across a resume', async () => {
    const resume = { ...freshState, step: 4, skippedInARow: 2 };
    await expect(drive(10, { resume }, [true])).rejects.toThrow('3 steps in a row, the last is step 5');
  });

  it('evaluates at step 0, every evalEvery steps and at the end, and adds the values to the records', async () => {
    const evaluated = async (evalEvery?: number): Promise<number[]> => {
      const { result } = await drive(7, { evaluate: async (at) => ({ 'eval/at': at }), evalEvery });
      return result.history.flatMap((row) => ('eval/at' in row ? [row.step] : []));
    };
    expect(await evaluated(3)).toEqual([0, 3, 6, 7]);
    expect(await evaluated()).toEqual([0, 7]);
  });

  it('saves every saveEvery steps, at a better evaluation, and at the end', async () => {
    const saved: LoopState[] = [];
    const values = [9, 5, 6, 4, 7];
    const hooks: LoopHooks = {
      evaluate: async (step) => ({ 'eval/loss': values[step / 2] }),
      evalEvery: 2,
      earlyStopping: { key: 'eval/loss', better: 'lower', patience: 0 },
      checkpoint: async (state) => void saved.push(state),
      saveEvery: 5,
    };
    const { result } = await drive(8, hooks);
    expect(saved.map(({ step }) => step)).toEqual([2, 5, 6, 8]);
    expect(result.best).toEqual({ step: 6, value: 4 });
    expect(saved.map(({ best }) => best?.step)).toEqual([2, 2, 6, 6]);
  });

  it('goes on after a saved state exactly as if it had not stopped', async () => {
    const values = [9, 5, 6, 7, 4, 8, 8];
    const run = async (
      resume?: LoopState,
    ): Promise<{ saved: LoopState[]; steps: number[]; rates: number[] }> => {
      const saved: LoopState[] = [];
      const { steps, updates } = await drive(12, {
        evaluate: async (step) => ({ 'eval/loss': values[step / 2] }),
        evalEvery: 2,
        earlyStopping: { key: 'eval/loss', better: 'lower', patience: 3 },
        checkpoint: async (state) => void saved.push(state),
        saveEvery: 1,
        resume,
      });
      return { saved, steps, rates: updates.map(({ learningRate }) => learningRate) };
    };
    const whole = await run();
    for (const state of whole.saved.slice(0, -1)) {
      const rest = await run(state);
      expect(rest.steps).toEqual(whole.steps.slice(state.step));
      expect(rest.rates).toEqual(whole.rates.slice(state.step));
      expect(rest.saved).toEqual(whole.saved.slice(state.step));
    }
  });

  it('asked to stop in any step, and resumed, does what it would have done', async () => {
    const values = [9, 5, 6, 7, 4, 8, 8, 8, 8];
    const run = async (stopAt?: number, resume?: LoopState) => {
      const controller = new AbortController();
      if (stopAt === 0) controller.abort();
      let saved: LoopState | undefined;
      const { result } = await drive(20, {
        // In the middle of a step, as a person would: before its evaluation.
        evaluate: async (step) => ({ 'eval/loss': values[step / 2] }),
        onSkipped: () => undefined,
        evalEvery: 2,
        earlyStopping: { key: 'eval/loss', better: 'lower', patience: 3 },
        checkpoint: async (state) => {
          saved = state;
          if (state.step === stopAt) controller.abort();
        },
        saveEvery: 1,
        signal: controller.signal,
        resume,
      });
      return { result, saved };
    };
    const whole = (await run()).result;
    expect([whole.steps, whole.stoppedEarly, whole.best?.step]).toEqual([14, true, 8]);
    for (let stopAt = 0; stopAt <= whole.steps; stopAt++) {
      const { result: first, saved } = await run(stopAt);
      expect(first.interrupted).toBe(stopAt < whole.steps);
      const { result: rest } = await run(undefined, saved);
      expect([rest.steps, rest.stoppedEarly, rest.interrupted, rest.best]).toEqual([
        14,
        true,
        false,
        whole.best,
      ]);
      expect([...first.history, ...rest.history]).toEqual(whole.history);
    }
  });

  it('makes the evaluation of the step in which it is asked to stop', async () => {
    const controller = new AbortController();
    const { policy } = stubPolicy([]);
    const course = new Course(policy, settings, 10, {
      evaluate: async (step) => ({ x: step }),
      evalEvery: 2,
      signal: controller.signal,
    });
    for await (const { step } of course.left(plan(10))) {
      await course.update(step, []);
      if (step === 4) controller.abort();
      if ((await course.end(record(step))) !== null) break;
    }
    expect(course.result().history.at(-1)).toMatchObject({ step: 4, x: 4 });
  });

  it('counts the skipped updates of one step once', async () => {
    const { policy } = stubPolicy([true, true, true, true, true, true]);
    const course = new Course(policy, settings, 10, {});
    for (const step of [1, 1, 1, 2, 2]) await course.update(step, []);
    await expect(course.update(3, [])).rejects.toThrow('at 3 steps in a row, the last is step 3');
  });

  it.each([
    ['lower', [1, 5, 6, 7, 7, 7]],
    ['higher', [1, -5, -6, -7, -7, -7]],
  ] as const)(
    'ends after as many evaluations without a %s one as the patience says',
    async (better, values) => {
      const evaluate = async (step: number) => ({ x: values[step / 2] });
      const hooks = { evaluate, evalEvery: 2, earlyStopping: { key: 'x', better, patience: 3 } };
      const { result } = await drive(30, hooks);
      // The evaluation before training does not count: the first one in training is the best so far.
      expect([result.steps, result.stoppedEarly, result.interrupted]).toEqual([8, true, false]);
      expect(result.best?.step).toBe(2);
    },
  );

  it('ends after the step in which it is asked to, saved', async () => {
    const controller = new AbortController();
    const saved: number[] = [];
    const { result } = await drive(10, {
      signal: controller.signal,
      onStep: ({ step }) => void (step === 4 && controller.abort()),
      checkpoint: async ({ step }) => void saved.push(step),
    });
    expect([result.steps, result.interrupted, saved]).toEqual([4, true, [4]]);
  });
});

describe('Stopwatch', () => {
  it('adds time up by name, gives the result, and counts failed work too', async () => {
    const watch = new Stopwatch();
    const wait = (ms: number): Promise<number> => new Promise((resolve) => setTimeout(() => resolve(ms), ms));
    expect(await watch.measure('a', () => wait(20))).toBe(20);
    await watch.measure('a', () => wait(20));
    await expect(watch.measure('b', () => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
    expect(watch.seconds.a).toBeGreaterThan(0.035);
    expect(Object.keys(watch.seconds)).toEqual(['a', 'b']);
  });
});

describe('meanOf', () => {
  it('is the mean, and 0 of nothing', () => {
    expect(meanOf([1, 2, 6])).toBe(3);
    expect(meanOf([])).toBe(0);
  });
});
