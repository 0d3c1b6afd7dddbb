/**
 * Policies that multiply in bfloat16. Where two ways of computing sum in other orders, the last bit of a float32 number may decide
 * how a number is rounded to bfloat16, and all that follows moves by some 1e-3; so the sharp tests are of one layer, where
 * that is rare and the others agree to float32's rounding.
 */
import { resolve } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { temporaryFile } from '../../test/cli';
import { relativeDifference } from '../../test/golden-model';
import { adapterDirectory, modelDirectory, tokens } from '../../test/invariance-model';
import { printedWith } from '../../test/products';
import { referenceLogProbs } from '../../test/rounded-model';
import type { ReferenceModel } from '../../test/rounded-model';
import { rounded } from '../../test/rounding';
import type { MatmulPrecision, ModelConfig, WeightDtype } from '../model/config';
import { buildWeights } from '../model/load';
import { LoraAdapter } from '../model/lora';
import { dequantizeNf4, quantizeNf4 } from '../model/nf4';
import { LORA_TARGETS } from '../model/peft';
import type { Loss } from '../optim/losses';
import type { ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { binding, tf } from '../runtime/tf';
import { LocalPolicy } from './local';
import type { LocalPolicyOptions } from './local';
import type { DrawnCompletion, MicroBatch, Prompt, RolloutGroup, SampleOptions, Sequence } from './policy';

const count = (): [number, number] => [tf.memory().numTensors, binding.getNumOfTensors()];
const open: LocalPolicy[] = [];
const atStart = count();
afterEach(() => {
  open.splice(0).forEach((policy) => policy.dispose());
  expect(count()).toEqual(atStart);
});

// ---- policies ----

const modes: ExecutionMode[] = ['graph', 'eager'];
const vocabSize = 50;
/** Widths that fill no panel, and odd ones. */
const odd: ModelConfig = {
  ...{ modelType: 'qwen3', dtype: null, eosTokenIds: [], padTokenId: 0, maxPositionEmbeddings: 1024 },
  ...{ vocabSize, hiddenSize: 20, intermediateSize: 35, numHiddenLayers: 1, tieWordEmbeddings: true },
  ...{ numAttentionHeads: 3, numKeyValueHeads: 1, headDim: 6, rmsNormEps: 1e-6, ropeTheta: 10_000 },
};
const even: ModelConfig = {
  ...{ ...odd, hiddenSize: 64, intermediateSize: 128, tieWordEmbeddings: false },
  ...{ numAttentionHeads: 4, numKeyValueHeads: 2, headDim: 32 },
};

interface Model {
  config: ModelConfig;
  dtype: WeightDtype;
}
const models: [string, Model][] = [
  ['odd sizes', { config: odd, dtype: 'bfloat16' }],
  ['untied', { config: even, dtype: 'bfloat16' }],
  ['nf4', { config: even, dtype: 'nf4' }],
];

const normals = (name: string, length: number, scale: number): Float32Array => {
  const random = new Random(1, 'matmul precision of a policy', name);
  return Float32Array.from({ length }, () => scale * random.normal());
};

function read(name: string, shape: readonly number[]): Float32Array {
  const values = normals(
    name,
    shape.reduce((a, b) => a * b, 1),
    0.2,
  );
  return name.includes('norm') ? values.map((x) => 1 + x) : values;
}

const settings = {
  ...{ base_model_name_or_path: null, r: 5, lora_alpha: 10, lora_dropout: 0, use_rslora: false },
  target_modules: [...LORA_TARGETS],
};

type Options = Partial<LocalPolicyOptions> & { layers?: number };

/** A policy with random weights, norms too, and an adapter that changes something. */
function policyOf({ config, dtype }: Model, precision: MatmulPrecision, options: Options = {}): LocalPolicy {
  const { layers = 1, ...rest } = options;
  const model = { ...config, numHiddenLayers: layers };
  const adapter = LoraAdapter.create(model, settings, 1);
  for (const [name, factor] of adapter.named().filter(([each]) => each.endsWith('lora_B')))
    tf.tidy(() => factor.assign(tf.tensor(normals(name, factor.size, 0.1), factor.shape) as never));
  const weights = buildWeights(model, read, { dtype, matmulPrecision: precision });
  const policy = new LocalPolicy(model, weights, adapter, { mode: 'graph', ...rest });
  open.push(policy);
  return policy;
}

const promptsOf = (...lengths: number[]): Prompt[] =>
  lengths.map((length, i) => ({ id: `prompt ${i}`, tokenIds: tokens(`prompt ${i}`, length, vocabSize) }));
const prompts = promptsOf(3, 1, 19, 40, 9, 16);
const defaults: SampleOptions = { groupSize: 5, temperature: 0.8, maxNewTokens: 12, seed: 3 };

/** What was drawn, as sequences with the log-probabilities that sampling told. */
const drawnOf = (groups: RolloutGroup<DrawnCompletion>[]): (Sequence & DrawnCompletion)[] =>
  groups.flatMap(({ prompt, completions }) =>
    completions.map((c) => ({ ...c, promptIds: prompt.tokenIds, completionIds: c.tokenIds })),
  );

const sequences: Sequence[] = [3, 1, 19, 40, 9, 16].flatMap((length, p) =>
  [7, 12, 4].map((own, g) => ({
    promptIds: prompts[p].tokenIds,
    completionIds: tokens(`completion ${p} ${g} ${length}`, own, vocabSize),
  })),
);

const loss: Loss = {
  ...{ kind: 'grpo', type: 'dapo', epsilonLow: 0.2, epsilonHigh: 0.3, beta: 0, klBiasCorrection: true },
  ...{ ratioLevel: 'token', maxCompletionLength: 20 },
};

const tokensIn = (rows: readonly Sequence[]): number =>
  rows.reduce((sum, { completionIds }) => sum + completionIds.length, 0);

/** Sequences with advantages; so many one after another share a prompt. */
function batchOf(rows: readonly Sequence[], group: number): MicroBatch {
  const groups = Array.from({ length: rows.length / group }, (_, p) => ({
    promptIds: rows[p * group].promptIds,
    rows: rows
      .slice(p * group, (p + 1) * group)
      .map(({ completionIds }, g) => ({ tokenIds: completionIds, advantage: Math.cos(7 * p + 2 * g) })),
  }));
  return { groups, totalRows: rows.length, totalTokens: tokensIn(rows), totalMicroBatches: 1 };
}

type Gradients = Map<string, Float32Array>;

async function passOf(
  policy: LocalPolicy,
  batch: MicroBatch,
  ofLoss: Loss,
): Promise<{ logProbs: Float32Array[]; gradients: Gradients }> {
  const { logProbs } = await policy.forwardBackward(batch, ofLoss);
  const pending = [...policy.pendingGradients()];
  return {
    logProbs: logProbs.flat(),
    gradients: new Map(pending.map(([name, { values }]) => [name, values])),
  };
}

// ---- differences ----

interface Difference {
  max: number;
  rms: number;
  mean: number;
  /** Share of tokens that agree to float32's rounding. */
  same: number;
}

function difference(a: readonly ArrayLike<number>[], b: readonly ArrayLike<number>[]): Difference {
  const flat = (rows: readonly ArrayLike<number>[]): number[] => rows.flatMap((row) => Array.from(row));
  const [x, y] = [flat(a), flat(b)];
  expect(x.length).toBe(y.length);
  const all = x.map((value, i) => value - y[i]);
  const mean = (values: number[]): number => values.reduce((sum, v) => sum + v, 0) / values.length;
  return {
    max: Math.max(...all.map(Math.abs)),
    rms: Math.sqrt(mean(all.map((v) => v ** 2))),
    mean: mean(all),
    same: mean(all.map((v) => +(Math.abs(v) < 1e-5))),
  };
}

/** The same to float32's rounding, but for few that were rounded otherwise: 0.978 are at least, others differ by up to 0.006. */
function expectSame(actual: readonly ArrayLike<number>[], expected: readonly ArrayLike<number>[]): void {
  const { same, max } = difference(actual, expected);
  expect(same).toBeGreaterThan(0.94);
  expect(max).toBeLessThan(0.02);
}

/** Hardly a token is the same. */
const expectOthers = (actual: readonly ArrayLike<number>[], expected: readonly ArrayLike<number>[]): void =>
  expect(difference(actual, expected).same).toBeLessThan(0.06);

const told = (drawn: readonly DrawnCompletion[]): Float32Array[] => drawn.map(({ logProbs }) => logProbs);

/** Differences of each gradient, as shares of its norm. */
function gradientDifferences(a: Gradients, b: Gradients): number[] {
  expect([...a.keys()]).toEqual([...b.keys()]);
  return [...b].map(([name, values]) => relativeDifference(a.get(name)!, values));
}

// ---- one layer ----

/** The weight as it is in memory. */
const inMemory =
  (dtype: WeightDtype): ReferenceModel['weight'] =>
  (name, shape) => {
    const values = read(name, shape);
    if (name.includes('norm')) return values;
    if (dtype === 'nf4' && name.includes('_proj'))
      return dequantizeNf4(quantizeNf4(values, shape as [number, number]));
    return values.map(rounded);
  };

/** Log-probabilities of sequences and the gradient of their mean, by test/rounded-model.ts. */
function referenceOf(policy: LocalPolicy, { dtype }: Model, rows: readonly Sequence[]) {
  const named = policy.adapter!.named();
  const model = { config: policy.config, weight: inMemory(dtype), scale: policy.adapter!.scale };
  const gradients: Gradients = new Map(named.map(([name, { size }]) => [name, new Float32Array(size)]));
  const logProbs = rows.map(({ promptIds, completionIds }) => {
    let row: ArrayLike<number> = [];
    const share = (): Tensor => {
      const values = referenceLogProbs(model, new Map(named), promptIds, completionIds);
      row = values.dataSync().slice();
      // The share that the policy's loss has too: rounding is of the gradient with this factor.
      return tf.div(tf.neg(tf.sum(values)), tokensIn(rows));
    };
    const { value, grads } = tf.variableGrads(
      share as never,
      named.map(([, factor]) => factor),
    );
    for (const [name, factor] of named) {
      const [own, sum] = [grads[factor.name].dataSync(), gradients.get(name)!];
      sum.forEach((v, i) => (sum[i] = v + own[i]));
    }
    tf.dispose([value, grads] as never);
    return row;
  });
  return { logProbs, gradients };
}

const rowOfEach = sequences.filter((_, i) => i % 3 === 0);

describe.each(models)('one layer that multiplies in bfloat16 (%s)', (_, model) => {
  const half = (options: Options = {}): LocalPolicy => policyOf(model, 'bfloat16', options);
  const full = (options: Options = {}): LocalPolicy => policyOf(model, 'float32', options);

  it.each(modes)('has the log-probabilities and gradients of the formula (%s)', async (mode) => {
    const [policy, other] = [half({ mode }), full({ mode })];
    // One row of each prompt: where rows share a prompt, the sum of what they send back to it is rounded.
    const [expected, batch] = [referenceOf(policy, model, rowOfEach), batchOf(rowOfEach, 1)];
    const found = await passOf(policy, batch, { kind: 'cross_entropy' });
    expectSame(found.logProbs, expected.logProbs);
    expectSame(await policy.logProbs(rowOfEach), found.logProbs);
    const errors = gradientDifferences(found.gradients, expected.gradients);
    expect(Math.max(...errors)).toBeLessThan(7e-4); // 4e-7 where nothing is rounded otherwise, else to 1.6e-4
    const { logProbs, gradients } = await passOf(other, batch, { kind: 'cross_entropy' });
    expectOthers(logProbs, expected.logProbs);
    expect(Math.min(...gradientDifferences(gradients, expected.gradients))).toBeGreaterThan(2e-3); // 3e-3
  });

  it('draws from the distribution that it trains, which is not the one of float32', async () => {
    const policy = half();
    const drawn = drawnOf(await policy.sample(prompts, defaults));
    const pass = await policy.logProbs(drawn);
    expectSame(told(drawn), pass);
    expectOthers(await full().logProbs(drawn), pass);
    const eager = drawnOf(await half({ mode: 'eager' }).sample(prompts, defaults));
    const agree = eager.filter(({ tokenIds }, i) => `${tokenIds}` === `${drawn[i].tokenIds}`);
    expect(agree.length).toBeGreaterThanOrEqual(28);
  });

  it.each(modes)(
    'has gradients that point where those of float32 do, layers computed again too (%s)',
    async (mode) => {
      const all = batchOf(sequences, 3);
      const found = await passOf(half({ mode }), all, loss);
      const expected = await passOf(full({ mode }), all, loss);
      const errors = gradientDifferences(found.gradients, expected.gradients);
      expect(Math.min(...errors)).toBeGreaterThan(2e-3);
      expect(Math.max(...errors)).toBeLessThan(0.05); // 0.013; a cosine above 0.998
      const again = await passOf(half({ mode, gradientCheckpointing: true }), all, loss);
      expect(again.logProbs).toEqual(found.logProbs);
      expect(Math.max(...gradientDifferences(again.gradients, found.gradients))).toBeLessThan(1e-6);
    },
  );
});

// ---- more layers ----

describe.each(models)('three layers that multiply in bfloat16 (%s)', (_, model) => {
  const layers = 3;

  it('sample and run op by op with differences below those of float32 arithmetic', async () => {
    const [policy, eager, full] = [
      policyOf(model, 'bfloat16', { layers }),
      policyOf(model, 'bfloat16', { layers, mode: 'eager' }),
      policyOf(model, 'float32', { layers }),
    ];
    const drawn = drawnOf(await policy.sample(prompts, defaults));
    const pass = await policy.logProbs(drawn);
    const float32 = difference(await full.logProbs(drawn), pass);
    expect(float32.max).toBeLessThan(0.3); // 0.035 to 0.073
    for (const other of [told(drawn), await eager.logProbs(drawn)]) {
      const { max, rms, mean } = difference(other, pass);
      expect(max).toBeLessThan(0.05); // 0.002 to 0.015
      expect(rms).toBeLessThan(0.6 * float32.rms); // a fourth at most
      expect(Math.abs(mean)).toBeLessThan(1e-3); // 2e-4 at most
    }
  });

  it('keep no tensor of their work, and free all with dispose', async () => {
    const policy = policyOf(model, 'bfloat16', { layers, gradientCheckpointing: true });
    const work = async (): Promise<void> => {
      await policy.sample(prompts, { ...defaults, maxNewTokens: 3 });
      await policy.logProbs(sequences);
      await policy.forwardBackward(batchOf(sequences, 3), loss);
      await policy.optimStep({ learningRate: 1e-3 });
    };
    await work();
    await work();
    const before = count();
    for (let i = 0; i < 3; i++) await work();
    expect(count()).toEqual(before);
  });

  it('give a sampled row the same bits, whatever other prompts there are', async () => {
    const policy = policyOf(model, 'bfloat16', { layers });
    const groups = await policy.sample(prompts, defaults);
    for (const [i, prompt] of prompts.entries())
      expect(await policy.sample([prompt], defaults)).toEqual([groups[i]]);
  });
});

describe('a checkpoint with an adapter', () => {
  const load = (options: Partial<LocalPolicyOptions>): LocalPolicy => {
    const policy = LocalPolicy.load({ modelDirectory, adapterDirectory, mode: 'graph', ...options });
    open.push(policy);
    return policy;
  };

  it('is multiplied as matmulPrecision says', async () => {
    const [half, full] = [
      load({ dtype: 'bfloat16', matmulPrecision: 'bfloat16' }),
      load({ dtype: 'bfloat16' }),
    ];
    const { max, mean } = difference(await half.logProbs(sequences), await full.logProbs(sequences));
    expect(max).toBeGreaterThan(1e-2);
    expect(max).toBeLessThan(0.3); // 0.06
    expect(Math.abs(mean)).toBeLessThan(0.01);
  });

  it('is refused in float32', () => {
    expect(() => load({ matmulPrecision: 'bfloat16' })).toThrow(/bfloat16 needs weights in bfloat16 or nf4/);
  });
});

/** Prints log-probabilities of what is drawn as sampling and as a pass tells them, and of given sequences, from the build. */
const script = `
  const { model, policy } = require(${JSON.stringify(resolve('dist/index.js'))});
  const { models, target, prompts, options, sequences } = JSON.parse(process.argv[2]);
  const results = models.map(async ([, { config, dtype }]) => {
    const { matrices } = model.LoraAdapter.create(config, target, 1).toPeft();
    for (const { b } of matrices.values()) b.forEach((_, i) => (b[i] = 0.1 * Math.sin(7 * i)));
    const adapter = new model.LoraAdapter(config, target, matrices);
    const weights = model.randomWeights(config, 1, { scale: 0.2, dtype, matmulPrecision: 'bfloat16' });
    const one = new policy.LocalPolicy(config, weights, adapter);
    const drawn = (await one.sample(prompts, options)).flatMap(({ prompt, completions }) =>
      completions.map((c) => ({ ...c, promptIds: prompt.tokenIds, completionIds: c.tokenIds })),
    );
    return { told: drawn.map((c) => c.logProbs), pass: await one.logProbs(drawn), given: await one.logProbs(sequences) };
  });
  const list = (key, value) => (value instanceof Float32Array ? [...value] : value);
  Promise.all(results).then((all) => console.log(JSON.stringify(all, list)));
`;

type Printed = Record<'told' | 'pass' | 'given', number[][]>[];

describe('GRPOLAB_KERNELS', () => {
  const task = JSON.stringify({ models, target: settings, prompts, options: defaults, sequences });

  const run = (kernels: string): Printed =>
    printedWith(kernels, [temporaryFile('sample.cjs', script), task]) as Printed;

  it('of v4, v3 and plain give the log-probabilities of the default', () => {
    const expected = run('');
    expect(expected.length).toBe(models.length);
    for (const printed of [expected, run('v4'), run('v3'), run('plain')])
      printed.forEach(({ told: drawn, pass, given }, i) => {
        expectSame(drawn, pass);
        expectSame(given, expected[i].given);
      });
  });
});
