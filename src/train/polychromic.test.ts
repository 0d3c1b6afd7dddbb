import { afterAll, describe, expect, it } from 'vitest';
import { adapterDirectory, disposeAll, keep, modelDirectory, tokens } from '../../test/invariance-model';
import { makePolicy, prompts, RecordingPolicy, settings as grpoSettings } from '../../test/tabular-task';
import { readModelConfig } from '../model/config';
import { loadWeights } from '../model/load';
import { LoraAdapter } from '../model/lora';
import { readAdapter } from '../model/peft';
import { LocalPolicy } from '../policy/local';
import { ConfigError, NumericError } from '../runtime/errors';
import { tf } from '../runtime/tf';
import type { LoopState } from './checkpoint';
import { trainPolychromic } from './polychromic';
import type { PolychromicHooks, PolychromicSettings } from './polychromic';
import { trainSft } from './sft';

const numTensors = tf.memory().numTensors;
afterAll(() => {
  disposeAll();
  expect(tf.memory().numTensors).toBe(numTensors);
});

const END = 3;
const settings: PolychromicSettings = {
  ...{ ...grpoSettings, batchSize: 3, epochs: 40, lambda: 1 },
  ...{ diversityEvery: 1, diversityExamples: 3, generations: 3, temperature: 0.9, topP: 1, maxNewTokens: 3 },
  credit: 'leave_one_out',
};

/** One reply for each prompt. */
const examples = prompts.map(({ id, tokenIds }) => ({ id, promptIds: tokenIds, completionIds: [0, 1, 0] }));

/** Share of the three positions in which two completions differ. */
const distance = (a: readonly number[], b: readonly number[]): number =>
  [0, 1, 2].filter((t) => a[t] !== b[t]).length / 3;

const hooks: PolychromicHooks = {
  distances: (completions) =>
    Promise.resolve(completions.map((a) => completions.map((b) => distance(a.tokenIds, b.tokenIds)))),
  diversity: (completions) => {
    const pairs = completions.flatMap(({ tokenIds }, i) =>
      completions.slice(i + 1).map((other) => distance(tokenIds, other.tokenIds)),
    );
    return pairs.reduce((a, b) => a + b, 0) / pairs.length;
  },
};

/**
 * A policy that knows two good tokens, 0 and 1, equally likely everywhere, and two bad ones, 100 times less likely:
 * 8 good replies for each prompt, of which the examples show one.
 */
const makeGifted = (): RecordingPolicy =>
  new RecordingPolicy({
    ...{
      prompts: prompts.map(({ tokenIds }) => tokenIds),
      vocabularySize: 4,
      maxLength: 3,
      stopTokenIds: [END],
    },
    initialLogits: () => [0, 0, Math.log(0.01), Math.log(0.01)],
  });

/** Means over prompts, by enumeration: E[D] and the probability of a good reply. */
function measure(policy: RecordingPolicy): { diversity: number; quality: number } {
  const [values, qualities] = [0, 1].map(() => [] as number[]);
  for (const { tokenIds: promptIds } of prompts) {
    const all = policy.enumerate(promptIds, { temperature: settings.temperature });
    const good = all.filter(({ tokenIds }) => tokenIds.every((id) => id < 2));
    qualities.push(good.reduce((sum, { probability }) => sum + probability, 0));
    values.push(
      all.reduce(
        (sum, a) =>
          all.reduce(
            (inner, b) => inner + a.probability * b.probability * distance(a.tokenIds, b.tokenIds),
            sum,
          ),
        0,
      ),
    );
  }
  const mean = (list: number[]): number => list.reduce((a, b) => a + b, 0) / list.length;
  return { diversity: mean(values), quality: mean(qualities) };
}

const table = (policy: RecordingPolicy): number[] =>
  prompts.flatMap(({ tokenIds }) =>
    [[], [0], [1], [0, 1]].flatMap((prefix) => policy.logits(tokenIds, prefix)),
  );

