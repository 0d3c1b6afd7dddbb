/**
 * Policies with base weights in bfloat16 against float32 ones on the same numbers: of checkpoints in BF16 the files as they
 * are, of others a copy whose matrices are rounded here. They differ by float32's rounding only.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { goldenPath, readGolden } from '../../test/golden';
import { largestDifference, relativeDifference } from '../../test/golden-model';
import { expectedTensors, readModelConfig } from '../model/config';
import { PanelMatrix } from '../model/matrix';
import { openModelWeights } from '../model/model-weights';
import { LORA_TARGETS } from '../model/peft';
import type { AdapterConfig } from '../model/peft';
import { writeSafetensors } from '../model/safetensors-writer';
import type { Loss } from '../optim/losses';
import type { ExecutionMode } from '../runtime/compile';
import { ConfigError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { binding, tf } from '../runtime/tf';
import { LocalPolicy } from './local';
import type { LocalPolicyOptions } from './local';
import type { DrawnCompletion, MicroBatch, Prompt, RolloutGroup, SampleOptions, Sequence } from './policy';

/** Five times the largest difference of log-probabilities, of gradients (a share of their norm), and after three steps. */
const tolerance = { logProbs: 5e-5, gradients: 2e-5, steps: 4e-5 };

const count = (): [number, number] => [tf.memory().numTensors, binding.getNumOfTensors()];
const open: LocalPolicy[] = [];
const atStart = count();
afterEach(() => {
  open.splice(0).forEach((policy) => policy.dispose());
  expect(count()).toEqual(atStart);
});

// ---- models ----

const directory = mkdtempSync(join(tmpdir(), 'grpolab-bfloat16-'));
afterAll(() => rmSync(directory, { recursive: true }));

const normals = (name: string, length: number, scale: number): Float32Array => {
  const random = new Random(1, 'bfloat16 test', name);
  return Float32Array.from({ length }, () => scale * random.normal());
};

/** The nearest number with 8 significant bits, ties to even. */
function rounded(x: number): number {
  if (x === 0) return x;
  const unit = 2 ** (Math.floor(Math.log2(Math.abs(x))) - 7);
  const down = Math.floor(x / unit);
  const rest = x / unit - down;
  return unit * (rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down);
}

/** Widths that fill no panel, an odd one, and an odd number of key-value heads. */
const odd = {
  ...{ model_type: 'qwen3', vocab_size: 50, hidden_size: 20, intermediate_size: 35, num_hidden_layers: 2 },
  ...{ num_attention_heads: 3, num_key_value_heads: 1, head_dim: 6, rms_norm_eps: 1e-6, rope_theta: 1e4 },
  ...{ max_position_embeddings: 512, tie_word_embeddings: true, eos_token_id: 0 },
};

/** Writes a random model in BF16, and returns its directory. */
async function writeModel(name: string, config: typeof odd): Promise<string> {
  const model = join(directory, name);
  mkdirSync(model);
  writeFileSync(join(model, 'config.json'), JSON.stringify(config));
  const tensors = expectedTensors(readModelConfig(model)).map(({ name: tensor, shape }) => {
    const values = normals(tensor, shape.reduce((a, b) => a * b, 1), 0.3); // prettier-ignore
    return [tensor, { shape, data: tensor.includes('norm') ? values.map((x) => 1 + x) : values }] as const;
  });
  await writeSafetensors(join(model, 'model.safetensors'), new Map(tensors), { dtype: 'BF16' });
  return model;
}

/** A copy of a model with its matrices rounded to bfloat16, kept in F32. */
async function writeRounded(name: string): Promise<string> {
  const copy = join(directory, name);
  cpSync(goldenPath('tiny-qwen3', name), copy, { recursive: true });
  const tensors = readAll(copy);
  for (const tensor of tensors.values()) if (tensor.shape.length > 1) tensor.data = tensor.data.map(rounded);
  await writeSafetensors(join(copy, 'model.safetensors'), tensors);
  return copy;
}

/** Every tensor of a model directory. */
function readAll(model: string): Map<string, { shape: readonly number[]; data: Float32Array }> {
  const files = openModelWeights(model);
  const tensors = [...files.tensors].map(([name, { shape }]) => [name, { shape, data: files.read(name) }]);
  files.close();
  return new Map(tensors as [string, { shape: readonly number[]; data: Float32Array }][]);
}

