import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { LoraAdapter } from '../src/model/lora';
import { readAdapter, writeAdapter } from '../src/model/peft';
import type { Loss } from '../src/optim/losses';
import { LocalPolicy } from '../src/policy/local';
import type { MicroBatch, TrainingGroup, TrainingRow } from '../src/policy/policy';
import { CheckpointError, ConfigError, GrpolabError } from '../src/runtime/errors';
import { Random } from '../src/runtime/random';
import { binding, tf } from '../src/runtime/tf';
import { largestDifference } from './golden-model';
import { computeStep, disposeAll, expectSameGradients, factorValues, grpoLoss, keep } from './invariance-model';
import { adapterDirectory, loadPolicy, modelDirectory, split, tokens } from './invariance-model';

afterEach(disposeAll);

const temperature = 0.8;

/** A row with all that any loss asks for; log-probabilities of others are the policy's own, moved a little. */
function row(name: string, length: number, own: Float32Array, truncated = false): TrainingRow {
  const random = new Random(3, 'row', name);
  const near = (scale: number): number[] => Array.from(own, (value) => value + scale * random.normal());
  return {
    tokenIds: tokens(name, length, 600),
    advantage: random.normal(),
    weights: Array.from(own, () => random.normal() / 10),
    oldLogProbs: near(0.2),
    referenceLogProbs: near(0.3),
    ...(truncated ? { mask: new Float32Array(length) } : {}),
  };
}

/** Prompt lengths and completion lengths, uneven on purpose, around the bucket boundaries. */
const unevenShapes: [number, number[]][] = [
  [1, [7]],
  [16, [1, 16, 3]],
  [5, [17, 4]],
  [17, [2, 2, 33, 16]],
];
/** Eight prompts with two completions each. */
const eightShapes: [number, number[]][] = Array.from({ length: 8 }, (_, i) => [3 + 4 * i, [1 + 3 * i, 20 - 2 * i]]);

async function makeGroups(
  policy: LocalPolicy,
  shapes: readonly [number, number[]][],
  isTruncated: (name: string) => boolean = () => false,
): Promise<TrainingGroup[]> {
  const groups: TrainingGroup[] = [];
  for (const [g, [promptLength, lengths]] of shapes.entries()) {
    const promptIds = tokens(`prompt ${g}`, promptLength, 600);
    const names = lengths.map((_, r) => `row ${g}.${r}`);
    const own = await policy.logProbs(
      lengths.map((length, r) => ({ promptIds, completionIds: tokens(names[r], length, 600) })),
      { temperature },
    );
    const rows = lengths.map((length, r) => row(names[r], length, own[r], isTruncated(names[r])));
    groups.push({ promptIds, rows });
  }
  return groups;
}

const withKl = { ...grpoLoss, beta: 0.1 };
const losses: [string, Loss][] = [
  ['cross_entropy', { kind: 'cross_entropy' }],
  ['weighted', { kind: 'weighted' }],
  ...(['grpo', 'dr_grpo', 'dapo', 'bnpo', 'cispo'] as const).map(
    (type): [string, Loss] => [type, { ...withKl, type, ...(type === 'cispo' ? { epsilonHigh: 1.2 } : {}) }],
  ),
  ['grpo by sequence', { ...withKl, ratioLevel: 'sequence' }],
];
const whole = (groups: readonly TrainingGroup[]): MicroBatch[] => split(groups, groups.length);

describe('execution modes', () => {
  it.each(['eager', 'xla'] as const)('%s gives what the graph gives', async (mode) => {
    const [graph, other] = [loadPolicy('graph'), loadPolicy(mode)];
    const groups = await makeGroups(graph, unevenShapes.slice(0, 3));
    const sequences = groups.flatMap(({ promptIds, rows }) =>
      rows.map(({ tokenIds }) => ({ promptIds, completionIds: tokenIds })),
    );
    const [a, b] = [await graph.logProbs(sequences), await other.logProbs(sequences)];
    a.forEach((values, i) => expect(largestDifference(b[i], values)).toBeLessThan(1e-5));
    for (const loss of [losses[0][1], withKl]) {
      const expected = await computeStep(graph, whole(groups), loss, temperature);
      const actual = await computeStep(other, whole(groups), loss, temperature);
      expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-5);
      for (const [name, value] of Object.entries(expected.metrics))
        expect(Math.abs(actual.metrics[name] - value), name).toBeLessThan(1e-5);
      actual.logProbs.forEach((values, i) =>
        expect(largestDifference(values, expected.logProbs[i])).toBeLessThan(1e-5),
      );
      expectSameGradients(actual.gradients, expected.gradients, 1e-5);
    }
  });
});

