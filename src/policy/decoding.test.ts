/** Sampling by the binding's own ops against the compiled graphs, which compute the same from other ops. */
import { resolve } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { temporaryDirectory, temporaryFile } from '../../test/cli';
import { fullLogits, largestDifference, relativeDifference } from '../../test/golden-model';
import { printedWith } from '../../test/products';
import { rounded } from '../../test/rounding';
import type { ModelConfig } from '../model/config';
import { buildWeights, weightTensors } from '../model/load';
import { LoraAdapter } from '../model/lora';
import type { LoraModule } from '../model/lora';
import { LORA_TARGETS } from '../model/peft';
import { Random } from '../runtime/random';
import type { Variable } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { LocalPolicy } from './local';
import type { LocalPolicyOptions } from './local';
import type { DrawnCompletion, MicroBatch, Prompt, RolloutGroup, SampleOptions } from './policy';

const vocabSize = 50;
const config: ModelConfig = {
  ...{ modelType: 'qwen3', dtype: null, eosTokenIds: [], padTokenId: 0, maxPositionEmbeddings: 1024 },
  ...{ vocabSize, hiddenSize: 20, intermediateSize: 36, numHiddenLayers: 2, tieWordEmbeddings: true },
  ...{ numAttentionHeads: 3, numKeyValueHeads: 1, headDim: 6, rmsNormEps: 1e-6, ropeTheta: 10_000 },
};
const sixHeads = { numAttentionHeads: 6, numKeyValueHeads: 2, headDim: 10 };
const untied: ModelConfig = { ...config, ...sixHeads, tieWordEmbeddings: false };
const even: ModelConfig = {
  ...config,
  hiddenSize: 32,
  intermediateSize: 48,
  numAttentionHeads: 4,
  headDim: 16,
};

interface Model {
  model: ModelConfig;
  modules: readonly LoraModule[];
  rank: number;
  /** Weights that are numbers of bfloat16. */
  halves?: RegExp;
}
const tiedModel: Model = { model: config, modules: LORA_TARGETS, rank: 3 };
const models: [string, Model][] = [
  ['tied, rank 3 on all projections', tiedModel],
  ['untied, rank 16 on queries and values', { model: untied, modules: ['q_proj', 'v_proj'], rank: 16 }],
  ['untied, rank 20 on up and down', { model: untied, modules: ['up_proj', 'down_proj'], rank: 20 }],
  ['tied, sizes of 16', { model: even, modules: LORA_TARGETS, rank: 16 }],
  ['tied, no adapter', { model: config, modules: [], rank: 0 }],
  ['tied, of bfloat16 numbers', { ...tiedModel, halves: /./ }],
  ['untied, of bfloat16 numbers', { model: untied, modules: ['o_proj'], rank: 2, halves: /./ }],
  ['untied, embedding apart of bfloat16 numbers', { ...tiedModel, model: untied, halves: /layers|head/ }],
];

const adapterSettings = { base_model_name_or_path: null, lora_dropout: 0, use_rslora: false };

const open: LocalPolicy[] = [];
const numTensors = tf.memory().numTensors;
afterEach(() => {
  open.splice(0).forEach((policy) => policy.dispose());
  expect(tf.memory().numTensors).toBe(numTensors);
});

/** A policy with random weights, norms too, and with modules an adapter of random factors. */
function randomPolicy(
  { model, modules, rank: r, halves }: Model,
  options: Partial<LocalPolicyOptions> = {},
): LocalPolicy {
  const normals = (name: string, length: number, scale: number): Float32Array => {
    const random = new Random(1, 'decoding test', name);
    return Float32Array.from({ length }, () => scale * random.normal());
  };
  const read = (name: string, shape: readonly number[]): Float32Array => {
    const values = normals(
      name,
      shape.reduce((a, b) => a * b, 1),
      0.3,
    );
    if (halves?.test(name) === true) return values.map(rounded);
    return name.includes('norm') ? values.map((x) => 1 + x) : values;
  };
  const weights = buildWeights(model, read, { kind: options.trainable === 'all' ? 'variable' : 'constant' });
  const target = { ...adapterSettings, r, lora_alpha: 2 * r, target_modules: [...modules] };
  const adapter = modules.length === 0 ? null : LoraAdapter.create(model, target, 1);
  for (const [name, factor] of adapter?.named() ?? [])
    tf.tidy(() => factor.assign(tf.tensor(normals(name, factor.size, 0.3), factor.shape) as never));
  const policy = new LocalPolicy(model, weights, adapter, { mode: 'graph', ...options });
  open.push(policy);
  return policy;
}

