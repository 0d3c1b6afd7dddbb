/**
 * The preset `sharp` of the heuristic reward: the study's six names with rules that part good replies from bad ones more
 * widely. It is ours, not the study's, and is used only where it is asked for.
 *
 * What differs: an echo of the tweet is not relevant; what counts as diverse is what a reply adds to the tweet; praise,
 * links and bait are no engagement; and the total is the weighted geometric mean of the components, so that none buys
 * off another one's failure. Written for English, as the study's rules are.
 */

import { z } from 'zod';
import { cosineSimilarity } from '../metrics/diversity';
import { wordpunct } from '../metrics/text';
import { parseStrict } from '../runtime/strict';
import type { Embedder } from './embeddings';
import { codePoints, guardedReward, phrasePattern } from './heuristic';
import type { WeightedComponent } from './heuristic';
import { guardsSchema, weightsSchema } from './heuristic-options';
import type { HeuristicComponent } from './heuristic-options';
import type { Reward } from './reward';
import { polarity } from './sentiment';
import type { Lexicon } from './sentiment';
import { BAIT, EMPTY_PHRASES, FUNCTION_WORDS, INSULTS, PROMOTION, REASONS } from './sharp-words';

/** Settings of the preset; every part may be left out. */
export const sharpSchema = z.strictObject({
  weights: weightsSchema({
    ...{ relevance: 0.2, length: 0.1, sentiment: 0.1 },
    ...{ diversity: 0.2, punctuation: 0.1, engagement: 0.3 },
  }).prefault({}),
  guards: guardsSchema.prefault({}),
});

/** No component is less, so that one rule alone cannot make a reply worthless. */
const FLOOR = 0.05;

/** 0 up to `from`, 1 from `to` on, a straight line between them; `from` may be the larger one. */
export function ramp(x: number, from: number, to: number): number {
  return Math.min(1, Math.max(0, (x - from) / (to - from)));
}

/** A text as the phrases are written: in NFKC, with straight apostrophes. */
export function plainText(text: string): string {
  return text.normalize('NFKC').replace(/[‘’ʼ]/g, "'");
}

/** The lower-cased words of a text, apostrophes left out: `don't` is `dont`. */
export function wordsOf(text: string): string[] {
  const tokens = wordpunct(plainText(text).replaceAll("'", ''));
  return tokens.filter((token) => /[\p{L}\p{N}]/u.test(token));
}

/** The words of a list that tell something: neither function words nor single characters. */
export function contentWords(words: readonly string[]): string[] {
  return words.filter((word) => word.length > 1 && !FUNCTION_WORDS.has(word));
}

/** Share of the reply's pairs of neighbouring words that stand in the tweet; 0 for a reply of one word. */
export function echoOf(tweet: readonly string[], reply: readonly string[]): number {
  const pairs = (words: readonly string[]): string[] =>
    words.slice(1).map((word, i) => `${words[i]} ${word}`);
  const known = new Set(pairs(tweet));
  const own = pairs(reply);
  return own.length === 0 ? 0 : own.filter((pair) => known.has(pair)).length / own.length;
}

/**
 * (0.4 + 0.6 r)(1 - e): r the cosine's place between an unrelated and a related text of this embedding, e how much of the
 * reply is an echo, from 30 % of its word pairs (0) to 80 % (1).
 */
export function sharpRelevance(cosine: number, range: readonly [number, number], echo: number): number {
  return (0.4 + 0.6 * ramp(cosine, range[0], range[1])) * (1 - ramp(echo, 0.3, 0.8));
}

/** Rises from 0 at 8 characters to 1 at 45, stays to 200, falls to 0.3 at 400. */
export function sharpLength(length: number): number {
  return Math.min(ramp(length, 8, 45), 1 - 0.7 * ramp(length, 200, 400));
}

/**
 * 0 for an insult, else 1 - min(1, c + h) of the polarities p of the tweet and q of the reply. c = max(0, q - 0.2) for a
 * cheerful answer to a sad tweet (p < -0.2), else 0. h = max(0, -0.5 - q) for a harsh reply, half of it to a sad tweet.
 */
export function sharpSentiment(tweetPolarity: number, replyPolarity: number, insults: boolean): number {
  if (insults) return 0;
  const cheerfulAtSad = tweetPolarity < -0.2 ? Math.max(0, replyPolarity - 0.2) : 0;
  const harsh = Math.max(0, -0.5 - replyPolarity) * (tweetPolarity < -0.2 ? 0.5 : 1);
  return 1 - Math.min(1, cheerfulAtSad + harsh);
}

/**
 * What the reply adds: n / (n + 2) x 1.4, at most 1, for n different content words that are not the tweet's; times the
 * share of unique words, squared, so that repeating and stuffing do not help.
 */
export function sharpDiversity(tweet: readonly string[], reply: readonly string[]): number {
  if (reply.length === 0) return 0;
  const known = new Set(tweet);
  const added = new Set(contentWords(reply).filter((word) => !known.has(word))).size;
  return Math.min(1, (1.4 * added) / (added + 2)) * (new Set(reply).size / reply.length) ** 2;
}

