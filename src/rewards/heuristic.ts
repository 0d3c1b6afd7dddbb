/**
 * The heuristic reward r(tweet, reply) in [0, 1]: two guards, then the weighted sum of six components in [0, 1].
 * Lengths are code points of the trimmed reply. Source: the study's reward; its rules stand in each function.
 *
 * Departures from the study's code, which did not do what it said: the batch form is the single form; phrases match
 * as whole words; punctuation of 1 to 2 % counts as good; nothing turns into a constant when a library is missing.
 */

import type { z } from 'zod';
import { cosineSimilarity } from '../metrics/diversity';
import { parseStrict } from '../runtime/strict';
import type { Embedder } from './embeddings';
import { heuristicSchema } from './heuristic-options';
import type { HeuristicComponent, HeuristicOptions } from './heuristic-options';
import { scoreEach } from './reward';
import type { Reward, RewardResult } from './reward';
import { polarity } from './sentiment';
import type { Lexicon } from './sentiment';

const WORD_CHARACTER = '[\\p{L}\\p{M}\\p{N}_]';
const STARTS_WITH_WORD = new RegExp(`^${WORD_CHARACTER}`, 'u');
const ENDS_WITH_WORD = new RegExp(`${WORD_CHARACTER}$`, 'u');

/** Number of code points: an emoji of one code point counts once. */
export function codePoints(text: string): number {
  return Array.from(text).length;
}

/** The fixed total of a reply that is too short (0) or too long (0.3); null for one that is to be judged. */
export function guard(length: number, options: HeuristicOptions['guards']): number | null {
  if (length < options.min_length) return 0;
  return length > options.max_length ? options.too_long_reward : null;
}

/** (c + 1) / 2 for the cosine c of the two embeddings. */
export function relevanceOf(cosine: number): number {
  return (cosine + 1) / 2;
}

/** Below 20 characters 0.3; below 50 0.6; 50 to 150 1; to 280 0.8; beyond 0.4. Both upper ends belong to their band. */
export function lengthOf(length: number, options: HeuristicOptions['length']): number {
  if (length < options.tiny_below) return 0.3;
  if (length < options.short_below) return 0.6;
  if (length <= options.good_up_to) return 1;
  return length <= options.long_up_to ? 0.8 : 0.4;
}

/** 1 - |p - q| / 2 for the polarities p of the tweet and q of the reply, each in [-1, 1]. */
export function sentimentOf(tweetPolarity: number, replyPolarity: number): number {
  return 1 - Math.abs(tweetPolarity - replyPolarity) / 2;
}

/** Unique words / words (lower-cased, parted by white space); times 0.7 where that is below 0.5. */
export function diversityOf(reply: string, options: HeuristicOptions['diversity']): number {
  const words = reply.toLowerCase().split(/\s+/u).filter(Boolean);
  if (words.length === 0) return 0;
  const unique = new Set(words).size / words.length;
  return unique < options.repetitive_below ? unique * 0.7 : unique;
}

/** From p, the share of `! ? . ,` among the characters: p < 0.01: 0.7; to 0.08: 1; to 0.15: 0.8; beyond: 0.3. */
export function punctuationOf(reply: string, options: HeuristicOptions['punctuation']): number {
  const share = (reply.match(/[!?.,]/g) ?? []).length / Math.max(1, codePoints(reply));
  if (share < options.sparse_below) return 0.7;
  if (share <= options.good_up_to) return 1;
  return share <= options.dense_up_to ? 0.8 : 0.3;
}

/**
 * A pattern for any of the phrases as whole words, so that "no" is not found in "know"; null without phrases. An end of
 * a phrase that is no word character, as in "% off", may touch anything.
 */
export function phrasePattern(phrases: readonly string[], flags = 'iu'): RegExp | null {
  if (phrases.length === 0) return null;
  const longestFirst = [...phrases].sort((a, b) => b.length - a.length);
  // Four groups instead of bounds at every phrase, which would take V8 a tenth of a second to compile.
  const groups = [true, false].flatMap((starts) =>
    [false, true].map((ends) => {
      const isOfGroup = (phrase: string): boolean =>
        STARTS_WITH_WORD.test(phrase) === starts && ENDS_WITH_WORD.test(phrase) === ends;
      const texts = longestFirst
        .filter(isOfGroup)
        .map((phrase) => phrase.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/\s+/g, '\\s+'));
      const [before, after] = [starts ? `(?<!${WORD_CHARACTER})` : '', ends ? `(?!${WORD_CHARACTER})` : ''];
      return texts.length === 0 ? '' : `${before}(?:${texts.join('|')})${after}`;
    }),
  );
  return new RegExp(groups.filter((group) => group !== '').join('|'), flags);
}

