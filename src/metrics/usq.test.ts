import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { SELECTORS, selectorScores, usqAtK } from './usq';

/** All ordered draws of k of 0..n-1 without replacement. */
function draws(n: number, k: number): number[][] {
  if (k === 0) return [[]];
  return draws(n, k - 1).flatMap((head) =>
    Array.from({ length: n }, (_, i) => i)
      .filter((i) => !head.includes(i))
      .map((i) => [...head, i]),
  );
}

const replies = fc.array(fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 2 })), {
  minLength: 1,
  maxLength: 5,
});

describe('usqAtK', () => {
  it('is the mean over all draws in order of the quality of the first one with the highest score', () => {
    fc.assert(
      fc.property(replies, (pairs) => {
        const [qualities, scores] = [pairs.map(([quality]) => quality), pairs.map(([, score]) => score)];
        for (let k = 1; k <= pairs.length; k++) {
          const all = draws(pairs.length, k);
          const picked = all.map((drawn) => {
            const best = Math.max(...drawn.map((i) => scores[i]));
            return qualities[drawn.find((i) => scores[i] === best) ?? NaN];
          });
          const expected = picked.reduce((sum, quality) => sum + quality, 0) / all.length;
          expect(usqAtK(qualities, scores, k)).toBeCloseTo(expected, 12);
        }
      }),
    );
  });

  it('is the mean quality at k = 1 and for the selector that takes the first', () => {
    const qualities = [0.1, 0.4, 0.9, 0.2];
    expect(usqAtK(qualities, [3, 1, 2, 2], 1)).toBeCloseTo(0.4, 15);
    for (const k of [1, 2, 3, 4]) expect(usqAtK(qualities, [0, 0, 0, 0], k)).toBeCloseTo(0.4, 15);
  });

  it('is the quality of the best-scored reply at k = n', () => {
    expect(usqAtK([0.1, 0.4, 0.9], [5, 7, 6], 3)).toBe(0.4);
    expect(usqAtK([0.1, 0.4, 0.9], [7, 7, 6], 3)).toBeCloseTo(0.25, 15);
  });

  it('never falls with k where the quality itself selects', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 2, maxLength: 12 }),
        (qualities) => {
          for (let k = 2; k <= qualities.length; k++) {
            const [less, more] = [usqAtK(qualities, qualities, k - 1), usqAtK(qualities, qualities, k)];
            expect(more).toBeGreaterThanOrEqual(less - 1e-9);
          }
          expect(usqAtK(qualities, qualities, qualities.length)).toBeCloseTo(Math.max(...qualities), 9);
        },
      ),
    );
  });

  it('refuses a k that is not 1..n, sides of unequal length, and NaN', () => {
    expect(() => usqAtK([1, 2], [1, 2], 3)).toThrow(ShapeError);
    expect(() => usqAtK([1, 2], [1, 2], 0)).toThrow(ShapeError);
    expect(() => usqAtK([], [], 1)).toThrow(ShapeError);
    expect(() => usqAtK([1, 2], [1], 1)).toThrow(ShapeError);
    expect(() => usqAtK([1, NaN], [1, 2], 1)).toThrow(/NaN/);
    expect(() => usqAtK([1, 2], [NaN, 2], 1)).toThrow(/NaN/);
  });
});

describe('selectorScores', () => {
  const texts = ['the the the the', 'A b a c', '😂😂', ''];
  const rewards = [0.1, 0.2, 0.3, 0.4];

  it('are rewards, characters, different lower-cased words, or all equal', () => {
    expect(SELECTORS.map((selector) => selectorScores(selector, texts, rewards))).toEqual([
      rewards,
      [15, 7, 2, 0],
      [1, 3, 1, 0],
      [0, 0, 0, 0],
    ]);
  });

  it('refuse rewards of other replies', () => {
    expect(() => selectorScores('longest', texts, [1])).toThrow(ShapeError);
  });
});