// Emoji sequences as UTS #51 section 1.4.9 has them: `\p{RGI_Emoji}`, a list of thousands, takes a hundred times as long.
const TAIL = '(?:\\p{Emoji_Modifier}|\\u{fe0f}|[\\u{e0020}-\\u{e007e}]+\\u{e007f})?';
const EMOJI = `\\p{Extended_Pictographic}${TAIL}`;
const SEQUENCE = `${EMOJI}(?:\\u{200d}${EMOJI})*|\\p{Regional_Indicator}{2}|[0-9#*]\\u{fe0f}?\\u{20e3}`;
const HASHTAG = '(?<![\\p{L}\\p{N}])#(?=[\\p{N}_]*\\p{L})';
const DECORATION = new RegExp(`${SEQUENCE}|${HASHTAG}`, 'gu');

/**
 * Starts at 1. Times 0.3 when most letters are capitals (more than 10 letters); times 0.6 for each run of two or more
 * `!` or `?`, and for a third exclamation mark; times 0.8 for each emoji and hashtag beyond two. An emoji of several code
 * points (a family, a flag, a skin tone) counts once; a hashtag is `#` with a letter after any digits.
 */
export function sharpPunctuation(reply: string): number {
  const letters = reply.match(/\p{L}/gu) ?? [];
  const capitals = letters.filter((letter) => /\p{Lu}/u.test(letter)).length;
  const runs = (reply.match(/[!?]{2,}/g) ?? []).length;
  const exclamations = (reply.match(/!/g) ?? []).length;
  const decorations = (reply.match(DECORATION) ?? []).length;
  let value = letters.length > 10 && capitals > 0.6 * letters.length ? 0.3 : 1;
  value *= 0.6 ** (runs + Number(exclamations > 2));
  return value * 0.8 ** Math.max(0, decorations - 2);
}

const COMPILED = {
  empty: phrasePattern(EMPTY_PHRASES, 'giu') as RegExp,
  promotion: phrasePattern(PROMOTION) as RegExp,
  bait: phrasePattern(BAIT) as RegExp,
  insult: phrasePattern(INSULTS) as RegExp,
  reasons: phrasePattern(REASONS) as RegExp,
  self: phrasePattern(['i', "i'm", "i've", "i'd", "i'll", 'my', 'mine', 'we', 'our', 'us', 'me']) as RegExp,
};

/** Whether the reply insults: one of the list's phrases, as whole words. */
export function isInsult(reply: string): boolean {
  return COMPILED.insult.test(plainText(reply));
}

/** A sentence that asks something: at least four words, one of them a content word. */
export function asksSomething(reply: string): boolean {
  const sentences = plainText(reply).split(/(?<=[.!?])/);
  return sentences.some((sentence) => {
    if (!sentence.endsWith('?')) return false;
    const words = wordsOf(sentence);
    return words.length >= 4 && contentWords(words).length > 0;
  });
}

/**
 * 0.35 + 0.65 (1 - product of (1 - h)) over the hooks that the reply has: asks something (h = 0.6), gives a reason, a
 * contrast or a condition (0.45), speaks of oneself (0.35), has a number (0.3); times 1 - 0.8 x the share of its words in
 * phrases of praise and agreement; a fifth of it with bait ("thoughts?") or promotion (a link, "check out").
 */
export function sharpEngagement(untouched: string): number {
  const reply = plainText(untouched);
  const words = wordsOf(reply);
  if (words.length === 0) return 0;
  const hooks = [
    asksSomething(reply) ? 0.6 : 0,
    COMPILED.reasons.test(reply) ? 0.45 : 0,
    COMPILED.self.test(reply) ? 0.35 : 0,
    /\p{N}/u.test(reply) ? 0.3 : 0,
  ];
  const hooked = 1 - hooks.reduce((product, hook) => product * (1 - hook), 1);
  const empty = (reply.match(COMPILED.empty) ?? []).flatMap(wordsOf).length / words.length;
  const pushes = COMPILED.bait.test(reply) || COMPILED.promotion.test(reply) || /https?:\/\//i.test(reply);
  return (0.35 + 0.65 * hooked) * (1 - 0.8 * Math.min(1, empty)) * (pushes ? 0.2 : 1);
}

/** What the sharp reward is made of. */
export interface SharpParts {
  embedder: Embedder;
  lexicon: Lexicon;
  options?: z.input<typeof sharpSchema>;
  /** Default: `sharp`. */
  name?: string;
}

/**
 * total = product of max(c, 0.05)^weight over the six components. A guarded reply gets the guard's value in every
 * component, as in the study's reward.
 *
 * @throws ConfigError  when an option is unknown, out of range, or the weights do not sum to 1
 */
export function sharpReward(parts: SharpParts): Reward {
  const { embedder, lexicon, name = 'sharp' } = parts;
  const options = parseStrict(sharpSchema, parts.options ?? {}, name);

  const judge = async (tweet: string, reply: string): Promise<Record<HeuristicComponent, number>> => {
    const [tweetWords, replyWords] = [wordsOf(tweet), wordsOf(reply)];
    const cosine = cosineSimilarity(await embedder.embed(tweet), await embedder.embed(reply));
    return {
      relevance: sharpRelevance(cosine, embedder.cosineRange, echoOf(tweetWords, replyWords)),
      length: sharpLength(codePoints(reply)),
      sentiment: sharpSentiment(polarity(tweet, lexicon), polarity(reply, lexicon), isInsult(reply)),
      diversity: sharpDiversity(tweetWords, replyWords),
      punctuation: sharpPunctuation(reply),
      engagement: sharpEngagement(reply),
    };
  };
  const combine = (terms: readonly WeightedComponent[]): number =>
    Math.exp(terms.reduce((sum, { weight, value }) => sum + weight * Math.log(Math.max(FLOOR, value)), 0));
  return guardedReward({ embedder, options, name, judge, combine });
}
