import { describe, expect, it } from 'vitest';
import type { Loss } from '../optim/losses';
import type { FullForwardBackwardResult, MicroBatch } from '../policy/policy';
import { TabularPolicy } from '../policy/tabular';
import { NumericError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { sftLoss, trainSft } from './sft';
import type { SftSettings } from './sft';

const END = 3;
const PROMPTS = [[0], [1], [2], [3], [4]];

/** Replies of different lengths, one a prompt, each with its end token. */
const examples = [[0, END], [1, 2, END], [END], [2, 2, 1, END], [1, 0, END]].map((completionIds, i) => ({
  id: `e${i}`,
  promptIds: PROMPTS[i],
  completionIds,
}));

/** Remembers what the loop asked for. */
class RecordingPolicy extends TabularPolicy {
  readonly batches: { batch: MicroBatch; loss: Loss }[] = [];

  override forwardBackward(batch: MicroBatch, loss: Loss): Promise<FullForwardBackwardResult> {
    this.batches.push({ batch, loss });
    return super.forwardBackward(batch, loss);
  }
}

function makePolicy(broken: readonly number[] = []): RecordingPolicy {
  return new RecordingPolicy({
    prompts: PROMPTS,
    vocabularySize: 4,
    maxLength: 4,
    stopTokenIds: [END],
    initialLogits: (promptIds, prefix) => {
      const random = new Random(8, promptIds.join(), prefix.join());
      const isBroken = broken.includes(promptIds[0]);
      return Array.from({ length: 4 }, () => (isBroken ? NaN : random.normal()));
    },
  });
}

const settings: SftSettings = {
  ...{ learningRate: 0.1, schedule: 'cosine', warmupRatio: 0, betas: [0.9, 0.999], eps: 1e-8 },
  ...{ weightDecay: 0, clipNorm: 1, epochs: 60, batchSize: 5, accumulation: 1, seed: 2 },
};

/** Probability of an example's whole reply. */
function probability(policy: TabularPolicy, { promptIds, completionIds }: (typeof examples)[number]): number {
  const all = policy.enumerate(promptIds);
  return all.find(({ tokenIds }) => tokenIds.join() === completionIds.join())?.probability ?? NaN;
}

describe('trainSft', () => {
  it('raises the probability of every reply to near 1', async () => {
    const policy = makePolicy();
    const before = examples.map((example) => probability(policy, example));
    const { history, steps, interrupted } = await trainSft(policy, examples, {
      ...settings,
      ...{ learningRate: 0.2, epochs: 100 },
    });
    expect([steps, interrupted, history.length]).toEqual([100, false, 100]);
    examples.forEach((example, i) => {
      expect(before[i]).toBeLessThan(0.7);
      expect(probability(policy, example)).toBeGreaterThan(0.95);
    });
    const losses = history.map((record) => record['train/loss']);
    expect(losses[losses.length - 1]).toBeLessThan(0.05 * losses[0]);
    expect(await sftLoss(policy, examples)).toBeLessThan(losses[losses.length - 1] + 1e-3);
  });

  it('moves the logits along the exact gradient of the mean log-likelihood', async () => {
    const policy = makePolicy();
    const { batches } = policy;
    await trainSft(policy, examples, { ...settings, maxSteps: 1, learningRate: 0 });
    const [{ batch, loss }] = batches;
    expect(loss).toEqual({ kind: 'cross_entropy' });
    await policy.forwardBackward(batch, loss);
    for (const { promptIds, completionIds } of examples)
      completionIds.forEach((token, t) => {
        const prefix = completionIds.slice(0, t);
        const masses = policy.logits(promptIds, prefix).map(Math.exp);
        const sum = masses.reduce((a, b) => a + b, 0);
        policy
          .pendingGradient(promptIds, prefix)
          .forEach((g, id) => expect(g).toBeCloseTo((masses[id] / sum - Number(id === token)) / 13, 6));
      });
  });

  it('reports the mean over the tokens of the whole step, not a mean of means', async () => {
    for (const [batchSize, accumulation] of [
      [5, 1],
      [1, 5],
    ]) {
      // prettier-ignore
      const policy = makePolicy();
      const before = await sftLoss(policy, examples);
      const short = { ...settings, batchSize, accumulation, maxSteps: 1 };
      const [{ 'train/loss': loss, 'train/tokens': tokens }] = (await trainSft(policy, examples, short))
        .history;
      expect(policy.batches).toHaveLength(accumulation);
      expect(tokens).toBe(13);
      expect(loss).toBeCloseTo(before, 5);
    }
  });

  it('ends with the same table however a step is accumulated', async () => {
    const table = async (batchSize: number, accumulation: number): Promise<number[]> => {
      const policy = makePolicy();
      await trainSft(policy, examples, { ...settings, batchSize, accumulation, epochs: 30 });
      return PROMPTS.flatMap((promptIds) => policy.logits(promptIds, []));
    };
    const [one, five] = [await table(5, 1), await table(1, 5)];
    one.forEach((value, i) => expect(five[i]).toBeCloseTo(value, 3));
  });

  it('keys dropout by seed, example and epoch', async () => {
    const policy = makePolicy();
    await trainSft(policy, examples, { ...settings, epochs: 3, batchSize: 2, accumulation: 2 });
    const keys = policy.batches.flatMap(({ batch }) => batch.groups.map(({ dropoutKey }) => dropoutKey));
    expect(keys.every((key) => key?.seed === settings.seed)).toBe(true);
    const seen = keys.map((key) => `${key?.visit} ${key?.example}`).sort();
    expect(seen).toEqual([0, 1, 2].flatMap((visit) => examples.map(({ id }) => `${visit} ${id}`)));
    for (const { batch } of policy.batches)
      for (const group of batch.groups)
        expect(group.promptIds).toBe(examples.find(({ id }) => id === group.dropoutKey?.example)?.promptIds);
  });

  it('tells each micro-batch the totals of its step', async () => {
    const policy = makePolicy();
    await trainSft(policy, examples, { ...settings, epochs: 1, batchSize: 2, accumulation: 2 });
    const totals = policy.batches.map(({ batch }) => [
      batch.groups.length,
      batch.totalRows,
      batch.totalMicroBatches,
    ]);
    expect(totals).toEqual([[2, 4, 2], [2, 4, 2], [1, 1, 1]]); // prettier-ignore
    const [first, second, third] = policy.batches.map(({ batch }) => batch.totalTokens);
    expect(first).toBe(second);
    expect(first + third).toBe(13);
  });

  it('is the same for the same seed, and another for another', async () => {
    const run = async (seed: number): Promise<number[]> => {
      const short = { ...settings, seed, epochs: 2, batchSize: 2 };
      return (await trainSft(makePolicy(), examples, short)).history.map((record) => record['train/loss']);
    };
    expect(await run(1)).toEqual(await run(1));
    expect(await run(1)).not.toEqual(await run(2));
  });

  it('evaluates before, during and after, and ends after the step in which it is asked to stop', async () => {
    const policy = makePolicy();
    const controller = new AbortController();
    const seen: number[] = [];
    const { steps, history, interrupted } = await trainSft(policy, examples, settings, {
      evaluate: async () => ({ 'eval/loss': await sftLoss(policy, examples) }),
      evalEvery: 4,
      signal: controller.signal,
      onStep: ({ step }, total) => {
        seen.push(step);
        expect(total).toBe(60);
        if (step === 9) controller.abort();
      },
    });
    expect([steps, interrupted]).toEqual([9, true]);
    expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const evaluated = history.filter((record) => 'eval/loss' in record);
    expect(evaluated.map(({ step }) => step)).toEqual([0, 4, 8]);
    expect(evaluated[2]['eval/loss']).toBeLessThan(evaluated[0]['eval/loss']);
  });

  it('counts no step in a run of none', async () => {
    const evaluate = (): Promise<Record<string, number>> => Promise.resolve({ 'eval/loss': 1 });
    const { steps } = await trainSft(makePolicy(), examples, { ...settings, maxSteps: 0 }, { evaluate });
    expect(steps).toBe(0);
  });

  it('skips steps whose gradient is not finite, and ends at the third in a row', async () => {
    const alone = { ...settings, batchSize: 1, epochs: 4 };
    const policy = makePolicy([1]);
    const { history } = await trainSft(policy, examples, alone);
    const skipped = history.map((record) => record['train/skipped']);
    expect(skipped.reduce((a, b) => a + b, 0)).toBe(4);
    expect(probability(policy, examples[0])).toBeGreaterThan(probability(makePolicy(), examples[0]));
    const hopeless = makePolicy([1]);
    const before = PROMPTS.map((promptIds) => hopeless.logits(promptIds, []));
    await expect(trainSft(hopeless, [examples[1]], alone)).rejects.toThrow(NumericError);
    expect(hopeless.batches).toHaveLength(3);
    expect(PROMPTS.map((promptIds) => hopeless.logits(promptIds, []))).toEqual(before);
  });
});

describe('sftLoss', () => {
  it('is the mean negative log-likelihood a token', async () => {
    const policy = makePolicy();
    const logLikelihood = examples.reduce((sum, example) => sum + Math.log(probability(policy, example)), 0);
    expect(await sftLoss(policy, examples)).toBeCloseTo(-logLikelihood / 13, 5);
  });
});
