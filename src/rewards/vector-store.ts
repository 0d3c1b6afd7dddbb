import { compact, writeSparse } from '../metrics/sparse';
import type { SparseVector } from '../metrics/sparse';
import { ShapeError } from '../runtime/errors';
import type { Embedder } from './embeddings';

/**
 * The embeddings of many texts, each embedded once. Vectors of mostly zeros, as the lexical ones, are kept without them:
 * 100,000 replies take 100 MB instead of 1.6 GB.
 */
export class VectorStore {
  /** length of a vector; 0 before the first */
  dimensions = 0;
  private readonly numbers = new Map<string, number>();
  private readonly vectors: (Float32Array | SparseVector)[] = [];
  private readonly pairs: number[] = [];

  constructor(private readonly embedder: Embedder) {}

  private async number(text: string): Promise<number> {
    const known = this.numbers.get(text);
    if (known !== undefined) return known;
    const vector = await this.embedder.embed(text);
    this.dimensions ||= vector.length;
    if (vector.length !== this.dimensions) {
      throw new ShapeError(
        `an embedding of ${vector.length} numbers; expected ${this.dimensions} as before.`,
      );
    }
    const sparse = compact(vector);
    this.vectors.push(2 * sparse.indices.length > vector.length ? vector : sparse);
    this.numbers.set(text, this.vectors.length - 1);
    return this.vectors.length - 1;
  }

  /** Adds a pair of texts. @returns its number n; its vectors are 2n and 2n + 1 */
  async addPair(first: string, second: string): Promise<number> {
    this.pairs.push(await this.number(first), await this.number(second));
    return this.pairs.length / 2 - 1;
  }

  /** Writes a vector into `target`, which is zero there, at an offset. */
  write(position: number, target: Float32Array, offset: number): void {
    const vector = this.vectors[this.pairs[position]];
    if (vector instanceof Float32Array) target.set(vector, offset);
    else writeSparse(vector, target, offset);
  }
}