function promptsOf(...lengths: number[]): Prompt[] {
  return lengths.map((length, i) => {
    const random = new Random(2, 'prompt', length, i);
    return { id: `prompt ${i}`, tokenIds: Array.from({ length }, () => random.integer(vocabSize)) };
  });
}

const defaults: SampleOptions = { groupSize: 3, temperature: 1, maxNewTokens: 20, seed: 5 };
/** Tokens that end a completion after some ten tokens. */
const stopTokenIds = [3, 14, 15, 26, 41];

const completionsOf = (groups: RolloutGroup<DrawnCompletion>[]): DrawnCompletion[] =>
  groups.flatMap(({ completions }) => completions);

/** The same tokens, with log-probabilities to 2e-5: ten to twenty steps of float32 at -16. */
function expectSame(actual: DrawnCompletion[], expected: DrawnCompletion[]): void {
  expect(actual.map(({ tokenIds }) => tokenIds)).toEqual(expected.map(({ tokenIds }) => tokenIds));
  expect(actual.map(({ finishReason }) => finishReason)).toEqual(expected.map((c) => c.finishReason));
  for (const [i, completion] of actual.entries())
    for (const key of ['logProbs', 'temperedLogProbs', 'drawLogProbs'] as const)
      expect(largestDifference(completion[key], expected[i][key]), `${key} of ${i}`).toBeLessThan(2e-5);
}

/** Log-probabilities are those that a pass over prompts with their completions gives. */
async function expectOnPolicy(policy: LocalPolicy, groups: RolloutGroup<DrawnCompletion>[]): Promise<void> {
  for (const { prompt, completions } of groups) {
    const sequences = completions.map(({ tokenIds }) => ({
      promptIds: prompt.tokenIds,
      completionIds: tokenIds,
    }));
    const passes = await policy.logProbs(sequences);
    completions.forEach(({ logProbs }, i) =>
      expect(largestDifference(logProbs, passes[i])).toBeLessThan(2e-5),
    );
  }
}

describe.each(models)('sampling by the own ops (%s)', (_, model) => {
  it.each([
    { groupSize: 1, temperature: 1 },
    { groupSize: 7, temperature: 0.7 },
    { groupSize: 3, temperature: 0 },
    { groupSize: 3, temperature: 1, stopTokenIds },
    { groupSize: 7, temperature: 0.7, topP: 0.9, topK: 30, stopTokenIds, minNewTokens: 4 },
  ])('draws what the compiled graphs draw: %j', async (settings) => {
    const options = { ...defaults, ...settings };
    const prompts = promptsOf(17, 1, 40, 3, 16);
    const [own, graph] = [randomPolicy(model), randomPolicy(model, { mode: 'eager' })];
    const groups = await own.sample(prompts, options);
    expectSame(completionsOf(groups), completionsOf(await graph.sample(prompts, options)));
    await expectOnPolicy(own, groups);
  });

  it('draws the same on the weights as they are, where a copy would not fit', async () => {
    const prompts = promptsOf(17, 1, 16);
    const beside = randomPolicy(model, { mode: 'graph', mergeForSampling: false });
    const groups = await beside.sample(prompts, { ...defaults, stopTokenIds });
    expectSame(
      completionsOf(groups),
      completionsOf(await randomPolicy(model).sample(prompts, { ...defaults, stopTokenIds })),
    );
  });

  it('reads prompts of more than 512 tokens together, and one alone', async () => {
    const prompts = promptsOf(250, 1, 300, 530, 200, 2);
    const options = { ...defaults, groupSize: 2, maxNewTokens: 4 };
    const [own, graph] = [randomPolicy(model), randomPolicy(model, { mode: 'eager' })];
    const groups = await own.sample(prompts, options);
    expectSame(completionsOf(groups), completionsOf(await graph.sample(prompts, options)));
  });

  it('takes the likeliest token of a full pass at temperature 0', async () => {
    const policy = randomPolicy(model);
    const groups = await policy.sample(promptsOf(5, 1, 18), { ...defaults, groupSize: 1, temperature: 0 });
    for (const { prompt, completions } of groups) {
      const ids = [...prompt.tokenIds, ...completions[0].tokenIds];
      const logits = fullLogits(policy, [ids], [ids.map(() => 1)], [ids.map((__, i) => i)]);
      completions[0].tokenIds.forEach((id, i) => {
        const at = (prompt.tokenIds.length - 1 + i) * vocabSize;
        const row = logits.subarray(at, at + vocabSize);
        expect(row.indexOf(Math.max(...row))).toBe(id);
      });
    }
  });
});

