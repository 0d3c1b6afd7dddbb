/** How a reply becomes tokens for the text metrics. */

import { PYTHON_SPACE, splitWhitespace } from './spaces';

// Python's \w: letters, numbers of every kind and the underscore; combining marks are not in it.
const WORD = '\\p{L}\\p{N}_';
const WORDPUNCT = new RegExp(`[${WORD}]+|[^${WORD}${PYTHON_SPACE}]+`, 'gu');

/**
 * Lower-cased runs of word characters, and runs of other visible characters: `It's 5%!` -> `it ' s 5 %!`.
 * The tokens of self-BLEU, distinct-n, vocabulary richness and token entropy.
 *
 * Source: nltk's `wordpunct_tokenize(text.lower())`, pattern `\w+|[^\w\s]+`, read as Python's `re` does. nltk 3.10 reads
 * it by the `regex` module, which takes combining marks and joiners for word characters too: it parts an emoji from
 * its variation selector, which is one token here.
 */
export function wordpunct(text: string): string[] {
  return text.toLowerCase().match(WORDPUNCT) ?? [];
}

/** Lower-cased runs of visible characters: `It's 5%!` -> `it's 5%!`. Source: Python's `text.lower().split()`. */
export function whitespace(text: string): string[] {
  return splitWhitespace(text.toLowerCase());
}
