/**
 * What trains behind the fake Tinker server: LoRA models in the places of one Qwen3, by the protocol's own formulas.
 * Losses, normalisation and AdamW are written out here a second time, so that a test that compares a client's training with
 * that of LocalPolicy compares two things.
 *
 * As in the server that it stands for (SkyRL tx 0.3.0, JAX), training and sampling share a model's place:
 * a sampler's copy is loaded over the weights in training unless it is the one that was loaded last; and a gradient that
 * waits in a place is cleared by a step alone, not by loading, not by unloading, not by the next model in that place.
 */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createTar, createTarGzip } from 'nanotar';
import { LORA_TARGETS, writeAdapter } from '../src/model/peft';
import type { Adapter } from '../src/model/peft';
import { LocalPolicy } from '../src/policy/local';
import type { Sequence } from '../src/policy/policy';
import { tf } from '../src/runtime/tf';

/** One sequence of a pass, checked: every array has the length of the inputs. */
export interface Datum {
  /** Inputs, and the last target. */
  tokens: number[];
  weights: number[];
  logprobs: number[];
  advantages: number[];
}

export type LossName = 'cross_entropy' | 'importance_sampling' | 'ppo' | 'cispo';

export interface Pass {
  data: Datum[];
  loss: LossName;
  /** Ratio bounds of ppo and cispo. */
  low: number;
  high: number;
}

export interface AdamNumbers {
  learning_rate: number;
  beta1: number;
  beta2: number;
  eps: number;
  weight_decay: number;
}

export interface SampleInput {
  tokens: number[];
  count: number;
  seed: number;
  maxTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  stop: number[];
  wantsPromptLogProbs: boolean;
}

/** An operation that failed: the server answers 400 with this text. */
export class OperationError extends Error {}

/** A result that has no JSON form, such as a number that is not one: the server answers a plain 500. */
export class UnspeakableError extends Error {}

/** By factor, such as `layers.0.mlp.up_proj.lora_A`. */
type Values = Map<string, Float32Array>;

interface Moments {
  first: Values;
  second: Values;
  steps: number;
}

/** What `save_weights` keeps. */
export interface TrainingState {
  adapter: Adapter;
  moments: Moments;
}

/** Where a model lies; what waits in it outlives the model. */
interface Place {
  sum: Values;
  count: number;
}

interface Model {
  place: Place;
  policy: LocalPolicy;
  moments: Moments;
  /** The sampler's copy that was loaded last. */
  loaded: string | null;
}

export interface EngineOptions {
  modelDirectory: string;
  modelName: string;
  /** Places, one of them for the bare model. */
  maxAdapters: number;
  maxRank: number;
}

const ALPHA = 32;

/** Loss of one token and its derivative by log pi, times the token's weight m; r = exp(log pi - logprobs). */
function tokenLoss(
  { loss, low, high }: Pass,
  [logProb, m, old, advantage]: readonly number[],
): { value: number; slope: number } {
  if (m === 0) return { value: 0, slope: 0 };
  if (loss === 'cross_entropy') return { value: -m * logProb, slope: -m };
  const ratio = Math.exp(logProb - old);
  const surrogate = -m * ratio * advantage;
  if (loss === 'importance_sampling') return { value: surrogate, slope: surrogate };
  const clipped = Math.min(Math.max(ratio, low), high);
  const constant = -m * clipped * advantage;
  if (loss === 'cispo') return { value: constant * logProb, slope: constant };
  // Of min(r A, clip(r) A) the clipped side has no slope.
  return ratio * advantage <= clipped * advantage
    ? { value: surrogate, slope: surrogate }
    : { value: constant, slope: 0 };
}

function copyOf(values: Values): Values {
  return new Map([...values].map(([name, array]) => [name, array.slice()]));
}

/** All models of a server. A restart makes a new one. */
export class Engine {
  private readonly models = new Map<string, Model>();
  private readonly places: Place[];
  private readonly base: LocalPolicy;

  constructor(private readonly options: EngineOptions) {
    this.places = Array.from({ length: options.maxAdapters - 1 }, () => ({ sum: new Map(), count: 0 }));
    this.base = LocalPolicy.load({ modelDirectory: options.modelDirectory, mergeForSampling: false });
  }

  get vocabSize(): number {
    return this.base.config.vocabSize;
  }

  has(id: string): boolean {
    return this.models.has(id);
  }

  dispose(): void {
    for (const id of [...this.models.keys()]) this.unload(id);
    this.base.dispose();
  }

  private model(id: string): Model {
    const model = this.models.get(id);
    if (model === undefined) throw new OperationError(`Model ${id} not loaded`);
    return model;
  }

