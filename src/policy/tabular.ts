/**
 * A policy that is a table: for every prompt and every prefix of a completion, a softmax over a small vocabulary. It is
 * small enough to enumerate all completions, so that expectations, and with them the gradients of a training loop, are
 * known exactly. Probabilities and gradients are in double precision; losses, AdamW and draws are the library's own,
 * in float32.
 */
import path from 'node:path';
import { adamwUpdate, biasCorrections, clipCoefficient } from '../optim/adamw';
import type { Loss } from '../optim/losses';
import { CheckpointError, ConfigError, ShapeError } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory, readJsonFile, strictJson } from '../runtime/files';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
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
import { evaluateRows } from './row-losses';
import { sampleTokens } from './sampling';

/** The table's size and its initial logits. */
export interface TabularOptions {
  /** Token ids of the prompts that the table knows. */
  prompts: readonly (readonly number[])[];
  vocabularySize: number;
  /** The table has a state for every prefix shorter than this: vocabularySize ** maxLength grows fast. */
  maxLength: number;
  /** Tokens that end a completion; default: none, completions then have the full length. */
  stopTokenIds?: readonly number[];
  /** Initial logits [V] of a state; default: zeros. */
  initialLogits?: (promptIds: readonly number[], prefix: readonly number[]) => readonly number[];
}

/** A possible completion. */
export interface EnumeratedCompletion {
  tokenIds: number[];
  probability: number;
}

/** log softmax of logits / temperature. @returns [V] */
function logSoftmax(logits: ArrayLike<number>, temperature: number): number[] {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const top = Math.max(...scaled);
  const logSum = top + Math.log(scaled.reduce((sum, z) => sum + Math.exp(z - top), 0));
  return scaled.map((z) => z - logSum);
}

const stateKey = (promptIds: readonly number[], prefix: readonly number[]): string =>
  `${promptIds.join(' ')} > ${prefix.join(' ')}`;

/** A policy over a table of logits. */
export class TabularPolicy implements Policy {
  private readonly vocabularySize: number;
  private readonly maxLength: number;
  private readonly stopTokenIds: readonly number[];
  /** Where the logits of a state begin in `parameters`. */
  private readonly offsets = new Map<string, number>();
  private readonly parameters: Float64Array;
  private reference: Float64Array;
  private pending: Float64Array | null = null;
  private first: Float64Array;
  private second: Float64Array;
  private steps = 0;

  constructor({ prompts, vocabularySize, maxLength, stopTokenIds = [], initialLogits }: TabularOptions) {
    this.vocabularySize = vocabularySize;
    this.maxLength = maxLength;
    this.stopTokenIds = stopTokenIds;
    const values: number[] = [];
    const visit = (promptIds: readonly number[], prefix: readonly number[]): void => {
      const logits = initialLogits?.(promptIds, prefix) ?? new Array<number>(vocabularySize).fill(0);
      if (logits.length !== vocabularySize)
        throw new ShapeError(`initialLogits gave ${logits.length} logits; expected ${vocabularySize}`);
      this.offsets.set(stateKey(promptIds, prefix), values.length);
      values.push(...logits);
      if (prefix.length + 1 < maxLength)
        for (let id = 0; id < vocabularySize; id++)
          if (!stopTokenIds.includes(id)) visit(promptIds, [...prefix, id]);
    };
    for (const promptIds of prompts) visit(promptIds, []);
    this.parameters = Float64Array.from(values);
    this.reference = this.parameters.slice();
    this.first = new Float64Array(values.length);
    this.second = new Float64Array(values.length);
  }

  /** Makes the present table the reference; it starts as the initial one. */
  freezeReference(): void {
    this.reference = this.parameters.slice();
  }

  private offset(promptIds: readonly number[], prefix: readonly number[]): number {
    const offset = this.offsets.get(stateKey(promptIds, prefix));
    if (offset === undefined)
      throw new ConfigError(
        `the table has no state for prompt [${promptIds.join()}] and prefix [${prefix.join()}]: ` +
          'give the prompt in `prompts`, tokens below vocabularySize, and a maxLength above the prefix length',
      );
    return offset;
  }

  private at(values: Float64Array, offset: number): Float64Array {
    return values.subarray(offset, offset + this.vocabularySize);
  }

  /** The present logits of a state. @returns [V] */
  logits(promptIds: readonly number[], prefix: readonly number[]): number[] {
    return Array.from(this.at(this.parameters, this.offset(promptIds, prefix)));
  }

  /** The gradient that the next `optimStep` would apply to the logits of a state. @returns [V] */
  pendingGradient(promptIds: readonly number[], prefix: readonly number[]): number[] {
    const offset = this.offset(promptIds, prefix);
    return Array.from(this.at(this.pending ?? new Float64Array(this.parameters.length), offset));
  }

