import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { groupAdvantages } from '../optim/advantages';
import type { GrpoLoss } from '../optim/losses';
import { CheckpointError, ConfigError, ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import type { MicroBatch, SampleOptions } from './policy';
import { TabularPolicy } from './tabular';

const numTensors = tf.memory().numTensors;
const directory = mkdtempSync(join(tmpdir(), 'grpolab-tabular-'));
afterAll(() => {
  rmSync(directory, { recursive: true });
  expect(tf.memory().numTensors).toBe(numTensors);
});

const PROMPTS = [[1], [2, 3]];
const END = 3;

function logitsOf(promptIds: readonly number[], prefix: readonly number[]): number[] {
  const random = new Random(1, promptIds.join(), prefix.join());
  return Array.from({ length: 4 }, () => random.normal());
}

function makePolicy(
  initialLogits: (promptIds: readonly number[], prefix: readonly number[]) => number[] = logitsOf,
): TabularPolicy {
  return new TabularPolicy({
    prompts: PROMPTS,
    vocabularySize: 4,
    maxLength: 3,
    stopTokenIds: [END],
    initialLogits,
  });
}

const prompts = PROMPTS.map((tokenIds, i) => ({ id: `p${i}`, tokenIds }));
const options: SampleOptions = { groupSize: 4, temperature: 1, maxNewTokens: 3, seed: 5 };
const grpo: GrpoLoss = {
  kind: 'grpo',
  type: 'grpo',
  epsilonLow: 0.2,
  epsilonHigh: 0.2,
  beta: 0,
  klBiasCorrection: true,
  ratioLevel: 'token',
  maxCompletionLength: 3,
};

/** A reward with a best completion of its own for each prompt. */
function rewardOf(promptIds: readonly number[], tokenIds: readonly number[]): number {
  return tokenIds.filter((id) => id === promptIds[0] - 1).length / 3 + (tokenIds.at(-1) === END ? 0.2 : 0);
}

function expectedReward(policy: TabularPolicy): number {
  const values = PROMPTS.map((promptIds) =>
    policy
      .enumerate(promptIds)
      .reduce((sum, { tokenIds, probability }) => sum + probability * rewardOf(promptIds, tokenIds), 0),
  );
  return values.reduce((a, b) => a + b, 0) / values.length;
}

/** Samples and scores a batch. */
async function rollOut(policy: TabularPolicy, sampling: SampleOptions): Promise<MicroBatch> {
  const rollouts = await policy.sample(prompts, sampling);
  const rewards = rollouts.map(({ prompt, completions }) =>
    completions.map(({ tokenIds }) => rewardOf(prompt.tokenIds, tokenIds)),
  );
  const advantages = groupAdvantages(rewards);
  const groups = rollouts.map(({ prompt, completions }, p) => ({
    promptIds: prompt.tokenIds,
    rows: completions.map(({ tokenIds }, i) => ({ tokenIds, advantage: advantages[p][i] })),
  }));
  const rows = groups.flatMap((group) => group.rows);
  const totalTokens = rows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
  return { groups, totalRows: rows.length, totalTokens, totalMicroBatches: 1 };
}

describe('sampling a tabular policy', () => {
  it('enumerates completions whose probabilities sum to 1', () => {
    for (const temperature of [1, 0.7]) {
      const completions = makePolicy().enumerate([1], { temperature });
      expect(completions.reduce((sum, { probability }) => sum + probability, 0)).toBeCloseTo(1, 12);
      for (const { tokenIds } of completions)
        expect(tokenIds).toHaveLength(tokenIds.includes(END) ? tokenIds.indexOf(END) + 1 : 3);
    }
  });

  it('draws completions as often as enumeration says', async () => {
    const policy = makePolicy();
    const groupSize = 4_000;
    const [{ completions }] = await policy.sample([prompts[0]], { ...options, groupSize, temperature: 0.8 });
    for (const { tokenIds, probability } of policy.enumerate([1], { temperature: 0.8 })) {
      const count = completions.filter((c) => c.tokenIds.join() === tokenIds.join()).length;
      const deviation = Math.sqrt((probability * (1 - probability)) / groupSize);
      expect(Math.abs(count / groupSize - probability)).toBeLessThan(4.5 * deviation + 1e-3);
    }
  });

  it('draws the same whatever else is in the batch', async () => {
    const policy = makePolicy();
    const together = await policy.sample(prompts, options);
    const [alone] = await policy.sample([prompts[1]], { ...options, groupSize: 2 });
    expect(alone.completions).toEqual(together[1].completions.slice(0, 2));
    const [later] = await policy.sample([{ ...prompts[1], visit: 1 }], { ...options, groupSize: 4 });
    expect(later.completions).not.toEqual(together[1].completions);
  });

  it('reports the log-probabilities that logProbs computes', async () => {
    const policy = makePolicy();
    const [{ completions }] = await policy.sample([prompts[0]], { ...options, temperature: 0.8, topP: 0.7 });
    for (const completion of completions) {
      const sequence = { promptIds: [1], completionIds: completion.tokenIds };
      const [plain] = await policy.logProbs([sequence]);
      const [tempered] = await policy.logProbs([sequence], { temperature: 0.8 });
      plain.forEach((value, t) => expect(completion.logProbs[t]).toBeCloseTo(value, 5));
      tempered.forEach((value, t) => {
        expect(completion.temperedLogProbs[t]).toBeCloseTo(value, 5);
        expect(completion.drawLogProbs[t]).toBeGreaterThan(value - 1e-5);
      });
    }
  });

  it('stops at an end token, but not before the minimal length', async () => {
    const policy = makePolicy(() => [0, 0, 0, 50]);
    const [{ completions }] = await policy.sample([prompts[0]], options);
    expect(completions.every((c) => c.tokenIds.join() === '3' && c.finishReason === 'stop')).toBe(true);
    const [longer] = await policy.sample([prompts[0]], { ...options, minNewTokens: 2 });
    expect(longer.completions.every((c) => c.tokenIds.length === 3 && c.tokenIds[2] === END)).toBe(true);
    const [cut] = await policy.sample([prompts[0]], { ...options, minNewTokens: 2, maxNewTokens: 2 });
    expect(cut.completions.every((c) => c.finishReason === 'length')).toBe(true);
  });

  it('names the state that the table does not have', async () => {
    await expect(makePolicy().sample([{ id: 'x', tokenIds: [9] }], options)).rejects.toThrow(/prompt \[9\]/);
    await expect(
      makePolicy(() => [9, 0, 0, 0]).sample(prompts, { ...options, maxNewTokens: 4 }),
    ).rejects.toThrow(ConfigError);
  });
});

describe('training a tabular policy', () => {
  it('has the gradient of its loss: finite differences in every logit', async () => {
    const batch = await rollOut(makePolicy(), options);
    const old = batch.groups.map(({ promptIds, rows }) =>
      rows.map(({ tokenIds }) => ({ promptIds, completionIds: tokenIds })),
    );
    const stale = await makePolicy((p, x) => logitsOf(p, x).map((z, i) => z + 0.1 * i)).logProbs(old.flat());
    let next = 0;
    for (const row of batch.groups.flatMap(({ rows }) => rows)) {
      row.oldLogProbs = stale[next];
      row.referenceLogProbs = stale[next++].map((value) => value - 0.3);
    }
    const loss = { ...grpo, beta: 0.2, epsilonLow: 0.9, epsilonHigh: 5 };
    const policy = makePolicy();
    await policy.forwardBackward(batch, loss, { temperature: 0.8 });
    const prefixes = [[], [0], [1], [2, 0]];
    for (const prefix of prefixes)
      for (let id = 0; id < 4; id++) {
        const lossAt = async (delta: number): Promise<number> => {
          const moved = makePolicy(
            (promptIds, state) =>
            logitsOf(promptIds, state).map((z, i) => (state.join() === prefix.join() && promptIds[0] === 1 && i === id ? z + delta : z)), // prettier-ignore
          );
          return (await moved.forwardBackward(batch, loss, { temperature: 0.8 })).loss;
        };
        const difference = ((await lossAt(0.02)) - (await lossAt(-0.02))) / 0.04;
        expect(Math.abs(policy.pendingGradient([1], prefix)[id] - difference)).toBeLessThan(3e-4);
      }
  });

  it('adds the gradients of micro-batches', async () => {
    const batch = await rollOut(makePolicy(), options);
    const [whole, split] = [makePolicy(), makePolicy()];
    const { loss } = await whole.forwardBackward(batch, grpo);
    let sum = 0;
    for (const group of batch.groups)
      sum += (await split.forwardBackward({ ...batch, groups: [group], totalMicroBatches: 2 }, grpo)).loss;
    expect(sum).toBeCloseTo(loss, 6);
    for (const promptIds of PROMPTS)
      split.pendingGradient(promptIds, []).forEach((g, i) => {
        expect(g).toBeCloseTo(whole.pendingGradient(promptIds, [])[i], 6);
      });
  });

  it('moves the expected reward up by one GRPO update, along the exact gradient', async () => {
    const policy = makePolicy();
    const before = expectedReward(policy);
    await policy.forwardBackward(await rollOut(policy, { ...options, groupSize: 4_000 }), {
      ...grpo,
      type: 'dr_grpo',
    });
    const gradient = PROMPTS.map((promptIds) => policy.pendingGradient(promptIds, []).map((g) => -g));
    const exact = PROMPTS.map((promptIds) =>
      [0, 1, 2, 3].map((id) => {
        const at = (delta: number): number =>
          expectedReward(
            makePolicy(
              (p, x) =>
              logitsOf(p, x).map((z, i) => (p.join() === promptIds.join() && x.length === 0 && i === id ? z + delta : z)), // prettier-ignore
            ),
          );
        return (at(1e-5) - at(-1e-5)) / 2e-5;
      }),
    );
    gradient.forEach((g, p) => {
      const dot = g.reduce((sum, value, i) => sum + value * exact[p][i], 0);
      expect(dot / (Math.hypot(...g) * Math.hypot(...exact[p]))).toBeGreaterThan(0.99);
    });
    const { gradNorm, skipped } = await policy.optimStep({ learningRate: 0.02 });
    expect([gradNorm > 0, skipped]).toEqual([true, false]);
    // AdamW's first step is learningRate * sign(gradient), so the first states alone promise this gain.
    const promised = 0.02 * exact.flat().reduce((sum, value) => sum + Math.abs(value), 0);
    expect(expectedReward(policy) - before).toBeGreaterThan(0.9 * promised);
  });

  it('learns by GRPO, and stays nearer to the reference with a KL term', async () => {
    const train = async (beta: number): Promise<{ reward: number; kl: number }> => {
      const policy = makePolicy();
      let kl = 0;
      for (let step = 0; step < 60; step++) {
        const batch = await rollOut(policy, { ...options, groupSize: 8, seed: step });
        for (const { promptIds, rows } of batch.groups)
          for (const row of rows) {
            const sequence = { promptIds, completionIds: row.tokenIds };
            [row.referenceLogProbs] = await policy.logProbs([sequence], { of: 'reference' });
          }
        kl = (await policy.forwardBackward(batch, { ...grpo, beta })).metrics.kl_per_completion;
        await policy.optimStep({ learningRate: 0.1, clipNorm: 1 });
      }
      return { reward: expectedReward(policy), kl };
    };
    const start = expectedReward(makePolicy());
    const [free, tied] = [await train(0), await train(1)];
    expect(free.reward).toBeGreaterThan(start + 0.25);
    expect(tied.reward).toBeLessThan(free.reward);
    expect(tied.kl).toBeLessThan(free.kl);
  });

  it('skips a gradient that is not finite', async () => {
    const policy = makePolicy();
    const rows = [{ tokenIds: [0], weights: [Infinity] }];
    const groups = [{ promptIds: [1], rows }];
    await policy.forwardBackward(
      { groups, totalRows: 1, totalTokens: 1, totalMicroBatches: 1 },
      { kind: 'weighted' },
    );
    expect((await policy.optimStep({ learningRate: 1 })).skipped).toBe(true);
    expect(policy.logits([1], [])).toEqual(logitsOf([1], []));
    await expect(policy.optimStep({ learningRate: 1 })).rejects.toThrow(/call forwardBackward before/);
  });

  it('asks for what the loss needs', async () => {
    const batch = (row: object): MicroBatch => ({
      groups: [
        {
          promptIds: [1],
          rows: [
            { tokenIds: [0], ...row },
            { tokenIds: [1], advantage: 1, weights: [1] },
          ],
        },
      ],
      totalRows: 2,
      totalTokens: 2,
      totalMicroBatches: 1,
    });
    await expect(makePolicy().forwardBackward(batch({}), grpo)).rejects.toThrow(/no advantage/);
    await expect(makePolicy().forwardBackward(batch({}), { kind: 'weighted' })).rejects.toThrow(/no weights/);
    await expect(
      makePolicy().forwardBackward(batch({ advantage: 1, oldLogProbs: [0] }), grpo),
    ).rejects.toThrow(ShapeError);
  });
});

describe('saving a tabular policy', () => {
  it('restores the logits, and refuses those of another table', async () => {
    const policy = makePolicy();
    await policy.forwardBackward(await rollOut(policy, options), grpo);
    await policy.optimStep({ learningRate: 0.1 });
    await policy.save(directory);
    const restored = makePolicy();
    await restored.load(directory);
    for (const { tokenIds } of policy.enumerate([1]))
      expect(restored.logits([1], tokenIds.slice(0, -1))).toEqual(policy.logits([1], tokenIds.slice(0, -1)));
    const other = new TabularPolicy({ prompts: [[1]], vocabularySize: 4, maxLength: 2 });
    await expect(other.load(directory)).rejects.toThrow(CheckpointError);
    await expect(policy.load(join(directory, 'absent'))).rejects.toThrow(CheckpointError);
  });
});
