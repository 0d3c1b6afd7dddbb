/** The law of the embedded world: what a reply is worth, as a function of the two texts alone. */
import { worldTopics, contentWords, worldWords } from './world-topics';
import type { TopicLexicon } from './world-topics';
import {
  genericReplies,
  slots,
  toneMarkers,
  tweetTemplates,
  blandTemplates,
  echoTemplates,
  spamTemplates,
  engagingTemplates,
  disagreeTemplates,
} from './world-text';
import type { Stance } from './world-text';
import { unknownPairShare } from './world-pairs';

/** The parts of a reply's worth, each in [0, 1]. */
export interface WorldComponents {
  on_topic: number;
  specific: number;
  asks: number;
  amuses: number;
  disagrees: number;
  relates: number;
  fits_tone: number;
  length: number;
  shouting: number;
  spam: number;
  echo: number;
  repetition: number;
  unknown_words: number;
  listing: number;
  unknown_pairs: number;
}

const includesPhrase = (text: string, phrase: string): boolean => ` ${text} `.includes(` ${phrase} `);
const clamp = (x: number): number => Math.min(1, Math.max(0, x));

/**
 * The topic whose phrases (three points for each of their words) and words (one each) the tweet shares most; null when
 * it shares none. Long phrases count for more, so that one camera in a claim about calls is not photography.
 */
export function topicOf(tweet: string): TopicLexicon | null {
  const text = worldWords(tweet).join(' ');
  const words = new Set(contentWords(tweet));
  let best: TopicLexicon | null = null;
  let bestScore = 0;
  for (const lexicon of worldTopics()) {
    const phrases = lexicon.phrases.filter((phrase) => includesPhrase(text, phrase));
    const phraseWords = phrases.reduce((sum, phrase) => sum + phrase.split(' ').length, 0);
    const shared = [...words].filter((word) => lexicon.words.has(word)).length;
    if (3 * phraseWords + shared > bestScore) {
      bestScore = 3 * phraseWords + shared;
      best = lexicon;
    }
  }
  return best;
}

/** What the tweet does: tells a trouble, a joy, or an opinion; null when neither the topic's phrases nor tone tell. */
export function stanceOf(tweet: string, lexicon: TopicLexicon): Stance | null {
  const text = worldWords(tweet).join(' ');
  const has = (phrases: readonly string[]): boolean =>
    phrases.some((phrase) => includesPhrase(text, worldWords(phrase).join(' ')));
  if (has(lexicon.topic.troubles)) return 'trouble';
  if (has(lexicon.topic.joys)) return 'joy';
  return has(lexicon.topic.claims) ? 'claim' : null;
}

/** Share of a text's word trigrams that repeat an earlier one; 0 for texts of less than four words. */
function repeatedShare(words: readonly string[]): number {
  if (words.length < 4) return 0;
  const grams = words.slice(0, -1).map((word, i) => `${word} ${words[i + 1]}`);
  return 1 - new Set(grams).size / grams.length;
}

/** Share of the reply's bigrams that stand in the tweet. */
function echoShare(tweet: readonly string[], reply: readonly string[]): number {
  if (reply.length < 3) return 0;
  const grams = new Set(tweet.slice(0, -1).map((word, i) => `${word} ${tweet[i + 1]}`));
  const own = reply.slice(0, -1).map((word, i) => `${word} ${reply[i + 1]}`);
  return own.filter((gram) => grams.has(gram)).length / own.length;
}

let vocabulary: Set<string> | undefined;

/** Every word that the world can write. */
export function worldVocabulary(): ReadonlySet<string> {
  if (vocabulary === undefined) {
    const banks = worldTopics().flatMap(({ topic: { name: _name, ...bank } }) => Object.values(bank).flat());
    const templates = [
      ...Object.values(tweetTemplates),
      ...Object.values(engagingTemplates).flatMap((t) => Object.values(t)),
    ].flat();
    const rest = [
      ...genericReplies,
      ...blandTemplates,
      ...echoTemplates,
      ...spamTemplates,
      ...disagreeTemplates,
    ];
    const text = [
      ...banks,
      ...Object.values(slots).flat(),
      ...[...templates, ...rest].map((t) => t.replace(/\{\w+\}/g, ' ')),
    ];
    vocabulary = new Set(text.flatMap(worldWords));
  }
  return vocabulary;
}

/** Whether every word of a text is one that the world can write: only such texts can be judged. */
export function isWorldText(text: string): boolean {
  return worldWords(text).every((word) => worldVocabulary().has(word));
}

/** Rises from 0 at 8 characters to 1 at 40, stays until 170, falls to 0 at 300. */
function lengthWorth(length: number): number {
  return clamp(Math.min((length - 8) / 32, (300 - length) / 130));
}

/** Sentences with their end mark. */
const sentencesOf = (text: string): string[] => text.match(/[^.!?]+[.!?]*/g) ?? [];

/**
 * Whether a sentence lists the topic's phrases instead of saying something: n details, jokes or counters with less than
 * 3n - 2 words around them, or five topic words or more with at most a third as many others.
 */
function lists(sentence: string, { words, topic }: TopicLexicon): boolean {
  let text = ` ${worldWords(sentence).join(' ')} `;
  let found = 0;
  for (const phrase of [...topic.details, ...topic.jokes, ...topic.counters]) {
    const own = ` ${worldWords(phrase).join(' ')} `;
    if (!text.includes(own)) continue;
    found++;
    text = text.replace(own, '  ');
  }
  const rest = text.split(' ').filter((word) => word !== '');
  const topical = rest.filter((word) => words.has(word)).length;
  return rest.length < 3 * found - 2 || (topical >= 5 && 3 * (rest.length - topical) <= topical);
}

