import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { porterStem } from './porter';
import { rouge, rougeL, rougeN, rougeTokens, rougeWords } from './rouge';

const tokens = fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 7 });
const zero = { precision: 0, recall: 0, fMeasure: 0 };

/** Every subsequence of a list of tokens, by its bits. */
function subsequences(list: readonly string[]): string[] {
  return Array.from({ length: 2 ** list.length }, (_, bits) =>
    list.filter((__, i) => (bits >> i) & 1).join(' '),
  );
}

describe('ROUGE-n', () => {
  it('counts an n-gram at most as often as the other side has it', () => {
    const { precision, recall } = rougeN(['the', 'cat'], ['the', 'the', 'the'], 1);
    expect([precision, recall]).toEqual([1 / 3, 1 / 2]);
  });

  it('is 1 for equal texts that are long enough, else 0', () => {
    expect(rougeN(['a', 'b'], ['a', 'b'], 2)).toEqual({ precision: 1, recall: 1, fMeasure: 1 });
    expect(rougeN(['a'], ['a'], 2)).toEqual(zero);
  });

  it('equals the count by taking matched n-grams away one by one', () => {
    fc.assert(
      fc.property(tokens, tokens, fc.integer({ min: 1, max: 3 }), (reference, reply, n) => {
        const gramsOf = (list: string[]) =>
          list.map((_, i) => list.slice(i, i + n).join(' ')).slice(0, Math.max(0, list.length - n + 1));
        const left = gramsOf(reference);
        let matches = 0;
        for (const gram of gramsOf(reply)) {
          const at = left.indexOf(gram);
          if (at < 0) continue;
          left.splice(at, 1);
          matches++;
        }
        const { precision, recall } = rougeN(reference, reply, n);
        expect(precision * Math.max(1, gramsOf(reply).length)).toBeCloseTo(matches, 12);
        expect(recall * Math.max(1, gramsOf(reference).length)).toBeCloseTo(matches, 12);
      }),
    );
  });
});

describe('ROUGE-L', () => {
  it('has the longest of all common subsequences', () => {
    fc.assert(
      fc.property(tokens, tokens, (reference, reply) => {
        const inReply = new Set(subsequences(reply));
        const common = subsequences(reference).filter((sequence) => inReply.has(sequence));
        const longest = Math.max(...common.map((sequence) => sequence.split(' ').filter(Boolean).length));
        expect(rougeL(reference, reply).recall * Math.max(1, reference.length)).toBeCloseTo(longest, 12);
        expect(rougeL(reply, reference).precision * Math.max(1, reference.length)).toBeCloseTo(longest, 12);
      }),
      { numRuns: 60 },
    );
  });
});

describe('rouge', () => {
  it('is 0 for an empty side', () => {
    expect(rouge('', 'some reply')).toEqual({ 1: zero, 2: zero, L: zero });
    expect(rouge('a reference', '😂 …')).toEqual({ 1: zero, 2: zero, L: zero });
    expect(rouge('', '')).toEqual({ 1: zero, 2: zero, L: zero });
  });

  it('matches words of one stem, and short words only as they are', () => {
    expect(rouge('Replying', 'replies').L.fMeasure).toBe(1);
    expect(rouge('He replied', 'she replies')[1].fMeasure).toBe(0.5);
    expect(rouge('was', 'wa')[1].fMeasure).toBe(0);
  });
});

describe('rougeWords', () => {
  it('parts at everything but a to z and digits', () => {
    expect(rougeWords("I'd say: naïve 5% — OK?")).toEqual(['i', 'd', 'say', 'na', 've', '5', 'ok']);
    expect(rougeTokens('Skies, news!')).toEqual(['sky', 'news']);
  });
});

describe('porterStem', () => {
  it.each([
    ['dies', 'die'],
    ['died', 'die'],
    ['spied', 'spi'],
    ['enjoyment', 'enjoy'],
    ['by', 'by'],
    ['theologi', 'theolog'],
    ['fulli', 'fulli'],
    ['hopefulli', 'hope'],
    ['radically', 'radic'],
    ['yyyy', 'yyyi'],
    ['constructor', 'constructor'],
    ['outing', 'outing'],
    ['5am', '5am'],
    ['', ''],
  ])('of %j is %j, as in nltk', (word, stem) => {
    expect(porterStem(word)).toBe(stem);
  });

  it('never makes a word longer than by its missing e', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'abcdeilnorstuyz') }), (word) => {
        expect(porterStem(word).length).toBeLessThanOrEqual(word.length + 1);
      }),
    );
  });
});
