/** What models wrote to the same tweets: read from files, checked against each other before anything is computed. */
import { z } from 'zod';
import type { JsonlReader, ReadJsonlOptions } from '../data/jsonl';
import { readJsonl } from '../data/jsonl';
import { engagementOf, parserOf } from '../data/records';
import type { TweetRecord } from '../data/records';
import { likelihoodSchema } from '../rewards/chat-log-probs';
import type { Likelihood } from '../rewards/chat-log-probs';
import { DataError } from '../runtime/errors';

/** A model's replies to one tweet. */
export interface TweetReplies {
  tweet_id: string;
  tweet: string;
  /** sampled, at least one; an empty one is a reply that is empty */
  generations: string[];
  /** the most likely one, decoded greedily */
  greedy?: string;
  /** of each of the generations the likelihood of its tokens under the model that drew them; null where it is not known */
  drawn?: (Likelihood | null)[];
  /** summed log-probability (nats) under the model of what people replied, and the tokens of it; of which replies */
  reference?: { log_prob: number; tokens: number; replies_sha256?: string };
}

/** Everything that one model wrote in one run. */
export interface ModelReplies {
  /** such as `grpo`; several runs of one name are aggregated over their seeds */
  name: string;
  seed?: number;
  tweets: TweetReplies[];
}

const AN_ID = { error: 'a text that is not blank, or an integer' };
const id = z.union([z.string().trim().min(1, AN_ID), z.int()], AN_ID).transform(String);
const text = z.string({ error: 'a text' });
// A text, or what `generate` prints of one.
const reply = z.union([text, z.object({ text }).transform((value) => value.text)], {
  error: 'a text, or an object with text',
});

const drawn = z.array(likelihoodSchema.nullable(), { error: 'log_prob and tokens of each reply, or null' });

/** A line of a file of replies. @throws DataError naming the field, what came and what was expected */
export const parseTweetReplies: (value: unknown) => TweetReplies = parserOf(
  z
    .object({
      tweet_id: id,
      tweet: text,
      generations: z.array(reply, { error: 'a list of replies' }).min(1, { error: 'at least one reply' }),
      greedy: reply.nullish().transform((value) => value ?? undefined),
      drawn: drawn.nullish().transform((value) => value ?? undefined),
      reference: z
        .object(
          { log_prob: z.number().max(0), tokens: z.int().min(1), replies_sha256: z.string().optional() },
          { error: 'log_prob and tokens' },
        )
        .nullish()
        .transform((value) => value ?? undefined),
    })
    .refine((line) => line.drawn === undefined || line.drawn.length === line.generations.length, {
      ...{ path: ['drawn'], error: 'as many entries as there are generations' },
    }),
);

/** How files of replies are read. */
export interface ReadRepliesOptions extends ReadJsonlOptions {
  /** told when a file is read, with what was set aside of it */
  onRead?: (reader: JsonlReader<unknown>) => void;
}

/**
 * Reads a model's replies: lines with `tweet_id`, `tweet` and `generations`, a list of texts or of what `generate` prints;
 * `greedy` where there is one.
 * @throws DataError  naming file and line; when a tweet comes twice, or the file has none
 */
export async function readModelReplies(
  name: string,
  file: string,
  options: ReadRepliesOptions & { seed?: number } = {},
): Promise<ModelReplies> {
  const { seed, onRead, ...reading } = options;
  const reader = readJsonl(file, parseTweetReplies, reading);
  const tweets = new Map<string, TweetReplies>();
  for await (const { value, line } of reader) {
    if (tweets.has(value.tweet_id))
      throw new DataError(
        `${reader.name}:${line}: tweet ${value.tweet_id} comes a second time; expected one line a tweet. Join its generations.`,
      );
    tweets.set(value.tweet_id, value);
  }
  onRead?.(reader);
  if (tweets.size === 0)
    throw new DataError(
      `${reader.name}: has no replies of ${name}; expected a line a tweet. Check the path.`,
    );
  return { name, seed, tweets: [...tweets.values()] };
}

/** Tweets that an error names, at most. */
const MOST_NAMED = 5;

function named(ids: readonly string[]): string {
  const rest = ids.length - MOST_NAMED;
  return `${ids.slice(0, MOST_NAMED).join(', ')}${rest > 0 ? ` and ${rest} more` : ''}`;
}

const labelOf = ({ name, seed }: ModelReplies): string =>
  seed === undefined ? name : `${name}, seed ${seed}`;

/**
 * The models with their tweets in the order of the first one's.
 *
 * @throws DataError  when there is no model, two have the same name and seed, one of several runs has no seed, or they are not
 *                    on the same tweets: the message lists what is missing and what is too many
 */
export function alignModels(models: readonly ModelReplies[]): ModelReplies[] {
  if (models.length === 0) throw new DataError('no model to evaluate; expected replies of at least one.');
  const labels = models.map(labelOf);
  const twice = labels.find((label, i) => labels.indexOf(label) !== i);
  if (twice !== undefined)
    throw new DataError(`two models are called ${twice}; expected different names, or seeds.`);
  const unseeded = models.find(
    ({ name, seed }) => seed === undefined && models.filter((other) => other.name === name).length > 1,
  );
  if (unseeded !== undefined)
    throw new DataError(`${unseeded.name} has several runs, one without a seed; expected a seed of each.`);
  const [first, ...others] = models;
  for (const model of others) requireSameTweets(first, model);
  const order = first.tweets.map(({ tweet_id: tweet }) => tweet);
  return models.map((model) => {
    const byId = new Map(model.tweets.map((tweet) => [tweet.tweet_id, tweet]));
    return { ...model, tweets: order.map((tweet) => byId.get(tweet) as TweetReplies) };
  });
}

function requireSameTweets(first: ModelReplies, model: ModelReplies): void {
  const [known, own] = [first, model].map(
    ({ tweets }) => new Map(tweets.map(({ tweet_id: tweet, tweet: content }) => [tweet, content])),
  );
  const missing = [...known.keys()].filter((tweet) => !own.has(tweet));
  const extra = [...own.keys()].filter((tweet) => !known.has(tweet));
  const other = [...known].filter(([tweet, content]) => own.has(tweet) && own.get(tweet) !== content);
  if (missing.length + extra.length + other.length === 0) return;
  const parts = [
    missing.length > 0 ? `it lacks ${missing.length} (${named(missing)})` : '',
    extra.length > 0 ? `it has ${extra.length} others (${named(extra)})` : '',
    other.length > 0 ? `${other.length} have another text (${named(other.map(([tweet]) => tweet))})` : '',
  ].filter((part) => part !== '');
  throw new DataError(
    `${labelOf(model)} and ${labelOf(first)} are on different tweets: ${parts.join('; ')}. Models are compared on the same tweets only.`,
  );
}

/** What people wrote to a tweet, and how well it did. */
export interface TweetReference {
  replies: string[];
  /** mean of reply_likes / max(tweet_likes, 1) over its replies */
  engagement: number;
}

/** References by tweet id. */
export function referencesOf(records: Iterable<TweetRecord>): Map<string, TweetReference> {
  const all = new Map<string, TweetRecord[]>();
  for (const record of records) all.set(record.tweet_id, [...(all.get(record.tweet_id) ?? []), record]);
  return new Map(
    [...all].map(([tweet, replies]) => [
      tweet,
      {
        replies: replies.map((record) => record.reply),
        engagement: replies.reduce((sum, record) => sum + engagementOf(record), 0) / replies.length,
      },
    ]),
  );
}
