import { describe, expect, it } from 'vitest';
import type { Completion } from '../policy/policy';
import { ShapeError } from '../runtime/errors';
import { distinct2, oneMinusSelfBleu, semanticDistances, semanticDiversity } from './polychromic';

describe('diversities of texts', () => {
  const words = ['', 'yes', 'the cat sat on the mat', 'a dog ran far away today', 'rain', 'cat sat on'];
  const textOf = ({ tokenIds: [id] }: Pick<Completion, 'tokenIds'>): string => words[id];
  const group = (...ids: number[]): Completion[] =>
    ids.map((id) => ({ tokenIds: [id] }) as unknown as Completion);
  /** Counts of three letters; zeros for the empty text. */
  const embed = (text: string): Promise<number[]> =>
    Promise.resolve(['t', 'd', 'y'].map((letter) => text.split(letter).length - 1));
  const semantic = semanticDiversity(textOf, embed);
  const all = { semantic, selfBleu: oneMinusSelfBleu(textOf), distinct: distinct2(textOf) };

  it('is 0 for identical texts, 1/n for distinct-2, and large for texts without a common word', async () => {
    expect(await semantic(group(2, 2, 2))).toBeCloseTo(0, 12);
    expect(await all.selfBleu(group(2, 2, 2))).toBeCloseTo(0, 12);
    expect(await all.distinct(group(2, 2, 2))).toBeCloseTo(1 / 3, 12);
    expect(await all.selfBleu(group(2, 3))).toBe(1);
    expect(await all.distinct(group(2, 3))).toBe(1);
    expect(await semantic(group(2, 3))).toBeGreaterThan(0.3);
  });

  it('gives identical single words a self-BLEU that is not 1, as BLEU is smoothed', async () => {
    expect(await all.selfBleu(group(1, 1))).toBeCloseTo(1 - 0.1 ** 0.75, 12);
  });

  it.each(Object.entries(all))('pays nothing for an empty text: %s', async (_name, diversity) => {
    expect(await diversity(group(0, 0, 0))).toBe(0);
    expect(await diversity(group(0, 2))).toBe(0);
    const spoken = await diversity(group(2, 3));
    expect(await diversity(group(2, 0, 3))).toBeCloseTo(spoken / 3, 12);
  });

  it('counts a text of one word as empty in distinct-2', async () => {
    expect(await all.distinct(group(1, 4))).toBe(0);
    expect(await all.distinct(group(2, 4, 3))).toBeCloseTo((await all.distinct(group(2, 3))) / 3, 12);
  });

  it('has the mean of its distances as semantic diversity', async () => {
    const members = group(1, 2, 0, 3, 5);
    const matrix = await semanticDistances(textOf, embed)(members);
    const pairs = matrix.flatMap((row, i) => row.slice(i + 1));
    expect(pairs).toHaveLength(10);
    expect(await semantic(members)).toBeCloseTo(pairs.reduce((a, b) => a + b, 0) / 10, 12);
    matrix.forEach((row, i) => row.forEach((value, j) => expect(value).toBe(matrix[j][i])));
  });

  it.each(Object.entries(all))('refuses a single completion: %s', async (_name, diversity) => {
    await expect(async () => diversity(group(2))).rejects.toThrow(ShapeError);
  });
});
