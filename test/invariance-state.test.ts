import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { LoraAdapter } from '../src/model/lora';
import type { ModelConfig } from '../src/model/config';
import { readAdapter, writeAdapter } from '../src/model/peft';
import type { AdapterConfig } from '../src/model/peft';
import { LocalPolicy } from '../src/policy/local';
import type { TrainingGroup } from '../src/policy/policy';
import { CheckpointError, ConfigError, GrpolabError } from '../src/runtime/errors';
import { binding, tf } from '../src/runtime/tf';
import { largestDifference } from './golden-model';
import {
  adapterDirectory,
  computeStep,
  disposeAll,
  factorValues,
  keep,
  loadPolicy,
} from './invariance-model';
import {
  makeGroups,
  modelDirectory,
  sequencesOf,
  split,
  temperature,
  unevenShapes,
} from './invariance-model';
import { whole, withKl } from './invariance-model';

afterEach(disposeAll);

/** Takes optimiser steps that change the weights visibly. */
async function train(policy: LocalPolicy, groups: readonly TrainingGroup[], steps: number): Promise<void> {
  for (let step = 0; step < steps; step++) {
    for (const batch of split(groups, 2)) await policy.forwardBackward(batch, { kind: 'cross_entropy' });
    await policy.optimStep({ learningRate: 1e-2, clipNorm: 1 });
  }
}

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
      computeStep(policy, whole(training), withKl);
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
        completions.map((completion) => ({
          promptIds: prompt.tokenIds,
          completionIds: completion.tokenIds,
          completion,
        })),
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

/** Writes a new adapter. @returns its directory */
async function freshAdapter(model: ModelConfig, config: AdapterConfig): Promise<string> {
  const directory = temporaryDirectory();
  const adapter = LoraAdapter.create(model, config, 1);
  await writeAdapter(directory, adapter.toPeft());
  adapter.dispose();
  return directory;
}

/** Equal to the last bit; without a page of numbers when it is not. */
function isSame(a: ReadonlyMap<string, Float32Array>, b: ReadonlyMap<string, Float32Array>): boolean {
  return a.size === b.size && [...b].every(([name, values]) => a.get(name)?.every((v, i) => v === values[i]));
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
    expect(isSame(factorValues(opened), saved)).toBe(true);
    expect(await opened.logProbs(sequencesOf(groups))).toEqual(logProbs);
    await train(policy, groups, 1);
    expect(isSame(factorValues(policy), saved)).toBe(false);
    await policy.load(directory);
    expect(isSame(factorValues(policy), saved)).toBe(true);
    expect(await policy.logProbs(sequencesOf(groups))).toEqual(logProbs);
    expect(await policy.sample(prompts, options)).toEqual(sampled);
  });

  it('of another model, rank, alpha or choice of projections is refused, and changes nothing', async () => {
    const policy = loadPolicy();
    const { config: model } = policy;
    const own = readAdapter(adapterDirectory, model).config;
    const strangers = {
      'another width': [{ ...model, intermediateSize: model.intermediateSize + 8 }, own],
      'more layers': [{ ...model, numHiddenLayers: model.numHiddenLayers + 1 }, own],
      'fewer layers': [{ ...model, numHiddenLayers: model.numHiddenLayers - 1 }, own],
      'another rank': [model, { ...own, r: own.r + 1 }],
      'another alpha': [model, { ...own, lora_alpha: own.lora_alpha * 2 }],
      'fewer projections': [model, { ...own, target_modules: own.target_modules.slice(1) }],
    } as const;
    const before = factorValues(policy);
    for (const [name, [config, adapterConfig]] of Object.entries(strangers)) {
      await expect(policy.load(await freshAdapter(config, adapterConfig)), name).rejects.toThrow(
        GrpolabError,
      );
      expect(isSame(factorValues(policy), before), name).toBe(true);
    }
    await expect(policy.load(temporaryDirectory())).rejects.toThrow(CheckpointError);
  });

  it('on as many, but other projections is refused', async () => {
    const { config } = loadPolicy();
    const own = readAdapter(adapterDirectory, config).config;
    const queries = { ...own, target_modules: ['q_proj'] };
    const policy = keep(LocalPolicy.load({ modelDirectory, lora: queries }));
    const directory = await freshAdapter(config, { ...own, target_modules: ['o_proj'] });
    await expect(policy.load(directory)).rejects.toThrow(GrpolabError);
  });

  it('cannot be loaded into the bare model, which has nothing to train either', async () => {
    const bare = keep(LocalPolicy.load({ modelDirectory }));
    await expect(bare.load(adapterDirectory)).rejects.toThrow(ConfigError);
    const batch = whole([{ promptIds: [1], rows: [{ tokenIds: [2] }] }])[0];
    await expect(bare.forwardBackward(batch, { kind: 'cross_entropy' })).rejects.toThrow(ConfigError);
  });
});

describe('a gradient that is not finite', () => {
  it.each([NaN, Infinity])(
    'skips the update and leaves weights and moments as they were (%s)',
    async (bad) => {
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
      expect(isSame(factorValues(policy), before)).toBe(true);
      await expect(policy.optimStep({ learningRate: 1 })).rejects.toThrow(/forwardBackward/);
      await train(policy, groups, 1);
      await train(twin, groups, 1);
      expect(isSame(factorValues(policy), factorValues(twin))).toBe(true);
    },
  );
});

describe('memory', () => {
  it.each(['graph', 'eager'] as const)('is flat from the second step on (%s)', async (mode) => {
    const policy = loadPolicy(mode);
    policy.freezeReference();
    const groups = await makeGroups(policy, unevenShapes.slice(0, 3));
    const prompts = groups.map(({ promptIds }, i) => ({ id: `p${i}`, tokenIds: promptIds }));
    const counts: number[][] = [];
    for (let step = 0; step < 5; step++) {
      await policy.sample(prompts, {
        groupSize: 2,
        temperature: 0.8,
        topP: 0.9,
        maxNewTokens: 6,
        seed: step,
      });
      for (const of of ['policy', 'reference'] as const) await policy.logProbs(sequencesOf(groups), { of });
      for (const batch of split(groups, 2)) await policy.forwardBackward(batch, withKl, { temperature });
      await policy.optimStep({ learningRate: 1e-3, clipNorm: 1 });
      counts.push([tf.memory().numTensors, tf.memory().numDataBuffers, binding.getNumOfTensors()]);
    }
    for (const count of counts.slice(2)) expect(count).toEqual(counts[1]);
  });

  it.each(['lora', 'all'] as const)('is given back by dispose (trainable: %s)', async (trainable) => {
    const before = [tf.memory().numTensors, binding.getNumOfTensors()];
    const policy =
      trainable === 'lora' ? loadPolicy() : keep(LocalPolicy.load({ modelDirectory, trainable }));
    if (trainable === 'lora') policy.freezeReference();
    const groups = await makeGroups(policy, unevenShapes.slice(0, 2));
    await policy.sample([{ id: 'p', tokenIds: [1, 2] }], {
      groupSize: 2,
      temperature: 1,
      maxNewTokens: 3,
      seed: 0,
    });
    await train(policy, groups, 1);
    await policy.forwardBackward(whole(groups)[0], withKl);
    disposeAll();
    expect([tf.memory().numTensors, binding.getNumOfTensors()]).toEqual(before);
  });
});
