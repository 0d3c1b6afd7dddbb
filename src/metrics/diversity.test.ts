import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { bleu4, cosineSimilarity, distinctN, meanPairwiseDistance, selfBleu4 } from './diversity';

const tokens = fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { maxLength: 8 });
const vector = fc.array(fc.double({ min: -10, max: 10, noNaN: true }), { minLength: 3, maxLength: 3 });

describe('distinctN', () => {
  it('counts n-grams inside replies only, pooled over the group', () => {
    // a b | b a: the bigrams are (a b) and (b a); none spans the two replies.
    expect(
      distinctN(
        [
          ['a', 'b'],
          ['b', 'a'],
          ['a', 'b'],
        ],
        2,
      ),
    ).toBe(2 / 3);
  });

  it('does not exist where no reply is long enough', () => {
    expect(distinctN([['a'], []], 2)).toBeNull();
    expect(distinctN([], 1)).toBeNull();
  });

  it('refuses n-grams of no token', () => {
    for (const n of [0, -1, 1.5, NaN]) expect(() => distinctN([['a']], n)).toThrow(ShapeError);
  });

  it('lies in (0, 1] and does not depend on the order of the replies', () => {
    fc.assert(
      fc.property(fc.array(tokens, { maxLength: 5 }), fc.integer({ min: 1, max: 4 }), (replies, n) => {
        const value = distinctN(replies, n);
        expect(distinctN([...replies].reverse(), n)).toBe(value);
        if (value !== null) expect(value > 0 && value <= 1).toBe(true);
      }),
    );
  });
});

describe('self-BLEU-4', () => {
  it('is 1 for equal replies of four tokens or more', () => {
    expect(selfBleu4(Array.from({ length: 3 }, () => ['a', 'b', 'c', 'd', 'e']))).toBeCloseTo(1, 14);
  });

  it('is 0 for replies without a common word, and for empty ones', () => {
    expect(
      selfBleu4([
        ['a', 'b'],
        ['c', 'd'],
      ]),
    ).toBe(0);
    expect(selfBleu4([[], ['c', 'd'], []])).toBe(0);
  });

  it('does not exist for fewer than two replies', () => {
    expect(selfBleu4([['a', 'b', 'c', 'd']])).toBeNull();
    expect(selfBleu4([])).toBeNull();
  });

  it('lies in [0, 1] and does not depend on the order of the replies', () => {
    fc.assert(
      fc.property(fc.array(tokens, { minLength: 2, maxLength: 5 }), (replies) => {
        const value = selfBleu4(replies) ?? NaN;
        expect(value).toBeGreaterThanOrEqual(0);
        expect(value).toBeLessThanOrEqual(1 + 1e-12);
        expect(selfBleu4([...replies].reverse())).toBeCloseTo(value, 12);
      }),
    );
  });

  it('takes the shorter of two equally near reference lengths for the brevity penalty', () => {
    const hypothesis = ['a', 'b', 'c', 'd', 'e'];
    const references = [
      ['a', 'b', 'c', 'd', 'e', 'f'],
      ['a', 'b', 'c', 'd'],
    ];
    expect(bleu4(hypothesis, references)).toBeCloseTo(1, 14);
    expect(bleu4(hypothesis, [references[0]])).toBeCloseTo(Math.exp(1 - 6 / 5), 14);
  });

  it('refuses a hypothesis without references', () => {
    expect(() => bleu4(['a'], [])).toThrow(ShapeError);
  });
});

describe('cosine distances', () => {
  it('are 0 for parallel, 1 for orthogonal and 2 for opposite vectors', () => {
    expect(
      meanPairwiseDistance([
        [1, 1],
        [2, 2],
      ]),
    ).toBeCloseTo(0, 14);
    expect(
      meanPairwiseDistance([
        [1, 0],
        [0, 3],
      ]),
    ).toBe(1);
    expect(
      meanPairwiseDistance([
        [1, 0],
        [-4, 0],
      ]),
    ).toBe(2);
  });

  it('do not exist for fewer than two embeddings', () => {
    expect(meanPairwiseDistance([[1, 2]])).toBeNull();
  });

  it('take a zero vector for unlike everything', () => {
    expect(cosineSimilarity([0, 0], [1, 2])).toBe(0);
  });

  it('refuse vectors of unequal length', () => {
    expect(() => meanPairwiseDistance([[1, 2], [1]])).toThrow(ShapeError);
  });

  it('are symmetric and unchanged by a positive scale', () => {
    fc.assert(
      fc.property(vector, vector, fc.double({ min: 0.1, max: 10, noNaN: true }), (a, b, scale) => {
        const cosine = cosineSimilarity(a, b);
        expect(cosineSimilarity(b, a)).toBe(cosine);
        expect(Math.abs(cosine)).toBeLessThanOrEqual(1);
        // The squares of numbers near 1e-160 underflow and the direction is lost.
        const tiny = [a, b].some((v) => Math.hypot(...v) < 1e-100);
        if (!tiny)
          expect(
            cosineSimilarity(
              a.map((x) => x * scale),
              b,
            ),
          ).toBeCloseTo(cosine, 10);
      }),
    );
  });
});
