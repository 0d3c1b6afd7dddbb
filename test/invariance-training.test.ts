import { afterAll, describe, expect, it } from 'vitest';
import type { Loss } from '../src/optim/losses';
import type { TrainingRow } from '../src/policy/policy';
import { GrpolabError } from '../src/runtime/errors';
import { Random } from '../src/runtime/random';
import { largestDifference } from './golden-model';
import {
  computeStep,
  disposeAll,
  eightShapes,
  expectSameGradients,
  grpoLoss,
  loadPolicy,
} from './invariance-model';
import {
  makeGroups,
  sequencesOf,
  split,
  temperature,
  tokens,
  unevenShapes,
  whole,
  withKl,
} from './invariance-model';
const policy = loadPolicy();
afterAll(disposeAll);

const losses: [string, Loss][] = [
  ['cross_entropy', { kind: 'cross_entropy' }],
  ['weighted', { kind: 'weighted' }],
  ...(['grpo', 'dr_grpo', 'dapo', 'bnpo', 'cispo'] as const).map((type): [string, Loss] => [
    type,
    { ...withKl, type, ...(type === 'cispo' ? { epsilonHigh: 1.2 } : {}) },
  ]),
  ['grpo by sequence', { ...withKl, ratioLevel: 'sequence' }],
];

/** All but the loss that depends on the split by definition. */
const splittable = losses.filter(([name]) => name !== 'bnpo');

describe('execution modes', () => {
  it.each(['eager', 'xla'] as const)(
    '%s gives what the graph gives',
    async (mode) => {
      const other = loadPolicy(mode);
      const groups = await makeGroups(policy, [
        [5, [17, 4]],
        [16, [1, 16]],
      ]);
      const sequences = sequencesOf(groups);
      const [a, b] = [await policy.logProbs(sequences), await other.logProbs(sequences)];
      a.forEach((values, i) => expect(largestDifference(b[i], values)).toBeLessThan(1e-5));
      const expected = await computeStep(policy, whole(groups), withKl);
      const [batch] = whole(groups);
      const actual = await other.forwardBackward(batch, withKl, { temperature });
      expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-5);
      for (const [name, value] of Object.entries(expected.metrics))
        expect(Math.abs(actual.metrics[name] - value), name).toBeLessThan(1e-5);
      actual.logProbs
        .flat()
        .forEach((values, i) => expect(largestDifference(values, expected.logProbs[i])).toBeLessThan(1e-5));
      const gradients = new Map([...other.pendingGradients()].map(([name, { values }]) => [name, values]));
      expectSameGradients(gradients, expected.gradients, 1e-5);
    },
    120_000,
  );
});

describe('a prompt shared by its completions', () => {
  it.each(splittable)(
    'gives what separate prompts give, whatever the lengths and group sizes (%s)',
    async (_name, loss) => {
      const groups = await makeGroups(policy, unevenShapes);
      const separate = groups.flatMap(({ promptIds, rows }) =>
        rows.map((one) => ({ promptIds, rows: [one] })),
      );
      const expected = await computeStep(policy, whole(separate), loss);
      const alone = await computeStep(policy, split(separate, 1), loss);
      const shared = await computeStep(policy, whole(groups), loss);
      for (const outcome of [alone, shared]) {
        expect(Math.abs(outcome.loss - expected.loss)).toBeLessThan(
          1e-6 * Math.max(1, Math.abs(expected.loss)),
        );
        outcome.logProbs.forEach((values, i) =>
          expect(largestDifference(values, expected.logProbs[i])).toBeLessThan(1e-5),
        );
        expectSameGradients(outcome.gradients, expected.gradients, 1e-4);
      }
    },
  );

  it('gives the same log-probabilities in any order of the sequences', async () => {
    const sequences = sequencesOf(await makeGroups(policy, unevenShapes));
    const together = await policy.logProbs(sequences);
    together.forEach((values, i) => expect(values).toHaveLength(sequences[i].completionIds.length));
    const order = new Random(2).shuffle(sequences.map((_, i) => i));
    const shuffled = await policy.logProbs(order.map((i) => sequences[i]));
    order.forEach((i, k) => expect(largestDifference(shuffled[k], together[i])).toBeLessThan(1e-5));
    for (const [i, sequence] of sequences.entries())
      expect(largestDifference((await policy.logProbs([sequence]))[0], together[i])).toBeLessThan(1e-5);
  });
});

