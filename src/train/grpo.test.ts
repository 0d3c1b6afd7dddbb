import { describe, expect, it } from 'vitest';
import {
  expectedReward,
  loss,
  makePolicy,
  prompts,
  rewardOf,
  score,
  settings,
} from '../../test/tabular-task';
import type { GrpoLoss } from '../optim/losses';
import type { ScoreCompletions } from '../rewards/replies';
import { NumericError } from '../runtime/errors';
import { trainGrpo } from './grpo';
import type { ScoredRollouts } from './grpo';

describe('what GRPO asks of the policy', () => {
  it('samples each prompt with the number of its epoch, from the stream of rollouts', async () => {
    const policy = makePolicy();
    await trainGrpo(policy, prompts, score, {
      ...settings,
      batchSize: 2,
      epochs: 2,
      temperature: 0.7,
      topP: 0.9,
    });
    expect(policy.sampled.map((call) => call.prompts.length)).toEqual([2, 2, 2]);
    const visits = policy.sampled
      .flatMap((call) => call.prompts.map(({ id, visit }) => `${visit} ${id}`))
      .sort();
    expect(visits).toEqual(['0 p0', '0 p1', '0 p2', '1 p0', '1 p1', '1 p2']);
    for (const { options } of policy.sampled)
      expect(options).toMatchObject({
        groupSize: 16,
        temperature: 0.7,
        topP: 0.9,
        seed: 4,
        stream: 'rollout',
      });
  });

  it('gives each completion its advantage, and each micro-batch the totals of the step', async () => {
    const policy = makePolicy();
    const seen: ScoredRollouts[] = [];
    const onRollouts = (rollouts: ScoredRollouts): void => void seen.push(rollouts);
    const uneven = { ...settings, batchSize: 2, accumulation: 2, maxSteps: 1, lossTemperature: 0.7 };
    await trainGrpo(policy, prompts, score, uneven, { onRollouts });
    const { groups, scores } = seen[0];
    const rows = policy.batches.flatMap(({ batch }) => batch.groups.flatMap((group) => group.rows));
    expect(rows.map(({ tokenIds }) => tokenIds)).toEqual(
      groups.flatMap((g) => g.completions.map((c) => c.tokenIds)),
    );
    expect(groups).toHaveLength(4);
    groups.forEach(({ prompt }, g) => {
      const rewards = scores[g].map(({ total }) => total);
      const mean = rewards.reduce((a, b) => a + b, 0) / 16;
      const deviation = Math.sqrt(rewards.reduce((sum, r) => sum + (r - mean) ** 2, 0) / 15);
      rewards.forEach((reward, i) => {
        expect(reward).toBe(rewardOf(prompt.tokenIds, groups[g].completions[i].tokenIds));
        expect(rows[g * 16 + i].advantage).toBeCloseTo((reward - mean) / (deviation + 1e-4), 9);
      });
    });
    const totalTokens = rows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    for (const { batch, loss: asked, temperature } of policy.batches) {
      expect(batch).toMatchObject({ totalRows: 64, totalTokens, totalMicroBatches: 2 });
      expect(asked).toEqual(loss);
      expect(temperature).toBe(0.7);
    }
  });

  it('asks for the reference when beta is above 0 only, at the temperature of the loss', async () => {
    for (const beta of [0, 0.2]) {
      const policy = makePolicy();
      const tempered = { ...settings, maxSteps: 2, lossTemperature: 0.7, loss: { ...loss, beta } };
      await trainGrpo(policy, prompts, score, tempered);
      expect(policy.asked).toEqual(
        beta === 0 ? [] : new Array(2).fill({ of: 'reference', temperature: 0.7 }),
      );
      const rows = policy.batches.flatMap(({ batch }) => batch.groups.flatMap((group) => group.rows));
      expect(rows.every(({ referenceLogProbs }) => (referenceLogProbs !== undefined) === beta > 0)).toBe(
        true,
      );
    }
  });

  it('updates numIterations times on a batch, with ratios to its first pass', async () => {
    const policy = makePolicy();
    const { history } = await trainGrpo(policy, prompts, score, {
      ...settings,
      numIterations: 3,
      maxSteps: 2,
    });
    expect([policy.sampled.length, policy.batches.length, policy.gradients.length]).toEqual([2, 6, 6]);
    const oldOf = (i: number): unknown[] =>
      policy.batches[i].batch.groups.flatMap((group) => group.rows.map((row) => row.oldLogProbs));
    for (const first of [0, 3]) {
      expect(oldOf(first).every((old) => old === undefined)).toBe(true);
      for (const i of [first + 1, first + 2])
        expect(oldOf(i)).toEqual(policy.batches[first].result.logProbs.flat());
    }
    expect(history[0]['train/policy_loss']).toBe(policy.batches[2].result.metrics.policy_loss);
  });

  it('reports the clipped shares by side, but for cispo, which clips on one', async () => {
    const sides = ['train/clip_fraction_low', 'train/clip_fraction_high'];
    for (const type of ['grpo', 'cispo'] as const) {
      const one = { ...settings, maxSteps: 1, loss: { ...loss, type, epsilonHigh: 1.2 } };
      const [record] = (await trainGrpo(makePolicy(), prompts, score, one)).history;
      expect(record['train/clip_fraction']).toBe(0);
      expect(sides.map((key) => key in record)).toEqual(sides.map(() => type === 'grpo'));
    }
  });

  it('masks truncated completions on demand, and does not count their tokens', async () => {
    const [all, masked] = [makePolicy(), makePolicy()];
    const [{ 'train/truncated_share': truncated }] = (await trainGrpo(all, prompts, score, { ...settings, maxSteps: 1 })).history; // prettier-ignore
    await trainGrpo(masked, prompts, score, { ...settings, maxSteps: 1, maskTruncated: true });
    const [{ groups }] = masked.sampled;
    const completions = groups.flatMap((group) => group.completions);
    expect(completions.filter(({ finishReason }) => finishReason === 'length').length / 48).toBeCloseTo(
      truncated,
      9,
    );
    expect(truncated).toBeGreaterThan(0);
    const [{ batch }] = masked.batches;
    batch.groups
      .flatMap((group) => group.rows)
      .forEach(({ mask, tokenIds }, i) => {
        const counted = Array.from(tokenIds, (_, t) => mask?.[t] ?? 1);
        const expected = completions[i].finishReason === 'length' ? 0 : 1;
        expect(counted.every((value) => value === expected)).toBe(true);
      });
    const stopped = completions.filter(({ finishReason }) => finishReason === 'stop');
    expect(batch.totalTokens).toBe(stopped.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0));
    expect(batch.totalRows).toBe(48);
    expect(all.batches[0].batch.totalTokens).toBeGreaterThan(batch.totalTokens);
  });

  it('learns nothing from groups whose rewards are all equal', async () => {
    const policy = makePolicy();
    const equal: ScoreCompletions = (pairs) =>
      Promise.resolve(pairs.map(() => ({ total: 0.4, components: {} })));
    const { history } = await trainGrpo(policy, prompts, equal, { ...settings, maxSteps: 1 });
    expect(history[0]).toMatchObject({ 'train/zero_signal_share': 1, 'train/grad_norm': 0 });
    expect(history[0]['train/reward_std']).toBeCloseTo(0, 12);
    expect(expectedReward(policy)).toBeCloseTo(expectedReward(makePolicy()), 6);
  });
});

