import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { whitespace } from './text';
import { treebank } from './treebank';

describe('treebank', () => {
  // What nltk 3.10.4 gives for the lower-cased text.
  it.each([
    ["Don't stop; they'll see.", "do n't stop ; they 'll see ."],
    ['Mr. X paid $3.88, 3,36 or 1:2: fine...', 'mr. x paid $ 3.88 , 3,36 or 1:2 : fine ...'],
    ["He said \"no\" and (''so'').", "he said `` no '' and ( `` so '' ) ."],
    ["I cannot, gimme -- wanna go? 'Tis.", "i can not , gim me -- wan na go ? 't is ."],
    ["more'n d'ye O'Neil's dogs' [x]{y}<z>", "more 'n d 'ye o'neil 's dogs ' [ x ] { y } < z >"],
    ['cannoté can\u0301not a.b. c. ', 'cannoté can\u0301not a.b. c .'],
    ['a:\n', 'a :'],
    ['x\x1cy\x85z\ufeff', 'x y z\ufeff'],
  ])('parts %j as nltk does', (text, tokens) => {
    expect(treebank(text)).toEqual(tokens.split(' '));
  });

  it('has no token for an empty or blank text', () => {
    expect(treebank('')).toEqual([]);
    expect(treebank(' \n\t')).toEqual([]);
  });

  it('loses no visible character but for the shape of double quotes', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary-ascii' }), (text) => {
        const unquoted = text.replace(/["'`]/g, '');
        expect(treebank(unquoted).join('')).toBe(whitespace(unquoted).join(''));
      }),
    );
  });
});