describe('a prompt shared by its completions', () => {
  it.each(losses.filter(([name]) => name !== 'bnpo'))(
    'gives what separate prompts give, whatever the lengths and group sizes (%s)',
    async (_name, loss) => {
      const policy = loadPolicy();
      const groups = await makeGroups(policy, unevenShapes);
      const separate = groups.flatMap(({ promptIds, rows }) => rows.map((one) => ({ promptIds, rows: [one] })));
      const expected = await computeStep(policy, whole(separate), loss, temperature);
      const alone = await computeStep(policy, split(separate, 1), loss, temperature);
      const shared = await computeStep(policy, whole(groups), loss, temperature);
      for (const outcome of [alone, shared]) {
        expect(Math.abs(outcome.loss - expected.loss)).toBeLessThan(1e-6);
        outcome.logProbs.forEach((values, i) =>
          expect(largestDifference(values, expected.logProbs[i])).toBeLessThan(1e-5),
        );
        expectSameGradients(outcome.gradients, expected.gradients, 1e-4);
      }
    },
  );

  it('gives the same log-probabilities in any order of the sequences', async () => {
    const policy = loadPolicy();
    const sequences = (await makeGroups(policy, unevenShapes)).flatMap(({ promptIds, rows }) =>
      rows.map(({ tokenIds }) => ({ promptIds, completionIds: tokenIds })),
    );
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
  it.each(losses.filter(([name]) => name !== 'bnpo'))('1 x 8 is 4 x 2 is 8 x 1 (%s)', async (_name, loss) => {
    const policy = loadPolicy();
    const groups = await makeGroups(policy, eightShapes, (name) => name.endsWith('3.1') || name.startsWith('row 6'));
    const expected = await computeStep(policy, split(groups, 8), loss, temperature);
    for (const size of [1, 2, 3]) {
      const actual = await computeStep(policy, split(groups, size), loss, temperature);
      expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-6);
      for (const [name, value] of Object.entries(expected.metrics))
        expect(Math.abs(actual.metrics[name] - value), name).toBeLessThan(1e-6);
      expectSameGradients(actual.gradients, expected.gradients, 1e-5);
    }
  });

  it('of bnpo depends on the split, as it divides by the tokens of the micro-batch', async () => {
    const policy = loadPolicy();
    const groups = await makeGroups(policy, eightShapes);
    const [one, eight] = [
      await computeStep(policy, split(groups, 8), { ...grpoLoss, type: 'bnpo' }, temperature),
      await computeStep(policy, split(groups, 1), { ...grpoLoss, type: 'bnpo' }, temperature),
    ];
    const dapo = await computeStep(policy, split(groups, 8), { ...grpoLoss, type: 'dapo' }, temperature);
    expect(one.loss).toBeCloseTo(dapo.loss, 6);
    expect(Math.abs(eight.loss - one.loss)).toBeGreaterThan(1e-3);
  });

  it('adds up over unequal visits: the gradient of two batches is the sum of theirs', async () => {
    const policy = loadPolicy();
    const batches = split(await makeGroups(policy, eightShapes), 4);
    const both = await computeStep(policy, batches, withKl, temperature);
    const [a, b] = [
      await computeStep(policy, [batches[0]], withKl, temperature),
      await computeStep(policy, [batches[1]], withKl, temperature),
    ];
    const sum = new Map([...a.gradients].map(([name, values]) => [name, values.map((v, i) => v + (b.gradients.get(name) as Float32Array)[i])])); // prettier-ignore
    expectSameGradients(both.gradients, sum, 1e-6);
  });
});

describe('rows that are masked out', () => {
  it.each(losses)('have no effect, whatever is in them (%s)', async (_name, loss) => {
    const policy = loadPolicy();
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
    const expected = await computeStep(policy, whole(groups), loss, temperature);
    const actual = await computeStep(policy, whole(broken), loss, temperature);
    expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-7);
    for (const [name, value] of Object.entries(expected.metrics)) expect(actual.metrics[name], name).toBeCloseTo(value, 6); // prettier-ignore
    expectSameGradients(actual.gradients, expected.gradients, 1e-5);
  });

  it('are counted as rows by grpo, not as tokens by dapo', async () => {
    const policy = loadPolicy();
    const groups = await makeGroups(policy, eightShapes, (name) => name.endsWith('.1'));
    const kept = groups.map(({ promptIds, rows }) => ({ promptIds, rows: rows.slice(0, 1) }));
    for (const [type, ratio] of [['grpo', 0.5], ['dr_grpo', 0.5], ['dapo', 1]] as const) {
      const loss = { ...withKl, type };
      const masked = await computeStep(policy, whole(groups), loss, temperature);
      const dropped = await computeStep(policy, whole(kept), loss, temperature);
      expect(masked.loss / dropped.loss).toBeCloseTo(ratio, 4);
    }
  });
});

