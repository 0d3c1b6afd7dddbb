import { describe, expect, it } from 'vitest';
import { expectedReward, LENGTH, loss, makePolicy, prompts, PROMPTS } from '../../test/tabular-task';
import type { RecordingPolicy } from '../../test/tabular-task';
import { rewardOf, score, settings } from '../../test/tabular-task';
import type { GrpoLoss } from '../optim/losses';
import type { TabularPolicy } from '../policy/tabular';
import { trainGrpo } from './grpo';

const softmax = (logits: readonly number[]): number[] => {
  const masses = logits.map(Math.exp);
  return masses.map((mass) => mass / masses.reduce((a, b) => a + b, 0));
};

/** Gradient of a prompt's expected reward in all logits: sum_y p(y) r(y) grad log p(y), by enumeration. */
function exactGradient(policy: RecordingPolicy, only?: readonly number[]): number[] {
  return policy.states.flatMap(([promptIds, prefix]) => {
    const probabilities = softmax(policy.logits(promptIds, prefix));
    const gradient = [0, 0, 0, 0];
    if (only !== undefined && only !== promptIds) return gradient;
    for (const { tokenIds, probability } of policy.enumerate(promptIds)) {
      if (tokenIds.length <= prefix.length || prefix.some((id, t) => id !== tokenIds[t])) continue;
      const weight = probability * rewardOf(promptIds, tokenIds);
      probabilities.forEach(
        (p, id) => (gradient[id] += weight * (Number(id === tokenIds[prefix.length]) - p)),
      );
    }
    return gradient;
  });
}

function cosine(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * b[i], 0) / (Math.hypot(...a) * Math.hypot(...b));
}

/** KL(policy || start), a mean over prompts, by enumeration. */
function exactKl(policy: TabularPolicy): number {
  const start = makePolicy();
  const values = PROMPTS.map((promptIds) => {
    const before = new Map(start.enumerate(promptIds).map((c) => [c.tokenIds.join(), c.probability]));
    return policy
      .enumerate(promptIds)
      .reduce((sum, { tokenIds, probability: p }) => sum + p * Math.log(p / (before.get(tokenIds.join()) as number)), 0); // prettier-ignore
  });
  return values.reduce((a, b) => a + b, 0) / values.length;
}

describe('one step of GRPO', () => {
  const manySamples = { ...settings, groupSize: 4000, maxSteps: 1 };

  it('follows the exact gradient of the expected reward', async () => {
    const policy = makePolicy();
    const exact = exactGradient(policy);
    const plain = { advantageScale: 'none', loss: { ...loss, type: 'dr_grpo' } } as const;
    await trainGrpo(policy, prompts, score, { ...manySamples, ...plain });
    const descent = policy.gradients[0].map((g) => -g);
    expect(cosine(descent, exact)).toBeGreaterThan(0.99);
    // dr_grpo divides by rows and by the constant length, the exact gradient is a sum over three prompts.
    expect(Math.hypot(...descent) / (Math.hypot(...exact) / (3 * LENGTH))).toBeCloseTo(1, 1);
  });

  it.each(['grpo', 'dapo', 'bnpo'] as const)(
    'follows it prompt by prompt with scaled advantages, when all lengths are equal (%s)',
    async (type) => {
      const policy = makePolicy([]);
      const exact = PROMPTS.map((promptIds) => exactGradient(policy, promptIds));
      await trainGrpo(policy, prompts, score, { ...manySamples, loss: { ...loss, type } });
      const descent = policy.gradients[0].map((g) => -g);
      for (const gradient of exact) {
        const own = descent.map((g, i) => (gradient[i] === 0 ? 0 : g));
        expect(cosine(own, gradient)).toBeGreaterThan(0.99);
      }
    },
  );

  it('raises the expected reward', async () => {
    const policy = makePolicy();
    const before = expectedReward(policy);
    await trainGrpo(policy, prompts, score, { ...settings, groupSize: 200, maxSteps: 1 });
    expect(expectedReward(policy)).toBeGreaterThan(before + 0.01);
  });

  it('gives the same update however it is accumulated', async () => {
    const run = async (
      batchSize: number,
      accumulation: number,
      type: GrpoLoss['type'],
    ): Promise<RecordingPolicy> => {
      const policy = makePolicy();
      const scaled = { batchSize, accumulation, loss: { ...loss, type, beta: 0.1 } };
      await trainGrpo(policy, prompts, score, { ...settings, ...scaled, maxSteps: 1 });
      return policy;
    };
    for (const type of ['grpo', 'dr_grpo', 'dapo'] as const) {
      const [one, three] = [await run(3, 1, type), await run(1, 3, type)];
      expect([one.batches.length, three.batches.length]).toEqual([1, 3]);
      three.gradients[0].forEach((g, i) => expect(g).toBeCloseTo(one.gradients[0][i], 6));
    }
  });
});

