/**
 * How a batch of completions is decoded, token by token: by the binding's own ops on a CPU (`PackedDecoder`), or by compiled
 * graphs anywhere (`GraphDecoder`). Both draw the same tokens from the same uniform numbers, but where two cumulative
 * probabilities lie within float32's rounding of one.
 */
import { compile, defaultMode } from '../runtime/compile';
import type { CompiledFunction, ExecutionMode } from '../runtime/compile';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { bucket } from '../model/memory';
import { toVocabulary, writeRows, writeRowsCopy } from '../model/ops';
import type { PackedModel } from '../model/packed';
import { packedCache } from '../model/packed';
import { forwardDecode, forwardPrompts } from '../model/qwen3';
import type { KeyValues } from '../model/attention';
import type { Network, PromptBatch } from '../model/qwen3';
import { packPrompts } from './batch';
import type { Truncation } from './sampling';
import { drawOwn, sampleTokens } from './sampling';

/**
 * What a step draws for some rows, [4, rows]: tokens (float32 holds every id below 2^24), and their log-probabilities at
 * temperature 1, tempered, and as drawn. One array, so that a step reads from the device once.
 */
export type Drawn = Float32Array;

/** What a batch of completions is made from: row r continues prompt floor(r / group). */
export interface DecodingJob {
  prompts: readonly (readonly number[])[];
  group: number;
  maxNewTokens: number;
  truncation: Truncation;
}

/** A batch in progress. Owns its tensors. */
export interface Decoding {
  /** The first token of every row. @param uniforms [P * group] @param banned tokens that may not be drawn now */
  first(uniforms: Float32Array, banned: readonly number[]): Drawn;
  /**
   * The token at a position (from 1 on) of some rows.
   * @param rows  ascending
   * @param ids  the token before, of each of them
   * @param uniforms  a uniform number for each of them
   */
  next(
    position: number,
    rows: Int32Array,
    ids: Int32Array,
    uniforms: Float32Array,
    banned: readonly number[],
  ): Drawn;
  dispose(): void;
}

/** A way to decode: begins one job after another on the same weights. */
export interface Decoder {
  begin(job: DecodingJob): Decoding;
  dispose(): void;
}

/** Reads what a step drew, and frees it. */
function read(drawn: Tensor): Drawn {
  const values = drawn.dataSync() as Float32Array;
  drawn.dispose();
  return values;
}

/** [V] -Infinity for banned tokens, else 0. */
function biasOf(banned: readonly number[], vocabulary: number): Float32Array {
  const bias = new Float32Array(vocabulary);
  for (const id of banned) bias[id] = -Infinity;
  return bias;
}

// ---- the binding's own ops ----

/** Decoding on packed weights: prompts are not padded, and rows that have ended cost nothing. */
export class PackedDecoder implements Decoder {
  constructor(
    private readonly model: PackedModel,
    private readonly network: Network,
  ) {}

  begin(job: DecodingJob): Decoding {
    const { config } = this.network;
    const { prompts, group, truncation } = job;
    const lengths = Int32Array.from(prompts, (prompt) => prompt.length);
    const [prompt, own] = tf.tidy(() => [
      packedCache(config, prompts.length, Math.max(...lengths)),
      packedCache(config, prompts.length * group, job.maxNewTokens),
    ]);
    const draw = (logits: Tensor, uniforms: Float32Array, banned: readonly number[]): Drawn =>
      read(
        tf.tidy(() => {
          const bias = banned.length === 0 ? [] : biasOf(banned, config.vocabSize);
          return drawOwn(logits, tf.tensor1d(uniforms), truncation, tf.tensor1d(bias, 'float32'));
        }),
      );
    const drawAndFree = (logits: Tensor, uniforms: Float32Array, banned: readonly number[]): Drawn => {
      try {
        return draw(logits, uniforms, banned);
      } finally {
        logits.dispose();
      }
    };
    return {
      first: (uniforms, banned) =>
        drawAndFree(this.model.prefill(Int32Array.from(prompts.flat()), lengths, prompt), uniforms, banned),
      next: (position, rows, ids, uniforms, banned) =>
        drawAndFree(
          this.model.decode(ids, rows, lengths, position - 1, group, { prompt, own }),
          uniforms,
          banned,
        ),
      dispose: () => tf.dispose([prompt, own]),
    };
  }

  dispose(): void {
    this.model.dispose();
  }
}

// ---- compiled graphs ----

interface Steps {
  prefill: CompiledFunction;
  decode: CompiledFunction;
}

type Draw = (logits: Tensor, uniforms: Tensor, bias: Tensor) => Tensor;

/** Decoding by compiled steps, one pair for each way to draw. */
export class GraphDecoder implements Decoder {
  private readonly steps = new Map<string, Steps>();

  constructor(
    private readonly network: Network,
    private readonly padId: number,
    private readonly mode: ExecutionMode = defaultMode(),
  ) {}

  dispose(): void {
    for (const { prefill, decode } of this.steps.values()) {
      prefill.dispose();
      decode.dispose();
    }
    this.steps.clear();
  }