describe('a batch that says one thing for some rows and another for others', () => {
  it.each(['oldLogProbs', 'referenceLogProbs'] as const)('%s for some rows only is refused', async (key) => {
    const policy = loadPolicy();
    const [group] = await makeGroups(policy, [[4, [3, 5]]]);
    delete group.rows[1][key];
    await expect(policy.forwardBackward(whole([group])[0], withKl)).rejects.toThrow(GrpolabError);
  });

  it('a row without the advantage that its loss needs is refused', async () => {
    const policy = loadPolicy();
    const [group] = await makeGroups(policy, [[4, [3, 5]]]);
    delete group.rows[1].advantage;
    await expect(policy.forwardBackward(whole([group])[0], grpoLoss)).rejects.toThrow(GrpolabError);
  });

  it('a prompt without tokens is refused', async () => {
    const policy = loadPolicy();
    await expect(policy.logProbs([{ promptIds: [], completionIds: [1, 2] }])).rejects.toThrow(GrpolabError);
    const [group] = await makeGroups(policy, [[4, [3]]]);
    const [batch] = whole([{ ...group, promptIds: [] }]);
    await expect(policy.forwardBackward(batch, losses[0][1])).rejects.toThrow(GrpolabError);
  });
});

/** Takes optimiser steps that change the weights visibly. */
async function train(policy: LocalPolicy, groups: readonly TrainingGroup[], steps: number): Promise<void> {
  for (let step = 0; step < steps; step++) {
    for (const batch of split(groups, 2)) await policy.forwardBackward(batch, { kind: 'cross_entropy' });
    await policy.optimStep({ learningRate: 1e-2, clipNorm: 1 });
  }
}

const sequencesOf = (groups: readonly TrainingGroup[]) =>
  groups.flatMap(({ promptIds, rows }) => rows.map(({ tokenIds }) => ({ promptIds, completionIds: tokenIds })));

describe('the reference', () => {
  it('stays what it was when it was frozen, while the policy moves', async () => {
    const policy = loadPolicy();
    const groups = await makeGroups(policy, unevenShapes);
    const sequences = sequencesOf(groups);
    const bare = await policy.logProbs(sequences, { of: 'reference' });
    const start = await policy.logProbs(sequences);
    expect(largestDifference(bare[0], start[0])).toBeGreaterThan(1e-3);
    policy.freezeReference();
    expect(await policy.logProbs(sequences, { of: 'reference' })).toEqual(start);
    await train(policy, groups, 2);
    expect(await policy.logProbs(sequences, { of: 'reference' })).toEqual(start);
    const moved = await policy.logProbs(sequences);
    moved.forEach((values, i) => expect(largestDifference(values, start[i])).toBeGreaterThan(1e-3));
    policy.freezeReference();
    expect(await policy.logProbs(sequences, { of: 'reference' })).toEqual(moved);
  });

  it('has a KL of 0 to the policy at the start, and above 0 after a step', async () => {
    const policy = loadPolicy();
    policy.freezeReference();
    const groups = await makeGroups(policy, unevenShapes);
    const flat = await policy.logProbs(sequencesOf(groups), { of: 'reference', temperature });
    let next = 0;
    const training = groups.map(({ promptIds, rows }) => ({
      promptIds,
      rows: rows.map(({ tokenIds, advantage }) => ({ tokenIds, advantage, referenceLogProbs: flat[next++] })),
    }));
    const step = (): Promise<{ metrics: Record<string, number>; loss: number }> =>
      computeStep(policy, whole(training), withKl, temperature);
    const first = await step();
    for (const name of ['kl_loss', 'kl_per_token', 'kl_per_completion'])
      expect(Math.abs(first.metrics[name]), name).toBeLessThan(1e-6);
    expect(Math.abs(first.loss - first.metrics.policy_loss)).toBeLessThan(1e-6);
    await train(policy, groups, 1);
    const second = await step();
    expect(second.metrics.kl_per_completion).toBeGreaterThan(1e-3);
    expect(second.loss).toBeCloseTo(second.metrics.policy_loss + 0.1 * second.metrics.kl_loss, 6);
  });
});