const models = ['odd', 'tied-bf16', 'untied-bf16', 'untied-bf16-sharded', 'tied-f32', 'untied-f32'];
/** Of each model its directory, and the one that holds the same numbers for a float32 policy. */
const places = new Map<string, { own: string; same: string }>();
beforeAll(async () => {
  for (const name of models) {
    const own = name === 'odd' ? await writeModel(name, odd) : goldenPath('tiny-qwen3', name);
    places.set(name, { own, same: name.endsWith('f32') ? await writeRounded(name) : own });
  }
});

// ---- policies ----

const adapterOf = (modules: readonly string[], dropout = 0, r = 5): AdapterConfig => ({
  ...{ base_model_name_or_path: null, r, lora_alpha: 2 * r, use_rslora: false },
  ...{ lora_dropout: dropout, target_modules: [...modules] },
});
/** Queries, keys and values side by side: factors of 60 columns. */
const all = adapterOf(LORA_TARGETS, 0, 20);
const adapters: [string, AdapterConfig | undefined][] = [
  ['no adapter', undefined],
  ['all projections', all],
  ['q_proj and down_proj', adapterOf(['q_proj', 'down_proj'])],
  ['gate_proj', adapterOf(['gate_proj'])],
  ['k_proj, v_proj and up_proj', adapterOf(['k_proj', 'v_proj', 'up_proj'])],
];

/** All adapters on the smallest model, on others none and the one on all projections: each costs a trace. */
const someOf = (model: string) => adapters.slice(0, model === 'odd' ? 5 : 2);

/** A policy whose adapter changes something. */
function load(options: LocalPolicyOptions): LocalPolicy {
  const policy = LocalPolicy.load({ mode: 'graph', ...options });
  open.push(policy);
  if (options.adapterDirectory !== undefined) return policy;
  for (const [name, factor] of policy.adapter?.named() ?? [])
    if (name.endsWith('lora_B'))
      tf.tidy(() => factor.assign(tf.tensor(normals(name, factor.size, 0.1), factor.shape) as never));
  return policy;
}

type Some = Partial<LocalPolicyOptions>;
const half = (name: string, options: Some = {}): LocalPolicy =>
  load({ modelDirectory: places.get(name)!.own, dtype: 'bfloat16', ...options });
const full = (name: string, options: Some = {}): LocalPolicy =>
  load({ modelDirectory: places.get(name)!.same, ...options });

const tokens = (seed: number, length: number): number[] => {
  const random = new Random(2, 'tokens', seed, length);
  return Array.from({ length }, () => random.integer(50));
};

/** Prompts of these lengths, each with some completions of different lengths. */
const sequencesOf = (prompts: number[], group: number): Sequence[] =>
  prompts.flatMap((length, p) =>
    Array.from({ length: group }, (_, g) => ({
      promptIds: tokens(p, length),
      completionIds: tokens(100 + 10 * p + g, 1 + ((5 * p + 3 * g) % 12)),
    })),
  );
const sequences = [...sequencesOf([3, 1, 19], 4), ...sequencesOf([40], 1)];
const few = sequencesOf([4], 1);

const difference = (a: ArrayLike<number>[], b: ArrayLike<number>[]): number =>
  largestDifference(
    ...([a, b].map((rows) => rows.flatMap((row) => Array.from(row))) as [number[], number[]]),
  );
const expectLogProbs = (actual: ArrayLike<number>[], expected: ArrayLike<number>[]): void =>
  expect(difference(actual, expected)).toBeLessThan(tolerance.logProbs);

describe.each(models)('%s in bfloat16', (name) => {
  it.each(someOf(name))('gives the log-probabilities of float32 (%s)', async (_, lora) => {
    const [a, b] = [half(name, { lora }), full(name, { lora })];
    for (const list of [sequences, few]) expectLogProbs(await a.logProbs(list), await b.logProbs(list));
    const { embedding, head, layers } = a.weights;
    const matrices = layers.flatMap((w) => [w.qkv, w.o, w.gateUp, w.down]);
    for (const w of [embedding, head.matrix, ...matrices]) expect(w).toBeInstanceOf(PanelMatrix);
    expect(head.matrix === embedding).toBe(a.config.tieWordEmbeddings);
  });
});

// ---- gradients ----

