/** Turning a text into a vector, for relevance, semantic diversity and near-duplicates. */

/** Where an embedding comes from, so that a file can name it and find out whether it is still the same. */
export interface EmbeddingSource {
  kind: 'lexical' | 'directory' | 'hub';
  /** `lexical`, an absolute path, or a hub id */
  model: string;
  /** SHA-256 of the numbers that it computes with */
  fingerprint: string;
}

/** A text embedding. Vectors are shared with the cache: read them, never write to them. */
export interface Embedder {
  readonly name: string;
  /** Unset for one that is not of this library: a file then knows it by its name alone. */
  readonly source?: EmbeddingSource;
  /** Set where this stands in for something better: what a report says after the name of the component. */
  readonly degraded?: string;
  /** Two texts whose cosine is above this say nearly the same; every embedding has its own scale. */
  readonly duplicateCosine: number;
  /** Cosines of a tweet with a reply to another tweet, and with a reply that is clearly about it. */
  readonly cosineRange: readonly [number, number];
  /** @returns [D], of length 1; zeros for a text without any feature */
  embed(text: string): Promise<Float32Array>;
}

/**
 * An embedder that remembers its latest texts, dropping the one unused for longest. A failure is not remembered.
 *
 * @param capacity  texts kept; 2,000 vectors of 4,096 numbers are 32 MB
 */
export function cachedEmbedder(embedder: Embedder, capacity = 2000): Embedder {
  const cache = new Map<string, Promise<Float32Array>>();
  return {
    name: embedder.name,
    source: embedder.source,
    degraded: embedder.degraded,
    duplicateCosine: embedder.duplicateCosine,
    cosineRange: embedder.cosineRange,
    embed(text) {
      const vector = cache.get(text) ?? embedder.embed(text);
      cache.delete(text); // a Map keeps the order of insertion: put the text at its end
      cache.set(text, vector);
      if (cache.size > capacity) cache.delete(cache.keys().next().value as string);
      vector.catch(() => cache.delete(text));
      return vector;
    },
  };
}