describe('sampling after an update', () => {
  it('uses the new weights', async () => {
    const policy = loadPolicy();
    const groups = await makeGroups(policy, unevenShapes.slice(0, 2));
    const prompts = groups.map(({ promptIds }, i) => ({ id: `p${i}`, tokenIds: promptIds }));
    const options = { groupSize: 2, temperature: 1, maxNewTokens: 12, seed: 1, stopTokenIds: [] };
    const before = await policy.sample(prompts, options);
    for (let round = 0; round < 2; round++) {
      await train(policy, groups, 1);
      const after = await policy.sample(prompts, options);
      const rows = after.flatMap(({ prompt, completions }) =>
        completions.map((completion) => ({ promptIds: prompt.tokenIds, completionIds: completion.tokenIds, completion })),
      );
      const recomputed = await policy.logProbs(rows);
      rows.forEach(({ completion }, i) =>
        expect(largestDifference(completion.logProbs, recomputed[i])).toBeLessThan(1e-4),
      );
    }
    const old = before[0].completions[0];
    const now = await policy.logProbs([{ promptIds: prompts[0].tokenIds, completionIds: old.tokenIds }]);
    expect(largestDifference(now[0], old.logProbs)).toBeGreaterThan(1e-2);
  });
});

function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'grpolab-invariance-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

describe('a saved adapter', () => {
  it('comes back to the last bit, in a new policy and in this one', async () => {
    const policy = loadPolicy();
    const groups = await makeGroups(policy, unevenShapes);
    await train(policy, groups, 2);
    const directory = join(temporaryDirectory(), 'adapter');
    await policy.save(directory);
    const [saved, logProbs] = [factorValues(policy), await policy.logProbs(sequencesOf(groups))];
    const options = { groupSize: 1, temperature: 1, maxNewTokens: 6, seed: 1, stopTokenIds: [] };
    const prompts = [{ id: 'p', tokenIds: groups[1].promptIds }];
    const sampled = await policy.sample(prompts, options);
    const opened = keep(LocalPolicy.load({ modelDirectory, adapterDirectory: directory }));
    expect(factorValues(opened)).toEqual(saved);
    expect(await opened.logProbs(sequencesOf(groups))).toEqual(logProbs);
    await train(policy, groups, 1);
    expect(factorValues(policy)).not.toEqual(saved);
    await policy.load(directory);
    expect(factorValues(policy)).toEqual(saved);
    expect(await policy.logProbs(sequencesOf(groups))).toEqual(logProbs);
    expect(await policy.sample(prompts, options)).toEqual(sampled);
  });

  it('of another model, rank, alpha or choice of projections is refused, and changes nothing', async () => {
    const policy = loadPolicy();
    const { config: model } = policy;
    const own = readAdapter(adapterDirectory, model).config;
    const [first, ...others] = own.target_modules;
    const strangers = {
      'another width': [{ ...model, intermediateSize: model.intermediateSize + 8 }, own],
      'more layers': [{ ...model, numHiddenLayers: model.numHiddenLayers + 1 }, own],
      'fewer layers': [{ ...model, numHiddenLayers: model.numHiddenLayers - 1 }, own],
      'another rank': [model, { ...own, r: own.r + 1 }],
      'another alpha': [model, { ...own, lora_alpha: own.lora_alpha * 2 }],
      'fewer projections': [model, { ...own, target_modules: others }],
    } as const;
    const before = factorValues(policy);
    expect(first).toBeDefined();
    for (const [name, [config, adapterConfig]] of Object.entries(strangers)) {
      const directory = temporaryDirectory();
      const adapter = LoraAdapter.create(config, adapterConfig, 1);
      await writeAdapter(directory, adapter.toPeft());
      adapter.dispose();
      await expect.soft(policy.load(directory), name).rejects.toThrow(GrpolabError);
      expect.soft(factorValues(policy), name).toEqual(before);
    }
    const nothing = temporaryDirectory();
    await expect(policy.load(nothing)).rejects.toThrow(CheckpointError);
  });

  it('cannot be loaded into the bare model, which has nothing to train either', async () => {
    const bare = keep(LocalPolicy.load({ modelDirectory }));
    await expect(bare.load(adapterDirectory)).rejects.toThrow(ConfigError);
    const batch = whole([{ promptIds: [1], rows: [{ tokenIds: [2] }] }])[0];
    await expect(bare.forwardBackward(batch, { kind: 'cross_entropy' })).rejects.toThrow(ConfigError);
  });
});