const grpoLoss: Loss = {
  ...{ kind: 'grpo', type: 'dapo', epsilonLow: 0.2, epsilonHigh: 0.3, beta: 0, klBiasCorrection: true },
  ...{ ratioLevel: 'token', maxCompletionLength: 20 },
};

/** Rows of `sequencesOf` with advantages. */
function batchOf(prompts: number[], group: number, dropout: boolean): MicroBatch {
  const rows = sequencesOf(prompts, group);
  const groups = prompts.map((_, p) => ({
    ...(dropout ? { dropoutKey: { seed: 1, example: `example ${p}`, visit: 0 } } : {}),
    promptIds: rows[p * group].promptIds,
    rows: rows
      .slice(p * group, (p + 1) * group)
      .map(({ completionIds: tokenIds }, g) => ({ tokenIds, advantage: Math.cos(7 * p + 2 * g) })),
  }));
  const totalTokens = rows.reduce((sum, { completionIds }) => sum + completionIds.length, 0);
  return { groups, totalRows: rows.length, totalTokens, totalMicroBatches: 1 };
}

async function update(policy: LocalPolicy, learningRate: number, dropout = false): Promise<void> {
  await policy.forwardBackward(batchOf([5, 2], 3, dropout), grpoLoss);
  expect((await policy.optimStep({ learningRate, eps: 1e-4 })).skipped).toBe(false);
}

async function expectGradients(a: LocalPolicy, b: LocalPolicy, batch: MicroBatch, loss: Loss): Promise<void> {
  const x = await a.forwardBackward(batch, loss, { temperature: 0.9 });
  const y = await b.forwardBackward(batch, loss, { temperature: 0.9 });
  expectLogProbs([[x.loss], ...x.logProbs.flat()], [[y.loss], ...y.logProbs.flat()]);
  expectLogProbs(x.entropies.flat(), y.entropies.flat());
  const [actual, expected] = [a.pendingGradients(), b.pendingGradients()];
  expect([...actual.keys()]).toEqual([...expected.keys()]);
  for (const [name, { shape, values }] of actual) {
    const other = expected.get(name)!;
    expect(shape).toEqual(other.shape);
    expect(Math.hypot(...other.values), name).toBeGreaterThan(0);
    expect(relativeDifference(values, other.values), name).toBeLessThan(tolerance.gradients);
  }
}

const otherModes: ExecutionMode[] = ['eager', 'xla'];
const passes = [0, 1, 2, 3].flatMap((i) =>
  adapters.slice(1).map(([title, lora]) => ({ title, lora, again: i > 1, dropout: 0.3 * (i % 2) })),
);

describe.each(['odd', 'tied-bf16', 'untied-f32'])('gradients of an adapter on %s', (name) => {
  // With every adapter the plain pass; on the smallest model also all that may be added to it.
  const some = passes.filter(({ title, again, dropout }, i) =>
    name === 'odd' ? title === 'all projections' || again === dropout > 0 : i < 4 || i === 12,
  );

  it.each(some)('are those of float32: $title, $again, $dropout', async ({ lora, again, dropout }) => {
    const options = { lora: { ...lora!, lora_dropout: dropout }, gradientCheckpointing: again };
    const [a, b] = [half(name, options), full(name, options)];
    await expectGradients(a, b, batchOf([19, 1, 7], 4, dropout > 0), grpoLoss);
    await expectGradients(a, b, batchOf([3], 1, dropout > 0), { kind: 'cross_entropy' });
  });

  it.each(name === 'odd' ? otherModes : otherModes.slice(0, 1))(
    'and log-probabilities are the same in mode %s',
    async (mode) => {
      const options = { lora: adapterOf(['q_proj', 'up_proj'], 0.3), gradientCheckpointing: true };
      const [a, b] = [half(name, { ...options, mode }), half(name, options)];
      expectLogProbs(await a.logProbs(sequences), await b.logProbs(sequences));
      if (mode === 'xla') return; // its compiler takes seconds for a backward pass
      await expectGradients(a, b, batchOf([19, 1, 7], 2, true), grpoLoss);
    },
  );

  it('lead through three steps to the same adapter, and leave the bare reference', async () => {
    const [a, b] = [half(name, { lora: all }), full(name, { lora: all })];
    const before = await a.logProbs(sequences, { of: 'reference' });
    expectLogProbs(before, await b.logProbs(sequences, { of: 'reference' }));
    a.freezeReference();
    const frozen = await a.logProbs(sequences);
    for (const policy of [a, b, a, b, a, b]) await update(policy, 1e-3);
    const after = await a.logProbs(sequences);
    expect(difference(after, await b.logProbs(sequences))).toBeLessThan(tolerance.steps);
    expect(difference(after, frozen)).toBeGreaterThan(1e-3);
    expect(await a.logProbs(sequences, { of: 'reference' })).toEqual(frozen);
  });
});