describe('GRPO', () => {
  it('raises the expected reward towards the optimum', async () => {
    const policy = makePolicy();
    const before = expectedReward(policy);
    const { history, steps } = await trainGrpo(policy, prompts, score, { ...settings, epochs: 150 });
    expect(steps).toBe(150);
    expect(before).toBeLessThan(0.5);
    expect(expectedReward(policy)).toBeGreaterThan(0.95);
    const rewards = history.map((record) => record['train/avg_reward']);
    expect(rewards.slice(-10).reduce((a, b) => a + b, 0) / 10).toBeGreaterThan(0.9);
    expect(history[0]['reward/match']).toBe(rewards[0]);
  });

  it('stays the nearer to the reference the larger beta is', async () => {
    const kls: number[] = [];
    const rewards: number[] = [];
    for (const beta of [0, 0.4, 1.5]) {
      const policy = makePolicy();
      const { history } = await trainGrpo(policy, prompts, score, { ...settings, loss: { ...loss, beta } });
      kls.push(exactKl(policy));
      rewards.push(expectedReward(policy));
      expect(Math.abs(history[0]['train/kl_penalty'])).toBeLessThan(1e-6);
      if (beta > 0) expect(history[history.length - 1]['train/kl_penalty']).toBeGreaterThan(0.01);
    }
    expect(kls[1]).toBeLessThan(0.9 * kls[0]);
    expect(kls[2]).toBeLessThan(0.7 * kls[1]);
    expect(rewards[2]).toBeLessThan(rewards[0]);
    expect(rewards[2]).toBeGreaterThan(expectedReward(makePolicy()));
  });

  it('with a KL term ends where the theory says: reference times exp(reward / beta)', async () => {
    // A mean-centred group of G estimates (G - 1) / G of the reward's gradient.
    const [beta, groupSize] = [0.3, 64];
    const policy = makePolicy([], 1);
    const start = PROMPTS.map((promptIds) => softmax(policy.logits(promptIds, [])));
    await trainGrpo(policy, prompts, score, {
      ...{ ...settings, groupSize, epochs: 250, maxNewTokens: 1, advantageScale: 'none', clipNorm: 0 },
      loss: { ...loss, beta },
    });
    PROMPTS.forEach((promptIds, p) => {
      const optimal = start[p].map((mass, id) => mass * Math.exp((rewardOf(promptIds, [id]) * (groupSize - 1)) / groupSize / beta)); // prettier-ignore
      const sum = optimal.reduce((a, b) => a + b, 0);
      softmax(policy.logits(promptIds, [])).forEach((value, id) =>
        expect(Math.abs(value - optimal[id] / sum), `prompt ${p}, token ${id}`).toBeLessThan(0.03),
      );
    });
  });

  it('is the same for the same seed, and another for another', async () => {
    const run = async (seed: number): Promise<number[][]> => {
      const policy = makePolicy();
      await trainGrpo(policy, prompts, score, { ...settings, seed, maxSteps: 4 });
      return policy.gradients;
    };
    expect(await run(1)).toEqual(await run(1));
    expect(await run(1)).not.toEqual(await run(2));
  });
});