  begin(job: DecodingJob): Decoding {
    const key = JSON.stringify(job.truncation);
    let steps = this.steps.get(key);
    if (steps === undefined) {
      const draw: Draw = (logits, uniforms, bias) => {
        const { ids, logProbs, temperedLogProbs, drawLogProbs } = sampleTokens(
          ...([logits, uniforms, job.truncation, bias] as const),
        );
        return tf.stack([tf.cast(ids, 'float32'), logProbs, temperedLogProbs, drawLogProbs]);
      };
      steps = { prefill: this.compilePrefill(draw), decode: this.compileDecode(draw) };
      this.steps.set(key, steps);
    }
    return new GraphDecoding(steps, this.network, job, this.padId);
  }

  /** Logits of states [N, H]. */
  private logits(hidden: Tensor): Tensor {
    return toVocabulary(hidden, this.network.weights.head);
  }

  /** (ids, mask, positions, uniforms [P*G], bias [V]) -> what is drawn, keys and values of every layer. */
  private compilePrefill(draw: Draw): CompiledFunction {
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
        return [draw(tiled, uniforms, bias), ...cache.flatMap(({ keys, values }) => [keys, values])];
      },
      { mode: this.mode },
    );
  }

  /** (ids, positions, step, uniforms, bias, promptMask, prompt caches, own caches) -> what is drawn, own caches. */
  private compileDecode(draw: Draw): CompiledFunction {
    const pairs = (list: Tensor[]): KeyValues[] =>
      Array.from({ length: list.length / 2 }, (_, i) => ({ keys: list[2 * i], values: list[2 * i + 1] }));
    const write = this.mode === 'xla' ? writeRowsCopy : writeRows;
    return compile(
      'decode',
      (ids, positions, step, uniforms, bias, promptMask, ...caches) => {
        const half = caches.length / 2;
        const cache = { promptMask, prompt: pairs(caches.slice(0, half)), own: pairs(caches.slice(half)) };
        const { hidden, own } = forwardDecode(this.network, ids, positions, step, cache, write);
        const drawn = draw(this.logits(hidden), uniforms, bias);
        return [drawn, ...own.flatMap(({ keys, values }) => [keys, values])];
      },
      { mode: this.mode },
    );
  }
}

/** Shapes are static: all rows take part in every step, and what those that have ended draw is dropped. */
class GraphDecoding implements Decoding {
  private readonly packed: PromptBatch;
  private readonly rows: number;
  private promptCache: Tensor[] = [];
  private own: Tensor[] = [];

  constructor(
    private readonly steps: Steps,
    private readonly network: Network,
    private readonly job: DecodingJob,
    padId: number,
  ) {
    this.packed = packPrompts(job.prompts, padId);
    this.rows = job.prompts.length * job.group;
  }

  /** Calls a compiled step and frees the inputs that were made for it, also when it fails. */
  private call(fn: CompiledFunction, lasting: Tensor[], made: Tensor[], caches: Tensor[] = []): Tensor[] {
    try {
      return fn(...lasting, ...made, ...caches);
    } finally {
      tf.dispose(made);
    }
  }

  private bias(banned: readonly number[]): Tensor {
    return tf.tensor1d(biasOf(banned, this.network.config.vocabSize));
  }

  first(uniforms: Float32Array, banned: readonly number[]): Drawn {
    const { numKeyValueHeads, headDim } = this.network.config;
    const { ids, mask, positions } = this.packed;
    const made = [tf.tensor1d(uniforms), this.bias(banned)];
    const [drawn, ...cache] = this.call(this.steps.prefill, [ids, mask, positions], made);
    this.promptCache = cache;
    const length = this.rows * numKeyValueHeads * bucket(this.job.maxNewTokens);
    this.own = cache.map(() => tf.fill([length, headDim], 0));
    return read(drawn);
  }

  next(
    position: number,
    rows: Int32Array,
    ids: Int32Array,
    uniforms: Float32Array,
    banned: readonly number[],
  ): Drawn {
    const { prompts, group } = this.job;
    const [allIds, allUniforms] = [new Int32Array(this.rows), new Float32Array(this.rows)];
    rows.forEach((row, i) => {
      allIds[row] = ids[i];
      allUniforms[row] = uniforms[i];
    });
    const places = Float32Array.from(
      { length: this.rows },
      (_, row) => prompts[Math.floor(row / group)].length + position - 1,
    );
    const made: Tensor[] = [tf.tensor1d(allIds, 'int32'), tf.tensor1d(places)];
    made.push(tf.tensor1d([position - 1], 'int32'), tf.tensor1d(allUniforms), this.bias(banned));
    const caches = [this.packed.mask, ...this.promptCache, ...this.own];
    const [drawn, ...own] = this.call(this.steps.decode, [], made, caches);
    tf.dispose(this.own);
    this.own = own;
    const all = read(drawn);
    return Float32Array.from(
      [0, 1, 2, 3].flatMap((k) => Array.from(rows, (row) => all[k * this.rows + row])),
    );
  }

  dispose(): void {
    const { ids, mask, positions } = this.packed;
    tf.dispose([ids, mask, positions, ...this.promptCache, ...this.own]);
  }
}