describe('trainPolychromic on a policy that SFT narrows', () => {
  it('keeps several good replies where SFT keeps one, at equal quality', async () => {
    const start = measure(makeGifted());
    const [sft, polychromic] = [makeGifted(), makeGifted()];
    const long = { ...settings, epochs: 150, generations: 6 };
    await trainSft(sft, examples, long);
    const { history } = await trainPolychromic(polychromic, examples, long, hooks);
    const [narrow, wide] = [measure(sft), measure(polychromic)];
    expect(start.diversity).toBeGreaterThan(0.5);
    expect(narrow.diversity).toBeLessThan(0.05);
    expect(wide.diversity).toBeGreaterThan(0.35);
    expect(wide.quality).toBeGreaterThan(Math.max(start.quality, 0.97));
    const logged = history.slice(-20).map((record) => record['train/diversity']);
    expect(logged.reduce((a, b) => a + b, 0) / 20).toBeCloseTo(wide.diversity, 1);
  });

  it.each(['leave_one_out', 'pairs'] as const)(
    'raises E[D] with lambda, and lowers it below 0: %s',
    async (credit) => {
      const ends: number[] = [];
      for (const lambda of [-20, 0, 20]) {
        const policy = makePolicy();
        await trainPolychromic(policy, examples, { ...settings, lambda, credit, generations: 8 }, hooks);
        ends.push(measure(policy).diversity);
      }
      const start = measure(makePolicy()).diversity;
      expect(ends[2]).toBeGreaterThan(start + 0.02);
      expect(ends[1]).toBeLessThan(start);
      expect(ends[0]).toBeLessThan(ends[1] - 0.1);
      expect(ends[2]).toBeGreaterThan(ends[1] + 0.2);
    },
  );
});

describe('trainPolychromic with lambda 0', () => {
  it('ends with the bits of trainSft, and measures D', async () => {
    const [sft, polychromic] = [makePolicy(), makePolicy()];
    const short = { ...settings, batchSize: 1, accumulation: 2, lambda: 0 };
    const expected = await trainSft(sft, examples, short);
    const got = await trainPolychromic(polychromic, examples, short, hooks);
    expect(table(polychromic)).toEqual(table(sft));
    for (const key of ['train/loss', 'train/grad_norm', 'train/learning_rate', 'train/tokens'])
      expect(got.history.map((record) => record[key])).toEqual(expected.history.map((record) => record[key]));
    for (const record of got.history) {
      expect(record['train/diversity']).toBeGreaterThanOrEqual(0);
      expect(record['train/total_loss']).toBe(record['train/loss']);
    }
  });
});

describe('trainPolychromic on a Qwen3 model with dropout', () => {
  const model = readModelConfig(modelDirectory);
  const replies = [0, 1, 2, 3].map((i) => ({
    ...{
      id: `e${i}`,
      promptIds: tokens(`prompt ${i}`, 5 + i, 600),
      completionIds: tokens(`reply ${i}`, 4, 600),
    },
  }));
  const short = {
    ...settings,
    learningRate: 1e-2,
    batchSize: 2,
    maxSteps: 3,
    diversityExamples: 2,
    maxNewTokens: 4,
  };
  const load = (): LocalPolicy => {
    const stored = readAdapter(adapterDirectory, model);
    const adapter = new LoraAdapter(model, { ...stored.config, lora_dropout: 0.3 }, stored.matrices);
    return keep(new LocalPolicy(model, loadWeights(modelDirectory, model), adapter));
  };
  const scores = async (policy: LocalPolicy): Promise<number[]> =>
    (await policy.logProbs(replies)).flatMap((row) => Array.from(row));

  it('ends with the bits of trainSft at lambda 0, elsewhere at another, and leaks no tensor', async () => {
    const [sft, none, some] = [load(), load(), load()];
    await trainSft(sft, replies, short);
    const counts: number[] = [];
    const onStep = (): void => void counts.push(tf.memory().numTensors);
    await trainPolychromic(none, replies, { ...short, lambda: 0 }, hooks);
    const { history } = await trainPolychromic(some, replies, { ...short, lambda: 5 }, { ...hooks, onStep });
    expect(await scores(none)).toEqual(await scores(sft));
    expect(await scores(some)).not.toEqual(await scores(sft));
    expect(counts[2]).toBe(counts[1]);
    expect(history.every((record) => Number.isFinite(record['train/grad_norm']))).toBe(true);
  });
});