  create(id: string, rank: number, seed: number): unknown {
    const { modelDirectory, modelName, maxAdapters, maxRank } = this.options;
    const taken = new Set([...this.models.values()].map(({ place }) => place));
    const place = this.places.find((one) => !taken.has(one));
    if (place === undefined)
      throw new OperationError(`Maximum number of LoRA adapters (${maxAdapters}) reached`);
    if (rank < 1 || rank > maxRank)
      throw new OperationError(`LoRA rank ${rank} must be between 1 and ${maxRank}`);
    const lora = {
      ...{ base_model_name_or_path: modelName, r: rank, lora_alpha: ALPHA, lora_dropout: 0 },
      ...{ use_rslora: false, target_modules: [...LORA_TARGETS] },
    };
    // Merged weights would not follow the adapter when it is written to.
    const policy = LocalPolicy.load({ modelDirectory, lora, seed, mergeForSampling: false });
    const moments = { first: new Map(), second: new Map(), steps: 0 };
    this.models.set(id, { place, policy, moments, loaded: null });
    const flags = { train_attn: true, train_mlp: true, train_unembed: false };
    return { model_id: id, base_model: modelName, lora_config: { rank, alpha: ALPHA, seed, ...flags } };
  }

  unload(id: string): unknown {
    this.models.get(id)?.policy.dispose();
    this.models.delete(id);
    return { model_id: id, status: 'unloaded', type: 'unload_model' };
  }

  /** `forward`, or `forward_backward`, whose gradient is added to what waits in the model's place. */
  async pass(id: string, input: Pass, hasGradient: boolean): Promise<unknown> {
    const model = this.model(id);
    this.requireSpeakable(input.data.flatMap(({ tokens }) => tokens));
    const sequences = input.data.map(({ tokens }): Sequence => {
      return { promptIds: tokens.slice(0, 1), completionIds: tokens.slice(1) };
    });
    const logProbs = await model.policy.logProbs(sequences);
    const losses = input.data.map(({ weights, logprobs, advantages }, i) =>
      weights.map((m, t) => tokenLoss(input, [logProbs[i][t], m, logprobs[t], advantages[t]])),
    );
    if (hasGradient) {
      const credits = losses.map((row, i) => {
        const total = input.data[i].weights.reduce((sum, m) => sum + m, 0);
        return row.map(({ slope }) => -slope / Math.max(total, 1e-9));
      });
      await accumulate(model, sequences, credits);
    }
    const tensor = (data: number[]) => ({ data, dtype: 'float32', shape: [data.length] });
    const outputs = losses.map((row, i) => ({
      elementwise_loss: tensor(row.map(({ value }) => value)),
      logprobs: tensor([...logProbs[i]]),
    }));
    return { loss_fn_output_type: 'scalar', loss_fn_outputs: outputs, metrics: {} };
  }

  /** What the real server looks up beyond its embedding's end is not a number. */
  private requireSpeakable(tokens: readonly number[]): void {
    if (tokens.some((token) => token < 0 || token >= this.vocabSize)) throw new UnspeakableError();
  }

  /** AdamW with the mean of the gradients since the last step; without any, with a gradient of zero. */
  step(id: string, adam: AdamNumbers): unknown {
    const { place, policy, moments } = this.model(id);
    moments.steps++;
    let squares = 0;
    for (const [name, variable] of policy.adapter?.named() ?? []) {
      const { size, shape } = variable;
      const sum = place.sum.get(name) ?? new Float32Array(size);
      const gradient = sum.map((value) => value / Math.max(place.count, 1));
      squares += gradient.reduce((total, g) => total + g * g, 0);
      const first = moments.first.get(name) ?? new Float32Array(size);
      const second = moments.second.get(name) ?? new Float32Array(size);
      moments.first.set(name, first);
      moments.second.set(name, second);
      const values = (variable.dataSync() as Float32Array).slice();
      adamw(values, gradient, [first, second], moments.steps, adam);
      tf.tidy(() => variable.assign(tf.tensor(values, shape) as never));
    }
    [place.sum, place.count] = [new Map(), 0];
    const norm = Math.sqrt(squares);
    if (!Number.isFinite(norm)) throw new UnspeakableError();
    return {
      metrics: { 'skyrl.ai/grad_norm': norm, 'skyrl.ai/learning_rate': Math.fround(adam.learning_rate) },
    };
  }

  /** The adapter as it is. */
  adapter(id: string): Adapter {
    const { policy } = this.model(id);
    if (policy.adapter === null) throw new OperationError(`Model ${id} has no adapter`);
    return policy.adapter.toPeft();
  }

  state(id: string): TrainingState {
    const { first, second, steps } = this.model(id).moments;
    return { adapter: this.adapter(id), moments: { first: copyOf(first), second: copyOf(second), steps } };
  }