  /**
   * Every completion that sampling can give, with its probability; probabilities sum to 1.
   * @param length  tokens, at most; default maxLength
   */
  enumerate(
    promptIds: readonly number[],
    { length = this.maxLength, temperature = 1 }: { length?: number; temperature?: number } = {},
  ): EnumeratedCompletion[] {
    const extend = (prefix: number[], logProb: number): EnumeratedCompletion[] => {
      const last = prefix.at(-1);
      const ended = last !== undefined && this.stopTokenIds.includes(last);
      if (ended || prefix.length === length) return [{ tokenIds: prefix, probability: Math.exp(logProb) }];
      const next = logSoftmax(this.logits(promptIds, prefix), temperature);
      return next.flatMap((value, id) => extend([...prefix, id], logProb + value));
    };
    return extend([], 0);
  }

  /** Draws position by position, for all rows at once, with the draws of (seed, stream, prompt id, visit, generation). */
  async sample(prompts: readonly Prompt[], options: SampleOptions): Promise<RolloutGroup<DrawnCompletion>[]> {
    const { groupSize, maxNewTokens, minNewTokens = 0, seed, stream = 'sample' } = options;
    const stops = options.stopTokenIds ?? this.stopTokenIds;
    const rows = prompts.flatMap((prompt) =>
      Array.from({ length: groupSize }, (_, generation) => ({
        prompt,
        random: new Random(seed, stream, prompt.id, prompt.visit ?? 0, generation),
        draws: [] as number[][],
        tokenIds: [] as number[],
        finished: false,
      })),
    );
    for (let position = 0; position < maxNewTokens; position++) {
      options.signal?.throwIfAborted();
      const live = rows.filter(({ finished }) => !finished);
      if (live.length === 0) break;
      const banned = position < minNewTokens ? stops : [];
      const logits = live.map(({ prompt, tokenIds }) => this.logits(prompt.tokenIds, tokenIds));
      const uniforms = live.map(({ random }) => random.at(position));
      const [ids, ...logProbs] = this.draw(logits, uniforms, options, banned);
      live.forEach((row, i) => {
        row.tokenIds.push(ids[i]);
        row.draws.push(logProbs.map((values) => values[i]));
        row.finished = stops.includes(ids[i]);
      });
      options.onProgress?.((position + 1) / maxNewTokens);
    }
    const completions = rows.map(({ tokenIds, draws, finished }): DrawnCompletion => {
      const [logProbs, temperedLogProbs, drawLogProbs] = [0, 1, 2].map((k) =>
        Float32Array.from(draws, (values) => values[k]),
      );
      const finishReason = finished ? 'stop' : 'length';
      return { tokenIds, logProbs, temperedLogProbs, drawLogProbs, finishReason };
    });
    return prompts.map((prompt, p) => ({
      prompt,
      completions: completions.slice(p * groupSize, (p + 1) * groupSize),
    }));
  }

  /** @returns token ids, then the three log-probabilities of `Completion`, each [rows] */
  private draw(
    logits: number[][],
    uniforms: number[],
    { temperature, topP, topK }: SampleOptions,
    banned: readonly number[],
  ): number[][] {
    const bias = Array.from({ length: this.vocabularySize }, (_, id) =>
      banned.includes(id) ? -Infinity : 0,
    );
    const drawn = tf.tidy(() =>
      sampleTokens(
        tf.tensor2d(logits),
        tf.tensor1d(uniforms),
        { temperature, topP, topK },
        tf.tensor1d(bias),
      ),
    );
    const { ids, logProbs, temperedLogProbs, drawLogProbs } = drawn;
    const values = [ids, logProbs, temperedLogProbs, drawLogProbs].map((tensor) =>
      Array.from(tensor.dataSync()),
    );
    tf.dispose(drawn);
    return values;
  }

  /** Log-probabilities of a completion's tokens, and the offsets of the states they were drawn in. */
  private score(
    values: Float64Array,
    promptIds: readonly number[],
    tokenIds: readonly number[],
    temperature: number,
  ): { offset: number; token: number; distribution: number[] }[] {
    return tokenIds.map((token, t) => {
      const offset = this.offset(promptIds, tokenIds.slice(0, t));
      const distribution = logSoftmax(this.at(values, offset), temperature);
      if (distribution[token] === undefined)
        throw new ConfigError(`token ${token} is not in the vocabulary of ${this.vocabularySize}`);
      return { offset, token, distribution };
    });
  }

  async logProbs(
    sequences: readonly Sequence[],
    { of = 'policy', temperature = 1 }: { of?: 'policy' | 'reference'; temperature?: number } = {},
  ): Promise<Float32Array[]> {
    const values = of === 'policy' ? this.parameters : this.reference;
    return sequences.map(({ promptIds, completionIds }) =>
      Float32Array.from(
        this.score(values, promptIds, completionIds, temperature),
        ({ token, distribution }) => distribution[token],
      ),
    );
  }

