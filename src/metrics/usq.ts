/** USQ@k: the quality of the reply that a reader's way to choose picks among k. */

import { requireFinite, requireSameLength, requireWhole } from './checks';
import { passAtK } from './pass-at-k';
import { whitespace } from './text';

/** By reward, by length in characters, by number of different lower-cased words, or simply the first. */
export const SELECTORS = ['reward', 'longest', 'most_unique_words', 'first'] as const;

/** How one of several replies is picked, one of `SELECTORS`. */
export type Selector = (typeof SELECTORS)[number];

/**
 * What a selector compares replies by; the reply of the highest score is picked.
 *
 * @param rewards  of the replies, for the selector `reward`
 * @throws ShapeError  when there are not as many rewards as texts
 */
export function selectorScores(
  selector: Selector,
  texts: readonly string[],
  rewards: ArrayLike<number>,
): number[] {
  requireSameLength(texts, rewards, 'texts and rewards');
  switch (selector) {
    case 'reward':
      return Array.from(rewards);
    case 'longest':
      return texts.map((text) => [...text].length);
    case 'most_unique_words':
      return texts.map((text) => new Set(whitespace(text)).size);
    case 'first':
      return texts.map(() => 0);
  }
}

/**
 * USQ@k of one tweet: the expected quality of the reply picked among k, where k of the n replies are drawn without
 * replacement and stand in random order, the reply of the highest score is picked, and of equal ones the first. That
 * is the mean over all subsets of size k of the mean quality of the subset's best-scored replies, without bias for k
 * new replies. In closed form, by the values s of the scores:
 * sum_s quality(s) (Pass@k of "score >= s" - Pass@k of "score > s"), quality(s) the mean over the replies scored s.
 *
 * With scores all equal (`first`) it is the mean quality, whatever k; with qualities as scores the expected best of k.
 *
 * @param qualities  of the n replies
 * @param scores     of the same replies, from `selectorScores`
 * @throws ShapeError  when k is not 1..n, the lengths differ, or a number is not finite
 */
export function usqAtK(qualities: ArrayLike<number>, scores: ArrayLike<number>, k: number): number {
  requireSameLength(qualities, scores, 'USQ@k: qualities and scores');
  requireFinite(qualities, 'USQ@k: qualities');
  requireFinite(scores, 'USQ@k: scores');
  const n = qualities.length;
  requireWhole(k, 1, n, 'USQ@k: k');
  const order = Array.from(scores, (_, i) => i).sort((i, j) => scores[j] - scores[i]);
  let [usq, above] = [0, 0];
  for (let start = 0, end = 0; start < n; start = end) {
    let sum = 0;
    while (end < n && scores[order[end]] === scores[order[start]]) sum += qualities[order[end++]];
    const atLeast = passAtK(n, end, k);
    usq += (sum / (end - start)) * (atLeast - above);
    above = atLeast;
  }
  return usq;
}
