/**
 * The policy that a server trains, over the Tinker protocol (Thinking Machines' service, or a SkyRL tx server of one's own):
 * the same loops, with rewards, losses and records here, and the model there.
 *
 * Any loss goes there by its coefficients c_t = dL / d log pi(token t), which are computed here from log-probabilities of a
 * forward pass. The server's `importance_sampling` loss of N rows has the gradient
 * -1/N sum_i 1/n_i sum_t r_t A_t grad log pi, n_i tokens of row i that count; with `logprobs` from that very pass r = 1, and
 * A_t = -c_t n_i N gives sum_t c_t grad log pi. (Its `ppo` would clip the KL term, its `cross_entropy` cannot be rescaled.)
 * Rows wait here until the optimiser's step, for N is the number of rows that the server has seen since the last one.
 */
import type { ModelConfig } from '../model/config';
import { writeAdapter } from '../model/peft';
import type { Loss } from '../optim/losses';
import { ConfigError, RemoteError } from '../runtime/errors';
import { ensureDirectory } from '../runtime/files';
import { Random } from '../runtime/random';
import type {
  Completion,
  ForwardBackwardResult,
  MicroBatch,
  OptimStepOptions,
  OptimStepResult,
  Prompt,
  RolloutGroup,
  RunPolicy,
  SampleOptions,
  Sequence,
} from './policy';
import { evaluateRows } from './row-losses';
import { adapterOfArchive, readTinkerState, writeTinkerState } from './tinker-checkpoint';
import { TinkerClient } from './tinker-client';
import type { TinkerConnection } from './tinker-client';
import { chooseModel, TinkerModels } from './tinker-models';
import type { TinkerModelsOptions } from './tinker-models';
import { datum, tinker } from './tinker-protocol';

/** A model on a server, and what is known of it here. */
export interface TinkerPolicyOptions extends Omit<TinkerModelsOptions, 'baseModel'> {
  connection: TinkerConnection;
  /** The model's name at the server; default: the only one that it has. */
  baseModel?: string;
  /** Of the same model here: what sequences and checkpoints are checked against. */
  config: ModelConfig;
  /** Tokens that end a completion. */
  stopTokenIds: readonly number[];
}

/** Sampling requests under way at once. */
const CONCURRENCY = 64;
/** Sequences of one forward pass. */
const SEQUENCES_PER_PASS = 256;

/** Names of the gradient's norm in what servers tell of a step. */
const NORM_KEYS = ['skyrl.ai/grad_norm', 'grad_norm'];

/** A row that waits for the optimiser's step. */
interface PendingRow {
  sequence: Sequence;
  /** [T] of the forward pass */
  logProbs: Float32Array;
  /** [T] dL / d log pi */
  coefficients: readonly number[];
}

export class TinkerPolicy implements RunPolicy {
  private pending: PendingRow[] = [];
  /** The sampler's copy of the present weights. */
  private sampler: Promise<string> | undefined;
  /** Why the state on the server is not known any more. */
  private broken: unknown = null;
  private hasStepped = false;

  private constructor(
    private readonly client: TinkerClient,
    private readonly models: TinkerModels,
    readonly baseModel: string,
    private readonly options: TinkerPolicyOptions,
  ) {}

