/** n-grams of token lists: what distinct-n, BLEU, ROUGE-n and the vocabulary metrics count. */

import { requireWhole } from './checks';

/** The words of a text, as a tokenizer parts them. */
export type Tokens = readonly string[];

/** The n-grams of a token list with their counts. @throws ShapeError when n is not a whole number from 1 */
export function ngramCounts(tokens: Tokens, n: number): Map<string, number> {
  requireWhole(n, 1, Number.MAX_SAFE_INTEGER, 'length of the n-grams');
  const counts = new Map<string, number>();
  for (let i = 0; i + n <= tokens.length; i++) {
    // The separator cannot occur inside a token that came from text; it keeps ["a b"] and ["a", "b"] apart.
    const gram = n === 1 ? tokens[i] : tokens.slice(i, i + n).join('\u0000');
    counts.set(gram, (counts.get(gram) ?? 0) + 1);
  }
  return counts;
}
