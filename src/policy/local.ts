/** The policy that runs here: Qwen3 with a LoRA adapter (or with all its weights trained) on TensorFlow. */
import { copyFileSync, existsSync } from 'node:fs';
import path from 'node:path';
import { compile, defaultMode } from '../runtime/compile';
import type { CompiledFunction } from '../runtime/compile';
import { CheckpointError, ConfigError } from '../runtime/errors';
import { ensureDirectory } from '../runtime/files';
import type { Tensor, Variable } from '../runtime/tf';
import { binding, tf } from '../runtime/tf';
import { readModelConfig } from '../model/config';
import type { MatmulPrecision, ModelConfig, WeightDtype } from '../model/config';
import { adapterDropout } from '../model/dropout';
import { fileTensors, loadWeights, weightTensors } from '../model/load';
import type { OnLoad } from '../model/load';
import { LoraAdapter } from '../model/lora';
import type { StepShape } from '../model/memory';
import { tokenLogProbs } from '../model/ops';
import { readAdapter, writeAdapter } from '../model/peft';
import type { AdapterConfig } from '../model/peft';
import { forwardSharedPrefix } from '../model/qwen3';
import type { Network, QwenWeights } from '../model/qwen3';
import { writeSafetensors } from '../model/safetensors-writer';
import { evaluateLoss, lossMetricNames } from '../optim/losses';
import type { Loss } from '../optim/losses';
import { breathe, packCompletions, packPrompts, rowValues } from './batch';
import { LocalOptimiser } from './local-optimiser';
import { groupShape, loadWithAdvice, MemoryWatch, samplingShape, sequenceShape } from './out-of-memory';
import { logProbPasses, packBatch } from './packing';
import type { BatchFlags } from './packing';
import type {
  DrawnCompletion,
  FullForwardBackwardResult,
  MicroBatch,
  OptimStepOptions,
  OptimStepResult,
  Policy,
  Prompt,
  RolloutGroup,
  SampleOptions,
  Sequence,
} from './policy';
import { LocalSampler } from './local-sampler';
import type { LocalSamplerOptions } from './local-sampler';

/** A model of this machine and what of it is trained. */
export interface LocalPolicyOptions extends LocalSamplerOptions {
  /** A Hugging Face directory. */
  modelDirectory: string;
  /** Start from this PEFT directory; else a fresh adapter of `lora`, else (neither) the bare model. */
  adapterDirectory?: string;
  lora?: AdapterConfig;
  /** Of the base weights: `float32` (default), `bfloat16` in half the memory, or `nf4` in a fourth to a sixth; both frozen. */
  dtype?: WeightDtype;
  /** Of products with base weights in `bfloat16` or `nf4`; default: `float32`. */
  matmulPrecision?: MatmulPrecision;
  /** Seed of a fresh adapter. */
  seed?: number;
  /** `lora` (default): the adapter; `all`: every weight, embeddings too. */
  trainable?: 'lora' | 'all';
  /** Keep only each layer's input for the backward pass, which computes the layer again: the same gradients. */
  gradientCheckpointing?: boolean;
  /** Told of how much of the model's files has been read. */
  onLoad?: OnLoad;
  /** Tokens that end a completion; default: the model's end tokens. */
  stopTokenIds?: readonly number[];
}

/** Moments and step count, beside the adapter in a checkpoint. */
const OPTIMISER_FILE = 'optimizer.safetensors';

/** A Qwen3 model on this machine with its LoRA adapter, or with all of its weights trained. */
export class LocalPolicy implements Policy {
  private readonly functions = new Map<string, CompiledFunction>();
  private readonly optimiser: LocalOptimiser;
  private readonly stopTokenIds: readonly number[];
  private reference: LoraAdapter | null = null;
  private readonly sampler: LocalSampler;
  private readonly padId: number;
  private readonly memory: MemoryWatch;

