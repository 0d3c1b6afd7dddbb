/** ROUGE: how much of a reference's words a reply has. */

import { ngramCounts } from './ngrams';
import type { Tokens } from './ngrams';
import { porterStem } from './porter';

/** Overlap of a reply with a reference, in [0, 1]. */
export interface RougeScore {
  /** share of the reply's n-grams, or words, that match */
  precision: number;
  /** share of the reference's n-grams, or words, that match */
  recall: number;
  /** 2 precision recall / (precision + recall); 0 where nothing matches */
  fMeasure: number;
}

/** Runs of the letters a to z and digits of the lower-cased text; everything else parts words. */
export function rougeWords(text: string): string[] {
  return text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
}

/** The words of a text for ROUGE, those longer than three letters stemmed. Source: rouge-score, `use_stemmer=True`. */
export function rougeTokens(text: string): string[] {
  return rougeWords(text).map((word) => (word.length > 3 ? porterStem(word) : word));
}

function scoreOf(matches: number, inReference: number, inReply: number): RougeScore {
  const precision = matches / Math.max(inReply, 1);
  const recall = matches / Math.max(inReference, 1);
  const fMeasure = matches === 0 ? 0 : (2 * precision * recall) / (precision + recall);
  return { precision, recall, fMeasure };
}

/**
 * ROUGE-n: matches = sum over n-grams of min(count in the reference, count in the reply), over the n-grams of either.
 * All zero where a side has no n-gram.
 *
 * Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL 2004; rouge-score 0.1.2.
 */
export function rougeN(reference: Tokens, reply: Tokens, n: number): RougeScore {
  const inReply = ngramCounts(reply, n);
  let matches = 0;
  for (const [gram, count] of ngramCounts(reference, n)) matches += Math.min(count, inReply.get(gram) ?? 0);
  const ngramsOf = (tokens: Tokens): number => Math.max(0, tokens.length - n + 1);
  return scoreOf(matches, ngramsOf(reference), ngramsOf(reply));
}

/** Length of the longest sequence of tokens that both have in this order, with others between. O(a b). */
function longestCommonSubsequence(a: Tokens, b: Tokens): number {
  let row = new Uint32Array(b.length + 1);
  for (const token of a) {
    const next = new Uint32Array(b.length + 1);
    for (let j = 1; j <= b.length; j++) {
      next[j] = token === b[j - 1] ? row[j - 1] + 1 : Math.max(row[j], next[j - 1]);
    }
    row = next;
  }
  return row[b.length];
}

/**
 * ROUGE-L: matches = the longest common subsequence, over the words of either; all zero where a side has none.
 *
 * Source: Lin 2004, sentence level; rouge-score 0.1.2.
 */
export function rougeL(reference: Tokens, reply: Tokens): RougeScore {
  return scoreOf(longestCommonSubsequence(reference, reply), reference.length, reply.length);
}

/** ROUGE-1, ROUGE-2 and ROUGE-L of a reply against one reference, with stemmed words. */
export function rouge(reference: string, reply: string): { 1: RougeScore; 2: RougeScore; L: RougeScore } {
  const [inReference, inReply] = [rougeTokens(reference), rougeTokens(reply)];
  return {
    1: rougeN(inReference, inReply, 1),
    2: rougeN(inReference, inReply, 2),
    L: rougeL(inReference, inReply),
  };
}