/** Whether a text has upper-case letters and no lower-case one, as Python's `isupper`. */
export function isAllCapitals(text: string): boolean {
  return /\p{Uppercase}/u.test(text) && !/[\p{Lowercase}\p{Lt}]/u.test(text);
}

/**
 * Starts at 1. A generic phrase in a reply of less than 30 characters: x 0.5; a question mark: x 1.1; two or more of
 * `.!?`: x 1.05; ALL CAPS in more than 10 characters: x 0.6. Clamped to [0, 1].
 *
 * @param generic  `phrasePattern` of the generic phrases
 */
export function engagementOf(
  reply: string,
  generic: RegExp | null,
  options: HeuristicOptions['engagement'],
): number {
  const length = codePoints(reply);
  let value = 1;
  if (length < options.generic_below && generic?.test(reply)) value *= 0.5;
  if (reply.includes('?')) value *= 1.1;
  if ((reply.match(/[.!?]/g) ?? []).length >= 2) value *= 1.05;
  if (length > options.capitals_above && isAllCapitals(reply)) value *= 0.6;
  return Math.min(1, Math.max(0, value));
}

/** What the heuristic reward is made of. */
export interface HeuristicParts {
  embedder: Embedder;
  lexicon: Lexicon;
  /** Weights and thresholds that differ from the study's. */
  options?: z.input<typeof heuristicSchema>;
  /** Default: `heuristic`. */
  name?: string;
}

/**
 * The heuristic reward. A guarded reply gets the guard's value in every component, so that the weighted sum of the
 * components is the total there too.
 *
 * @throws ConfigError  when an option is unknown, out of range, or the weights do not sum to 1
 */
export function heuristicReward(parts: HeuristicParts): Reward {
  const { embedder, lexicon, name = 'heuristic' } = parts;
  const options = parseStrict(heuristicSchema, parts.options ?? {}, name);
  const generic = phrasePattern(options.engagement.generic_phrases);

  const judge = async (tweet: string, reply: string): Promise<Record<HeuristicComponent, number>> => ({
    relevance: relevanceOf(cosineSimilarity(await embedder.embed(tweet), await embedder.embed(reply))),
    length: lengthOf(codePoints(reply), options.length),
    sentiment: sentimentOf(polarity(tweet, lexicon), polarity(reply, lexicon)),
    diversity: diversityOf(reply, options.diversity),
    punctuation: punctuationOf(reply, options.punctuation),
    engagement: engagementOf(reply, generic, options.engagement),
  });
  const combine = (terms: readonly WeightedComponent[]): number =>
    terms.reduce((sum, { weight, value }) => sum + weight * value, 0);
  return guardedReward({ embedder, options, name, judge, combine });
}

/** A component's value in [0, 1] with its weight. */
export interface WeightedComponent {
  weight: number;
  value: number;
}

/** What the presets share: guards before the components, and a total made of components and weights. */
export function guardedReward(parts: {
  embedder: Embedder;
  options: Pick<HeuristicOptions, 'weights' | 'guards'>;
  name: string;
  judge: (tweet: string, trimmedReply: string) => Promise<Record<HeuristicComponent, number>>;
  combine: (terms: readonly WeightedComponent[]) => number;
}): Reward {
  const { embedder, options, name, judge, combine } = parts;
  const names = Object.keys(options.weights) as HeuristicComponent[];
  const score = async (tweet: string, untrimmed: string): Promise<RewardResult> => {
    const reply = untrimmed.trim();
    const guarded = guard(codePoints(reply), options.guards);
    if (guarded !== null) {
      return { total: guarded, components: Object.fromEntries(names.map((each) => [each, guarded])) };
    }
    const components = await judge(tweet, reply);
    const total = combine(names.map((each) => ({ weight: options.weights[each], value: components[each] })));
    return { total: Math.min(1, total), components }; // the weights may sum to 1 + 1e-16
  };
  const degraded = embedder.degraded === undefined ? [] : [`relevance: ${embedder.degraded}`];
  return { name, degraded, score, scoreBatch: (pairs) => scoreEach(score, pairs) };
}