  /** With c_t = dL / d log pi(token t) from the loss, the gradient of the logits is c_t (onehot - softmax) / temperature. */
  async forwardBackward(
    batch: MicroBatch,
    loss: Loss,
    { temperature = 1 }: { temperature?: number } = {},
  ): Promise<FullForwardBackwardResult> {
    const scored = batch.groups.map(({ promptIds, rows }) =>
      rows.map(({ tokenIds }) => this.score(this.parameters, promptIds, tokenIds, temperature)),
    );
    const logProbs = scored.map((group) =>
      group.map((row) => Float32Array.from(row, ({ token, distribution }) => distribution[token])),
    );
    const { value, metrics, coefficients } = evaluateRows(batch, loss, logProbs.flat());
    this.pending ??= new Float64Array(this.parameters.length);
    const gradient = this.pending;
    scored.flat().forEach((row, b) =>
      row.forEach(({ offset, token, distribution }, t) =>
        distribution.forEach((logProb, id) => {
          const slope = (id === token ? 1 : 0) - Math.exp(logProb);
          gradient[offset + id] += (coefficients[b][t] * slope) / temperature;
        }),
      ),
    );
    const entropies = scored.map((group) =>
      group.map((row) => Float32Array.from(row, ({ distribution }) => entropyOf(distribution))),
    );
    return { loss: value, metrics, logProbs, entropies };
  }

  async optimStep(options: OptimStepOptions): Promise<OptimStepResult> {
    const { learningRate, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, clipNorm = 0 } = options;
    const { pending } = this;
    if (pending === null)
      throw new ConfigError('there is no gradient: call forwardBackward before optimStep');
    this.pending = null;
    const gradNorm = Math.sqrt(pending.reduce((sum, g) => sum + g * g, 0));
    if (!Number.isFinite(gradNorm)) return { gradNorm, skipped: true };
    this.steps++;
    const numbers = [
      learningRate,
      ...biasCorrections(this.steps, betas),
      clipCoefficient(gradNorm, clipNorm),
    ];
    const updated = tf.tidy(() => {
      const [rate, correction1, correction2, coefficient] = numbers.map((value) => tf.scalar(value));
      const [p, g, m, v] = [this.parameters, pending, this.first, this.second].map((values) =>
        tf.tensor1d(Float32Array.from(values)),
      );
      const scalars = { learningRate: rate, correction1, correction2, clipCoefficient: coefficient };
      return adamwUpdate([p], [g], [m], [v], scalars, { betas, eps, weightDecay });
    });
    this.parameters.set(updated.params[0].dataSync());
    this.first = Float64Array.from(updated.first[0].dataSync());
    this.second = Float64Array.from(updated.second[0].dataSync());
    tf.dispose(updated);
    return { gradNorm, skipped: false };
  }

  /** Writes the logits of every state to `tabular.json`. */
  async save(directory: string, { optimiser = false }: { optimiser?: boolean } = {}): Promise<void> {
    const states = [...this.offsets].map(([key, offset]) => [
      key,
      Array.from(this.at(this.parameters, offset)),
    ]);
    await ensureDirectory(directory);
    await atomicWriteFile(path.join(directory, 'tabular.json'), strictJson(Object.fromEntries(states)));
    if (!optimiser) return;
    const moments = { steps: this.steps, first: [...this.first], second: [...this.second] };
    await atomicWriteFile(path.join(directory, 'optimizer.json'), strictJson(moments));
  }

  /** Reads the logits, with `optimiser` the moments too; the reference stays as it is. */
  async load(directory: string, { optimiser = false }: { optimiser?: boolean } = {}): Promise<void> {
    const file = path.join(directory, 'tabular.json');
    const states = readJsonFile(file, CheckpointError) as Record<string, number[]>;
    const known = [...this.offsets.keys()];
    const fits = known.every((key) => states[key]?.length === this.vocabularySize);
    if (!fits || Object.keys(states).length !== known.length)
      throw new CheckpointError(`${file}: its states are not those of this table`);
    for (const [key, offset] of this.offsets) this.parameters.set(states[key], offset);
    if (!optimiser) return;
    const momentsFile = path.join(directory, 'optimizer.json');
    const moments = readJsonFile(momentsFile, CheckpointError) as Moments;
    if (moments.first.length !== this.first.length || moments.second.length !== this.second.length)
      throw new CheckpointError(`${momentsFile}: its moments are not those of this table`);
    this.steps = moments.steps;
    this.first.set(moments.first);
    this.second.set(moments.second);
  }
}

/** The optimiser's state on disk. */
interface Moments {
  steps: number;
  first: number[];
  second: number[];
}

/** Entropy (nats) of a distribution given by its log-probabilities. */
function entropyOf(logProbs: readonly number[]): number {
  return -logProbs.reduce((sum, value) => sum + Math.exp(value) * value, 0);
}
