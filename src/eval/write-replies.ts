/** A model's replies to tweets, written line by line, so that an interrupted evaluation goes on where it stopped. */
import { appendFileSync, existsSync, readFileSync, statSync, truncateSync } from 'node:fs';
import path from 'node:path';
import { parseJsonLine } from '../data/json-line';
import {
  atomicWriteFile,
  ensureDirectory,
  readFailure,
  readJsonFile,
  strictJson,
  writeError,
} from '../runtime/files';
import { DataError, messageOf } from '../runtime/errors';
import { parseTweetReplies } from './model-replies';
import type { TweetReplies } from './model-replies';

/** A tweet to reply to. */
export interface TweetToAnswer {
  tweet_id: string;
  tweet: string;
}

/** What writes the replies of a model to tweets: a policy here, or a server. */
export interface Answerer {
  /** tweets that are answered between two writes */
  chunk: number;
  /** The sampled replies and the greedy one to some tweets, in their order. */
  answer(tweets: readonly TweetToAnswer[]): Promise<TweetReplies[]>;
}

/** How a file of replies is written, or gone on with. */
export interface WriteRepliesOptions {
  /** sampled replies a tweet */
  generations: number;
  /** Go on with a file that is there. */
  resume?: boolean;
  /** Put new replies in the place of those of a file that is there. */
  again?: boolean;
  /** What speaks against a line that is there; null for nothing. */
  problemOf?: (line: TweetReplies) => string | null;
  /** Whatever else the replies depend on: kept beside the file, and compared before it is gone on with. */
  settings?: Readonly<Record<string, unknown>>;
  signal?: AbortSignal;
  /** Told at the beginning and of every chunk. @param written  of the tweets that are done, those that this call wrote */
  onProgress?: (done: number, total: number, written: number) => void;
}

/** The key of settings that are kept for the reader alone: a directory may move. */
export const NAMED = 'named';

function contentOf(file: string): Buffer {
  if (!existsSync(file)) return Buffer.alloc(0);
  try {
    return readFileSync(file);
  } catch (error) {
    throw new DataError(`${file}: ${readFailure(error)}.`);
  }
}

/** The replies of a file's lines. @throws DataError  naming the line that holds none */
function parseLines(file: string, text: string): TweetReplies[] {
  return text.split('\n').flatMap((line, i) => {
    if (line === '') return [];
    try {
      return [parseTweetReplies(parseJsonLine(line))];
    } catch (error) {
      throw new DataError(`${file}:${i + 1}: ${messageOf(error)}. Remove the file, and it is written anew.`);
    }
  });
}

/**
 * What of a file belongs to this evaluation, and where its last whole line ends: behind it is what a crash left of one.
 * @throws DataError  when it was written with other settings, or holds another number of replies, or other tweets
 */
function doneBefore(
  file: string,
  tweets: readonly TweetToAnswer[],
  { generations, resume, again, settings, problemOf }: WriteRepliesOptions,
): { lines: TweetReplies[]; end: number } {
  if (again === true) return { lines: [], end: 0 };
  const content = contentOf(file);
  if (content.length > 0 && resume !== true)
    throw new DataError(
      `${file}: holds replies already. Go on with --resume, or choose another output directory.`,
    );
  const end = content.lastIndexOf('\n') + 1;
  const rest = content.subarray(end).toString();
  const begin = '{"tweet_id":';
  if (!rest.startsWith(begin) && !begin.startsWith(rest))
    throw new DataError(`${file}: its last line is not one of replies. Choose another output directory.`);
  const lines = parseLines(file, content.subarray(0, end).toString());
  const texts = new Map(tweets.map(({ tweet_id: id, tweet }) => [id, tweet]));
  const odd = lines.find(
    ({ tweet_id: id, tweet, generations: own }) => texts.get(id) !== tweet || own.length !== generations,
  );
  if (odd !== undefined)
    throw new DataError(
      `${file}: tweet ${odd.tweet_id} with ${odd.generations.length} replies is not of this evaluation (${generations} replies to each of ${tweets.length} tweets). Choose another output directory.`,
    );
  if (lines.length > 0 && settings !== undefined) requireSameSettings(file, settings);
  const problem = lines.map((line) => problemOf?.(line) ?? null).find((one) => one !== null);
  if (problem !== undefined)
    throw new DataError(`${file}: ${problem}. Remove the file, or choose another output directory.`);
  return { lines, end };
}