// ---- sampling ----

const promptsOf = (...lengths: number[]): Prompt[] =>
  lengths.map((length, i) => ({ id: `prompt ${i}`, tokenIds: tokens(200 + i, length) }));
const length = { maxNewTokens: 9, stopTokenIds: [] };
const defaults: SampleOptions = { groupSize: 4, temperature: 0.8, seed: 5, ...length };
const manyPrompts = promptsOf(17, 1, 40, 3, 16, 5, 600, 2, 9);

/** Log-probabilities that sampling tells are those of a pass over what it drew. */
async function expectOnPolicy(policy: LocalPolicy, groups: RolloutGroup<DrawnCompletion>[]): Promise<void> {
  const drawn = groups.flatMap(({ prompt, completions }) => completions.map((c) => ({ ...c, prompt })));
  const list = drawn.map((c) => ({ promptIds: c.prompt.tokenIds, completionIds: c.tokenIds }));
  const [tempered, plain] = [drawn.map((c) => c.temperedLogProbs), drawn.map((c) => c.logProbs)];
  expectLogProbs(tempered, await policy.logProbs(list, { temperature: defaults.temperature }));
  expectLogProbs(plain, await policy.logProbs(list));
}

const tokensOf = (groups: RolloutGroup[]): number[][] =>
  groups.flatMap(({ completions }) => completions.map(({ tokenIds }) => tokenIds));

describe.each(['odd', 'untied-f32'])('sampling from %s', (name) => {
  it.each(someOf(name))('draws what float32 draws, and tells its log-probabilities (%s)', async (_, lora) => {
    const [a, b] = [half(name, { lora }), full(name, { lora })];
    const cases = [{ prompts: manyPrompts, groupSize: 4 }, { prompts: promptsOf(1, 30), groupSize: 3 }]; // prettier-ignore
    for (const { prompts, groupSize } of [...cases, { prompts: promptsOf(2), groupSize: 1 }]) {
      const options = { ...defaults, groupSize };
      const groups = await a.sample(prompts, options);
      await expectOnPolicy(a, groups);
      expect(await a.sample(prompts, options)).toEqual(groups);
      expect(tokensOf(groups)).toEqual(tokensOf(await b.sample(prompts, options)));
      expect(tokensOf(await a.sample(prompts, { ...options, seed: 6 }))).not.toEqual(tokensOf(groups));
    }
  });

  it.each(name === 'odd' ? otherModes : otherModes.slice(0, 1))('draws the same in mode %s', async (mode) => {
    const [a, b] = [half(name, { lora: all, mode }), half(name, { lora: all })];
    const [prompts, options] = [promptsOf(5, 1, 18), { ...defaults, groupSize: 2, maxNewTokens: 4 }];
    expect(tokensOf(await a.sample(prompts, options))).toEqual(tokensOf(await b.sample(prompts, options)));
  });

  it.each(someOf(name).slice(1))('follows an update and what is loaded (%s)', async (_, lora) => {
    const [policy, saved] = [half(name, { lora }), temporaryDirectory()];
    const before = await policy.sample(manyPrompts, defaults);
    await policy.save(saved);
    await update(policy, 0.02);
    const after = await policy.sample(manyPrompts, defaults);
    await expectOnPolicy(policy, after);
    expect(tokensOf(after)).not.toEqual(tokensOf(before));
    await policy.load(saved);
    expect(await policy.sample(manyPrompts, defaults)).toEqual(before);
  });
});

// ---- files ----

