import { describe, expect, it } from 'vitest';
import { learningRateAt } from '../optim/schedule';
import type { OptimStepOptions, Policy } from '../policy/policy';
import { NumericError } from '../runtime/errors';
import { evaluateWhenDue, meanOf, Stopwatch, Updater } from './loop';
import type { OptimiserSettings } from './loop';

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

describe('Updater', () => {
  it('hands the settings on, with the rate of the schedule at every step', async () => {
    const { policy, updates } = stubPolicy([]);
    const updater = new Updater(policy, settings, 10);
    const rates: number[] = [];
    for (let step = 1; step <= 10; step++) rates.push((await updater.update(step)).learningRate);
    expect(rates).toEqual(
      rates.map((_, i) =>
        learningRateAt({ kind: 'cosine', learningRate: 0.5, totalSteps: 10, warmupSteps: 2 }, i),
      ),
    );
    expect([rates[0], rates[1], rates[2]]).toEqual([0, 0.25, 0.5]);
    expect(updates.map(({ learningRate }) => learningRate)).toEqual(rates);
    const { betas, eps, weightDecay, clipNorm } = settings;
    for (const update of updates) expect(update).toMatchObject({ betas, eps, weightDecay, clipNorm });
  });

  it('ends the run at the third skipped update in a row', async () => {
    const updater = new Updater(stubPolicy([false, true, true, true]).policy, settings, 10);
    expect((await updater.update(1)).skipped).toBe(false);
    expect((await updater.update(2)).skipped).toBe(true);
    expect((await updater.update(3)).skipped).toBe(true);
    await expect(updater.update(4)).rejects.toThrow(NumericError);
    expect(updater.skipped).toBe(3);
  });

  it('goes on when an update between skipped ones works', async () => {
    const pattern = [true, true, false, true, true, false, true];
    const updater = new Updater(stubPolicy(pattern).policy, settings, 10);
    for (const [i, skipped] of pattern.entries()) expect((await updater.update(i + 1)).skipped).toBe(skipped);
    expect(updater.skipped).toBe(5);
  });
});

describe('evaluateWhenDue', () => {
  it('runs at step 0, every evalEvery steps and at the end', async () => {
    const evaluated = async (evalEvery?: number): Promise<number[]> => {
      const steps: number[] = [];
      for (let step = 0; step <= 7; step++) {
        const values = await evaluateWhenDue(
          { evaluate: (at) => Promise.resolve({ at }), evalEvery },
          step,
          step === 7,
        );
        if ('at' in values) steps.push(values.at);
      }
      return steps;
    };
    expect(await evaluated(3)).toEqual([0, 3, 6, 7]);
    expect(await evaluated()).toEqual([0, 7]);
    expect(await evaluateWhenDue({}, 0, true)).toEqual({});
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