describe('how GRPO ends', () => {
  it('after the step in which it is asked to stop, without a last evaluation', async () => {
    const policy = makePolicy();
    const controller = new AbortController();
    const { steps, interrupted, history } = await trainGrpo(policy, prompts, score, settings, {
      signal: controller.signal,
      evaluate: () => Promise.resolve({ 'eval/reward': expectedReward(policy) }),
      onRollouts: ({ step }) => (step === 3 ? controller.abort() : undefined),
    });
    expect([steps, interrupted]).toEqual([3, true]);
    expect(history.filter((record) => 'eval/reward' in record).map(({ step }) => step)).toEqual([0]);
  });

  it('with an error at the third gradient in a row that is not finite, weights untouched', async () => {
    const policy = makePolicy();
    const broken: GrpoLoss = { ...loss, type: 'dr_grpo', maxCompletionLength: 0 };
    await expect(trainGrpo(policy, prompts, score, { ...settings, loss: broken })).rejects.toThrow(
      NumericError,
    );
    expect(policy.gradients).toHaveLength(3);
    expect(expectedReward(policy)).toBe(expectedReward(makePolicy()));
  });

  it('with no step in a run of none', async () => {
    const evaluate = (): Promise<Record<string, number>> => Promise.resolve({ 'eval/reward': 0 });
    const { steps } = await trainGrpo(
      makePolicy(),
      prompts,
      score,
      { ...settings, maxSteps: 0 },
      { evaluate },
    );
    expect(steps).toBe(0);
  });
});
