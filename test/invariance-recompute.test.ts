import { afterAll, describe, expect, it } from 'vitest';
import { readModelConfig } from '../src/model/config';
import { loadWeights, randomWeights } from '../src/model/load';
import { LoraAdapter } from '../src/model/lora';
import { activationBytes } from '../src/model/memory';
import { readAdapter } from '../src/model/peft';
import { LocalPolicy } from '../src/policy/local';
import type { LocalPolicyOptions } from '../src/policy/local';
import type { TrainingGroup } from '../src/policy/policy';
import type { ExecutionMode } from '../src/runtime/compile';
import { tf } from '../src/runtime/tf';
import {
  adapterDirectory,
  computeStep,
  disposeAll,
  expectSameGradients,
  keep,
  makeGroups,
  modelDirectory,
  split,
  tokens,
  unevenShapes,
  whole,
  withKl,
} from './invariance-model';

const model = readModelConfig(modelDirectory);
const stored = readAdapter(adapterDirectory, model);
afterAll(disposeAll);

/** The tiny model with the golden adapter. */
function open(options: Partial<LocalPolicyOptions>, dropout = 0, targets?: string[]): LocalPolicy {
  const config = { ...stored.config, lora_dropout: dropout };
  const matrices = new Map(
    [...stored.matrices].filter(([name]) => targets?.some((target) => name.endsWith(target)) ?? true),
  );
  const adapter = new LoraAdapter(model, config, matrices);
  return keep(new LocalPolicy(model, loadWeights(modelDirectory, model), adapter, options));
}

const withKeys = (groups: TrainingGroup[]): TrainingGroup[] =>
  groups.map((group, g) => ({ ...group, dropoutKey: { seed: 6, example: `example ${g}`, visit: 0 } }));

/** The highest resident size that this process has had, in bytes. */
const peak = (): number => process.resourceUsage().maxRSS * 1024;

describe('layers computed again in the backward pass', () => {
  // First in this file: a process's peak only grows.
  it('are not kept in a graph: the peak of resident memory is lower by most of the activations', async () => {
    const config = { ...model, numHiddenLayers: 6, hiddenSize: 64, headDim: 32, intermediateSize: 256 };
    const shape = { P: 1, G: 8, Tp: 64, Tc: 256 };
    const rows = Array.from({ length: shape.G }, (_, g) => ({
      tokenIds: tokens(`row ${g}`, shape.Tc, config.vocabSize),
    }));
    const promptIds = tokens('prompt', shape.Tp, config.vocabSize);
    const groups = withKeys([{ promptIds, rows }]);
    const peakOf = async (gradientCheckpointing: boolean): Promise<number> => {
      const adapter = LoraAdapter.create(config, { ...stored.config, lora_dropout: 0.1 }, 1);
      const policy = new LocalPolicy(config, randomWeights(config, 1), adapter, {
        mode: 'graph',
        gradientCheckpointing,
      });
      await computeStep(policy, whole(groups), { kind: 'cross_entropy' });
      policy.dispose();
      return peak();
    };
    const recomputed = await peakOf(true);
    const kept = await peakOf(false);
    const rank = stored.config.r;
    const saved =
      activationBytes(config, shape, rank) - activationBytes(config, shape, rank, { recompute: true });
    expect(kept - recomputed).toBeGreaterThan(saved / 2);
  });

  it.each<[ExecutionMode, number]>([
    ['graph', 0],
    ['graph', 0.4],
    ['eager', 0.4],
  ])('give the same loss and gradients (%s, dropout %s)', async (mode, dropout) => {
    const kept = open({ mode }, dropout);
    const again = open({ mode, gradientCheckpointing: true }, dropout);
    const groups = withKeys(await makeGroups(kept, unevenShapes));
    const expected = await computeStep(kept, whole(groups), withKl);
    const actual = await computeStep(again, whole(groups), withKl);
    expect(actual.loss).toBe(expected.loss);
    expect(actual.logProbs).toEqual(expected.logProbs);
    expectSameGradients(actual.gradients, expected.gradients, 1e-6);
  });

  it('give every weight its gradient when all are trained', async () => {
    const load = (gradientCheckpointing: boolean): LocalPolicy =>
      keep(LocalPolicy.load({ modelDirectory, trainable: 'all', gradientCheckpointing }));
    const [kept, again] = [load(false), load(true)];
    const groups = await makeGroups(kept, unevenShapes);
    const expected = await computeStep(kept, whole(groups), { kind: 'cross_entropy' });
    const actual = await computeStep(again, whole(groups), { kind: 'cross_entropy' });
    expectSameGradients(actual.gradients, expected.gradients, 1e-6);
  });

  it('serve an adapter on a few projections', async () => {
    const targets = ['q_proj', 'down_proj'];
    const [kept, again] = [open({}, 0, targets), open({ gradientCheckpointing: true }, 0, targets)];
    const groups = await makeGroups(kept, unevenShapes);
    const expected = await computeStep(kept, split(groups, 2), withKl);
    const actual = await computeStep(again, split(groups, 2), withKl);
    expectSameGradients(actual.gradients, expected.gradients, 1e-6);
  });

  it.each(['graph', 'eager'] as const)('leave no tensors behind (%s)', async (mode) => {
    const policy = open({ mode, gradientCheckpointing: true }, 0.4);
    const groups = withKeys(await makeGroups(policy, unevenShapes));
    const step = () => computeStep(policy, whole(groups), withKl);
    await step();
    const before = tf.memory().numTensors;
    await step();
    await step();
    expect(tf.memory().numTensors).toBe(before);
  });
});
