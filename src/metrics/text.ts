/** How a reply becomes tokens for the text metrics. */

// Python's \s for text, which differs from JavaScript's: it has the separators 0x1c..0x1f and 0x85, not U+FEFF.
const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
// Python's \w: letters, numbers of every kind and the underscore; combining marks are not in it.
const WORD = '\\p{L}\\p{N}_';
const WORDPUNCT = new RegExp(`[${WORD}]+|[^${WORD}${SPACE}]+`, 'gu');

/**
 * Lower-cased runs of word characters, and runs of other visible characters: `It's 5%!` -> `it ' s 5 %!`.
 * The tokens of self-BLEU, distinct-n, vocabulary richness and token entropy.
 *
 * Source: nltk's `wordpunct_tokenize(text.lower())`, pattern `\w+|[^\w\s]+`.
 */
export function wordpunct(text: string): string[] {
  return text.toLowerCase().match(WORDPUNCT) ?? [];
}