  load(id: string, { adapter, moments: { first, second, steps } }: TrainingState): unknown {
    const model = this.model(id);
    const [is, own] = [adapter.config.r, model.policy.adapter?.config.r];
    if (is !== own)
      throw new OperationError(`Rank mismatch: checkpoint has rank ${is}, model configured with rank ${own}`);
    model.policy.adapter?.assign(adapter);
    model.moments = { first: copyOf(first), second: copyOf(second), steps };
    return { type: 'load_weights' };
  }

  /** @param copy  the sampler's weights and their name; null: the bare model */
  async sample(
    id: string,
    input: SampleInput,
    copy: { name: string; adapter: Adapter } | null,
  ): Promise<unknown> {
    this.requireSpeakable(input.tokens);
    let policy = this.base;
    if (copy !== null) {
      const model = this.model(id);
      policy = model.policy;
      if (model.loaded !== copy.name) policy.adapter?.assign(copy.adapter);
      model.loaded = copy.name;
    }
    const { tokens, count, seed, maxTokens, temperature, topP, topK, stop } = input;
    const prompts = Array.from({ length: count }, (_, j) => ({ id: String(seed + j), tokenIds: tokens }));
    const groups = await policy.sample(prompts, {
      ...{ groupSize: 1, temperature, topP, topK, maxNewTokens: maxTokens, seed: 0, stopTokenIds: stop },
    });
    const sequences = groups.map(({ completions: [{ tokenIds, logProbs, finishReason }] }) => ({
      ...{ stop_reason: finishReason, tokens: tokenIds, logprobs: [...logProbs] },
    }));
    const promptLogProbs = input.wantsPromptLogProbs ? await ofPrompt(policy, tokens) : null;
    return { sequences, prompt_logprobs: promptLogProbs };
  }
}

async function ofPrompt(policy: LocalPolicy, tokens: readonly number[]): Promise<number[]> {
  if (tokens.length < 2) return [];
  const [values] = await policy.logProbs([{ promptIds: tokens.slice(0, 1), completionIds: tokens.slice(1) }]);
  return [...values];
}

/** Adds the gradient of -sum credit * log pi to what waits in the model's place. */
async function accumulate(
  { place, policy }: Model,
  sequences: readonly Sequence[],
  credits: readonly number[][],
): Promise<void> {
  const groups = sequences.map(({ promptIds, completionIds }, i) => ({
    ...{ promptIds, rows: [{ tokenIds: completionIds, weights: credits[i] }] },
  }));
  const totals = { totalRows: groups.length, totalTokens: 1, totalMicroBatches: 1 };
  await policy.forwardBackward({ groups, ...totals }, { kind: 'weighted' });
  for (const [name, { values }] of policy.pendingGradients()) {
    const before = place.sum.get(name);
    // Models of one server have one rank in these tests; a gradient of another is not carried over.
    const sum = before?.length === values.length ? before : new Float32Array(values.length);
    place.sum.set(
      name,
      sum.map((value, i) => value + values[i]),
    );
  }
  place.count += groups.length;
  // The policy's own optimiser is not used: this only takes the gradient out of it.
  await policy.optimStep({ learningRate: 0 });
}

/** One step in place: p -= lr (m^ / (sqrt(v^) + eps) + wd p), with the moments' biases corrected (optax's adamw). */
function adamw(
  values: Float32Array,
  gradient: Float32Array,
  [first, second]: [Float32Array, Float32Array],
  step: number,
  { learning_rate: rate, beta1, beta2, eps, weight_decay: decay }: AdamNumbers,
): void {
  values.forEach((value, i) => {
    first[i] = beta1 * first[i] + (1 - beta1) * gradient[i];
    second[i] = beta2 * second[i] + (1 - beta2) * gradient[i] ** 2;
    const direction =
      first[i] / (1 - beta1 ** step) / (Math.sqrt(second[i] / (1 - beta2 ** step)) + eps) + decay * value;
    values[i] = value - rate * direction;
  });
}

/** A tar of the adapter in PEFT's format, as the stock server makes it: without the list of adapted matrices. */
export async function archiveOf(adapter: Adapter, isCompressed: boolean): Promise<Buffer> {
  const directory = await mkdtemp(path.join(tmpdir(), 'tinker-archive-'));
  try {
    await writeAdapter(directory, adapter);
    const read = (name: string): Buffer => readFileSync(path.join(directory, name));
    const config = JSON.parse(read('adapter_config.json').toString()) as Record<string, unknown>;
    const files = [
      { name: '/' },
      { name: 'adapter_model.safetensors', data: new Uint8Array(read('adapter_model.safetensors')) },
      { name: 'adapter_config.json', data: JSON.stringify({ ...config, target_modules: null }) },
    ];
    return Buffer.from(isCompressed ? await createTarGzip(files) : createTar(files));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
