/** Batched sampling with a key-value cache; the prompt of a group is computed once. */
import { ConfigError } from '../runtime/errors';
import { compile, defaultMode } from '../runtime/compile';
import type { CompiledFunction, ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { ModelConfig } from '../model/config';
import { bucket, SAMPLING_ROWS } from '../model/memory';
import { writeRows, writeRowsCopy } from '../model/ops';
import { forwardDecode, forwardPrompts } from '../model/qwen3';
import type { KeyValues, Network, PromptBatch } from '../model/qwen3';
import { breathe, packPrompts } from './batch';
import type { Completion, Prompt, RolloutGroup, SampleOptions } from './policy';
import { sampleTokens } from './sampling';

/** Numbers that a step gives for each row, in this order. */
const stepNumbers = 3;

interface Steps {
  prefill: CompiledFunction;
  decode: CompiledFunction;
}

/** Sampling for one network: its compiled steps, one pair for each way to draw. */
export class Sampler {
  private readonly steps = new Map<string, Steps>();

  constructor(
    private readonly network: Network,
    private readonly padId: number,
    private readonly mode?: ExecutionMode,
  ) {}

  dispose(): void {
    for (const { prefill, decode } of this.steps.values()) {
      prefill.dispose();
      decode.dispose();
    }
    this.steps.clear();
  }

  private stepsFor({ temperature, topP = 1, topK = 0 }: SampleOptions): Steps {
    const key = `${temperature} ${topP} ${topK}`;
    let steps = this.steps.get(key);
    if (steps === undefined) {
      const draw = (logits: Tensor, uniforms: Tensor, bias: Tensor): Tensor[] => {
        const drawn = sampleTokens(logits, uniforms, { temperature, topP, topK }, bias);
        return [drawn.ids, tf.stack([drawn.logProbs, drawn.temperedLogProbs, drawn.drawLogProbs])];
      };
      steps = { prefill: this.compilePrefill(draw), decode: this.compileDecode(draw) };
      this.steps.set(key, steps);
    }
    return steps;
  }

  /** Logits of states [N, H]. */
  private logits(hidden: Tensor): Tensor {
    const { matrix, transposed } = this.network.weights.head;
    return tf.matMul(hidden as never, matrix as never, false, transposed);
  }

  /** (ids, mask, positions, uniforms [P*G], bias [V]) -> first token, its numbers, keys and values of every layer. */
  private compilePrefill(
    draw: (logits: Tensor, uniforms: Tensor, bias: Tensor) => Tensor[],
  ): CompiledFunction {
    return compile(
      'prefill',
      (ids, mask, positions, uniforms, bias) => {
        const { hidden, cache } = forwardPrompts(this.network, { ids, mask, positions });
        const [prompts, width] = ids.shape as [number, number];
        const size = this.network.config.hiddenSize;
        const last = tf.slice(
          tf.reshape(hidden, [prompts, width, size]),
          [0, width - 1, 0],
          [prompts, 1, size],
        );
        const logits = this.logits(tf.reshape(last, [prompts, size]));
        const group = uniforms.shape[0] / prompts;
        const vocabulary = logits.shape[1] as number;
        const tiled = tf.reshape(tf.tile(tf.expandDims(logits, 1), [1, group, 1]), [
          prompts * group,
          vocabulary,
        ]);
        return [...draw(tiled, uniforms, bias), ...cache.flatMap(({ keys, values }) => [keys, values])];
      },
      { mode: this.mode },
    );
  }

  /** (ids, positions, step, uniforms, bias, promptMask, prompt caches, own caches) -> token, numbers, own caches. */
  private compileDecode(
    draw: (logits: Tensor, uniforms: Tensor, bias: Tensor) => Tensor[],
  ): CompiledFunction {
    const pairs = (list: Tensor[]): KeyValues[] =>
      Array.from({ length: list.length / 2 }, (_, i) => ({ keys: list[2 * i], values: list[2 * i + 1] }));
    const write = (this.mode ?? defaultMode()) === 'xla' ? writeRowsCopy : writeRows;
    return compile(
      'decode',
      (ids, positions, step, uniforms, bias, promptMask, ...caches) => {
        const half = caches.length / 2;
        const cache = { promptMask, prompt: pairs(caches.slice(0, half)), own: pairs(caches.slice(half)) };
        const { hidden, own } = forwardDecode(this.network, ids, positions, step, cache, write);
        const drawn = draw(this.logits(hidden), uniforms, bias);
        return [...drawn, ...own.flatMap(({ keys, values }) => [keys, values])];
      },
      { mode: this.mode },
    );
  }

  /** Samples every prompt; the result keeps the prompts' order. */
  async sample(
    prompts: readonly Prompt[],
    options: SampleOptions,
    defaultStops: readonly number[],
  ): Promise<RolloutGroup[]> {
    checkOptions(prompts, options);
    const order = prompts
      .map((_, i) => i)
      .sort((a, b) => prompts[a].tokenIds.length - prompts[b].tokenIds.length || a - b);
    const perBatch = Math.max(1, Math.floor(SAMPLING_ROWS / options.groupSize));
    const groups = new Array<RolloutGroup>(prompts.length);
    const batches = Math.ceil(prompts.length / perBatch);
    for (let batch = 0; batch < batches; batch++) {
      options.signal?.throwIfAborted();
      const chosen = order.slice(batch * perBatch, (batch + 1) * perBatch);
      const stops = new Set(options.stopTokenIds ?? defaultStops);
      const report = (share: number): void => options.onProgress?.((batch + share) / batches);
      const result = await this.sampleBatch(
        chosen.map((i) => prompts[i]),
        options,
        stops,
        report,
      );
      chosen.forEach((index, i) => (groups[index] = result[i]));
    }
    return groups;
  }

  private async sampleBatch(
    prompts: readonly Prompt[],
    options: SampleOptions,
    stops: ReadonlySet<number>,
    report: (share: number) => void,
  ): Promise<RolloutGroup[]> {
    const { groupSize: group, maxNewTokens } = options;
    const recorder = new Recorder(prompts.length * group, maxNewTokens, stops);
    const decoding = new Decoding(
      this.stepsFor(options),
      this.network.config,
      prompts,
      options,
      stops,
      this.padId,
    );
    try {
      decoding.prefill(recorder);
      for (let position = 1; position < maxNewTokens && !recorder.finished; position++) {
        if (options.signal?.aborted) throw options.signal.reason;
        decoding.step(position, recorder);
        if (position % 8 === 0) {
          report(position / maxNewTokens);
          await breathe();
        }
      }
    } finally {
      decoding.dispose();
    }
    report(1);
    return prompts.map((prompt, p) => ({
      prompt,
      completions: Array.from({ length: group }, (_, g) => recorder.completion(p * group + g)),
    }));
  }
}

/** One batch being decoded: its packed prompts, its caches, and the tokens drawn last. Owns its tensors. */
class Decoding {
  private readonly packed: PromptBatch;
  private readonly draws: Random[];
  private readonly open: Tensor;
  private readonly withoutStops: Tensor;
  private promptCache: Tensor[] = [];
  private own: Tensor[] = [];
  private ids: Tensor[] = [];

  constructor(
    private readonly steps: Steps,
    private readonly config: ModelConfig,
    private readonly prompts: readonly Prompt[],
    private readonly options: SampleOptions,
    stops: ReadonlySet<number>,
    padId: number,
  ) {
    const { seed, stream = 'sample', groupSize } = options;
    this.draws = prompts.flatMap(({ id, visit = 0 }) =>
      Array.from({ length: groupSize }, (_, g) => new Random(seed, stream, id, visit, g)),
    );
    this.packed = packPrompts(
      prompts.map((prompt) => prompt.tokenIds),
      padId,
    );
    const banned = Float32Array.from({ length: config.vocabSize }, (_, id) =>
      stops.has(id) ? -Infinity : 0,
    );
    this.open = tf.fill([config.vocabSize], 0);
    this.withoutStops = tf.tensor1d(banned);
  }

  private uniforms(position: number): Tensor {
    return tf.tensor1d(Float32Array.from(this.draws, (random) => random.at(position)));
  }

  private bias(position: number): Tensor {
    return position < (this.options.minNewTokens ?? 0) ? this.withoutStops : this.open;
  }

  /** Reads the prompts and draws the first token of every row. */
  prefill(recorder: Recorder): void {
    const { ids, mask, positions } = this.packed;
    const uniforms = this.uniforms(0);
    const [first, numbers, ...cache] = callAndFree(this.steps.prefill, [uniforms], () => [
      ...[ids, mask, positions, uniforms, this.bias(0)],
    ]);
    this.promptCache = cache;
    this.ids = [first];
    const rows = this.draws.length * this.config.numKeyValueHeads * bucket(this.options.maxNewTokens);
    this.own = cache.map(() => tf.fill([rows, this.config.headDim], 0));
    recorder.add(first, numbers);
  }

  /** Draws the token at a position of the completions, from the one before. */
  step(position: number, recorder: Recorder): void {
    const places = this.prompts.flatMap(({ tokenIds }) =>
      new Array<number>(this.options.groupSize).fill(tokenIds.length + position - 1),
    );
    const inputs = [tf.tensor1d(places), tf.tensor1d([position - 1], 'int32'), this.uniforms(position)];
    const [next, numbers, ...updated] = callAndFree(this.steps.decode, inputs, () => [
      ...[...this.ids, ...inputs, this.bias(position), this.packed.mask],
      ...[...this.promptCache, ...this.own],
    ]);
    tf.dispose([...this.ids, ...this.own]);
    this.ids = [next];
    this.own = updated;
    recorder.add(next, numbers);
  }

  dispose(): void {
    const { ids, mask, positions } = this.packed;
    tf.dispose([ids, mask, positions, this.open, this.withoutStops]);
    tf.dispose([...this.promptCache, ...this.own, ...this.ids]);
  }
}

/** Calls a compiled step and frees the inputs that were made for it, also when it fails. */
function callAndFree(fn: CompiledFunction, made: Tensor[], args: () => Tensor[]): Tensor[] {
  try {
    return fn(...args());
  } finally {
    tf.dispose(made);
  }
}

/** Collects what is drawn, row by row, until each row has its end token. */
class Recorder {
  private readonly tokens: number[][];
  private readonly numbers: number[][][];
  private readonly stopped: boolean[];

  constructor(
    rows: number,
    private readonly limit: number,
    private readonly stops: ReadonlySet<number>,
  ) {
    this.tokens = Array.from({ length: rows }, () => []);
    this.numbers = Array.from({ length: rows }, () => Array.from({ length: stepNumbers }, () => []));
    this.stopped = new Array<boolean>(rows).fill(false);
  }

  get finished(): boolean {
    return this.stopped.every(Boolean);
  }

  /** Reads one step's tokens [B] and numbers [3, B]; disposes the numbers. */
  add(ids: Tensor, numbers: Tensor): void {
    const tokens = ids.dataSync();
    const values = numbers.dataSync();
    numbers.dispose();
    const rows = this.tokens.length;
    for (let row = 0; row < rows; row++) {
      if (this.stopped[row] || this.tokens[row].length >= this.limit) continue;
      this.tokens[row].push(tokens[row]);
      for (let k = 0; k < stepNumbers; k++) this.numbers[row][k].push(values[k * rows + row]);
      if (this.stops.has(tokens[row])) this.stopped[row] = true;
    }
  }

  completion(row: number): Completion {
    const [logProbs, temperedLogProbs, drawLogProbs] = this.numbers[row].map((values) =>
      Float32Array.from(values),
    );
    return {
      tokenIds: this.tokens[row],
      logProbs,
      temperedLogProbs,
      drawLogProbs,
      finishReason: this.stopped[row] ? 'stop' : 'length',
    };
  }
}

function checkOptions(prompts: readonly Prompt[], options: SampleOptions): void {
  for (const name of ['groupSize', 'maxNewTokens'] as const)
    if (!Number.isInteger(options[name]) || options[name] < 1)
      throw new ConfigError(`${name} is ${options[name]}; expected an integer >= 1`);
  const empty = prompts.find((prompt) => prompt.tokenIds.length === 0);
  if (empty !== undefined) throw new ConfigError(`prompt "${empty.id}" has no tokens; expected at least one`);
}
