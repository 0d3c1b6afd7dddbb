/** Cleaning of records: texts normalised, replies said once, the best first. */
import { setImmediate } from 'node:timers/promises';
import { DataError } from '../runtime/errors';
import { findNearDuplicates } from './near-duplicates';
import type { NearDuplicateOptions } from './near-duplicates';
import type { TweetRecord } from './records';
import { shown } from './records';

// Bounded, so that no text makes the search quadratic. What addresses are made of is RFC 3986's, with letters of any
// script (RFC 3987) and the wide number sign, which is no hashtag there. A mark at the end belongs to the sentence.
const ADDRESS =
  /\b(?:https?:\/\/|www\.|[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}\/)[\p{L}\p{M}\p{N}\-._~:/?#＃[\]@!$&'()*+,;=%]*[\p{L}\p{M}\p{N}\-_~/#＃[@$&(*+=%]/giu;

/** Rewrites everything but the addresses in a text. */
function outsideUrls(text: string, rewrite: (part: string) => string): string {
  let [result, start] = ['', 0];
  for (const { 0: url, index } of text.matchAll(ADDRESS)) {
    result += rewrite(text.slice(start, index)) + url;
    start = index + url.length;
  }
  return result + rewrite(text.slice(start));
}

// A number (#1) is no hashtag, nor is what follows a letter (C#minor) or stands in a character reference (&#x27;).
// Hashtags may follow each other without a space.
const HASHTAGS =
  /(?<![\p{L}\p{N}_&/#＃])(?:[#＃]+(?=[\p{N}_]*\p{L})[\p{L}\p{N}](?:[\p{L}\p{M}\p{N}_]*[\p{L}\p{M}\p{N}])?)+/gu;
// helloWorld, Web3Tools; but iPhone, with one letter before the capital, is one word.
const WORD_END = /(?<=[\p{L}\p{N}]\p{Ll}|\p{N})(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll})/gu;

function expandHashtags(text: string): string {
  return outsideUrls(text, (part) =>
    part.replace(HASHTAGS, (names) =>
      names
        .replace(/^[#＃]+/u, '')
        .replace(/[_#＃]+/gu, ' ')
        .replace(WORD_END, ' '),
    ),
  );
}

// What is drawn as one character: a code point, then marks, skin tones, tags and joined emoji.
const REPEATED =
  /([^\p{Nd}\s\p{M}\p{EMod}\p{RI}\u200d\u{E0020}-\u{E007F}](?:[\p{M}\p{EMod}\u{E0020}-\u{E007F}]|\u200d\p{ExtPict}){0,12})\1{2,}(?![\p{M}\p{EMod}\u200d\u{E0020}-\u{E007F}])/gu;
// Vowel signs, which draw out a word in the scripts of India, are marks.
const REPEATED_MARK = /(\p{M})\1{2,}/gu;
// Two regional indicators are a flag. Those that are not repeated are taken as well, so that pairs stay pairs.
const FLAGS = /(\p{RI}{2})(\1{2,})?/gu;

function collapseRepeats(text: string): string {
  return outsideUrls(text, (part) =>
    part
      .replace(REPEATED_MARK, '$1$1')
      .replace(FLAGS, (flags, flag: string, more?: string) => (more === undefined ? flags : flag + flag))
      .replace(REPEATED, '$1$1'),
  );
}

function foldWhiteSpace(text: string): string {
  return text.replace(/\s+/gu, ' ').trim();
}

/** The rules of `cleanText` in order; the keys name them in reports. */
const RULES = { hashtags: expandHashtags, repeats: collapseRepeats, white_space: foldWhiteSpace };

/** How many texts (tweets and replies) each rule changed. */
export type ChangedTexts = Record<keyof typeof RULES, number>;

function applyRules(text: string, changed: ChangedTexts): string {
  let result = text;
  for (const [name, rule] of Object.entries(RULES) as [keyof ChangedTexts, (text: string) => string][]) {
    const next = rule(result);
    if (next !== result) changed[name]++;
    result = next;
  }
  return result;
}

/**
 * A text in the form that training uses. In this order:
 * 1. A hashtag becomes its words: `#CamelCase` `Camel Case`, `#AITools` `AI Tools`, `#Web3Tools` `Web3 Tools`,
 *    `#new_york` `new york`, `#love` `love`, `#tea#time` `tea time`, in any script. One without a letter (`#1`) stays.
 * 2. A character three times or more in a row becomes two: `sooo!!!!` becomes `soo!!`. A character is a code point
 *    with its accents, skin tone and joined emoji, so a family or a flag counts once.
 * 3. White space becomes one space, and none at the ends.
 * Departures from the study, whose rules would change a meaning: digits may repeat (`1000000`), addresses of the web
 * stay as they are.
 *
 * @returns the text; cleaning it again changes nothing, and a text that is not blank does not become blank
 */
export function cleanText(text: string): string {
  return applyRules(text, { hashtags: 0, repeats: 0, white_space: 0 });
}

/** Timing of a reply, by its delay: 1 from 5 minutes to 2 hours, 0.5 before, 0.7 after; 0 where it is not known. */
function timingOf(delaySeconds: number | undefined): number {
  if (delaySeconds === undefined) return 0;
  if (delaySeconds < 300) return 0.5;
  return delaySeconds <= 7200 ? 1 : 0.7;
}

/**
 * The study's order of quality: 0.6 (likes + 2 retweets) + 0.2 * 100 min(followers / 10000, 1) + 0.2 * 50 timing.
 * What a record does not say counts 0.
 */
export function qualityOf(record: TweetRecord): number {
  const { reply_likes, reply_retweets, reply_author_followers = 0, reply_time_diff_seconds } = record;
  const reach = Math.min(reply_author_followers / 10_000, 1);
  return 0.6 * (reply_likes + 2 * reply_retweets) + 20 * reach + 10 * timingOf(reply_time_diff_seconds);
}

/** What cleaning did; the fields are those of the command's JSON. */
export interface CleaningCounts {
  read: number;
  changed_texts: ChangedTexts;
  exact_duplicates: number;
  near_duplicates: number;
  kept: number;
}

/** What cleaning leaves, and how many records each of its steps took. */
export interface CleanedRecords {
  /** best first */
  records: TweetRecord[];
  counts: CleaningCounts;
}

/** The first record of each reply. */
function dropEqualReplies(records: readonly TweetRecord[]): TweetRecord[] {
  const seen = new Set<string>();
  return records.filter(({ reply }) => !seen.has(reply) && seen.add(reply));
}

async function dropNearReplies(
  records: readonly TweetRecord[],
  options: NearDuplicateOptions,
): Promise<TweetRecord[]> {
  const replies = records.map(({ reply }) => reply);
  const duplicateOf = await findNearDuplicates(replies, options);
  return records.filter((_, i) => duplicateOf[i] < 0);
}

/** Records between two turns of the event loop, which Ctrl-C needs. */
const TURN = 4096;

/** @throws DataError  when a record that was not parsed has likes, retweets or followers that are not counts */
function checkCounts(record: TweetRecord, position: number): void {
  for (const name of ['reply_likes', 'reply_retweets', 'reply_author_followers'] as const) {
    const count = record[name];
    if (name === 'reply_author_followers' && count === undefined) continue;
    if (!(Number.isInteger(count) && Number(count) >= 0))
      throw new DataError(`record ${position + 1}: ${name} is ${shown(count)}; expected an integer >= 0.`);
  }
}

async function normalise(
  records: readonly TweetRecord[],
  changed: ChangedTexts,
  signal: AbortSignal | undefined,
): Promise<TweetRecord[]> {
  const normalised: TweetRecord[] = [];
  for (const [position, record] of records.entries()) {
    if (position % TURN === 0) {
      await setImmediate();
      signal?.throwIfAborted();
    }
    checkCounts(record, position);
    const [tweet, reply] = [applyRules(record.tweet, changed), applyRules(record.reply, changed)];
    normalised.push({ ...record, tweet, reply });
  }
  return normalised;
}

/**
 * Normalises tweets and replies (`cleanText`), drops replies that repeat another one, to whichever tweet, and puts the
 * best first (`qualityOf`; equal ones stay in input order). Of replies that are equal, letter by letter, or nearly so
 * (`findNearDuplicates`) the one with most likes stays, the earlier where these are equal.
 *
 * @param near  how to find near-duplicates; without it only equal replies are dropped
 * @param signal  stops the work when it is aborted
 * @throws DataError  when likes, retweets or followers are not integers >= 0; the reason of the signal
 */
export async function cleanRecords(
  records: readonly TweetRecord[],
  near?: NearDuplicateOptions,
  signal?: AbortSignal,
): Promise<CleanedRecords> {
  const changed: ChangedTexts = { hashtags: 0, repeats: 0, white_space: 0 };
  const normalised = await normalise(records, changed, signal);
  const distinct = dropEqualReplies([...normalised].sort((a, b) => b.reply_likes - a.reply_likes));
  const kept = new Set(near === undefined ? distinct : await dropNearReplies(distinct, near));
  return {
    records: normalised.filter((record) => kept.has(record)).sort((a, b) => qualityOf(b) - qualityOf(a)),
    counts: {
      read: records.length,
      changed_texts: changed,
      exact_duplicates: records.length - distinct.length,
      near_duplicates: distinct.length - kept.size,
      kept: kept.size,
    },
  };
}
