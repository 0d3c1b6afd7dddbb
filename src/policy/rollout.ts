/** Batched sampling with a key-value cache; the prompt of a group is computed once, and a row that has ended leaves. */
import { ConfigError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { SAMPLING_ROWS } from '../model/memory';
import { breathe } from './batch';
import type { Decoder, Drawn } from './decoding';
import type { DrawnCompletion, Prompt, RolloutGroup, SampleOptions } from './policy';

/** Numbers that a step gives for each row, in this order: see `DrawnCompletion`. */
const stepNumbers = 3;

/** Sampling by one decoder. */
export class Sampler {
  constructor(private readonly decoder: Decoder) {}

  dispose(): void {
    this.decoder.dispose();
  }

  /** Samples every prompt; the result keeps the prompts' order. */
  async sample(
    prompts: readonly Prompt[],
    options: SampleOptions,
    defaultStops: readonly number[],
  ): Promise<RolloutGroup<DrawnCompletion>[]> {
    checkOptions(prompts, options);
    const order = prompts
      .map((_, i) => i)
      .sort((a, b) => prompts[a].tokenIds.length - prompts[b].tokenIds.length || a - b);
    const perBatch = Math.max(1, Math.floor(SAMPLING_ROWS / options.groupSize));
    const groups = new Array<RolloutGroup<DrawnCompletion>>(prompts.length);
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
  ): Promise<RolloutGroup<DrawnCompletion>[]> {
    const { groupSize: group, maxNewTokens, temperature, topP, topK, seed, stream = 'sample' } = options;
    const recorder = new Recorder(prompts.length * group, stops);
    const draws = prompts.flatMap(({ id, visit = 0 }) =>
      Array.from({ length: group }, (_, g) => new Random(seed, stream, id, visit, g)),
    );
    const banned = (position: number): readonly number[] =>
      position < (options.minNewTokens ?? 0) ? [...stops] : [];
    const decoding = this.decoder.begin({
      ...{ prompts: prompts.map(({ tokenIds }) => tokenIds), group, maxNewTokens },
      truncation: { temperature, topP, topK },
    });
    try {
      const uniforms = Float32Array.from(draws, (random) => random.at(0));
      recorder.add(recorder.open(), decoding.first(uniforms, banned(0)));
      for (let position = 1; position < maxNewTokens; position++) {
        const rows = recorder.open();
        if (rows.length === 0) break;
        if (options.signal?.aborted) throw options.signal.reason;
        const numbers = Float32Array.from(rows, (row) => draws[row].at(position));
        recorder.add(rows, decoding.next(position, rows, recorder.last(rows), numbers, banned(position)));
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

/** Collects what is drawn, row by row, until each row has its end token. */
class Recorder {
  private readonly tokens: number[][];
  private readonly numbers: number[][][];
  private readonly stopped: boolean[];

  constructor(
    rows: number,
    private readonly stops: ReadonlySet<number>,
  ) {
    this.tokens = Array.from({ length: rows }, () => []);
    this.numbers = Array.from({ length: rows }, () => Array.from({ length: stepNumbers }, () => []));
    this.stopped = new Array<boolean>(rows).fill(false);
  }

  /** The rows that have no end token yet, ascending. */
  open(): Int32Array {
    return Int32Array.from(this.stopped.keys()).filter((row) => !this.stopped[row]);
  }

  /** The token drawn last in each of some rows. */
  last(rows: Int32Array): Int32Array {
    return rows.map((row) => this.tokens[row][this.tokens[row].length - 1]);
  }

  add(rows: Int32Array, drawn: Drawn): void {
    rows.forEach((row, i) => {
      const token = drawn[i];
      this.tokens[row].push(token);
      for (let k = 0; k < stepNumbers; k++) this.numbers[row][k].push(drawn[(k + 1) * rows.length + i]);
      if (this.stops.has(token)) this.stopped[row] = true;
    });
  }

  completion(row: number): DrawnCompletion {
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
