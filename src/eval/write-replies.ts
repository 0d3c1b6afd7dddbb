/** A model's replies to tweets, written line by line, so that an interrupted evaluation goes on where it stopped. */
import { appendFileSync, existsSync, readFileSync, truncateSync } from 'node:fs';
import { parseJsonLine } from '../data/json-line';
import { ensureDirectory, readFailure, strictJson, writeError } from '../runtime/files';
import { DataError, messageOf } from '../runtime/errors';
import { contentIds, replyTurns } from '../model/chat';
import type { ChatMessage, Tokenizer } from '../model/tokenizer';
import type { Policy, Prompt } from '../policy/policy';
import { replyText } from '../rewards/replies';
import { parseTweetReplies } from './model-replies';
import type { TweetReplies } from './model-replies';
import path from 'node:path';

/** A tweet to reply to. */
export interface TweetToAnswer {
  tweet_id: string;
  tweet: string;
}

/** An example that a prompt shows. */
export interface Shot {
  tweet: string;
  reply: string;
}

export interface WriteRepliesOptions {
  /** sampled replies a tweet */
  generations: number;
  temperature: number;
  topP: number;
  maxNewTokens: number;
  seed: number;
  /** Examples shown before the tweet, as earlier turns; default none: zero-shot. */
  shots?: readonly Shot[];
  /** Go on with a file that is there. */
  resume?: boolean;
  signal?: AbortSignal;
  onProgress?: (done: number, total: number) => void;
}

/** Replies sampled between two writes. */
const ROWS_PER_CHUNK = 320;

/** The conversation that asks for a reply after examples. */
export function fewShotTurns(shots: readonly Shot[], tweet: string): ChatMessage[] {
  const examples = shots.flatMap(({ tweet: asked, reply }): ChatMessage[] => [
    ...replyTurns(asked),
    { role: 'assistant', content: reply },
  ]);
  return [...examples, ...replyTurns(tweet)];
}

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
 * What of a file belongs to this evaluation. What a crash left of a line is cut off.
 * @throws DataError  when it holds another number of replies, or other tweets: then it stays as it is
 */
function doneBefore(
  file: string,
  tweets: readonly TweetToAnswer[],
  { generations, resume }: WriteRepliesOptions,
): Map<string, TweetReplies> {
  const content = contentOf(file);
  if (content.length > 0 && resume !== true)
    throw new DataError(
      `${file}: holds replies already. Go on with --resume, or choose another output directory.`,
    );
  const end = content.lastIndexOf('\n') + 1;
  const lines = parseLines(file, content.subarray(0, end).toString());
  const texts = new Map(tweets.map(({ tweet_id: id, tweet }) => [id, tweet]));
  const odd = lines.find(
    ({ tweet_id: id, tweet, generations: own }) => texts.get(id) !== tweet || own.length !== generations,
  );
  if (odd !== undefined)
    throw new DataError(
      `${file}: tweet ${odd.tweet_id} with ${odd.generations.length} replies is not of this evaluation (${generations} replies to each of ${tweets.length} tweets). Choose another output directory.`,
    );
  if (end < content.length) truncateSync(file, end);
  return new Map(lines.map((line) => [line.tweet_id, line]));
}

/**
 * Samples replies to every tweet, and one decoded greedily, and appends a line a tweet to `file`. Draws depend on seed and
 * tweet alone: a resumed file is the one that an uninterrupted run would have written.
 *
 * @returns all lines, in the order of the tweets
 * @throws DataError  when the file holds something else, or cannot be written
 * @throws the reason of the signal; what is written stays
 */
export async function writeReplies(
  policy: Policy,
  tokenizer: Tokenizer,
  tweets: readonly TweetToAnswer[],
  file: string,
  options: WriteRepliesOptions,
): Promise<TweetReplies[]> {
  const { generations, temperature, topP, maxNewTokens, seed, shots = [], signal, onProgress } = options;
  await ensureDirectory(path.dirname(file));
  const done = doneBefore(file, tweets, options);
  const left = tweets.filter(({ tweet_id: id }) => !done.has(id));
  const size = Math.max(1, Math.floor(ROWS_PER_CHUNK / generations));
  for (let start = 0; start < left.length; start += size) {
    signal?.throwIfAborted();
    const chunk = left.slice(start, start + size);
    const prompts = chunk.map(({ tweet_id: id, tweet }): Prompt => {
      const turns = shots.length === 0 ? replyTurns(tweet) : fewShotTurns(shots, tweet);
      return { id, tokenIds: contentIds(tokenizer, turns) };
    });
    const common = { maxNewTokens, seed, signal, stream: 'evaluation' };
    const groups = await policy.sample(prompts, { ...common, groupSize: generations, temperature, topP });
    const greedy = await policy.sample(prompts, { ...common, groupSize: 1, temperature: 0, topP: 1 });
    const lines = chunk.map(({ tweet_id, tweet }, i): TweetReplies => ({
      ...{ tweet_id, tweet },
      generations: groups[i].completions.map((completion) => replyText(completion, tokenizer)),
      greedy: replyText(greedy[i].completions[0], tokenizer),
    }));
    try {
      appendFileSync(file, lines.map((line) => `${strictJson(line)}\n`).join(''));
    } catch (error) {
      throw writeError(file, error);
    }
    for (const line of lines) done.set(line.tweet_id, line);
    onProgress?.(done.size, tweets.length);
  }
  return tweets.map(({ tweet_id: id }) => done.get(id) as TweetReplies);
}
