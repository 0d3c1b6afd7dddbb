/** The policy on a server against the local one: the same rows and adapter give the same losses, and the same steps. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { largestDifference, relativeDifference } from '../../test/golden-model';
import { disposeAll, factorValues, grpoLoss, keep, makeGroups } from '../../test/invariance-model';
import { modelDirectory, sequencesOf, split, tokens, whole } from '../../test/invariance-model';
import { TinkerServer } from '../../test/tinker-server';
import { readModelConfig } from '../model/config';
import type { GrpoLoss, Loss } from '../optim/losses';
import { LocalPolicy } from './local';
import type { MicroBatch, OptimStepOptions, Policy, TrainingGroup, TrainingRow } from './policy';
import { TinkerPolicy } from './tinker';

const root = mkdtempSync(path.join(tmpdir(), 'tinker-policy-'));
const start = path.join(root, 'start');
const config = readModelConfig(modelDirectory);

let server: TinkerServer;
let remote: TinkerPolicy;
let local: LocalPolicy;
let groups: TrainingGroup[];

/** Both policies at the adapter of `start`, whose B is not zero. */
beforeAll(async () => {
  server = await TinkerServer.start({ modelDirectory });
  const connection = { baseUrl: server.baseUrl };
  remote = await TinkerPolicy.open({ connection, config, stopTokenIds: [], rank: 4, seed: 7 });
  const rows = [{ tokenIds: tokens('first', 12, 600), weights: Array<number>(12).fill(1) }];
  const batch = {
    groups: [{ promptIds: [5, 6], rows }],
    totalRows: 1,
    totalTokens: 12,
    totalMicroBatches: 1,
  };
  await remote.forwardBackward(batch, { kind: 'weighted' });
  await remote.optimStep({ learningRate: 0.02 });
  await remote.save(start);
  local = keep(LocalPolicy.load({ modelDirectory, adapterDirectory: start }));
  groups = await makeGroups(local, [
    [4, [7, 3]],
    [1, [12]],
    [9, [1, 5]],
  ]);
  groups[0].rows[0].mask = [1, 1, 0, 1, 0, 1, 1];
  groups[2].rows[1].mask = new Float32Array(5);
});

afterAll(async () => {
  await remote.dispose();
  await server.dispose();
  disposeAll();
  rmSync(root, { recursive: true, force: true });
});

/** The rows without some of their fields. */
function without(...fields: (keyof TrainingRow)[]): TrainingGroup[] {
  return groups.map((group) => ({
    ...group,
    rows: group.rows.map((row) => {
      const entries = Object.entries(row).filter(([key]) => !fields.includes(key as keyof TrainingRow));
      return Object.fromEntries(entries) as unknown as TrainingRow;
    }),
  }));
}

/** The change of all factors by what is done, in one array. */
async function changeOf(policy: Policy, work: () => Promise<unknown>): Promise<number[]> {
  const factors = async (): Promise<number[]> => {
    if (policy instanceof LocalPolicy)
      return [...factorValues(policy).values()].flatMap((values) => [...values]);
    const directory = mkdtempSync(path.join(root, 'factors-'));
    await policy.save(directory);
    const copy = LocalPolicy.load({ modelDirectory, adapterDirectory: directory });
    const values = [...factorValues(copy).values()].flatMap((own) => [...own]);
    copy.dispose();
    return values;
  };
  const before = await factors();
  await work();
  const after = await factors();
  return after.map((value, i) => value - before[i]);
}

function correlation(a: readonly number[], b: readonly number[]): number {
  const dot = a.reduce((sum, value, i) => sum + value * b[i], 0);
  return dot / (Math.hypot(...a) * Math.hypot(...b));
}

function expectSameChange(actual: readonly number[], expected: readonly number[]): void {
  const norm = Math.hypot(...expected);
  expect(norm).toBeGreaterThan(1e-3);
  expect(correlation(actual, expected)).toBeGreaterThan(0.999);
  expect(Math.abs(Math.hypot(...actual) / norm - 1)).toBeLessThan(1e-3);
}

/** Without moments, and with an eps beside which a gradient is nothing, the change of a weight is -0.1 times its gradient. */
const plainStep: OptimStepOptions = { learningRate: 100, betas: [0, 0], eps: 1000 };

/** One step of both policies from `start`, micro-batch by micro-batch: equal losses, metrics, gradients. */
async function expectSameStep(batches: readonly MicroBatch[], ...losses: Loss[]): Promise<void> {
  await remote.load(start);
  await local.load(start);
  for (const [i, batch] of batches.entries()) {
    const loss = losses[i % losses.length];
    const actual = await remote.forwardBackward(batch, loss);
    const expected = await local.forwardBackward(batch, loss);
    expect(Object.keys(actual.metrics)).toEqual(Object.keys(expected.metrics));
    for (const [name, value] of Object.entries({ ...expected.metrics, loss: expected.loss })) {
      const own = name === 'loss' ? actual.loss : actual.metrics[name];
      expect(Math.abs(own - value), name).toBeLessThan(1e-4 * Math.max(1, Math.abs(value)));
    }
    const [own, others] = [actual.logProbs.flat(), expected.logProbs.flat()];
    own.forEach((values, i) => expect(largestDifference(values, others[i])).toBeLessThan(1e-4));
    expect(actual.entropies).toBeNull();
  }
  const norms: number[] = [];
  const step = async (policy: Policy): Promise<void> => {
    const result = await policy.optimStep(plainStep);
    expect(result.skipped).toBe(false);
    norms.push(result.gradNorm);
  };
  const actual = await changeOf(remote, () => step(remote));
  expectSameChange(actual, await changeOf(local, () => step(local)));
  expect(Math.abs(norms[0] / norms[1] - 1)).toBeLessThan(1e-3);
}

