/** How different the replies to one tweet are: from tokens (distinct-n, self-BLEU) or from embeddings. */

import { ShapeError } from '../runtime/errors';
import type { Numbers } from './checks';
import { ngramCounts } from './ngrams';
import type { Tokens } from './ngrams';

/** What stands for a zero count of matches in `selfBleu4`: nltk's `SmoothingFunction().method1`. */
const SMOOTHING = 0.1;

/**
 * distinct-n = different n-grams / n-grams, pooled over the replies.
 *
 * @returns in (0, 1]; null where no reply has n tokens
 * Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", arXiv 1510.03055.
 */
export function distinctN(replies: readonly Tokens[], n: number): number | null {
  const different = new Set<string>();
  let total = 0;
  for (const tokens of replies) {
    for (const [gram, count] of ngramCounts(tokens, n)) {
      different.add(gram);
      total += count;
    }
  }
  return total === 0 ? null : different.size / total;
}

/** Matches of the hypothesis's n-grams, each at most as often as in the one reference that has it most, and their number. */
function clippedMatches(hypothesis: Tokens, references: readonly Tokens[], n: number): [number, number] {
  const most = new Map<string, number>();
  for (const reference of references) {
    for (const [gram, count] of ngramCounts(reference, n))
      most.set(gram, Math.max(most.get(gram) ?? 0, count));
  }
  let matches = 0;
  for (const [gram, count] of ngramCounts(hypothesis, n)) matches += Math.min(count, most.get(gram) ?? 0);
  return [matches, Math.max(1, hypothesis.length - n + 1)];
}

/** exp(1 - r/h) for a hypothesis shorter than r, the reference length nearest to its own (the shorter on a tie). */
function brevityPenalty(hypothesis: Tokens, references: readonly Tokens[]): number {
  const h = hypothesis.length;
  let closest = references[0].length;
  for (const { length } of references) {
    const [gap, best] = [Math.abs(length - h), Math.abs(closest - h)];
    if (gap < best || (gap === best && length < closest)) closest = length;
  }
  return h > closest ? 1 : Math.exp(1 - closest / h);
}

/**
 * BLEU-4 of one sentence: brevity penalty x exp(mean over n = 1..4 of log p_n), p_n the clipped n-gram precision.
 * A p_n without matches is 0.1 / its number of n-grams; without a common word the score is 0.
 *
 * @param references  at least one
 * Source: Papineni et al., ACL 2002; smoothing 1 of Chen & Cherry, WMT 2014, as nltk's `sentence_bleu` has it.
 */
export function bleu4(hypothesis: Tokens, references: readonly Tokens[]): number {
  if (references.length === 0) throw new ShapeError('bleu4: no reference; expected at least one');
  let logSum = 0;
  for (let n = 1; n <= 4; n++) {
    const [matches, total] = clippedMatches(hypothesis, references, n);
    if (n === 1 && matches === 0) return 0;
    logSum += Math.log((matches === 0 ? SMOOTHING : matches) / total) / 4;
  }
  return brevityPenalty(hypothesis, references) * Math.exp(logSum);
}

/**
 * Self-BLEU-4 of the replies to **one** tweet: mean over i of BLEU-4(reply i against the others). High means alike.
 * Replies to different tweets are never pooled.
 *
 * @returns in [0, 1]; null for fewer than two replies
 * Source: Zhu et al., "Texygen", arXiv 1802.01886.
 */
export function selfBleu4(replies: readonly Tokens[]): number | null {
  if (replies.length < 2) return null;
  let sum = 0;
  replies.forEach(
    (reply, i) =>
      (sum += bleu4(
        reply,
        replies.filter((_, j) => j !== i),
      )),
  );
  return sum / replies.length;
}

/**
 * Cosine similarity a.b / (|a| |b|), kept inside [-1, 1] against rounding; 0 where either vector is zero.
 * @throws ShapeError  when the lengths differ
 */
export function cosineSimilarity(a: Numbers, b: Numbers): number {
  if (a.length !== b.length) {
    throw new ShapeError(
      `cosineSimilarity: vectors of ${a.length} and ${b.length} numbers; expected equal lengths`,
    );
  }
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  if (aa === 0 || bb === 0) return 0;
  return Math.min(1, Math.max(-1, dot / (Math.sqrt(aa) * Math.sqrt(bb))));
}

/**
 * Semantic diversity of the replies to one tweet: mean over pairs i < j of 1 - cos(e_i, e_j).
 *
 * @param embeddings  [G, D], one a reply
 * @returns in [0, 2]; null for fewer than two replies
 * @throws ShapeError  when the rows differ in length
 */
export function meanPairwiseDistance(embeddings: readonly Numbers[]): number | null {
  const count = embeddings.length;
  if (count < 2) return null;
  let sum = 0;
  for (let i = 0; i < count; i++) {
    for (let j = i + 1; j < count; j++) sum += 1 - cosineSimilarity(embeddings[i], embeddings[j]);
  }
  return sum / ((count * (count - 1)) / 2);
}