  /**
   * Connects. Models are made at the first use.
   * @throws ConfigError  when the server does not have the model
   * @throws RemoteError  when there is no server
   */
  static async open(options: TinkerPolicyOptions): Promise<TinkerPolicy> {
    if (options.checkpointDirectory !== undefined) readTinkerState(options.checkpointDirectory);
    const client = await TinkerClient.open(options.connection);
    try {
      const baseModel = await chooseModel(client, options.baseModel);
      const models = new TinkerModels(client, { ...options, baseModel });
      return new TinkerPolicy(client, models, baseModel, options);
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** The reference is what the policy was opened with, for it is a model of its own on the server. */
  freezeReference(): void {
    if (this.hasStepped)
      throw new ConfigError(
        'the reference of a policy on a server is what it started from; it cannot be frozen after a step',
      );
  }

  /** Frees the models on the server, and ends the session. Never throws. */
  async dispose(): Promise<void> {
    await this.models.dispose();
    this.broken ??= new ConfigError(
      'this policy has been freed on the server; its adapter is where it was saved',
    );
  }

  /** The model that is trained, or the reference. @throws  what went wrong between a gradient and its step, if something did */
  private async model(of: 'policy' | 'reference' = 'policy'): Promise<string> {
    if (this.broken !== null) throw this.broken;
    return of === 'policy' ? this.models.policy() : this.models.reference();
  }

  // ---- sample ----

  async sample(prompts: readonly Prompt[], options: SampleOptions): Promise<RolloutGroup[]> {
    checkSampling(prompts, options);
    this.checkTokens(prompts.map(({ tokenIds }) => ({ promptIds: tokenIds, completionIds: [] })));
    const sampler = await this.newestSampler();
    let [next, done] = [0, 0];
    const groups = new Array<RolloutGroup>(prompts.length);
    const work = async (): Promise<void> => {
      while (next < prompts.length) {
        const i = next++;
        groups[i] = await this.sampleGroup(prompts[i], options, sampler);
        options.onProgress?.(++done / prompts.length);
      }
    };
    try {
      await Promise.all(Array.from({ length: Math.min(CONCURRENCY, prompts.length) }, work));
    } finally {
      // After a failure nothing more is begun.
      next = prompts.length;
    }
    return groups;
  }

  private async sampleGroup(
    prompt: Prompt,
    {
      groupSize,
      maxNewTokens,
      temperature,
      topP = 1,
      topK = 0,
      seed,
      stream = 'sample',
      ...rest
    }: SampleOptions,
    sampler: string,
  ): Promise<RolloutGroup> {
    rest.signal?.throwIfAborted();
    const stops = rest.stopTokenIds ?? this.options.stopTokenIds;
    // The server's sample j has seed + j: groups of numbers of their own.
    const random = new Random(seed, stream, prompt.id, prompt.visit ?? 0);
    const first = random.integer(Math.floor(2 ** 31 / groupSize)) * groupSize;
    const request = tinker.sample({
      ...{ tokens: prompt.tokenIds, count: groupSize, seed: first, maxTokens: maxNewTokens },
      ...{ temperature, topP, topK, stop: stops, sampler, sequence: this.models.next() },
    });
    const { sequences } = await this.client.run(request, { signal: rest.signal });
    if (
      sequences.length !== groupSize ||
      sequences.some(({ tokens, logprobs: l }) => tokens.length !== l.length)
    )
      throw new RemoteError(
        `${this.client.address}: asample: expected ${groupSize} completions with a log-probability a token, got ` +
          `${sequences.length} of ${sequences.map(({ tokens, logprobs: l }) => `${tokens.length}/${l.length}`).join(', ')} tokens`,
      );
    const completions = sequences.map(({ tokens, logprobs }): Completion => ({
      tokenIds: tokens,
      logProbs: Float32Array.from(logprobs),
      finishReason: stops.includes(tokens[tokens.length - 1]) ? 'stop' : 'length',
    }));
    return { prompt, completions };
  }

  /**
   * A sampler of the present weights. Servers may sample in the place in which they train: only the newest copy is ever sampled,
   * for an older one could replace the weights in training.
   */
  private async newestSampler(): Promise<string> {
    const id = await this.model();
    return (this.sampler ??= this.saveSampler(id).catch((error: unknown) => {
      this.sampler = undefined;
      throw error;
    }));
  }

  private async saveSampler(id: string): Promise<string> {
    return (await this.client.run(tinker.saveForSampling(id, () => this.models.next()))).sampling_session_id;
  }

  // ---- logProbs ----

  async logProbs(
    sequences: readonly Sequence[],
    { of = 'policy', temperature = 1 }: { of?: 'policy' | 'reference'; temperature?: number } = {},
  ): Promise<Float32Array[]> {
    requireUntempered(temperature);
    const id = await this.model(of);
    const results: Float32Array[] = [];
    for (let i = 0; i < sequences.length; i += SEQUENCES_PER_PASS)
      results.push(...(await this.forward(id, sequences.slice(i, i + SEQUENCES_PER_PASS))));
    return results;
  }

  private async forward(id: string, sequences: readonly Sequence[]): Promise<Float32Array[]> {
    this.checkTokens(sequences);
    const data = sequences.map((sequence) => datum(sequence));
    const { loss_fn_outputs: outputs } = await this.client.run(tinker.forward(id, data));
    return sequences.map(({ promptIds, completionIds }, i) => {
      const values = outputs[i]?.logprobs.data ?? [];
      const expected = promptIds.length + completionIds.length - 1;
      if (values.length !== expected)
        throw new RemoteError(
          `${this.client.address}: forward: ${values.length} log-probabilities for a sequence of ${expected} predictions`,
        );
      return Float32Array.from(values.slice(promptIds.length - 1));
    });
  }

  /** A server may take tokens beyond its vocabulary for a failure of its own. */
  private checkTokens(sequences: readonly Sequence[]): void {
    const { vocabSize } = this.options.config;
    for (const { promptIds, completionIds } of sequences) {
      if (promptIds.length === 0)
        throw new ConfigError('a sequence has no prompt; expected at least one token');
      const bad = [...promptIds, ...completionIds].find((id) => !(id >= 0 && id < vocabSize));
      if (bad !== undefined)
        throw new ConfigError(`token ${bad} is not in the model's vocabulary of ${vocabSize}`);
    }
  }

  // ---- forwardBackward, optimStep ----

  async forwardBackward(
    batch: MicroBatch,
    loss: Loss,
    { temperature = 1 }: { temperature?: number } = {},
  ): Promise<ForwardBackwardResult> {
    requireUntempered(temperature);
    const sequences = batch.groups.flatMap(({ promptIds, rows }) =>
      rows.map(({ tokenIds }) => ({ promptIds, completionIds: tokenIds })),
    );
    const logProbs = await this.logProbs(sequences);
    const { value, metrics, coefficients } = evaluateRows(batch, loss, logProbs);
    sequences.forEach((sequence, i) => {
      const own = coefficients[i].slice(0, sequence.completionIds.length);
      if (own.length > 0) this.pending.push({ sequence, logProbs: logProbs[i], coefficients: own });
    });
    let next = 0;
    const grouped = batch.groups.map(({ rows }) => logProbs.slice(next, (next += rows.length)));
    return { loss: value, metrics, logProbs: grouped, entropies: null };
  }

  /**
   * Sends the waiting rows, and has the server step. Once something went wrong in between nothing is known of the weights
   * there, and every further call throws the same error: go on from a checkpoint.
   */
  async optimStep(options: OptimStepOptions): Promise<OptimStepResult> {
    if ((options.clipNorm ?? 0) > 0)
      throw new ConfigError(
        `clipNorm is ${options.clipNorm}, but a Tinker server does not clip gradients; set training.max_grad_norm to 0`,
      );
    const rows = this.pending.splice(0);
    if (rows.length === 0)
      throw new ConfigError('there is no gradient: call forwardBackward before optimStep');
    const isFinite = rows.every((row) => row.coefficients.every(Number.isFinite));
    if (!isFinite) return { gradNorm: NaN, skipped: true };
    const id = await this.model();
    this.hasStepped = true;
    this.sampler = undefined;
    try {
      return { gradNorm: await this.applyRows(id, rows, options), skipped: false };
    } catch (error) {
      this.broken = error;
      throw error;
    }
  }

  private async applyRows(
    id: string,
    rows: readonly PendingRow[],
    options: OptimStepOptions,
  ): Promise<number> {
    const data = rows.map(({ sequence, logProbs, coefficients }) => {
      const scale = -coefficients.length * rows.length;
      return datum(sequence, { logprobs: logProbs, advantages: coefficients.map((c) => c * scale) });
    });
    const backward = tinker.importanceSampling(id, data);
    const step = tinker.optimStep(id, options);
    // Both are queued, in this order, before the first is waited for.
    const { ticket: backwardTicket } = await this.client.start(backward);
    const { ticket: stepTicket } = await this.client.start(step);
    await this.client.finish(backward, backwardTicket);
    const { metrics } = await this.client.finish(step, stepTicket);
    const key = NORM_KEYS.find((name) => metrics != null && name in metrics);
    if (key === undefined) return NaN;
    const gradNorm = metrics?.[key] ?? NaN;
    if (!Number.isFinite(gradNorm))
      throw new RemoteError(
        `${this.client.address}: the server's gradient is not finite, and it has stepped with it: go on from the last ` +
          'checkpoint (--resume), with a lower learning rate',
      );
    return gradNorm;
  }

  // ---- save, load ----

  /** Writes the adapter in PEFT's format, and where its training state lies on the server. */
  async save(directory: string): Promise<void> {
    const id = await this.model();
    const tinkerPath = await this.models.save(id);
    const adapter = await adapterOfArchive(
      await this.downloadAdapter(id),
      this.options.config,
      this.client.address,
    );
    await ensureDirectory(directory);
    await writeAdapter(directory, adapter);
    await writeTinkerState(directory, {
      ...{ version: 1, base_url: this.client.address, base_model: this.baseModel },
      ...{ rank: this.options.rank, path: tinkerPath },
    });
  }

  private async downloadAdapter(id: string): Promise<Buffer> {
    let name = '';
    await this.client.run(tinker.saveForDownload(id, () => (name = `adapter-${this.models.next()}`)));
    const place = `training_runs/${encodeURIComponent(id)}/checkpoints/${name}/archive`;
    return this.client.download(place, `download of ${name}`);
  }

  /** Goes on from a checkpoint of a server; adapter and moments both, for the server keeps them together. */
  async load(directory: string): Promise<void> {
    const { path: tinkerPath } = readTinkerState(directory);
    const id = await this.model();
    this.pending = [];
    this.sampler = undefined;
    await this.models.load(id, tinkerPath, directory);
  }
}

function requireUntempered(temperature: number): void {
  if (temperature !== 1)
    throw new ConfigError(
      `temperature is ${temperature}, but a Tinker server tells log-probabilities at temperature 1 alone; set grpo.loss_temperature to 1`,
    );
}

function checkSampling(
  prompts: readonly Prompt[],
  { groupSize, maxNewTokens, minNewTokens = 0 }: SampleOptions,
): void {
  for (const [name, value] of Object.entries({ groupSize, maxNewTokens }))
    if (!Number.isInteger(value) || value < 1)
      throw new ConfigError(`${name} is ${value}; expected an integer >= 1`);
  if (minNewTokens > 0)
    throw new ConfigError(
      `minNewTokens is ${minNewTokens}, but a Tinker server knows no least length; set min_new_tokens to 0`,
    );
  const empty = prompts.find(({ tokenIds }) => tokenIds.length === 0);
  if (empty !== undefined) throw new ConfigError(`prompt "${empty.id}" has no tokens; expected at least one`);
}