  constructor(
    readonly config: ModelConfig,
    readonly weights: QwenWeights,
    readonly adapter: LoraAdapter | null,
    private readonly options: Partial<LocalPolicyOptions> = {},
  ) {
    const { trainable = 'lora', mode } = options;
    this.padId = config.padTokenId ?? config.eosTokenIds[0] ?? 0;
    const variables =
      trainable === 'all'
        ? weightTensors(weights).map((tensor, i) => [`weight_${i}`, tensor as Variable] as [string, Variable])
        : (adapter?.named() ?? []);
    this.optimiser = new LocalOptimiser(
      variables.map(([name]) => name),
      variables.map(([, variable]) => variable),
      mode,
    );
    this.stopTokenIds = options.stopTokenIds ?? config.eosTokenIds;
    this.sampler = new LocalSampler(this.network(adapter), this.padId, options);
    const isFused = (): boolean => (mode ?? defaultMode()) === 'graph' && !binding.isUsingGpuDevice();
    this.memory = new MemoryWatch(config, adapter?.config.r ?? null, options, isFused);
  }

  /** @throws CheckpointError  when the model or the adapter cannot be read, or do not belong together */
  static load(options: LocalPolicyOptions): LocalPolicy {
    const { modelDirectory, adapterDirectory, lora, trainable = 'lora', seed = 0 } = options;
    if (trainable === 'all' && (adapterDirectory !== undefined || lora !== undefined))
      throw new ConfigError(
        'trainable: all takes no adapter; merge it into the model first, or set trainable: lora',
      );
    const config = readModelConfig(modelDirectory);
    const stored = adapterDirectory === undefined ? null : readAdapter(adapterDirectory, config);
    const kind = trainable === 'all' ? 'variable' : 'constant';
    const { dtype, matmulPrecision, onLoad } = options;
    const placed = { kind, dtype, matmulPrecision, onLoad } as const;
    const load = (): QwenWeights => loadWeights(modelDirectory, config, placed);
    const weights = loadWithAdvice(load, config, options);
    let adapter: LoraAdapter | null = null;
    if (stored !== null) adapter = new LoraAdapter(config, stored.config, stored.matrices);
    else if (lora !== undefined) adapter = LoraAdapter.create(config, lora, seed);
    return new LocalPolicy(config, weights, adapter, options);
  }

  /**
   * Makes the present adapter the frozen reference of `logProbs(..., {of: 'reference'})`; without one, or with one that changes
   * nothing yet, it is the bare model.
   * @throws ConfigError  when all weights are trained: the bare model changes then
   */
  freezeReference(): void {
    this.requireFrozenWeights();
    this.forget('logProbs reference');
    this.reference?.dispose();
    this.reference = this.adapter?.isNeutral === false ? this.adapter.clone() : null;
    this.memory.hasReference = true;
  }

  dispose(): void {
    for (const fn of this.functions.values()) fn.dispose();
    this.functions.clear();
    this.sampler.dispose();
    this.optimiser.dispose();
    tf.dispose(weightTensors(this.weights));
    this.adapter?.dispose();
    this.reference?.dispose();
  }

  private requireFrozenWeights(): void {
    if (this.options.trainable === 'all')
      throw new ConfigError(
        'trainable: all has no reference: its weights change; use lora, or a loss with beta 0',
      );
  }

  private compiled(key: string, name: string, fn: (...args: Tensor[]) => Tensor[]): CompiledFunction {
    let compiledFunction = this.functions.get(key);
    if (compiledFunction === undefined) {
      compiledFunction = compile(name, fn, { mode: this.options.mode });
      this.functions.set(key, compiledFunction);
    }
    return compiledFunction;
  }

  private forget(prefix: string): void {
    for (const [key, fn] of this.functions) {
      if (!key.startsWith(prefix)) continue;
      fn.dispose();
      this.functions.delete(key);
    }
  }

  private network(adapter: LoraAdapter | null): Network {
    return { config: this.config, weights: this.weights, adapter };
  }

  // ---- sample ----

  async sample(prompts: readonly Prompt[], options: SampleOptions): Promise<RolloutGroup<DrawnCompletion>[]> {
    const draw = () => this.sampler.current().sample(prompts, options, this.stopTokenIds);
    return this.memory.run('sample', () => samplingShape(prompts, options), draw);
  }

  // ---- logProbs ----

