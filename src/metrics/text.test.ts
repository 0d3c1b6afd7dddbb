import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { whitespace, wordpunct } from './text';

describe('wordpunct', () => {
  it('parts words from runs of punctuation and lower-cases both', () => {
    expect(wordpunct("It's 5%! No_way...")).toEqual(['it', "'", 's', '5', '%!', 'no_way', '...']);
  });

  it('keeps accented, CJK and non-decimal numbers in words and parts them from combining marks and emoji', () => {
    expect(wordpunct('Ünï 東京 Ⅷ ½')).toEqual(['ünï', '東京', 'ⅷ', '½']);
    expect(wordpunct('e\u0301a😂👍b')).toEqual(['e', '\u0301', 'a', '😂👍', 'b']);
  });

  it("takes for white space what Python's \\s takes", () => {
    expect(wordpunct('a\x1cb\x85c\u3000d\ufeffe')).toEqual(['a', 'b', 'c', 'd', '\ufeff', 'e']);
  });

  it('has no token for an empty or blank text', () => {
    expect(wordpunct('')).toEqual([]);
    expect(wordpunct(' \n\t')).toEqual([]);
  });

  it('loses no visible character of an ASCII text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary-ascii' }), (text) => {
        expect(wordpunct(text).join('')).toBe(text.toLowerCase().replace(/[\t-\r\x1c-\x20]/g, ''));
      }),
    );
  });
});

describe('whitespace', () => {
  it("parts lower-cased text at Python's white space and nowhere else", () => {
    expect(whitespace("It's 5%!\n Ünï\x1c東京\u3000A\ufeffB ")).toEqual([
      "it's",
      '5%!',
      'ünï',
      '東京',
      'a\ufeffb',
    ]);
    expect(whitespace(' \t')).toEqual([]);
  });
});
