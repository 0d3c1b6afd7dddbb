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

/** The policy loss of the first step, of all its micro-batches. */
const lossOf = ({ batches }: RecordingPolicy): number =>
  batches.reduce((sum, { result }) => sum + result.metrics.policy_loss, 0);

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
    for (const type of ['grpo', 'dr_grpo', 'dapo', 'cispo'] as const) {
      const [one, eight] = [await run(8, 1, type), await run(1, 8, type)];
      expect([one.batches.length, eight.batches.length]).toEqual([1, 8]);
      expect(lossOf(eight)).toBeCloseTo(lossOf(one), 6);
      const largest = Math.max(...one.gradients[0].map(Math.abs));
      eight.gradients[0].forEach((g, i) =>
        expect(Math.abs(g - one.gradients[0][i]), `${type}, logit ${i}`).toBeLessThan(1e-4 * largest),
      );
    }
  });

  it('divides by the tokens of each micro-batch in bnpo, which therefore depends on the split', async () => {
    const losses: number[] = [];
    for (const [batchSize, accumulation] of [
      [8, 1],
      [2, 4],
      [1, 8],
    ]) {
      const policy = makePolicy();
      const bnpo = { batchSize, accumulation, loss: { ...loss, type: 'bnpo' }, maxSteps: 1 } as const;
      await trainGrpo(policy, prompts, score, { ...settings, ...bnpo });
      // In the first pass the ratio is 1, so every token's loss is minus the advantage.
      const expected = policy.batches.map(({ batch }) => {
        const rows = batch.groups.flatMap((group) => group.rows);
        const sum = rows.reduce((total, row) => total - (row.advantage as number) * row.tokenIds.length, 0);
        return sum / rows.reduce((total, { tokenIds }) => total + tokenIds.length, 0) / accumulation;
      });
      losses.push(lossOf(policy));
      expect(lossOf(policy)).toBeCloseTo(
        expected.reduce((a, b) => a + b, 0),
        6,
      );
    }
    expect(Math.abs(losses[0] - losses[2])).toBeGreaterThan(1e-3);
    expect(Math.abs(losses[1] - losses[2])).toBeGreaterThan(1e-4);
  });
});

describe('a second update on the same rollouts', () => {
  it('has ratios other than 1, and takes the gradient of clipped tokens away', async () => {
    const clipped: GrpoLoss = { ...loss, type: 'dapo', epsilonLow: 0.1, epsilonHigh: 0.3 };
    const once = { ...settings, maxSteps: 1, learningRate: 0.3, loss: clipped };
    const [between, policy] = [makePolicy(), makePolicy()];
    await trainGrpo(between, prompts, score, once);
    const { history } = await trainGrpo(policy, prompts, score, { ...once, numIterations: 2 });
    const { batch, result } = policy.batches[1];
    const gradient = new Map(policy.states.map(([p, prefix]) => [`${p}>${prefix}`, [0, 0, 0, 0]]));
    const hits = { low: 0, high: 0 };
    let distance = 0;
    batch.groups.forEach(({ promptIds, rows }, g) =>
      rows.forEach(({ tokenIds, advantage = 0, oldLogProbs = [] }, r) =>
        tokenIds.forEach((token, t) => {
          const ratio = Math.exp(result.logProbs[g][r][t] - oldLogProbs[t]);
          distance = Math.max(distance, Math.abs(ratio - 1));
          const [low, high] = [ratio < 0.9 && advantage < 0, ratio > 1.3 && advantage > 0];
          hits.low += Number(low);
          hits.high += Number(high);
          if (low || high) return;
          const state = gradient.get(`${promptIds}>${tokenIds.slice(0, t)}`) as number[];
          softmax(between.logits(promptIds, tokenIds.slice(0, t))).forEach((p, id) => {
            state[id] -= (advantage * ratio * (Number(id === token) - p)) / batch.totalTokens;
          });
        }),
      ),
    );
    expect(distance).toBeGreaterThan(0.3);
    expect(Math.min(hits.low, hits.high)).toBeGreaterThan(5);
    expect(policy.batches[0].result.metrics.clip_fraction).toBe(0);
    const { 'train/clip_fraction_low': low, 'train/clip_fraction_high': high } = history[0];
    expect(low).toBeCloseTo(hits.low / batch.totalTokens, 6);
    expect(high).toBeCloseTo(hits.high / batch.totalTokens, 6);
    expect(history[0]['train/clip_fraction']).toBeCloseTo(low + high, 6);
    const expected = [...gradient.values()].flat();
    policy.gradients[1].forEach((g, i) => expect(g, `logit ${i}`).toBeCloseTo(expected[i], 6));
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
      // Without a KL term none is measured.
      if (beta === 0) expect(history[0]).not.toHaveProperty('train/kl_penalty');
      else expect(Math.abs(history[0]['train/kl_penalty'])).toBeLessThan(1e-6);
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