  private logProbPass(of: 'policy' | 'reference', temperature: number): CompiledFunction {
    const adapter = of === 'policy' ? this.adapter : this.reference;
    return this.compiled(
      `logProbs ${of} ${temperature}`,
      `logProbs of ${of}`,
      (ids, mask, positions, own, ownPositions) => {
        const prompts = { ids, mask, positions };
        const hidden = forwardSharedPrefix(this.network(adapter), prompts, own, ownPositions);
        return [tokenLogProbs(hidden, tf.reshape(own, [own.size]), this.weights.head, temperature).logProbs];
      },
    );
  }

  async logProbs(
    sequences: readonly Sequence[],
    { of = 'policy', temperature = 1 }: { of?: 'policy' | 'reference'; temperature?: number } = {},
  ): Promise<Float32Array[]> {
    requireTemperature(temperature);
    if (of === 'reference') this.requireFrozenWeights();
    const pass = this.logProbPass(of, temperature);
    const results = new Array<Float32Array>(sequences.length);
    for (const groups of logProbPasses(sequences)) {
      const prompts = packPrompts(
        groups.map((group) => sequences[group[0]].promptIds),
        this.padId,
      );
      const rows = groups.flat();
      const own = packCompletions(
        rows.map((i) => ({
          tokenIds: sequences[i].completionIds,
          promptLength: sequences[i].promptIds.length,
        })),
        this.padId,
      );
      const inputs = [prompts.ids, prompts.mask, prompts.positions, own.ids, own.positions];
      const shape = (): StepShape => sequenceShape(groups, sequences);
      const [values] = await this.memory.run('logProbs', shape, () => readAll(pass, inputs));
      rows.forEach(
        (i, row) => (results[i] = rowValues(values, own.width, row, sequences[i].completionIds.length)),
      );
      await breathe();
    }
    return results;
  }

  // ---- forwardBackward ----

  async forwardBackward(
    batch: MicroBatch,
    loss: Loss,
    { temperature = 1 }: { temperature?: number } = {},
  ): Promise<FullForwardBackwardResult> {
    requireTemperature(temperature);
    if (this.optimiser.variables.length === 0)
      throw new ConfigError(
        'this policy has nothing to train: give lora or an adapter, or set trainable: all',
      );
    const packed = packBatch(batch, this.padId, this.adapter?.config.lora_dropout ?? 0);
    const { flags, inputs } = packed;
    const key = `forwardBackward ${JSON.stringify(loss)} ${temperature} ${JSON.stringify(flags)}`;
    const names = lossMetricNames(loss, flags.reference);
    const step = this.compiled(key, 'forwardBackward', (...args) =>
      this.trainStep(args, loss, temperature, flags, names),
    );
    const gradients: Tensor[] = [];
    const shape = (): StepShape => groupShape(batch.groups);
    const run = (): Float32Array[] => readAll(step, inputs, 3, gradients);
    const [numbers, logProbValues, entropyValues] = await this.memory.run('forwardBackward', shape, run);
    this.optimiser.accumulate(gradients);
    await breathe();
    return {
      loss: numbers[0],
      metrics: Object.fromEntries(names.map((name, i) => [name, numbers[i + 1]])),
      logProbs: packed.unpack(logProbValues),
      entropies: packed.unpack(entropyValues),
    };
  }

  /** The compiled part: returns [loss and metrics], log-probabilities, entropies, gradients. */
  private trainStep(
    args: Tensor[],
    loss: Loss,
    temperature: number,
    flags: BatchFlags,
    names: readonly string[],
  ): Tensor[] {
    const [ids, mask, positions, own, ownPositions, lossMask, weights, advantages, totals, ...rest] = args;
    const optional = [...rest];
    const oldLogProbs = flags.old ? (optional.shift() as Tensor) : null;
    const referenceLogProbs = flags.reference ? (optional.shift() as Tensor) : null;
    const network = this.network(this.adapter);
    network.recompute = this.options.gradientCheckpointing;
    if (flags.dropout > 0)
      network.dropout = {
        keys: optional.shift() as Tensor,
        apply: (keys) => adapterDropout(keys, flags.dropout),
      };
    const [totalRows, totalTokens, totalMicroBatches] = tf.unstack(totals);
    let kept: Tensor[] = [];
    const { grads } = tf.variableGrads(() => {
      const hidden = forwardSharedPrefix(network, { ids, mask, positions }, own, ownPositions);
      const { logProbs, entropies } = tokenLogProbs(
        hidden,
        tf.reshape(own, [own.size]),
        this.weights.head,
        temperature,
      );
      const value = evaluateLoss(loss, tf.reshape(logProbs, own.shape), {
        ...{ mask: lossMask, weights, advantages, oldLogProbs, referenceLogProbs },
        ...{ totalRows, totalTokens, totalMicroBatches },
      });
      const summary = tf.stack([value.loss, ...names.map((name) => value.metrics[name])]);
      kept = [summary, logProbs, entropies].map((tensor) => tf.keep(tensor));
      return value.loss.asScalar();
    }, this.optimiser.variables as Variable[]);
    return [...kept, ...this.optimiser.variables.map((variable) => grads[variable.name])];
  }

