/** Vectors of mostly zeros, kept without them. */

export interface SparseVector {
  /** ascending */
  indices: Uint32Array;
  values: Float32Array;
}

/** A vector without its zeros. */
export function compact(vector: Float32Array): SparseVector {
  let count = 0;
  for (const value of vector) if (value !== 0) count++;
  const indices = new Uint32Array(count);
  for (let i = 0, next = 0; i < vector.length; i++) if (vector[i] !== 0) indices[next++] = i;
  return { indices, values: Float32Array.from(indices, (i) => vector[i]) };
}

/** Sum of the products of a vector's numbers with a sparse one's. */
export function sparseDot(vector: Float32Array, { indices, values }: SparseVector): number {
  let sum = 0;
  for (let i = 0; i < indices.length; i++) sum += values[i] * vector[indices[i]];
  return sum;
}

/** Writes the vector's numbers into `target`, which is zero there, at an offset. */
export function writeSparse({ indices, values }: SparseVector, target: Float32Array, offset: number): void {
  for (let i = 0; i < indices.length; i++) target[offset + indices[i]] = values[i];
}