describe.each(['odd', 'untied-f32'])('files of %s in bfloat16', (name) => {
  it('hold an adapter that float32 loads, and moments with which training goes on to the same bits', async () => {
    const [a, saved] = [half(name, { lora: all }), temporaryDirectory()];
    await update(a, 0.01);
    await a.save(saved, { optimiser: true });
    const b = half(name, { adapterDirectory: saved });
    await b.load(saved, { optimiser: true });
    const float32 = full(name, { adapterDirectory: saved });
    expectLogProbs(await a.logProbs(sequences), await float32.logProbs(sequences));
    await update(a, 0.01);
    await update(b, 0.01);
    expect(b.adapter!.toPeft()).toEqual({ ...a.adapter!.toPeft(), config: b.adapter!.config });
  });

  it('hold W + scale A B in every matrix when merged, in float32', async () => {
    const lora = adapterOf(['q_proj', 'v_proj', 'up_proj', 'down_proj']);
    const [policy, modelDirectory] = [half(name, { lora }), temporaryDirectory()];
    await policy.saveMerged(modelDirectory);
    const [base, merged] = [readAll(places.get(name)!.same), readAll(modelDirectory)];
    expect([...merged.keys()].sort()).toEqual([...base.keys()].sort());
    const deltas = new Map([...policy.adapter!.toPeft().matrices].map(([m, f]) => [`model.${m}.weight`, f]));
    for (const [tensor, { shape, data }] of base) {
      const [delta, width] = [deltas.get(tensor), shape[shape.length - 1]];
      const expected = data.map((w, at) => {
        const [i, j] = [Math.floor(at / width), at % width];
        const terms = [0, 1, 2, 3, 4].map((r) => (delta ? delta.b[i * 5 + r] * delta.a[r * width + j] : 0));
        return w + 2 * terms.reduce((a, b) => a + b);
      });
      const error = largestDifference(merged.get(tensor)!.data, expected);
      expect(error, tensor).toBeLessThanOrEqual(delta ? 1e-6 : 0);
    }
    expectLogProbs(await load({ modelDirectory }).logProbs(sequences), await policy.logProbs(sequences));
  });
});

type Forward = Record<string, { single: { input_ids: number[]; logprobs_f64: number[] } }>;

describe('a policy in bfloat16', () => {
  it('is refused where all weights are to be trained', () => {
    const trained = (): LocalPolicy => half('tied-bf16', { trainable: 'all' });
    expect(trained).toThrow(ConfigError);
    expect(trained).toThrow(/bfloat16 are frozen.*trainable: lora.*float32/);
  });

  it('samples on its weights as they are, without a copy', async () => {
    const policy = half('tied-bf16');
    const before = tf.memory();
    await policy.sample(manyPrompts, defaults);
    expect(tf.memory()).toEqual(before);
  });

  it('keeps no tensor of its work, and frees all with dispose', async () => {
    const policy = half('odd', { lora: adapterOf(LORA_TARGETS, 0.1), gradientCheckpointing: true });
    const work = async (): Promise<void> => {
      await policy.sample(manyPrompts.slice(0, 4), defaults);
      await policy.logProbs(sequences);
      await update(policy, 0.01, true);
      policy.freezeReference();
      await policy.logProbs(few, { of: 'reference' });
    };
    await work();
    await work();
    const before = count();
    for (let i = 0; i < 3; i++) await work();
    expect(count()).toEqual(before);
    const outside = { id: 'outside', tokenIds: [1, 50] };
    await expect(policy.sample([outside], defaults)).rejects.toThrow(/token 50 is outside 0..49/);
    const pass = policy.logProbs([{ promptIds: [1, 50], completionIds: [2] }]);
    await expect(pass).rejects.toThrow(/50 is outside 0..49/);
    expect(count()).toEqual(before);
  });

  it.each(['tied-f32', 'untied-f32'])('is as near to %s as 8 bits allow', async (name) => {
    const { input_ids: ids, logprobs_f64: exact } = readGolden<{ models: Forward }>('forward.json').models[
      name
    ].single;
    const [row] = await half(name).logProbs([{ promptIds: ids.slice(0, 1), completionIds: ids.slice(1) }]);
    const differences = Array.from(row, (value, i) => value - exact[i]);
    const most = Math.max(...differences.map(Math.abs));
    expect(most).toBeGreaterThan(1e-4);
    expect(most).toBeLessThan(name === 'tied-f32' ? 0.1 : 0.4); // 0.02 and 0.08
    expect(Math.abs(differences.reduce((a, b) => a + b, 0) / ids.length)).toBeLessThan(0.02);
  });
});
