import { afterAll, describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { groupAdvantages, leaveOneOut } from '../optim/advantages';
import type { GrpoLoss, Loss } from '../optim/losses';
import { tf } from '../runtime/tf';
import type { TrainingRow } from './policy';
import type { EnumeratedCompletion } from './tabular';
import { TabularPolicy } from './tabular';

interface Estimator {
  expectation: number[];
}

interface Toy {
  one_step: {
    logits: number[];
    reference_logits: number[];
    rewards: number[];
    pi: number[];
    J: number;
    grad_J: number[];
    kl: number;
    grad_kl_pi_ref: number[];
    grad_of_sampled_k3: number[];
    grad_of_sampled_k3_times_ratio: number[];
    grpo_G: number;
    grpo_expected_gradient: Record<
      string,
      Estimator & { examples: { actions: number[]; advantages: number[]; estimate: number[] }[] }
    >;
    diversity: {
      n: number;
      distance: number[][];
      expected_D: number;
      grad_expected_D: number[];
      polychromic: { lambda: number; target: number; grad: number[] };
    };
  };
  two_steps: {
    step1_logits: number[];
    step2_logits_given_step1: number[][];
    rewards: number[][];
    probabilities: number[];
    sequences: number[][];
    J: number;
    grad_J_step1: number[];
    grad_J_step2: number[][];
    distance: number[][];
    n: number;
    grad_expected_D_step1: number[];
    grad_expected_D_step2: number[][];
  };
}

const { one_step: one, two_steps: two } = readGolden<Toy>('toy-grpo.json');
const numTensors = tf.memory().numTensors;
afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));

const PROMPT = [7];

function oneStepPolicy(): TabularPolicy {
  const size = one.logits.length;
  return new TabularPolicy({
    prompts: [PROMPT],
    vocabularySize: size,
    maxLength: 1,
    initialLogits: () => one.logits,
  });
}

/** The second step has fewer actions than the first: the others get a logit that makes them impossible. */
function twoStepPolicy(): TabularPolicy {
  const size = two.step1_logits.length;
  const fill = (logits: number[]): number[] => Array.from({ length: size }, (_, id) => logits[id] ?? -1e9);
  return new TabularPolicy({
    prompts: [PROMPT],
    vocabularySize: size,
    maxLength: 2,
    initialLogits: (_prompt, prefix) =>
      fill(prefix.length === 0 ? two.step1_logits : two.step2_logits_given_step1[prefix[0]]),
  });
}

/** Advantage times log-probability, on policy: the surrogate, summed over tokens, a mean over rows. */
const surrogate: GrpoLoss = {
  kind: 'grpo',
  type: 'dr_grpo',
  epsilonLow: 0.2,
  epsilonHigh: 0.2,
  beta: 0,
  klBiasCorrection: false,
  ratioLevel: 'token',
  maxCompletionLength: 1,
};

/** Adds the gradient of a loss of these rows to the pending one. */
async function addGradient(policy: TabularPolicy, rows: TrainingRow[], loss: Loss): Promise<void> {
  const groups = [{ promptIds: PROMPT, rows }];
  await policy.forwardBackward(
    { groups, totalRows: rows.length, totalTokens: 1, totalMicroBatches: 1 },
    loss,
  );
}

/** Every group of n completions drawn independently, as indices into `completions`, with its probability. */
function everyGroup(
  completions: readonly EnumeratedCompletion[],
  n: number,
): { members: number[]; probability: number }[] {
  if (n === 0) return [{ members: [], probability: 1 }];
  return everyGroup(completions, n - 1).flatMap(({ members, probability }) =>
    completions.map((completion, i) => ({
      members: [...members, i],
      probability: probability * completion.probability,
    })),
  );
}

function possible(policy: TabularPolicy): EnumeratedCompletion[] {
  return policy.enumerate(PROMPT).filter(({ probability }) => probability > 0);
}