describe('a sampled row', () => {
  const options = { ...defaults, temperature: 0.9, topP: 0.95, stopTokenIds, maxNewTokens: 30 };

  it('is the same to the bit whatever other prompts are in the batch', async () => {
    const policy = randomPolicy({ ...tiedModel, model: untied });
    const prompts = promptsOf(4, 1, 33, 260, 12, 300, 16, 9);
    const groups = await policy.sample(prompts, options);
    const lengths = new Set(completionsOf(groups).map(({ tokenIds }) => tokenIds.length));
    expect(lengths.size).toBeGreaterThan(5);
    for (const [i, prompt] of prompts.entries())
      expect(await policy.sample([prompt], options)).toEqual([groups[i]]);
    const [last, first] = await policy.sample([prompts[7], prompts[0]], options);
    expect([first, last]).toEqual([groups[0], groups[7]]);
  });

  it('is the same to the bit whether others have ended, and whatever the group and the limit', async () => {
    const policy = randomPolicy(tiedModel);
    const prompts = promptsOf(4, 1, 33);
    const expected = await policy.sample(prompts, options);
    const endless = await policy.sample(prompts, {
      ...options,
      stopTokenIds: [],
      maxNewTokens: 50,
      groupSize: 7,
    });
    expected.forEach(({ completions }, p) =>
      completions.forEach((completion, g) => {
        const longer = endless[p].completions[g];
        const n = completion.tokenIds.length;
        for (const key of ['tokenIds', 'logProbs', 'temperedLogProbs', 'drawLogProbs'] as const)
          expect(longer[key].slice(0, n), key).toEqual(completion[key]);
      }),
    );
    const reasons = completionsOf(expected).map(({ finishReason }) => finishReason);
    expect(reasons).toContain('stop');
  });

  it('has no end token before minNewTokens, and untouched log-probabilities', async () => {
    const policy = randomPolicy(tiedModel);
    const all = Array.from({ length: vocabSize - 2 }, (_, i) => i);
    const groups = await policy.sample(promptsOf(6, 2), { ...defaults, stopTokenIds: all, minNewTokens: 8 });
    for (const { tokenIds } of completionsOf(groups)) {
      expect(tokenIds.slice(0, 8).every((id) => id >= vocabSize - 2)).toBe(true);
      expect(tokenIds.length).toBeGreaterThan(8);
    }
    await expectOnPolicy(policy, groups);
  });
});

const batch: MicroBatch = {
  groups: [{ promptIds: [5, 9, 30, 5], rows: [{ tokenIds: [12, 9, 41] }, { tokenIds: [5, 5] }] }],
  ...{ totalRows: 2, totalTokens: 5, totalMicroBatches: 1 },
};

describe('a change of the weights', () => {
  const step = async (policy: LocalPolicy): Promise<void> => {
    await policy.forwardBackward(batch, { kind: 'cross_entropy' });
    await policy.optimStep({ learningRate: 0.05 });
  };
  const prompts = promptsOf(7, 1);

  it.each(models.slice(0, 4))('by optimStep or load is in the next sample (%s)', async (_, model) => {
    const [policy, directory] = [randomPolicy(model), temporaryDirectory()];
    await policy.save(directory);
    const before = await policy.sample(prompts, defaults);
    await step(policy);
    const after = await policy.sample(prompts, defaults);
    await expectOnPolicy(policy, after);
    expect(after).not.toEqual(before);
    await policy.load(directory);
    expect(await policy.sample(prompts, defaults)).toEqual(before);
  });

  it.each([
    ['tied', config],
    ['untied', untied],
  ])('of all weights is in the next sample (%s)', async (_, model) => {
    const [own, graph] = (['graph', 'eager'] as const).map((mode) =>
      randomPolicy({ model, modules: [], rank: 0 }, { mode, trainable: 'all' }),
    );
    const before = await own.sample(prompts, defaults);
    await step(own);
    const changed = weightTensors(own.weights);
    weightTensors(graph.weights).forEach((w, i) => (w as Variable).assign(changed[i] as never));
    const after = await own.sample(prompts, defaults);
    expectSame(completionsOf(after), completionsOf(await graph.sample(prompts, defaults)));
    await expectOnPolicy(own, after);
    expect(after).not.toEqual(before);
  });
});

