import { describe, expect, it } from 'vitest';
import { loss, makePolicy, prompts, PROMPTS, settings } from '../../test/tabular-task';
import type { RecordingPolicy } from '../../test/tabular-task';
import { TabularPolicy } from '../policy/tabular';
import type { ScoreCompletions } from '../rewards/replies';
import type { Completion } from '../policy/policy';
import { trainGrpo } from './grpo';
import type { ScoredRollouts } from './grpo';
import { freshState } from './loop';
import { keepsSamples } from './rollouts';

/** Worth something are completions that say what the prompt says, from first to last token. */
const isHit = (promptIds: readonly number[], { tokenIds }: Completion): boolean =>
  tokenIds.length === 3 && tokenIds.every((id) => id === promptIds[0]);
const sparse: ScoreCompletions = (pairs) =>
  Promise.resolve(
    pairs.map(({ prompt, completion }) => ({
      ...{ total: Number(isHit(prompt.tokenIds, completion)), components: {} },
    })),
  );

const never: ScoreCompletions = (pairs) => Promise.resolve(pairs.map(() => ({ total: 0.5, components: {} })));

const streamsOf = (policy: RecordingPolicy): string[] =>
  policy.sampled.map(({ options }) => options.stream as string);

describe('dynamic sampling', () => {
  it('draws groups without signal again, from a stream of the attempt, and trains on the last draw', async () => {
    const policy = makePolicy();
    const seen: ScoredRollouts[] = [];
    const { history } = await trainGrpo(
      policy,
      prompts,
      sparse,
      { ...settings, groupSize: 4, maxSteps: 1, maxResamples: 6 },
      { onRollouts: (rollouts) => void seen.push(rollouts) },
    );
    const [{ groups, scores }] = seen;
    const expected = policy.sampled[0].groups.slice();
    let redrawn = 0;
    policy.sampled.forEach(({ options, prompts: asked, groups: drawn }, attempt) => {
      expect(options.stream).toBe(attempt === 0 ? 'rollout' : `rollout resample ${attempt}`);
      if (attempt === 0) return;
      const silent = expected.flatMap(({ prompt, completions }, g) => {
        const hits = completions.filter((one) => isHit(prompt.tokenIds, one)).length;
        return hits === 0 || hits === 4 ? [g] : [];
      });
      expect(asked).toEqual(silent.map((g) => expected[g].prompt));
      silent.forEach((g, k) => (expected[g] = drawn[k]));
      redrawn += silent.length;
    });
    expect(redrawn).toBeGreaterThan(2);
    expect(groups).toEqual(expected);
    const rows = policy.batches[0].batch.groups.flatMap((group) => group.rows);
    expect(rows.map(({ tokenIds }) => tokenIds)).toEqual(
      expected.flatMap(({ completions }) => completions.map(({ tokenIds }) => tokenIds)),
    );
    const left = scores.filter((group) => new Set(group.map(({ total }) => total)).size === 1).length;
    expect(history[0]).toMatchObject({
      'train/resampled_groups': redrawn,
      'train/zero_signal_left': left / 3,
    });
  });

  it('reports rewards and lengths of the first draws, which are a sample of the policy', async () => {
    const policy = makePolicy();
    const { history } = await trainGrpo(policy, prompts, sparse, {
      ...{ ...settings, groupSize: 4, maxSteps: 1, maxResamples: 6 },
    });
    const first = policy.sampled[0].groups;
    const hits = first.map(({ prompt, completions }) =>
      completions.map((one) => isHit(prompt.tokenIds, one)),
    );
    const share = hits.flat().filter(Boolean).length / 12;
    const silent = hits.filter((group) => new Set(group).size === 1).length;
    const tokens = first.flatMap(({ completions }) => completions.map(({ tokenIds }) => tokenIds.length));
    expect(silent).toBeGreaterThan(0);
    expect(history[0]['train/avg_reward']).toBeCloseTo(share, 12);
    expect(history[0]['train/zero_signal_share']).toBeCloseTo(silent / 3, 12);
    expect(history[0]['train/completion_tokens']).toBeCloseTo(tokens.reduce((a, b) => a + b, 0) / 12, 12);
    const all = policy.sampled.flatMap(({ groups }) => groups.flatMap(({ completions }) => completions));
    const drawn = all.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const { 'train/tokens_per_second': speed, 'train/seconds': seconds } = history[0];
    expect(speed * seconds).toBeCloseTo(drawn, 6);
  });

  it('is bounded: a group that stays without signal stays in, and teaches nothing', async () => {
    const policy = makePolicy();
    const { history } = await trainGrpo(policy, prompts, never, {
      ...settings,
      maxSteps: 1,
      maxResamples: 3,
    });
    expect(streamsOf(policy)).toEqual(['rollout', ...[1, 2, 3].map((n) => `rollout resample ${n}`)]);
    expect(policy.batches[0].batch.groups).toHaveLength(3);
    expect(history[0]).toMatchObject({
      ...{ 'train/zero_signal_share': 1, 'train/zero_signal_left': 1, 'train/resampled_groups': 9 },
      'train/grad_norm': 0,
    });
  });

  it('draws nothing again by default, nor where every group has a signal', async () => {
    const plain = makePolicy();
    await trainGrpo(plain, prompts, never, { ...settings, maxSteps: 1 });
    expect(streamsOf(plain)).toEqual(['rollout']);
    const lively = makePolicy();
    const byLength: ScoreCompletions = (pairs) =>
      Promise.resolve(pairs.map((_, i) => ({ total: i % 16, components: {} })));
    await trainGrpo(lively, prompts, byLength, { ...settings, maxSteps: 1, maxResamples: 3 });
    expect(streamsOf(lively)).toEqual(['rollout']);
  });

  it('draws the same after an interruption', async () => {
    const dynamic = { ...settings, groupSize: 4, batchSize: 2, maxSteps: 6, maxResamples: 3 };
    const whole = makePolicy();
    await trainGrpo(whole, prompts, sparse, dynamic);
    const parted = makePolicy();
    const controller = new AbortController();
    const signal = controller.signal;
    const onRollouts = ({ step }: ScoredRollouts): void => (step === 3 ? controller.abort() : undefined);
    await trainGrpo(parted, prompts, sparse, dynamic, { signal, onRollouts });
    expect(parted.gradients).toHaveLength(3);
    await trainGrpo(parted, prompts, sparse, dynamic, { resume: { ...freshState, step: 3 } });
    expect(parted.sampled).toEqual(whole.sampled);
    expect(parted.gradients).toEqual(whole.gradients);
    expect(streamsOf(whole).length).toBeGreaterThan(8);
  });

  it('multiplies the expected gradient by (1 - q^(n + 1)) / (1 - q), q the share of silent groups', async () => {
    // One token of four, one of them worth 1, groups of two: a group has a signal when just one is a hit.
    const copies = Array.from({ length: 6000 }, (_, i) => ({ id: `p${i}`, tokenIds: PROMPTS[1] }));
    const policy = makePolicy([], 1);
    const probabilities = policy.enumerate(PROMPTS[1]).map(({ probability }) => probability);
    const hit: ScoreCompletions = (pairs) =>
      Promise.resolve(
        pairs.map(({ completion }) => ({ total: Number(completion.tokenIds[0] === 1), components: {} })),
      );
    const q = 1 - 2 * probabilities[1] * (1 - probabilities[1]);
    const { history } = await trainGrpo(policy, copies, hit, {
      ...{ ...settings, batchSize: 6000, groupSize: 2, maxNewTokens: 1, maxSteps: 1, maxResamples: 2 },
      ...{ advantageScale: 'none', loss: { ...loss, type: 'dr_grpo', maxCompletionLength: 1 } },
    });
    // A mean-centred group of two estimates half the reward's gradient.
    const factor = (0.5 * (1 - q ** 3)) / (1 - q);
    const descent = policy.gradients[0].filter((g) => g !== 0);
    expect(descent).toHaveLength(4);
    descent.forEach((g, id) => {
      const exact = probabilities[1] * (Number(id === 1) - probabilities[id]);
      expect(Math.abs(-g - factor * exact), `token ${id}`).toBeLessThan(0.03 * factor * probabilities[1]);
    });
    expect(history[0]['train/zero_signal_share']).toBeCloseTo(q, 1);
    expect(history[0]['train/zero_signal_left']).toBeCloseTo(q ** 3, 1);
  });

  it('reaches the optimum of a sparse reward where most steps have no signal without it', async () => {
    const train = async (maxResamples: number) => {
      // One of 64 completions is worth something.
      const policy = new TabularPolicy({ prompts: [PROMPTS[1]], vocabularySize: 4, maxLength: 3 });
      const { history } = await trainGrpo(policy, [prompts[1]], sparse, {
        ...{ ...settings, batchSize: 1, groupSize: 4, epochs: 40, maxResamples, learningRate: 0.2 },
      });
      const best = policy.enumerate(PROMPTS[1]).find(({ tokenIds }) => tokenIds.every((id) => id === 1));
      const silent = history.filter((record) => record['train/zero_signal_left'] === 1).length;
      return { reward: best?.probability ?? 0, silentSteps: silent };
    };
    const [plain, dynamic] = [await train(0), await train(30)];
    expect(plain.silentSteps).toBeGreaterThan(30);
    expect(plain.reward).toBeLessThan(0.2);
    expect(dynamic.reward).toBeGreaterThan(0.95);
  });
});

describe('keepsSamples', () => {
  it('keeps those of the first step and of every n-th', () => {
    const kept = (every: number): number[] => [1, 2, 3, 4, 5, 6].filter((step) => keepsSamples(step, every));
    expect(kept(1)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(kept(3)).toEqual([1, 3, 6]);
  });
});