/** @throws DataError  when `writeReplies` would refuse the file; nothing is changed */
export function requireWritable(
  file: string,
  tweets: readonly TweetToAnswer[],
  options: WriteRepliesOptions,
): void {
  doneBefore(file, tweets, options);
}

/** `m.jsonl` was written with what `m.settings.json` says. */
const settingsFile = (file: string): string => file.replace(/(\.jsonl)?$/, '.settings.json');

/** @throws DataError  naming the first setting that differs from those that the file was written with */
function requireSameSettings(file: string, settings: Readonly<Record<string, unknown>>): void {
  const before = existsSync(settingsFile(file)) ? readJsonFile(settingsFile(file)) : null;
  const advice = 'Choose another output directory, or remove the file.';
  if (typeof before !== 'object' || before === null)
    throw new DataError(`${file}: ${settingsFile(file)}, how it was written, is not there. ${advice}`);
  const [old, own] = [before as Record<string, unknown>, JSON.parse(strictJson(settings)) as typeof settings];
  const isSame = (key: string): boolean => JSON.stringify(old[key]) === JSON.stringify(own[key]);
  const keys = [...new Set([...Object.keys(own), ...Object.keys(old)])].filter((each) => each !== NAMED);
  const key = keys.find((each) => !isSame(each));
  if (key === undefined) return;
  const shown = (value: unknown): string => {
    const text = value === undefined ? 'nothing' : JSON.stringify(value);
    return text.length > 80 ? `${text.slice(0, 80)}...` : text;
  };
  throw new DataError(
    `${file}: was written with ${key} ${shown(old[key])}; this evaluation has ${shown(own[key])}. ${advice}`,
  );
}

/**
 * Has every tweet answered and appends a line a tweet to `file`. Where an answer depends on nothing but the tweet and the
 * settings, a resumed file is the one that an uninterrupted run would have written.
 *
 * @returns all lines, in the order of the tweets
 * @throws DataError  when the file holds something else or was written with other settings, or cannot be written
 * @throws the reason of the signal; what is written stays
 */
export async function writeReplies(
  answerer: Answerer,
  tweets: readonly TweetToAnswer[],
  file: string,
  options: WriteRepliesOptions,
): Promise<TweetReplies[]> {
  const { settings, signal, onProgress } = options;
  const { lines: known, end } = doneBefore(file, tweets, options);
  await ensureDirectory(path.dirname(file));
  if (existsSync(file) && end < statSync(file).size) truncateSync(file, end);
  const done = new Map(known.map((line) => [line.tweet_id, line]));
  const before = done.size;
  if (before === 0 && settings !== undefined)
    await atomicWriteFile(settingsFile(file), `${strictJson(settings, 2)}\n`);
  onProgress?.(before, tweets.length, 0);
  const left = tweets.filter(({ tweet_id: id }) => !done.has(id));
  for (let start = 0; start < left.length; start += answerer.chunk) {
    signal?.throwIfAborted();
    const lines = await answerer.answer(left.slice(start, start + answerer.chunk));
    try {
      appendFileSync(file, lines.map((line) => `${strictJson(line)}\n`).join(''));
    } catch (error) {
      throw writeError(file, error);
    }
    for (const line of lines) done.set(line.tweet_id, line);
    onProgress?.(done.size, tweets.length, done.size - before);
  }
  return tweets.map(({ tweet_id: id }) => done.get(id) as TweetReplies);
}