describe('memory', () => {
  it('is flat over samples, updates and refused prompts, and free after dispose', async () => {
    const policy = randomPolicy(tiedModel);
    const sample = () => policy.sample(promptsOf(7, 1, 20), { ...defaults, stopTokenIds, minNewTokens: 2 });
    await sample();
    const before = tf.memory().numTensors;
    for (let i = 0; i < 3; i++) await sample();
    expect(tf.memory().numTensors).toBe(before);
    const outside = { id: 'outside', tokenIds: [1, vocabSize] };
    await expect(policy.sample([outside], defaults)).rejects.toThrow(/token 50 is outside 0..49/);
    expect(tf.memory().numTensors).toBe(before);
    await policy.load(await saved(policy));
    await sample();
    expect(tf.memory().numTensors).toBe(before);
  });

  async function saved(policy: LocalPolicy): Promise<string> {
    const directory = temporaryDirectory();
    await policy.save(directory);
    return directory;
  }
});

describe('the copy of float32 weights', () => {
  const even2: Model = { model: { ...even, vocabSize: 48 }, modules: [], rank: 0 };
  const words = 48 * 32 + 2 * (32 * (64 + 2 * 16) + 64 * 32 + 3 * 32 * 48);

  it.each([
    ['of bfloat16 numbers is in 16 bits', { ...even2, halves: /./ }, 2 * words],
    ['of others is in 32', even2, 4 * words],
    [
      'of which one matrix is of others is in 32',
      { ...even2, halves: /^(?!.*layers\.1\.mlp\.down)/ },
      4 * words,
    ],
  ] as const)('%s', async (_, model, bytes) => {
    const policy = randomPolicy(model);
    const before = tf.memory().numBytes;
    await policy.sample([{ id: 'one', tokenIds: [1, 2, 3] }], defaults);
    expect(tf.memory().numBytes - before).toBe(bytes);
  });
});

/** Prints completions and gradients of an odd-sized model, from the build. */
const script = `
  const { model, policy } = require(${JSON.stringify(resolve('dist/index.js'))});
  const { config, target, prompts, options, batch } = JSON.parse(process.argv[2]);
  const fresh = model.LoraAdapter.create(config, target, 1);
  const { matrices } = fresh.toPeft();
  for (const { b } of matrices.values()) b.forEach((_, i) => (b[i] = 0.2 * Math.sin(7 * i)));
  const adapter = new model.LoraAdapter(config, target, matrices);
  const one = new policy.LocalPolicy(config, model.randomWeights(config, 1, { scale: 0.3 }), adapter);
  (async () => {
    const groups = await one.sample(prompts, options);
    await one.forwardBackward(batch, { kind: 'cross_entropy' });
    const gradients = [...one.pendingGradients()].map(([name, { values }]) => [name, [...values]]);
    const list = (key, value) => (value instanceof Float32Array ? [...value] : value);
    console.log(JSON.stringify({ groups, gradients }, list));
  })();
`;

interface Printed {
  groups: RolloutGroup<DrawnCompletion>[];
  gradients: [string, number[]][];
}

describe('GRPOLAB_KERNELS', () => {
  const target = { ...adapterSettings, r: 3, lora_alpha: 6, target_modules: [...LORA_TARGETS] };
  const options = { ...defaults, temperature: 0.9, topP: 0.95 };
  const task = JSON.stringify({ config: untied, target, prompts: promptsOf(3, 1, 18), options, batch });

  const run = (kernels: string): Printed =>
    printedWith(kernels, [temporaryFile('sample.cjs', script), task]) as Printed;

  it('of v4, v3 and plain give the completions and gradients of the default', () => {
    const expected = run('');
    for (const actual of [run('v4'), run('v3'), run('plain')]) {
      expectSame(completionsOf(actual.groups), completionsOf(expected.groups));
      expect(actual.gradients.length).toBe(2 * 2 * LORA_TARGETS.length);
      actual.gradients.forEach(([name, values], i) =>
        expect(relativeDifference(values, expected.gradients[i][1]), name).toBeLessThan(1e-5),
      );
    }
  });
});
