import { afterAll, describe, expect, it } from 'vitest';
import { readModelConfig } from '../src/model/config';
import { loadWeights } from '../src/model/load';
import { LoraAdapter } from '../src/model/lora';
import { readAdapter } from '../src/model/peft';
import { LocalPolicy } from '../src/policy/local';
import type { TrainingGroup } from '../src/policy/policy';
import { GrpolabError } from '../src/runtime/errors';
import { largestDifference } from './golden-model';
import {
  adapterDirectory,
  computeStep,
  disposeAll,
  expectSameGradients,
  keep,
  modelDirectory,
} from './invariance-model';
import { sequencesOf, split, temperature, tokens, whole } from './invariance-model';

const model = readModelConfig(modelDirectory);
const stored = readAdapter(adapterDirectory, model);
const adapter = new LoraAdapter(model, { ...stored.config, lora_dropout: 0.4 }, stored.matrices);
const policy = keep(new LocalPolicy(model, loadWeights(modelDirectory, model), adapter));
afterAll(disposeAll);

const sft = { kind: 'cross_entropy' } as const;

/** Examples as SFT gives them, with two of GRPO's shape, at the given visit. */
function makeGroups(visit: number | null): TrainingGroup[] {
  return [
    [4, [9]],
    [16, [3]],
    [17, [20]],
    [2, [5, 18]],
  ].map(([promptLength, lengths], g) => ({
    ...(visit === null ? {} : { dropoutKey: { seed: 6, example: `example ${g}`, visit } }),
    promptIds: tokens(`prompt ${g}`, promptLength as number, 600),
    rows: (lengths as number[]).map((length, r) => ({ tokenIds: tokens(`row ${g}.${r}`, length, 600) })),
  }));
}

describe('dropout in training', () => {
  it('of an example does not depend on the batch that it is in', async () => {
    const groups = makeGroups(0);
    const together = await computeStep(policy, whole(groups), sft);
    for (const batches of [split(groups, 1), whole(groups.slice().reverse())]) {
      const other = await computeStep(policy, batches, sft);
      expect(Math.abs(other.loss - together.loss)).toBeLessThan(1e-6 * Math.abs(together.loss));
      expectSameGradients(other.gradients, together.gradients, 1e-5);
    }
    const alone = (await computeStep(policy, split(groups, 1), sft)).logProbs;
    alone.forEach((values, i) => expect(largestDifference(values, together.logProbs[i])).toBeLessThan(1e-5));
  });

  it('changes with the visit, and not otherwise', async () => {
    const [first, again, second] = [
      await computeStep(policy, whole(makeGroups(0)), sft),
      await computeStep(policy, whole(makeGroups(0)), sft),
      await computeStep(policy, whole(makeGroups(1)), sft),
    ];
    expect(again.logProbs).toEqual(first.logProbs);
    second.logProbs.forEach((values, i) =>
      expect(largestDifference(values, first.logProbs[i])).toBeGreaterThan(1e-3),
    );
  });

  it('does not act in logProbs, in sampling, and on groups without a key', async () => {
    const groups = makeGroups(null);
    const logProbs = await policy.logProbs(sequencesOf(groups), { temperature });
    const plain = await computeStep(policy, whole(groups), sft);
    const dropped = await computeStep(policy, whole(makeGroups(0)), sft);
    logProbs.forEach((values, i) => {
      expect(largestDifference(plain.logProbs[i], values)).toBeLessThan(1e-5);
      expect(largestDifference(dropped.logProbs[i], values)).toBeGreaterThan(1e-3);
    });
    const prompt = { id: 'p', tokenIds: groups[0].promptIds };
    const [{ completions }] = await policy.sample([prompt], {
      ...{ groupSize: 1, temperature: 1, maxNewTokens: 8, seed: 0, stopTokenIds: [] },
    });
    const [recomputed] = await policy.logProbs([
      { promptIds: prompt.tokenIds, completionIds: completions[0].tokenIds },
    ]);
    expect(largestDifference(completions[0].logProbs, recomputed)).toBeLessThan(1e-4);
  });

  it('of many visits has the mean gradient near that without dropout', async () => {
    const [group] = makeGroups(null);
    const plain = await computeStep(policy, whole([group]), sft);
    const visits = Array.from({ length: 64 }, (_, visit) => makeGroups(visit)[0]);
    const mean = await computeStep(policy, split(visits, 16), sft);
    for (const [name, values] of plain.gradients) {
      const other = mean.gradients.get(name) as Float32Array;
      const dot = values.reduce((sum, value, i) => sum + value * other[i], 0);
      const cosine = dot / (Math.hypot(...values) * Math.hypot(...other));
      expect(cosine, name).toBeGreaterThan(0.9);
      expect(Math.hypot(...other) / Math.hypot(...values), name).toBeCloseTo(1, 0);
    }
  });

  it('for some groups of a micro-batch only is refused', async () => {
    const [batch] = whole([makeGroups(0)[0], makeGroups(null)[1]]);
    await expect(policy.forwardBackward(batch, sft)).rejects.toThrow(GrpolabError);
  });
});
