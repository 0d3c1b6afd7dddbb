import { describe, expect, it } from 'vitest';
import { loss, makePolicy, prompts, score, settings } from '../../test/tabular-task';
import { groupAdvantages, leaveOneOut, withDiversity } from '../optim/advantages';
import { leaveOneOutCredits } from '../optim/diversity-credit';
import { TabularPolicy } from '../policy/tabular';
import type { ScoreCompletions } from '../rewards/replies';
import { ConfigError, NumericError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { trainGrpo } from './grpo';
import type { ScoredRollouts } from './grpo';
import type { MeasureDiversity } from './rollouts';

type Tokens = readonly number[];
type SetFunction = (set: readonly Tokens[]) => number;

/** A mean over pairs of the positions, weighted, in which two completions differ. */
const pairwise: SetFunction = (set) => {
  const distances = set.flatMap((a, i) =>
    set.slice(i + 1).map((b) => a.reduce((sum, id, t) => sum + (id === b[t] ? 0 : 1 / (t + 1)), 0)),
  );
  return distances.reduce((a, b) => a + b, 0) / distances.length;
};

/** Different tokens over tokens: no mean over pairs. */
const distinct: SetFunction = (set) => new Set(set.flat()).size / set.flat().length;

const PROMPT = [0];
const PREFIXES = [[], [0], [1], [2]];
/** Three tokens, two positions, no end token: nine completions. `bump` adds to one of the twelve logits. */
function makeSmall(bump: { at: number; by: number } = { at: -1, by: 0 }): TabularPolicy {
  return new TabularPolicy({
    ...{ prompts: [PROMPT], vocabularySize: 3, maxLength: 2 },
    initialLogits: (_, prefix) => {
      const state = PREFIXES.findIndex((one) => one.join() === prefix.join());
      const random = new Random(3, prefix.join());
      return [0, 1, 2].map((id) => random.normal() + (bump.at === state * 3 + id ? bump.by : 0));
    },
  });
}

const rewardOf = ([a, b]: Tokens): number => (a === b ? 0.7 : 0.2) + 0.1 * a;

/** Every tuple of n completions, with its probability. */
function tuples(policy: TabularPolicy, n: number): { set: Tokens[]; probability: number }[] {
  const all = policy.enumerate(PROMPT);
  let made: { set: Tokens[]; probability: number }[] = [{ set: [], probability: 1 }];
  for (let i = 0; i < n; i++)
    made = made.flatMap(({ set, probability }) =>
      all.map((next) => ({
        set: [...set, next.tokenIds],
        probability: probability * next.probability,
      })),
    );
  return made;
}

/** Gradient of E[r] + w E[D(y_1..y_n)] in the twelve logits, by central differences of the enumerated expectation. */
function exactGradient(diversity: SetFunction, n: number, weight: number): number[] {
  const objective = (policy: TabularPolicy): number =>
    tuples(policy, n).reduce(
      (sum, { set, probability }) => sum + probability * (rewardOf(set[0]) + weight * diversity(set)),
      0,
    );
  const h = 1e-4;
  return Array.from({ length: 12 }, (_, at) => {
    const [above, below] = [h, -h].map((by) => objective(makeSmall({ at, by })));
    return (above - below) / (2 * h);
  });
}

/** The expected ascent direction of one GRPO step over all tuples of G completions, through the policy's own backward pass. */
async function expectedAscent(
  diversity: SetFunction,
  groupSize: number,
  weight: number,
  advantagesOf: (signals: number[]) => number[],
): Promise<number[]> {
  const policy = makeSmall();
  const groups = [];
  for (const { set, probability } of tuples(policy, groupSize)) {
    const { credits } = await leaveOneOutCredits(
      (indices) => diversity(indices.map((i) => set[i])),
      groupSize,
    );
    const advantages = advantagesOf(withDiversity(set.map(rewardOf), credits, weight));
    const rows = set.map((tokenIds, i) => ({ tokenIds, advantage: probability * advantages[i] }));
    groups.push({ promptIds: PROMPT, rows });
  }
  const batch = { groups, totalRows: groupSize, totalTokens: 1, totalMicroBatches: 1 };
  await policy.forwardBackward(batch, { ...loss, type: 'dr_grpo', maxCompletionLength: 1 });
  return PREFIXES.flatMap((prefix) => policy.pendingGradient(PROMPT, prefix)).map((g) => -g);
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(Math.hypot(...expected)).toBeGreaterThan(0.01);
  actual.forEach((value, i) => expect(Math.abs(value - expected[i]), `logit ${i}`).toBeLessThan(1e-6));
}

const unscaled = (signals: number[]): number[] => groupAdvantages([signals], { scale: 'none' })[0];

describe('the expected gradient with diversity as a reward of the set', () => {
  it.each([
    [3, 0],
    [3, 0.4],
    [4, 0.4],
    [3, -2],
  ])('is (G - 1)/G of that of reward and diversity, G = %d and w = %d', async (groupSize, weight) => {
    const exact = exactGradient(pairwise, groupSize, weight);
    const share = (groupSize - 1) / groupSize;
    expectClose(
      await expectedAscent(pairwise, groupSize, weight, unscaled),
      exact.map((g) => g * share),
    );
  });

  it('is that of reward and diversity itself with the leave-one-out baseline', async () => {
    const ascent = await expectedAscent(pairwise, 3, 0.4, (signals) => leaveOneOut([signals])[0]);
    expectClose(ascent, exactGradient(pairwise, 3, 0.4));
  });

  it('of a diversity that is no mean over pairs is that of the diversity of G - 1 completions', async () => {
    const ascent = await expectedAscent(distinct, 3, 0.8, unscaled);
    const [two, three] = [2, 3].map((n) => exactGradient(distinct, n, 0.8).map((g) => (g * 2) / 3));
    expectClose(ascent, two);
    expect(Math.max(...ascent.map((g, i) => Math.abs(g - three[i])))).toBeGreaterThan(1e-3);
  });
});

const measure = (completions: readonly { tokenIds: number[] }[]): number =>
  distinct(completions.map(({ tokenIds }) => tokenIds));

describe('GRPO with a diversity weight', () => {
  it('adds the weighted credits to the rewards that advantages are made of', async () => {
    const policy = makePolicy();
    const seen: ScoredRollouts[] = [];
    const { history } = await trainGrpo(
      policy,
      prompts,
      score,
      { ...settings, groupSize: 4, maxSteps: 1, diversityWeight: 0.6 },
      { diversity: measure, onRollouts: (rollouts) => void seen.push(rollouts) },
    );
    const [{ groups, scores }] = seen;
    const signals = groups.map(({ completions }, g) => {
      const whole = measure(completions);
      const credits = completions.map((one) => whole - measure(completions.filter((other) => other !== one)));
      return scores[g].map(({ total }, i) => total + 0.6 * 3 * credits[i]);
    });
    const rows = policy.batches.flatMap(({ batch }) => batch.groups.map((group) => group.rows));
    groupAdvantages(signals).forEach((group, g) =>
      group.forEach((advantage, i) => expect(rows[g][i].advantage).toBeCloseTo(advantage, 9)),
    );
    const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
    expect(history[0]['train/diversity']).toBeCloseTo(mean(groups.map((g) => measure(g.completions))), 12);
    expect(history[0]['train/avg_reward']).toBeCloseTo(mean(scores.flat().map(({ total }) => total)), 12);
  });

  it('keeps both of two good completions alive, and with a negative weight one', async () => {
    // One token: 0 and 1 are equally good, 2 is worth nothing. The policy begins with a liking for 0.
    const good: ScoreCompletions = (pairs) =>
      Promise.resolve(
        pairs.map(({ completion }) => ({ total: Number(completion.tokenIds[0] < 2), components: {} })),
      );
    const train = async (diversityWeight: number): Promise<number[]> => {
      const policy = new TabularPolicy({
        ...{ prompts: [PROMPT], vocabularySize: 3, maxLength: 1, initialLogits: () => [1.5, 0, 1] },
      });
      const oneToken = { maxNewTokens: 1, groupSize: 8, batchSize: 4, epochs: 60, learningRate: 0.1 };
      const copies = Array.from({ length: 4 }, (_, i) => ({ id: `p${i}`, tokenIds: PROMPT }));
      const scaled = { advantageScale: 'none', diversityWeight } as const;
      const diversity: MeasureDiversity = (set) => pairwise(set.map(({ tokenIds }) => tokenIds));
      await trainGrpo(policy, copies, good, { ...settings, ...oneToken, ...scaled }, { diversity });
      return policy.enumerate(PROMPT).map(({ probability }) => probability);
    };
    const [collapsed, plain, diverse] = [await train(-0.3), await train(0), await train(0.3)];
    for (const [a, b] of [plain, diverse]) expect(a + b).toBeGreaterThan(0.95);
    expect(collapsed[0]).toBeGreaterThan(0.95);
    expect(plain[0] - plain[1]).toBeGreaterThan(0.3);
    expect(Math.abs(diverse[0] - diverse[1])).toBeLessThan(0.2);
  });

  it('measures nothing without a weight', async () => {
    const diversity = (): number => {
      throw new Error('not asked for');
    };
    const { history } = await trainGrpo(
      makePolicy(),
      prompts,
      score,
      { ...settings, maxSteps: 1 },
      { diversity },
    );
    expect(history[0]).not.toHaveProperty('train/diversity');
  });

  it('refuses a weight without a measure, groups of two, and a diversity that is not a number', async () => {
    const weighted = { ...settings, maxSteps: 1, diversityWeight: 0.3 };
    const policy = makePolicy();
    await expect(trainGrpo(policy, prompts, score, weighted)).rejects.toThrow(ConfigError);
    const two = { ...weighted, groupSize: 2 };
    await expect(trainGrpo(policy, prompts, score, two, { diversity: measure })).rejects.toThrow(ConfigError);
    expect(policy.sampled).toHaveLength(0);
    const broken = trainGrpo(policy, prompts, score, weighted, { diversity: () => NaN });
    await expect(broken).rejects.toThrow(NumericError);
  });
});
