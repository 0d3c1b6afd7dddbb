import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { distinctN } from './diversity';
import { countCorpus, resampledDistinct, resampledTokenEntropy } from './vocabulary';
import { tokenEntropy, vocabularyRichness } from './vocabulary';

const reply = fc.array(fc.constantFrom('a', 'b', 'c', 'd', 'e'), { maxLength: 6 });
const tweets = fc.array(fc.array(reply, { maxLength: 4 }), { minLength: 1, maxLength: 5 });

describe('token entropy', () => {
  it('is 0 for one type, and the logarithm of their number for evenly used ones', () => {
    expect(tokenEntropy([['a', 'a'], ['a']])).toBe(0);
    expect(
      tokenEntropy(
        [
          ['a', 'b'],
          ['c', 'd'],
        ],
        'bits',
      ),
    ).toBeCloseTo(2, 14);
    expect(
      tokenEntropy([
        ['a', 'b'],
        ['c', 'd'],
      ]),
    ).toBeCloseTo(Math.log(4), 14);
  });

  it('equals the sum of -p log p written out', () => {
    fc.assert(
      fc.property(fc.array(reply, { minLength: 1 }), (replies) => {
        const all = replies.flat();
        const entropy = tokenEntropy(replies);
        if (all.length === 0) {
          expect(entropy).toBeNull();
          return;
        }
        const shares = [...new Set(all)].map((type) => all.filter((t) => t === type).length / all.length);
        expect(entropy).toBeCloseTo(
          shares.reduce((sum, p) => sum - p * Math.log(p), 0),
          12,
        );
      }),
    );
  });

  it('does not exist without tokens, nor does richness', () => {
    for (const replies of [[], [[]], [[], []]]) {
      expect(tokenEntropy(replies)).toBeNull();
      expect(vocabularyRichness(replies)).toBeNull();
    }
  });
});

describe('vocabulary richness', () => {
  it('falls when replies are repeated', () => {
    expect(vocabularyRichness([['a', 'b']])).toBe(1);
    expect(
      vocabularyRichness([
        ['a', 'b'],
        ['a', 'b'],
      ]),
    ).toBe(0.5);
  });
});

describe('the forms for resamples', () => {
  it('equal the statistic of the resample written out', () => {
    fc.assert(
      fc.property(
        tweets,
        fc.integer({ min: 1, max: 3 }),
        fc.array(fc.nat(3), { minLength: 10 }),
        (all, n, draws) => {
          const distinct = resampledDistinct(countCorpus(all, n));
          const entropy = resampledTokenEntropy(countCorpus(all, 1), 'bits');
          // Two resamples with one function: nothing of the first may stay in the second.
          for (const counts of [draws.slice(0, 5), draws.slice(5)]) {
            const written = all.flatMap((replies, t) =>
              Array.from({ length: counts[t] }, () => replies).flat(),
            );
            expect(distinct(counts)).toBe(distinctN(written, n));
            const [fast, plain] = [entropy(counts), tokenEntropy(written, 'bits')];
            if (plain === null) expect(fast).toBeNull();
            else expect(fast).toBeCloseTo(plain, 12);
          }
        },
      ),
    );
  });
});
