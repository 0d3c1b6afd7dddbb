import { afterAll, describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { tf } from '../runtime/tf';
import { drawTokens, truncatedDistribution } from './sampling';

interface SamplingCase {
  logits: string;
  temperature?: number;
  top_k?: number | null;
  top_p?: number | null;
  min_p?: number | null;
  kept: number;
  probs: number[];
  u: number[];
  index_by_inverse_cdf: number[];
}

const golden = readGolden<{ logits: Record<string, number[]>; cases: SamplingCase[] }>('sampling.json');

function nameOf({ logits, temperature, top_k, top_p, min_p }: SamplingCase): string {
  return `${logits} ${JSON.stringify({ temperature, top_k, top_p, min_p })}`;
}

describe('truncatedDistribution and drawTokens against transformers', () => {
  const numTensors = tf.memory().numTensors;

  it.each(golden.cases.map((example) => [nameOf(example), example] as const))('%s', (_name, example) => {
    const probabilities = tf.tidy(() =>
      truncatedDistribution(tf.tensor2d([golden.logits[example.logits]]), {
        temperature: example.temperature ?? 1,
        topK: example.top_k ?? 0,
        topP: example.top_p ?? 1,
        minP: example.min_p ?? 0,
      }),
    );
    const values = Array.from(probabilities.dataSync());
    expect(values.filter((value) => value > 0)).toHaveLength(example.kept);
    values.forEach((value, i) => expect(Math.abs(value - example.probs[i])).toBeLessThan(1e-6));
    const ids = tf.tidy(() =>
      drawTokens(tf.tile(probabilities, [example.u.length, 1]), tf.tensor1d(example.u)),
    );
    expect(Array.from(ids.dataSync())).toEqual(example.index_by_inverse_cdf);
    tf.dispose([probabilities, ids]);
  });

  afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));
});