describe('gradient accumulation', () => {
  it.each(splittable)(
    'gives for eight micro-batches, or three unequal ones, what one gives (%s)',
    async (_name, loss) => {
      const groups = await makeGroups(
        policy,
        eightShapes,
        (name) => name.endsWith('3.1') || name.startsWith('row 6'),
      );
      const expected = await computeStep(policy, split(groups, 8), loss);
      for (const size of [1, 3]) {
        const actual = await computeStep(policy, split(groups, size), loss);
        expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(
          1e-6 * Math.max(1, Math.abs(expected.loss)),
        );
        for (const [name, value] of Object.entries(expected.metrics))
          expect(Math.abs(actual.metrics[name] - value), name).toBeLessThan(1e-6);
        expectSameGradients(actual.gradients, expected.gradients, 1e-5);
      }
    },
  );

  it('of bnpo depends on the split, as it divides by the tokens of the micro-batch', async () => {
    const groups = await makeGroups(policy, eightShapes);
    const [one, eight] = [
      await computeStep(policy, split(groups, 8), { ...grpoLoss, type: 'bnpo' }),
      await computeStep(policy, split(groups, 1), { ...grpoLoss, type: 'bnpo' }),
    ];
    const dapo = await computeStep(policy, split(groups, 8), { ...grpoLoss, type: 'dapo' });
    expect(one.loss).toBeCloseTo(dapo.loss, 6);
    expect(Math.abs(eight.loss - one.loss)).toBeGreaterThan(1e-3);
  });

  it('adds gradients up: that of two batches is the sum of theirs', async () => {
    const batches = split(await makeGroups(policy, eightShapes), 4);
    const both = await computeStep(policy, batches, withKl);
    const [a, b] = [
      await computeStep(policy, [batches[0]], withKl),
      await computeStep(policy, [batches[1]], withKl),
    ];
    const sum = new Map([...a.gradients].map(([name, values]) => [name, values.map((v, i) => v + (b.gradients.get(name) as Float32Array)[i])])); // prettier-ignore
    expectSameGradients(both.gradients, sum, 1e-6);
  });
});

describe('rows that are masked out', () => {
  it.each(losses)('have no effect, whatever is in them (%s)', async (_name, loss) => {
    const groups = await makeGroups(policy, unevenShapes, (name) => name === 'row 3.2' || name === 'row 1.0');
    const broken = groups.map(({ promptIds, rows }) => ({
      promptIds,
      rows: rows.map((one, r): TrainingRow => {
        if (one.mask === undefined) return one;
        const fill = (value: number): number[] => one.tokenIds.map(() => value);
        return {
          ...one,
          tokenIds: tokens(`other ${r}`, one.tokenIds.length, 600),
          weights: fill(NaN),
          oldLogProbs: fill(-Infinity),
          referenceLogProbs: fill(Infinity),
        };
      }),
    }));
    expect(broken).not.toEqual(groups);
    const expected = await computeStep(policy, whole(groups), loss);
    const actual = await computeStep(policy, whole(broken), loss);
    expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-7);
    for (const [name, value] of Object.entries(expected.metrics)) expect(actual.metrics[name], name).toBeCloseTo(value, 6); // prettier-ignore
    expectSameGradients(actual.gradients, expected.gradients, 1e-5);
  });

  it('are counted as rows by grpo, not as tokens by dapo', async () => {
    const groups = await makeGroups(policy, eightShapes, (name) => name.endsWith('.1'));
    const kept = groups.map(({ promptIds, rows }) => ({ promptIds, rows: rows.slice(0, 1) }));
    for (const [type, ratio] of [
      ['grpo', 0.5],
      ['dr_grpo', 0.5],
      ['dapo', 1],
    ] as const) {
      const loss = { ...withKl, type };
      const masked = await computeStep(policy, whole(groups), loss);
      const dropped = await computeStep(policy, whole(kept), loss);
      expect(masked.loss / dropped.loss).toBeCloseTo(ratio, 4);
    }
  });
});

describe('a batch that says one thing for some rows and another for others', () => {
  it.each(['oldLogProbs', 'referenceLogProbs'] as const)('%s for some rows only is refused', async (key) => {
    const [group] = await makeGroups(policy, [[4, [3, 5]]]);
    delete group.rows[1][key];
    await expect(policy.forwardBackward(whole([group])[0], withKl)).rejects.toThrow(GrpolabError);
  });

  it('a row without the advantage that its loss needs is refused', async () => {
    const [group] = await makeGroups(policy, [[4, [3, 5]]]);
    delete group.rows[1].advantage;
    await expect(policy.forwardBackward(whole([group])[0], grpoLoss)).rejects.toThrow(GrpolabError);
  });

  it('a prompt without tokens is refused', async () => {
    await expect(policy.logProbs([{ promptIds: [], completionIds: [1, 2] }])).rejects.toThrow(GrpolabError);
    const [group] = await makeGroups(policy, [[4, [3]]]);
    const [batch] = whole([{ ...group, promptIds: [] }]);
    await expect(policy.forwardBackward(batch, losses[0][1])).rejects.toThrow(GrpolabError);
  });
});