/** E over groups of the gradient of a loss whose rows are linear in their credits, which are scaled by probability. */
async function expectedGradient(
  policy: TabularPolicy,
  n: number,
  creditsOf: (members: number[]) => number[],
  kind: 'advantage' | 'weights',
): Promise<void> {
  const completions = possible(policy);
  for (const { members, probability } of everyGroup(completions, n)) {
    const rows = creditsOf(members).map((credit, i): TrainingRow => {
      const { tokenIds } = completions[members[i]];
      const scaled = credit * probability;
      return kind === 'advantage'
        ? { tokenIds, advantage: scaled }
        : { tokenIds, weights: tokenIds.map(() => scaled) };
    });
    await addGradient(policy, rows, kind === 'advantage' ? surrogate : { kind: 'weighted' });
  }
}

function expectClose(got: readonly number[], expected: readonly number[], tolerance = 1e-6): void {
  expected.forEach((value, i) => expect(Math.abs(got[i] - value)).toBeLessThan(tolerance));
}

const ascent = (gradient: number[]): number[] => gradient.map((g) => -g);

function pairwiseMean(members: readonly number[], distance: readonly number[][]): number {
  const pairs = members.flatMap((a, i) => members.slice(i + 1).map((b) => distance[a][b]));
  return pairs.reduce((sum, value) => sum + value, 0) / pairs.length;
}

/** D(all) - D(all but i): the credit of sample i for the diversity of the group. */
function diversityCredits(members: readonly number[], distance: readonly number[][]): number[] {
  return members.map(
    (_, i) =>
      pairwiseMean(members, distance) -
      pairwiseMean(
        members.filter((_member, j) => j !== i),
        distance,
      ),
  );
}

describe('a tabular policy of one step, against enumeration in torch', () => {
  it('has the probabilities and the expected reward', () => {
    const completions = oneStepPolicy().enumerate(PROMPT);
    const probabilities = completions.map(({ probability }) => probability);
    expectClose(probabilities, one.pi, 1e-12);
    const J = probabilities.reduce((sum, p, i) => sum + p * one.rewards[i], 0);
    expect(Math.abs(J - one.J)).toBeLessThan(1e-12);
  });

  const rules: [string, (rewards: number[]) => number[]][] = [
    ['scale_none', (rewards) => groupAdvantages([rewards], { scale: 'none' })[0]],
    ['scale_group_eps1e-4_ddof1', (rewards) => groupAdvantages([rewards])[0]],
    ['leave_one_out', (rewards) => leaveOneOut([rewards])[0]],
  ];

  it.each(rules)('has the expected GRPO gradient over all groups: %s', async (name, advantagesOf) => {
    const policy = oneStepPolicy();
    const credits = (members: number[]): number[] => advantagesOf(members.map((i) => one.rewards[i]));
    await expectedGradient(policy, one.grpo_G, credits, 'advantage');
    const expected = one.grpo_expected_gradient[name].expectation;
    expectClose(ascent(policy.pendingGradient(PROMPT, [])), expected);
    if (name === 'leave_one_out') expectClose(expected, one.grad_J, 1e-12);
  });

  it.each(rules)('has the advantages and the gradient of single groups: %s', async (name, advantagesOf) => {
    for (const { actions, advantages, estimate } of one.grpo_expected_gradient[name].examples) {
      const policy = oneStepPolicy();
      const got = advantagesOf(actions.map((i) => one.rewards[i]));
      expectClose(got, advantages, 1e-9);
      const rows = actions.map((action, i) => ({ tokenIds: [action], advantage: got[i] }));
      await addGradient(policy, rows, surrogate);
      expectClose(ascent(policy.pendingGradient(PROMPT, [])), estimate);
    }
  });

  it.each([
    [false, one.grad_of_sampled_k3],
    [true, one.grad_of_sampled_k3_times_ratio],
  ])('has the gradient of the sampled KL term, times the ratio: %s', async (klBiasCorrection, expected) => {
    const policy = oneStepPolicy();
    const reference = new TabularPolicy({
      prompts: [PROMPT],
      vocabularySize: one.logits.length,
      maxLength: 1,
      initialLogits: () => one.reference_logits,
    });
    const total = new Array<number>(one.logits.length).fill(0);
    let kl = 0;
    for (const { tokenIds, probability } of policy.enumerate(PROMPT)) {
      const sample = oneStepPolicy();
      const [referenceLogProbs] = await reference.logProbs([{ promptIds: PROMPT, completionIds: tokenIds }]);
      const groups = [{ promptIds: PROMPT, rows: [{ tokenIds, advantage: 0, referenceLogProbs }] }];
      const batch = { groups, totalRows: 1, totalTokens: 1, totalMicroBatches: 1 };
      const { metrics } = await sample.forwardBackward(batch, { ...surrogate, beta: 1, klBiasCorrection });
      sample.pendingGradient(PROMPT, []).forEach((g, i) => (total[i] += probability * g));
      kl += probability * metrics.kl_per_completion;
    }
    expectClose(total, expected);
    if (klBiasCorrection) expectClose(total, one.grad_kl_pi_ref);
    expect(Math.abs(kl - one.kl)).toBeLessThan(1e-6);
  });

  it('has the gradient of the expected diversity and of the polychromic objective', async () => {
    const { n, distance, grad_expected_D, polychromic } = one.diversity;
    const policy = oneStepPolicy();
    const credits = (members: number[]): number[] => diversityCredits(members, distance);
    await expectedGradient(policy, n, credits, 'weights');
    expectClose(ascent(policy.pendingGradient(PROMPT, [])), grad_expected_D);

    const whole = oneStepPolicy();
    await addGradient(whole, [{ tokenIds: [polychromic.target] }], { kind: 'cross_entropy' });
    const weighted = (members: number[]): number[] => credits(members).map((c) => c * polychromic.lambda);
    await expectedGradient(whole, n, weighted, 'weights');
    expectClose(whole.pendingGradient(PROMPT, []), polychromic.grad);
  });
});

