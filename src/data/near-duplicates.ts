/** Texts that say nearly the same, found without comparing each with every other. */
import { setImmediate } from 'node:timers/promises';
import { compact, sparseDot } from '../metrics/sparse';
import type { SparseVector } from '../metrics/sparse';
import { ConfigError, messageOf, ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';

/** How near-duplicates are found. */
export interface NearDuplicateOptions {
  /** A text's vector, of length 1, or zeros for a text without any feature; always of the same size. */
  embed: (text: string) => Promise<Float32Array>;
  /** Two texts whose cosine is above this are near-duplicates; above 0 and below 1. */
  threshold: number;
  /** Called now and then; may throw to stop the work. */
  onProgress?: (done: number, total: number) => void;
}

/** Neighbours that the index is asked for. Each is verified, so more of them cost time and find more. */
const NEIGHBOURS = 32;
/** HNSW: links of a node, and how widely it looks around when it inserts and when it searches. */
const GRAPH = { connectivity: 16, expansion_add: 64, expansion_search: 64 };
/** Vectors up to this size are indexed as they are; longer ones, mostly zeros, as a projection. */
const LARGEST_INDEXED = 1024;
const PROJECTED = 256;
/** Texts between two turns of the event loop, which Ctrl-C needs. */
const TURN = 256;

/**
 * A random projection onto 256 numbers: y_j = sum_i s_ij x_i with signs s of the seed 0. Cosines survive it with a
 * standard error of at most 1/16, less the nearer the texts are: (1 - c^2) / 16.
 * Source: Achlioptas, "Database-friendly random projections", 2003.
 */
function projection(dimensions: number): (vector: SparseVector) => Float32Array {
  const random = new Random(0, 'near-duplicates');
  const signs = new Int8Array(dimensions * PROJECTED); // [D, PROJECTED]
  for (let start = 0; start < signs.length; start += 32) {
    const bits = random.integer(2 ** 32);
    for (let bit = 0; bit < 32; bit++) signs[start + bit] = (bits >>> bit) & 1 ? 1 : -1;
  }
  return ({ indices, values }) => {
    const projected = new Float32Array(PROJECTED);
    indices.forEach((index, i) => {
      const row = index * PROJECTED;
      for (let j = 0; j < PROJECTED; j++) projected[j] += signs[row + j] * values[i];
    });
    return projected;
  };
}

/** The native library, only when it is needed. @throws ConfigError  when it cannot be loaded */
async function loadUsearch() {
  try {
    return await import('usearch');
  } catch (error) {
    throw new ConfigError(
      `near-duplicates: the native library usearch cannot be loaded (${messageOf(error).split('\n')[0]}). ` +
        'Install the packages again, or keep near-duplicates (--keep-near-duplicates).',
    );
  }
}

type Index = InstanceType<Awaited<ReturnType<typeof loadUsearch>>['Index']>;

async function openIndex(dimensions: number): Promise<Index> {
  const { Index, MetricKind, ScalarKind } = await loadUsearch();
  const config = { dimensions, metric: MetricKind.Cos, quantization: ScalarKind.F32, multi: false };
  return new Index({ ...config, ...GRAPH });
}

/** The texts kept so far, with an index of approximate nearest neighbours (HNSW) over them. */
class KeptTexts {
  private readonly vectors: SparseVector[] = [];
  private readonly positions: number[] = [];

  private constructor(
    readonly dimensions: number,
    private readonly index: Index,
    private readonly indexed: (vector: Float32Array, compacted: SparseVector) => Float32Array,
  ) {}

  static async open(dimensions: number): Promise<KeptTexts> {
    if (dimensions <= LARGEST_INDEXED)
      return new KeptTexts(dimensions, await openIndex(dimensions), (vector) => vector);
    const project = projection(dimensions);
    return new KeptTexts(dimensions, await openIndex(PROJECTED), (_, compacted) => project(compacted));
  }

  /** @returns the position of a kept text that is nearer than the threshold, or -1 and the text is now kept */
  nearestOrKeep(vector: Float32Array, position: number, threshold: number): number {
    const compacted = compact(vector);
    if (compacted.indices.length === 0) return -1; // a text without features is like no other
    const indexed = this.indexed(vector, compacted);
    let [nearest, best] = [-1, threshold];
    if (this.vectors.length > 0) {
      for (const key of this.index.search(indexed, NEIGHBOURS, 1).keys) {
        const likeness = sparseDot(vector, this.vectors[Number(key)]);
        if (likeness > best) [nearest, best] = [this.positions[Number(key)], likeness];
      }
    }
    if (nearest >= 0) return nearest;
    this.index.add(BigInt(this.vectors.length), indexed, 1);
    this.vectors.push(compacted);
    this.positions.push(position);
    return -1;
  }
}

/**
 * Goes through the texts in the order given, best first: a text whose cosine with a text kept before is above the
 * threshold is a near-duplicate of it; any other is kept. (A text near to a dropped one alone is kept.)
 *
 * The candidates come from an HNSW index of the kept texts, and the exact cosine decides, so that no text is dropped
 * wrongly; one can be kept wrongly. Time grows as n log n, memory as n. Measured (`bench/near-duplicates.mjs`): on 5,000
 * replies the result was that of brute force, for the lexical embedding and for MiniLM; 100,000 replies took 68 s and
 * 290 MB with the lexical one, on two cores.
 *
 * @param texts  best first
 * @returns      for each text the position of the kept text that it repeats (the nearest), or -1 where it is kept
 * @throws ConfigError  when the threshold is out of range or usearch cannot be loaded; ShapeError when vectors differ
 *   in size
 */
export async function findNearDuplicates(
  texts: readonly string[],
  { embed, threshold, onProgress }: NearDuplicateOptions,
): Promise<Int32Array> {
  if (!(threshold > 0 && threshold < 1))
    throw new ConfigError(`threshold is ${threshold}; expected a cosine above 0 and below 1, such as 0.9.`);
  const duplicateOf = new Int32Array(texts.length).fill(-1);
  let kept: KeptTexts | undefined;
  for (const [position, text] of texts.entries()) {
    if (position % TURN === 0) {
      await setImmediate();
      onProgress?.(position, texts.length);
    }
    const vector = await embed(text);
    kept ??= await KeptTexts.open(vector.length);
    if (vector.length !== kept.dimensions)
      throw new ShapeError(
        `an embedding of ${vector.length} numbers; expected ${kept.dimensions} as before.`,
      );
    duplicateOf[position] = kept.nearestOrKeep(vector, position, threshold);
  }
  onProgress?.(texts.length, texts.length);
  return duplicateOf;
}