  /** The pending gradient by name, e.g. `layers.0.self_attn.q_proj.lora_A` [in, r]; for tests and inspection. */
  pendingGradients(): Map<string, { shape: number[]; values: Float32Array }> {
    return this.optimiser.gradients();
  }

  // ---- optimStep ----

  async optimStep(options: OptimStepOptions): Promise<OptimStepResult> {
    const result = this.optimiser.step(options);
    if (!result.skipped) this.sampler.forget();
    return result;
  }

  // ---- save, load ----

  /** Writes the adapter in PEFT's format, or (trainable: all, or no adapter) a Hugging Face directory. */
  async save(directory: string, { optimiser = false }: { optimiser?: boolean } = {}): Promise<void> {
    if (this.adapter !== null) await writeAdapter(directory, this.adapter.toPeft());
    else await this.saveMerged(directory);
    if (optimiser) await this.optimiser.save(path.join(directory, OPTIMISER_FILE));
  }

  /** Writes a Hugging Face directory with the adapter merged in; configuration and tokenizer are copied. */
  async saveMerged(directory: string, dtype: 'F32' | 'BF16' | 'F16' = 'F32'): Promise<void> {
    const source = this.options.modelDirectory;
    if (source !== undefined && path.resolve(source) === path.resolve(directory))
      throw new CheckpointError(
        `${directory}: refusing to overwrite the model that was loaded from here; name another directory`,
      );
    await ensureDirectory(directory);
    await writeSafetensors(
      path.join(directory, 'model.safetensors'),
      fileTensors(this.config, this.weights, this.adapter),
      {
        dtype,
        metadata: { format: 'pt' },
      },
    );
    if (source === undefined) return;
    for (const name of modelFiles) {
      const from = path.join(source, name);
      if (existsSync(from)) copyFileSync(from, path.join(directory, name));
    }
  }

  async load(directory: string, { optimiser = false }: { optimiser?: boolean } = {}): Promise<void> {
    if (this.adapter === null) throw new ConfigError('load needs a policy with an adapter');
    this.adapter.assign(readAdapter(directory, this.config));
    if (optimiser) this.optimiser.load(path.join(directory, OPTIMISER_FILE));
    this.sampler.forget();
  }
}

function requireTemperature(temperature: number): void {
  if (!(temperature > 0))
    throw new ConfigError(`temperature is ${temperature}; log-probabilities need one above 0`);
}

/**
 * Calls a compiled function, reads its first outputs and moves the others to `rest`; frees the inputs and what was read,
 * also when something fails.
 */
function readAll(fn: CompiledFunction, inputs: Tensor[], count = 1, rest: Tensor[] = []): Float32Array[] {
  let outputs: Tensor[] = [];
  try {
    outputs = fn(...inputs);
    const values = outputs.slice(0, count).map((tensor) => tensor.dataSync() as Float32Array);
    rest.push(...outputs.slice(count));
    outputs = outputs.slice(0, count);
    return values;
  } finally {
    tf.dispose([...inputs, ...outputs]);
  }
}

/** What belongs to a model beside its weights. */
const modelFiles = [
  ...[
    'config.json',
    'generation_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
    'chat_template.jinja',
  ],
  ...['vocab.json', 'merges.txt', 'special_tokens_map.json', 'added_tokens.json'],
];
