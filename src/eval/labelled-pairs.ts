/** Replies that are known to be good or bad, and what a reward says of them. */
import { z } from 'zod';
import type { ReadJsonlOptions } from '../data/jsonl';
import { readJsonl } from '../data/jsonl';
import { parseRecord, parserOf } from '../data/records';
import { labelledReplies } from '../data/world';
import type { Strategy, WorldPart } from '../data/world';
import { breather } from '../rewards/breather';
import { DEFAULT_BATCH_SIZE } from '../rewards/reward';
import type { ReplyPair, Reward, RewardResult } from '../rewards/reward';
import { DataError, ShapeError } from '../runtime/errors';

/** What a person says of a reply. */
export type ReplyLabel = 'good' | 'bad';

/** A tweet, a reply to it, and whether that is a good one. */
export interface LabelledPair extends ReplyPair {
  tweet_id: string;
  reply_id?: string;
  label: ReplyLabel;
  /** why, in a word: wit, spam, ... */
  kind?: string;
  /** the true worth, of replies of the embedded world */
  worth?: number;
}

/** A labelled pair with its score. */
export type ScoredPair = LabelledPair & RewardResult;

const labelOf = parserOf(
  z.looseObject({
    label: z.enum(['good', 'bad'], { error: '"good" or "bad"' }),
    kind: z
      .string({ error: 'a text' })
      .nullish()
      .transform((kind) => kind ?? undefined),
  }),
);

function parsePair(value: unknown): LabelledPair {
  const { tweet_id, reply_id, tweet, reply } = parseRecord(value);
  const { label, kind } = labelOf(value);
  return { tweet_id, reply_id, tweet, reply, label, kind };
}

/**
 * Labelled pairs of a JSONL file, such as `data/labelled-pairs.jsonl`: `tweet_id`, `tweet`, `reply` and `label` (`good` or
 * `bad`) in every line, `reply_id` and `kind` where they are known. A reward is checked on those, never tuned on them.
 *
 * @returns pairs in the order of the file
 * @throws DataError  `file:line: ...` for a line that is no such pair; for a file without any
 */
export async function readLabelledPairs(
  file: string,
  options: ReadJsonlOptions = {},
): Promise<LabelledPair[]> {
  const reader = readJsonl(file, parsePair, options);
  const pairs: LabelledPair[] = [];
  for await (const { value } of reader) pairs.push(value);
  if (pairs.length === 0) {
    throw new DataError(
      `${reader.name}: holds no labelled pair; expected lines with tweet_id, tweet, reply and label.`,
    );
  }
  return pairs;
}

/** Strategies of the embedded world whose replies are good ones: they take up what the tweet says. */
const ENGAGING: readonly Strategy[] = ['specific', 'question', 'joke', 'anecdote', 'disagree'];

/**
 * The replies to tweets 0..tweets-1 of a part of the embedded world: good where the strategy that wrote them engages with
 * the tweet (specific, question, joke, anecdote, disagree). `kind` is the strategy, `worth` the true worth.
 *
 * @param options  `part`: tune on `sample`, check on `heldout`, the default; `seed` of the world, default 1
 * @returns 1 to 6 pairs a tweet, tweet by tweet
 * @throws ShapeError  unless `tweets` is an integer >= 1
 */
export function worldLabelledPairs({
  tweets,
  part = 'heldout',
  seed = 1,
}: {
  tweets: number;
  part?: WorldPart;
  seed?: number;
}): LabelledPair[] {
  if (!Number.isSafeInteger(tweets) || tweets < 1) {
    throw new ShapeError(`replies to ${tweets} tweets; expected an integer >= 1.`);
  }
  return Array.from({ length: tweets }, (_, i) => labelledReplies(seed, part, i))
    .flat()
    .map(({ record: { tweet_id, reply_id, tweet, reply }, strategy, worth }) => ({
      ...{ tweet_id, reply_id, tweet, reply, worth, kind: strategy },
      label: ENGAGING.includes(strategy) ? 'good' : 'bad',
    }));
}

/** Progress and the end of `scoreReplies`. */
export interface ScoreRepliesOptions {
  signal?: AbortSignal;
  /** told after each batch */
  onProgress?: (done: number, total: number) => void;
}

/**
 * Scores replies in batches of the size that the reward wants; timers and Ctrl-C get in between.
 *
 * @returns the rows in their order, each with `total` and `components`; what else they hold stays
 * @throws ShapeError  when there is no row, or the reward gives another number of results than it got pairs
 * @throws the reason of the signal, soon after it is aborted
 */
export async function scoreReplies<P extends ReplyPair>(
  reward: Reward,
  rows: readonly P[],
  { signal, onProgress }: ScoreRepliesOptions = {},
): Promise<(P & RewardResult)[]> {
  if (rows.length === 0) throw new ShapeError(`${reward.name}: no replies to score; expected at least 1.`);
  const scored: (P & RewardResult)[] = [];
  const breathe = breather(signal);
  while (scored.length < rows.length) {
    await breathe();
    const batch = rows.slice(scored.length, scored.length + (reward.batchSize ?? DEFAULT_BATCH_SIZE));
    const results = await reward.scoreBatch(batch);
    if (results.length !== batch.length) {
      throw new ShapeError(
        `${reward.name}: ${results.length} results of ${batch.length} pairs; expected one a pair.`,
      );
    }
    results.forEach(({ total, components }, i) => scored.push({ ...batch[i], total, components }));
    onProgress?.(scored.length, rows.length);
  }
  return scored;
}