describe('a tabular policy of two steps, against enumeration in torch', () => {
  const actions = two.step2_logits_given_step1[0].length;

  function expectGradient(policy: TabularPolicy, step1: number[], step2: number[][]): void {
    expectClose(ascent(policy.pendingGradient(PROMPT, [])), step1);
    step2.forEach((expected, first) => {
      expectClose(ascent(policy.pendingGradient(PROMPT, [first])).slice(0, actions), expected);
    });
  }

  it('has the probabilities of the sequences and the expected reward', () => {
    const completions = possible(twoStepPolicy());
    expect(completions.map(({ tokenIds }) => tokenIds)).toEqual(two.sequences);
    expectClose(
      completions.map(({ probability }) => probability),
      two.probabilities,
      1e-12,
    );
    const J = completions.reduce(
      (sum, { tokenIds: [a, b], probability }) => sum + probability * two.rewards[a][b],
      0,
    );
    expect(Math.abs(J - two.J)).toBeLessThan(1e-12);
  });

  it('has the gradient of the expected reward at both steps, by leave-one-out over all groups', async () => {
    const policy = twoStepPolicy();
    const completions = possible(policy);
    const credits = (members: number[]): number[] =>
      leaveOneOut([
        members.map((i) => two.rewards[completions[i].tokenIds[0]][completions[i].tokenIds[1]]),
      ])[0];
    await expectedGradient(policy, 2, credits, 'advantage');
    expectGradient(policy, two.grad_J_step1, two.grad_J_step2);
  });

  it('has the gradient of the expected diversity at both steps', async () => {
    const policy = twoStepPolicy();
    await expectedGradient(policy, two.n, (members) => diversityCredits(members, two.distance), 'weights');
    expectGradient(policy, two.grad_expected_D_step1, two.grad_expected_D_step2);
  });
});
