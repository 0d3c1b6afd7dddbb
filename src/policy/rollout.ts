/** Batched sampling with a key-value cache; the prompt of a group is computed once. */
import { ConfigError } from '../runtime/errors';
import { compile } from '../runtime/compile';
import type { CompiledFunction, ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { writeRows } from '../model/ops';
import { forwardDecode, forwardPrompts } from '../model/qwen3';
import type { KeyValues, Network } from '../model/qwen3';
import { breathe, bucket, packPrompts } from './batch';
import type { Completion, Prompt, RolloutGroup, SampleOptions } from './policy';
import { sampleTokens } from './sampling';

/** Completions that are decoded side by side, at most. */
const maxRows = 64;

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
    return compile(
      'decode',
      (ids, positions, step, uniforms, bias, promptMask, ...caches) => {
        const half = caches.length / 2;
        const cache = { promptMask, prompt: pairs(caches.slice(0, half)), own: pairs(caches.slice(half)) };
        const { hidden, own } = forwardDecode(this.network, ids, positions, step, cache, writeRows);
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
    const perBatch = Math.max(1, Math.floor(maxRows / options.groupSize));
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
    const { config } = this.network;
    const { groupSize: group, maxNewTokens, minNewTokens = 0 } = options;
    const rows = prompts.length * group;
    const { prefill, decode } = this.stepsFor(options);
    const draws = prompts.flatMap((prompt) =>
      Array.from(
        { length: group },
        (_, g) => new Random(options.seed, options.stream ?? 'sample', prompt.id, prompt.visit ?? 0, g),
      ),
    );
    const recorder = new Recorder(rows, maxNewTokens, stops);
    const packed = packPrompts(
      prompts.map((prompt) => prompt.tokenIds),
      this.padId,
    );
    const banned = Float32Array.from({ length: config.vocabSize }, (_, id) =>
      stops.has(id) ? -Infinity : 0,
    );
    const biases = { open: tf.zeros([config.vocabSize]) as Tensor, noStop: tf.tensor1d(banned) as Tensor };
    const biasAt = (position: number): Tensor => (position < minNewTokens ? biases.noStop : biases.open);
    const uniformsAt = (position: number): Tensor =>
      tf.tensor1d(Float32Array.from(draws, (random) => random.at(position)));
    let live: Tensor[] = []; // caches of the prompts, then of the completions, then the tokens drawn last
    try {
      const first = uniformsAt(0);
      const [firstIds, firstNumbers, ...prompt] = prefill(
        packed.ids,
        packed.mask,
        packed.positions,
        first,
        biasAt(0),
      );
      first.dispose();
      const length = bucket(maxNewTokens);
      const own = prompt.map(
        () => tf.fill([rows * config.numKeyValueHeads * length, config.headDim], 0) as Tensor,
      );
      live = [...prompt, ...own, firstIds];
      recorder.add(firstIds, firstNumbers);
      for (let position = 1; position < maxNewTokens && !recorder.finished; position++) {
        if (options.signal?.aborted) throw options.signal.reason;
        const places = prompts.flatMap(({ tokenIds }) =>
          new Array<number>(group).fill(tokenIds.length + position - 1),
        );
        const inputs = [tf.tensor1d(places), tf.tensor1d([position - 1], 'int32'), uniformsAt(position)];
        const caches = live.slice(0, -1);
        const [ids, numbers, ...updated] = decode(
          live[live.length - 1],
          ...inputs,
          biasAt(position),
          packed.mask,
          ...caches,
        );
        tf.dispose([...inputs, ...live.slice(prompt.length)]);
        live = [...prompt, ...updated, ids];
        recorder.add(ids, numbers);
        if (position % 8 === 0) {
          report(position / maxNewTokens);
          await breathe();
        }
      }
    } finally {
      tf.dispose([packed.ids, packed.mask, packed.positions, biases.open, biases.noStop, ...live]);
    }
    report(1);
    return prompts.map((prompt, p) => ({
      prompt,
      completions: Array.from({ length: group }, (_, g) => recorder.completion(p * group + g)),
    }));
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
