import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ConfigError, ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { findNearDuplicates } from './near-duplicates';

function unit(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}

/** Named vectors in groups: the members of a group lie near its centre. `filled` numbers of each are not 0. */
function clusters(
  groups: number,
  size: number,
  dimensions: number,
  filled: number,
): Map<string, Float32Array> {
  const random = new Random(3, 'clusters', dimensions);
  const vectors = new Map<string, Float32Array>();
  for (let group = 0; group < groups; group++) {
    const places = Array.from({ length: filled }, () => random.integer(dimensions));
    const centre = places.map(() => random.normal());
    for (let member = 0; member < size; member++) {
      const vector = new Float32Array(dimensions);
      places.forEach((place, i) => (vector[place] = centre[i] + 0.4 * random.normal()));
      vectors.set(`${group}/${member}`, unit(vector));
    }
  }
  return vectors;
}

/** The definition: each text against every one kept before it. */
function bruteForce(texts: string[], vectors: Map<string, Float32Array>, threshold: number): number[] {
  const kept: number[] = [];
  return texts.map((text, position) => {
    const vector = vectors.get(text) as Float32Array;
    let [nearest, best] = [-1, threshold];
    for (const other of kept) {
      const cosine = (vectors.get(texts[other]) as Float32Array).reduce(
        (sum, v, i) => sum + v * vector[i],
        0,
      );
      if (cosine > best) [nearest, best] = [other, cosine];
    }
    if (nearest < 0) kept.push(position);
    return nearest;
  });
}

describe('findNearDuplicates', () => {
  afterEach(() => vi.doUnmock('usearch'));

  it.each([
    ['dense vectors of 32 numbers, indexed as they are', 32, 32],
    ['sparse vectors of 2,048 numbers, indexed as a projection', 2048, 40],
  ])('finds what brute force finds among %s', async (_, dimensions, filled) => {
    const vectors = clusters(30, 8, dimensions, filled);
    const texts = new Random(5, 'order').shuffle([...vectors.keys()]);
    const embed = async (text: string) => vectors.get(text) as Float32Array;
    const expected = bruteForce(texts, vectors, 0.85);
    const dropped = expected.filter((of) => of >= 0).length;
    expect(dropped).toBeGreaterThan(50);
    expect(dropped).toBeLessThan(190); // the threshold parts members of a group
    const found = await findNearDuplicates(texts, { embed, threshold: 0.85 });
    const agreeing = [...found].filter((of, i) => of === expected[i]).length;
    expect(agreeing / texts.length).toBeGreaterThanOrEqual(0.99);
  });

  it('keeps the first, and a text that is near a dropped one only', async () => {
    const angles: Record<string, number> = { first: 0, second: 0.4, third: 0.8, far: 2 };
    const embed = async (text: string) => Float32Array.of(Math.cos(angles[text]), Math.sin(angles[text]));
    const find = (texts: string[]) => findNearDuplicates(texts, { embed, threshold: 0.9 });
    expect([...(await find(['first', 'second', 'third', 'far']))]).toEqual([-1, 0, -1, -1]);
    expect([...(await find(['second', 'first', 'third', 'far']))]).toEqual([-1, 0, 0, -1]);
  });

  it('drops no text whose cosine is not above the threshold', async () => {
    const embed = async (text: string) =>
      Float32Array.of(...(text === 'a' ? [1, 0] : [0.5, Math.sqrt(0.75)]));
    expect([...(await findNearDuplicates(['a', 'b'], { embed, threshold: 0.5 }))]).toEqual([-1, -1]);
    expect([...(await findNearDuplicates(['a', 'b'], { embed, threshold: 0.499 }))]).toEqual([-1, 0]);
  });

  it('keeps texts without features, and takes no text at all', async () => {
    const embed = async () => new Float32Array(8);
    expect([...(await findNearDuplicates(['x', 'y'], { embed, threshold: 0.9 }))]).toEqual([-1, -1]);
    expect(await findNearDuplicates([], { embed, threshold: 0.9 })).toHaveLength(0);
  });

  it('drops what brute force drops, and names a kept text before it that is near, for any vectors', async () => {
    const vector = fc
      .array(fc.integer({ min: -2, max: 2 }), { minLength: 3, maxLength: 3 })
      .map((numbers) =>
        numbers.every((n) => n === 0) ? new Float32Array(3) : unit(Float32Array.from(numbers)),
      );
    let dropped = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(vector, { maxLength: 30 }), async (list) => {
        const embed = async (text: string) => list[Number(text)];
        const texts = Object.keys(list);
        // No two such vectors have a cosine of 0.81, which rounding could put on either side.
        const found = await findNearDuplicates(texts, { embed, threshold: 0.81 });
        const expected = bruteForce(texts, new Map(list.map((each, i) => [String(i), each])), 0.81);
        expect([...found].map((of) => of >= 0)).toEqual(expected.map((of) => of >= 0));
        found.forEach((of, i) => {
          if (of < 0) return;
          dropped++;
          expect(of).toBeLessThan(i);
          expect(found[of]).toBe(-1);
          expect(list[of].reduce((sum, v, k) => sum + v * list[i][k], 0)).toBeGreaterThan(0.81);
        });
      }),
      { numRuns: 50 },
    );
    expect(dropped).toBeGreaterThan(50);
  });

  it.each([NaN, 0, 1, 2, -1])('refuses the threshold %s', async (threshold) => {
    const embed = async () => Float32Array.of(1, 0);
    await expect(findNearDuplicates(['a'], { embed, threshold })).rejects.toThrow(
      new ConfigError(`threshold is ${threshold}; expected a cosine above 0 and below 1, such as 0.9.`),
    );
  });

  it('refuses vectors of unequal size', async () => {
    const embed = async (text: string) => Float32Array.from({ length: text.length }, () => 1);
    await expect(findNearDuplicates(['a', 'bb'], { embed, threshold: 0.9 })).rejects.toThrow(
      new ShapeError('an embedding of 2 numbers; expected 1 as before.'),
    );
  });

  it('reports how far it is, and stops when told to', async () => {
    const embed = async () => Float32Array.of(1);
    const texts = Array.from({ length: 600 }, (_, i) => String(i));
    const seen: number[] = [];
    await findNearDuplicates(texts, { embed, threshold: 0.9, onProgress: (done) => seen.push(done) });
    expect(seen[0]).toBe(0);
    expect(seen[seen.length - 1]).toBe(600);
    expect(seen.length).toBeGreaterThan(2);
    const onProgress = (done: number): void => {
      if (done > 0) throw new Error('stop');
    };
    await expect(findNearDuplicates(texts, { embed, threshold: 0.9, onProgress })).rejects.toThrow('stop');
  });

  it('says what to do where the native library cannot be loaded', async () => {
    vi.doMock('usearch', () => {
      throw new Error('wrong ELF class');
    });
    const find = findNearDuplicates(['a'], { embed: async () => Float32Array.of(1), threshold: 0.9 });
    await expect(find).rejects.toThrow(ConfigError);
    await expect(find).rejects.toThrow(/usearch cannot be loaded .*--keep-near-duplicates/);
  });
});