describe('a step with the diversity term', () => {
  const some = { ...settings, epochs: 4, lambda: 0.3, diversityEvery: 2, diversityExamples: 2 };

  it('comes every k-th step, for the first examples, with draws of their own in every epoch', async () => {
    const policy = makePolicy();
    const { history } = await trainPolychromic(policy, examples, some, hooks);
    const keys = ['train/diversity', 'train/diversity_loss', 'train/total_loss', 'train/credit_std'];
    for (const record of history) for (const key of keys) expect(key in record).toBe(record.step % 2 === 0);
    for (const record of history.filter(({ step }) => step % 2 === 0)) {
      expect(record['train/diversity_loss']).toBeCloseTo(-0.3 * record['train/diversity'], 12);
      expect(record['train/total_loss']).toBe(record['train/loss'] + record['train/diversity_loss']);
    }
    expect(policy.sampled.map(({ prompts: asked }) => asked.map(({ visit }) => visit))).toEqual([[1, 1], [3, 3]]); // prettier-ignore
    const learnt = policy.batches.filter(({ loss }) => loss.kind === 'cross_entropy');
    policy.sampled.forEach(({ prompts: asked, options }, i) => {
      const groups = learnt[2 * i + 1].batch.groups;
      expect(asked.map(({ id }) => id)).toEqual(groups.slice(0, 2).map((group) => group.dropoutKey?.example));
      expect(options).toMatchObject({ groupSize: 3, temperature: 0.9, topP: 1, stream: 'diversity' });
    });
    const [first, second] = policy.sampled.map(({ groups }) =>
      JSON.stringify(groups.map((g) => g.completions)),
    );
    expect(first).not.toBe(second);
  });

  it.each([2, 5])(
    'weighs every token with lambda c / m, at the sampling temperature, without dropout: m = %i',
    async (m) => {
      const policy = makePolicy();
      await trainPolychromic(policy, examples, { ...some, diversityExamples: m }, hooks);
      const passes = policy.batches.filter(({ loss }) => loss.kind === 'weighted');
      expect(passes).toHaveLength(2);
      passes.forEach(({ batch, temperature }, i) => {
        expect(temperature).toBe(0.9);
        batch.groups.forEach((group, g) => {
          expect(group.dropoutKey).toBeUndefined();
          const rows = policy.sampled[i].groups[g].completions.map(({ tokenIds }) => tokenIds);
          expect(group.rows.map(({ tokenIds }) => tokenIds)).toEqual(rows);
          const [ab, ac, bc] = [[0, 1], [0, 2], [1, 2]].map(([x, y]) => distance(rows[x], rows[y])); // prettier-ignore
          const whole = (ab + ac + bc) / 3;
          [whole - bc, whole - ac, whole - ab].forEach((credit, r) => {
            const weights = Array.from(group.rows[r].weights ?? []);
            expect(weights).toHaveLength(rows[r].length);
            weights.forEach((weight) => expect(weight).toBeCloseTo((0.3 * credit) / Math.min(m, 3), 12));
          });
        });
      });
    },
  );

  it('adds the same gradient however it is split into micro-batches', async () => {
    const gradients = async (batchSize: number, accumulation: number): Promise<number[]> => {
      const policy = makePolicy();
      const split = { ...settings, batchSize, accumulation, maxSteps: 1 };
      await trainPolychromic(policy, examples, split, hooks);
      expect(policy.batches).toHaveLength(2 * accumulation);
      return policy.gradients[0];
    };
    const [one, three] = [await gradients(3, 1), await gradients(1, 3)];
    one.forEach((g, i) => expect(three[i]).toBeCloseTo(g, 6));
  });

  it('names what it refuses', async () => {
    const run = (change: Partial<PolychromicSettings>, given = hooks): Promise<unknown> =>
      trainPolychromic(makePolicy(), examples, { ...settings, maxSteps: 1, ...change }, given);
    const refused: [Partial<PolychromicSettings>, string][] = [
      [{ topP: 0.9 }, 'top-p is 0.9; the diversity term needs 1'],
      [{ temperature: 0 }, 'temperature is 0'],
      [{ generations: 1 }, 'generations is 1'],
      [{ diversityEvery: 0 }, 'diversityEvery is 0'],
      [{ diversityExamples: 0.5 }, 'diversityExamples is 0.5'],
      [{ lambda: NaN }, 'lambda is NaN'],
    ];
    for (const [change, message] of refused) {
      await expect(run(change)).rejects.toThrow(ConfigError);
      await expect(run(change)).rejects.toThrow(message);
    }
    await expect(run({ credit: 'pairs' }, { diversity: hooks.diversity })).rejects.toThrow(
      'not a mean over pairs',
    );
    await expect(run({}, { diversity: () => NaN })).rejects.toThrow(NumericError);
  });
});

describe('a run with groups of two', () => {
  it('goes on from a checkpoint to the same bits, with its running mean', async () => {
    const two = { ...settings, generations: 2, epochs: 12 };
    const [whole, halved, forgetful] = [makePolicy(), makePolicy(), makePolicy()];
    await trainPolychromic(whole, examples, two, hooks);
    for (const policy of [halved, forgetful]) {
      const controller = new AbortController();
      const states: LoopState[] = [];
      const first = await trainPolychromic(policy, examples, two, {
        ...{ ...hooks, signal: controller.signal, checkpoint: async (state) => void states.push(state) },
        onStep: ({ step }) => (step === 5 ? controller.abort() : undefined),
      });
      expect([first.steps, first.interrupted]).toEqual([5, true]);
      const [state] = states;
      expect(state.carried.diversity_groups).toBe(15);
      expect(state.carried.diversity_mean).toBeGreaterThan(0);
      const resume = policy === halved ? state : { ...state, carried: {} };
      await trainPolychromic(policy, examples, two, { ...hooks, resume });
    }
    expect(table(halved)).toEqual(table(whole));
    expect(table(forgetful)).not.toEqual(table(whole));
  });
});