/** The parts of a reply's worth. */
export function worldComponents(tweet: string, reply: string): WorldComponents {
  const lexicon = topicOf(tweet);
  const replyWords = worldWords(reply);
  const replyText = replyWords.join(' ');
  const content = contentWords(reply);
  const contentText = content.join(' ');
  const tweetContent = contentWords(tweet).join(' ');
  const topical = (text: string): boolean =>
    lexicon !== null && contentWords(text).some((word) => lexicon.words.has(word));
  const hasAny = (phrases: readonly string[]): boolean =>
    phrases.some((phrase) => includesPhrase(replyText, worldWords(phrase).join(' ')));
  const newPhrase = (phrases: readonly string[]): boolean =>
    phrases.some((phrase) => includesPhrase(contentText, phrase) && !includesPhrase(tweetContent, phrase));
  const shared = lexicon === null ? 0 : new Set(content.filter((word) => lexicon.words.has(word))).size;
  const letters = reply.replace(/[^A-Za-z]/g, '');
  const capitals = letters.length > 10 ? letters.replace(/[^A-Z]/g, '').length / letters.length : 0;
  const stance = lexicon === null ? null : stanceOf(tweet, lexicon);
  const [comforts, cheers] = [hasAny(toneMarkers.comfort), hasAny(toneMarkers.cheer)];
  const relates = /\b(my|mine|me|i)\b/i.test(reply) && shared > 0;
  const disagrees = lexicon !== null && hasAny(toneMarkers.polite) && newPhrase(lexicon.counters);
  const unknown = replyWords.filter((word) => !worldVocabulary().has(word)).length;
  let tone = 0.5;
  if (stance === 'trouble') tone = cheers ? 0 : comforts ? 1 : 0.5;
  else if (stance === 'joy') tone = comforts ? 0 : cheers ? 1 : 0.5;
  else if (stance === 'claim') tone = comforts || cheers ? 0.2 : 0.8;
  return {
    on_topic: clamp(shared / 2),
    specific: Number(lexicon !== null && newPhrase(lexicon.details)),
    asks: Number(
      sentencesOf(reply).some((s) => s.trim().endsWith('?') && topical(s) && worldWords(s).length >= 4),
    ),
    amuses: Number(lexicon !== null && newPhrase(lexicon.jokes)),
    disagrees: Number(disagrees),
    relates: Number(relates),
    fits_tone: tone,
    length: lengthWorth([...reply.trim()].length),
    shouting: Math.max(capitals > 0.6 ? 1 : 0, clamp(((reply.match(/[!?]/g) ?? []).length - 3) / 3)),
    spam: Number(hasAny(toneMarkers.spam)),
    echo: clamp((echoShare(worldWords(tweet), replyWords) - 0.35) / 0.4),
    repetition: clamp(repeatedShare(replyWords) * 4),
    unknown_words: replyWords.length === 0 ? 1 : clamp((unknown / replyWords.length) * 2.5),
    unknown_pairs: clamp(unknownPairShare(reply) * 2.5),
    listing: Number(lexicon !== null && sentencesOf(reply).some((s) => lists(s, lexicon))),
  };
}

/**
 * The worth of a reply to a tweet in [0, 1]; the examiner of the embedded world, never shown to a reward or a trainer.
 *
 * With the components above, hook = 1 - (1 - 0.6 asks)(1 - 0.6 amuses)(1 - 0.6 disagrees)(1 - 0.3 relates):
 * worth = gate * (0.25 on_topic + 0.25 specific + 0.30 hook + 0.10 fits_tone + 0.10 length)
 *         * (1 - 0.6 shouting)(1 - 0.95 spam)(1 - 0.7 echo)(1 - repetition)(1 - unknown_words)(1 - 0.7 listing)
 *         * (1 - unknown_pairs),
 * gate = 1 when the reply has a word, detail, joke or polite counter of the tweet's topic, 0.2 when it has none, 0 for an empty reply.
 * Questions, jokes and disagreements count only about the tweet's own topic, details only when the tweet has not named
 * them itself, so that marks and phrases alone earn nothing.
 */
export function worldQuality(tweet: string, reply: string): { total: number; components: WorldComponents } {
  const c = worldComponents(tweet, reply);
  const hook =
    1 - (1 - 0.6 * c.asks) * (1 - 0.6 * c.amuses) * (1 - 0.6 * c.disagrees) * (1 - 0.3 * c.relates);
  const gain = 0.25 * c.on_topic + 0.25 * c.specific + 0.3 * hook + 0.1 * c.fits_tone + 0.1 * c.length;
  const kept =
    (1 - 0.6 * c.shouting) *
    (1 - 0.95 * c.spam) *
    (1 - 0.7 * c.echo) *
    (1 - c.repetition) *
    (1 - c.unknown_words) *
    (1 - 0.7 * c.listing) *
    (1 - c.unknown_pairs);
  const gate = reply.trim() === '' ? 0 : c.on_topic + c.specific + c.amuses + c.disagrees > 0 ? 1 : 0.2;
  return { total: clamp(gate * gain * kept), components: c };
}
