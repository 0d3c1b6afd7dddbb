import { z } from 'zod';
import { DataError } from '../runtime/errors';
import type { JsonlReader, ReadJsonlOptions } from './jsonl';
import { readJsonl } from './jsonl';

const AN_ID = 'a string that is not blank, or an integer below 2^53';

/**
 * Ids are strings: those of Twitter have 19 digits, which a JavaScript number cannot hold. White space around one is no
 * part of it.
 */
const id = z
  .union(
    [
      z.string({ error: AN_ID }).trim().min(1, { error: AN_ID }),
      z.int({ error: AN_ID }).min(0, { error: AN_ID }),
    ],
    { error: AN_ID },
  )
  .transform(String);

const someText = z.string({ error: 'a text' }).regex(/\S/u, { error: 'a text that is not blank' });

/** An optional field may be missing or null; both read as missing. */
function optional<T extends z.ZodType>(schema: T) {
  return schema.nullish().transform((value): z.output<T> | undefined => value ?? undefined);
}

function count() {
  const error = 'an integer >= 0';
  return z.int({ error }).min(0, { error });
}

const optionalText = () => optional(z.string({ error: 'a text' }));
const countOrZero = () =>
  count()
    .nullish()
    .transform((value) => value ?? 0);

const recordSchema = z.object(
  {
    tweet_id: id,
    tweet: someText,
    tweet_author: optionalText(),
    tweet_likes: countOrZero(),
    tweet_retweets: countOrZero(),
    tweet_created_at: optionalText(),
    reply_id: optional(id),
    reply: someText,
    reply_author: optionalText(),
    reply_author_followers: optional(count()),
    reply_likes: countOrZero(),
    reply_retweets: countOrZero(),
    reply_created_at: optionalText(),
    reply_time_diff_seconds: optional(z.number({ error: 'a number of seconds' })),
  },
  { error: 'an object with tweet_id, tweet and reply' },
);

/**
 * One reply to one tweet, as a line of a data file. Likes and retweets that are not given are 0. Fields that are not
 * named here are kept as they came.
 */
export type TweetRecord = z.output<typeof recordSchema>;

const parsedRecord = recordSchema.loose();

/** A value as an error message shows it: JSON, cut after 60 characters. */
export function shown(value: unknown): string {
  if (value === undefined) return 'missing';
  // JSON has no NaN and no Infinity: it would show null.
  if (typeof value === 'number') return String(value);
  const text = JSON.stringify(value);
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (inner, key) => (inner as Record<PropertyKey, unknown> | undefined)?.[key],
    value,
  );
}

/**
 * The parser of a zod schema, for a reader of lines.
 *
 * @throws DataError  `field is "12k"; expected an integer >= 0` of the first thing that is wrong
 */
export function parserOf<T>(schema: z.ZodType<T>): (value: unknown) => T {
  return (value) => {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    const [issue] = result.error.issues;
    const name = issue.path.length === 0 ? 'the line' : issue.path.join('.');
    const expected = issue.message.replace(/^[A-Z][\w ]+: expected (.*?)(, received .*)?$/, '$1');
    throw new DataError(`${name} is ${shown(valueAt(value, issue.path))}; expected ${expected}`);
  };
}

/** A record from a parsed line. @throws DataError naming the field, what came and what was expected. */
export const parseRecord: (value: unknown) => TweetRecord = parserOf(parsedRecord);

/** Reads records from a JSONL file, `.jsonl.gz`, or `-` for standard input. */
export function readRecords(path: string, options: ReadJsonlOptions = {}): JsonlReader<TweetRecord> {
  return readJsonl(path, parseRecord, options);
}

/** All records of a file that fits into memory. @throws DataError naming file and line, or a file without a record */
export async function allRecords(path: string, options: ReadJsonlOptions = {}): Promise<TweetRecord[]> {
  const records: TweetRecord[] = [];
  for await (const { value } of readRecords(path, options)) records.push(value);
  if (records.length === 0) throw new DataError(`${path}: has no record; expected at least one.`);
  return records;
}

/** How well a reply did, relative to its tweet's reach: reply_likes / max(tweet_likes, 1). */
export function engagementOf(record: Pick<TweetRecord, 'reply_likes' | 'tweet_likes'>): number {
  return record.reply_likes / Math.max(record.tweet_likes, 1);
}

/** Length of a reply as the reward counts it: code points, without white space around. */
export function replyLengthOf(record: Pick<TweetRecord, 'reply'>): number {
  return Array.from(record.reply.trim()).length;
}

/** What tells a tweet from others. */
export type Tweet = Pick<TweetRecord, 'tweet_id' | 'tweet'>;

/** Texts that differ only in case or white space are the same tweet. */
export const tweetText = ({ tweet }: Tweet): string => tweet.trim().replace(/\s+/g, ' ').toLowerCase();

/** A test whether a tweet is among some, by its id or by its text. */
export function membership(tweets: readonly Tweet[]): (tweet: Tweet) => boolean {
  const ids = new Set(tweets.map(({ tweet_id: id }) => id));
  const texts = new Set(tweets.map(tweetText));
  return (tweet) => ids.has(tweet.tweet_id) || texts.has(tweetText(tweet));
}