const types = ['grpo', 'dr_grpo', 'dapo', 'bnpo', 'cispo'] as const;

describe.each(types)('a step of %s equals the local one', (type) => {
  const loss: GrpoLoss = { ...grpoLoss, type, epsilonHigh: type === 'cispo' ? 1.1 : 0.2 };

  it('without old log-probabilities', async () => {
    await expectSameStep(whole(without('oldLogProbs', 'referenceLogProbs')), loss);
  });

  it('in a second iteration, with ratios beyond the clip', async () => {
    const batches = split(without('referenceLogProbs'), 1);
    await expectSameStep(batches, loss);
    const { metrics } = await local.forwardBackward(batches[0], loss);
    expect(metrics.clip_fraction).toBeGreaterThan(0);
    await local.optimStep({ learningRate: 0 });
  });

  it.each([false, true])('with a KL term, bias correction %s', async (klBiasCorrection) => {
    await expectSameStep(split(groups, 2), { ...loss, beta: 0.3, klBiasCorrection });
  });
});

describe('a step equals the local one', () => {
  it('with one ratio a sequence', async () => {
    await expectSameStep(split(groups, 1), {
      ...grpoLoss,
      ratioLevel: 'sequence',
      epsilonHigh: 0.02,
      beta: 0.1,
    });
  });

  it('with two-sided clipping', async () => {
    await expectSameStep(whole(groups), { ...grpoLoss, delta: 1.1 });
  });

  it('of a weighted loss', async () => {
    await expectSameStep(split(groups, 2), { kind: 'weighted' });
  });

  it('of two losses with rows of their own, as polychromic training has them', async () => {
    const [first, second] = [whole(groups.slice(0, 1)), whole(groups.slice(1))];
    await expectSameStep([...first, ...second], { kind: 'cross_entropy' }, { kind: 'weighted' });
  });

  it('of cross entropy', async () => {
    await expectSameStep(split(groups, 1), { kind: 'cross_entropy' });
  });
});

describe('log-probabilities', () => {
  it('are those of the downloaded adapter', async () => {
    await remote.load(start);
    await local.load(start);
    const sequences = sequencesOf(groups);
    const [actual, expected] = [await remote.logProbs(sequences), await local.logProbs(sequences)];
    expected.forEach((values, i) => expect(largestDifference(actual[i], values)).toBeLessThan(1e-4));
    expect(await remote.logProbs([])).toEqual([]);
  });

  it('of samples are those of the policy that sampled, at any temperature', async () => {
    await remote.load(start);
    const options = { groupSize: 3, temperature: 0.7, topK: 50, maxNewTokens: 9, seed: 3 };
    const sampled = await remote.sample([{ id: 'a', tokenIds: [9, 8, 7] }], options);
    for (const { prompt, completions } of sampled)
      for (const { tokenIds, logProbs, finishReason } of completions) {
        const [values] = await local.logProbs([{ promptIds: prompt.tokenIds, completionIds: tokenIds }]);
        expect(largestDifference(logProbs, values)).toBeLessThan(1e-4);
        expect(finishReason).toBe('length');
        expect(tokenIds).toHaveLength(9);
      }
  });

  it('of the reference are those of what the policy was opened with', async () => {
    const bare = keep(LocalPolicy.load({ modelDirectory }));
    const sequences = sequencesOf(groups);
    const [actual, expected] = [
      await remote.logProbs(sequences, { of: 'reference' }),
      await bare.logProbs(sequences),
    ];
    expected.forEach((values, i) => expect(largestDifference(actual[i], values)).toBeLessThan(1e-4));
    expect(largestDifference(actual[0], (await remote.logProbs(sequences))[0])).toBeGreaterThan(1e-3);
  });
});

describe('steps with moments', () => {
  const options: OptimStepOptions = { learningRate: 0.01, betas: [0.8, 0.9], eps: 1e-6, weightDecay: 1 };
  const loss: Loss = { kind: 'weighted' };

  /** Micro-batches that differ, so that moments matter. */
  const step = async (policy: Policy, i: number): Promise<void> => {
    for (const batch of split([groups[i % groups.length]], 1)) await policy.forwardBackward(batch, loss);
    await policy.optimStep(options);
  };

  it('equal the local ones, from the first on', async () => {
    const connection = { baseUrl: server.baseUrl };
    const fresh = await TinkerPolicy.open({ connection, config, stopTokenIds: [], rank: 4, seed: 8 });
    const directory = path.join(root, 'fresh');
    await fresh.save(directory);
    const twin = keep(LocalPolicy.load({ modelDirectory, adapterDirectory: directory }));
    for (let i = 0; i < 3; i++) {
      const actual = await changeOf(fresh, () => step(fresh, i));
      const expected = await changeOf(twin, () => step(twin, i));
      expect(relativeDifference(actual, expected)).toBeLessThan(5e-3);
    }
    await fresh.dispose();
  });

  it('go on after a load as if nothing had been, with weights and moments', async () => {
    const saved = path.join(root, 'after-two');
    await remote.load(start);
    await step(remote, 0);
    await step(remote, 1);
    await remote.save(saved);
    const expected = await changeOf(remote, () => step(remote, 2));
    const connection = { baseUrl: server.baseUrl };
    const other = await TinkerPolicy.open({ connection, config, stopTokenIds: [], rank: 4, seed: 99 });
    await other.load(saved);
    expect(relativeDifference(await changeOf(other, () => step(other, 2)), expected)).toBeLessThan(1e-5);
    await other.dispose();
    // Without the moments the step is another one.
    const bare = keep(LocalPolicy.load({ modelDirectory, adapterDirectory: saved }));
    expect(relativeDifference(await changeOf(bare, () => step(bare, 2)), expected)).toBeGreaterThan(0.1);
  });
});