describe('a gradient that is not finite', () => {
  it.each([NaN, Infinity])('skips the update and leaves weights and moments as they were (%s)', async (bad) => {
    const [policy, twin] = [loadPolicy(), loadPolicy()];
    const groups = await makeGroups(policy, unevenShapes.slice(0, 2));
    await train(policy, groups, 1);
    await train(twin, groups, 1);
    const before = factorValues(policy);
    const rows = [{ tokenIds: [3, 4], weights: [bad, 0] }];
    const [batch] = whole([{ promptIds: [1, 2], rows }]);
    for (const one of [batch, whole(groups)[0]]) await policy.forwardBackward(one, { kind: 'weighted' });
    const { gradNorm, skipped } = await policy.optimStep({ learningRate: 1, clipNorm: 1 });
    expect(skipped).toBe(true);
    expect(Number.isFinite(gradNorm)).toBe(false);
    expect(factorValues(policy)).toEqual(before);
    await expect(policy.optimStep({ learningRate: 1 })).rejects.toThrow(/forwardBackward/);
    await train(policy, groups, 1);
    await train(twin, groups, 1);
    expect(factorValues(policy)).toEqual(factorValues(twin));
  });
});

describe('memory', () => {
  it.each(['graph', 'eager'] as const)('is flat from the second step on (%s)', async (mode) => {
    const policy = loadPolicy(mode);
    policy.freezeReference();
    const groups = await makeGroups(policy, unevenShapes.slice(0, 3));
    const prompts = groups.map(({ promptIds }, i) => ({ id: `p${i}`, tokenIds: promptIds }));
    const counts: number[][] = [];
    for (let step = 0; step < 5; step++) {
      await policy.sample(prompts, { groupSize: 2, temperature: 0.8, topP: 0.9, maxNewTokens: 6, seed: step });
      for (const of of ['policy', 'reference'] as const) await policy.logProbs(sequencesOf(groups), { of });
      for (const batch of split(groups, 2)) await policy.forwardBackward(batch, withKl, { temperature });
      await policy.optimStep({ learningRate: 1e-3, clipNorm: 1 });
      counts.push([tf.memory().numTensors, tf.memory().numDataBuffers, binding.getNumOfTensors()]);
    }
    for (const count of counts.slice(2)) expect(count).toEqual(counts[1]);
  });

  it('is given back by dispose', async () => {
    const before = [tf.memory().numTensors, binding.getNumOfTensors()];
    const policy = loadPolicy();
    policy.freezeReference();
    const groups = await makeGroups(policy, unevenShapes.slice(0, 2));
    await policy.sample([{ id: 'p', tokenIds: [1, 2] }], { groupSize: 2, temperature: 1, maxNewTokens: 3, seed: 0 });
    await train(policy, groups, 1);
    await policy.forwardBackward(whole(groups)[0], withKl);
    disposeAll();
    expect([tf.memory().numTensors, binding.getNumOfTensors()]).toEqual(before);
  });
});
