/** What the small test trains on and what it holds out; the two share no tweet, neither by its id nor by its text. */
import { membership, tweetText } from '../data/records';
import type { Tweet, TweetRecord } from '../data/records';
import { worldQuality } from '../data/world-law';
import { percentiles } from '../metrics/statistics';
import { promptIds } from '../model/chat';
import type { Tokenizer } from '../model/tokenizer';
import type { TweetPrompt } from '../rewards/replies';
import { DataError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { TRAINING_EXAMPLES } from './settings';

/** Fewer pairs have no bootstrap interval. */
const LEAST_PROMPTS = 2;

/** The last resort's name in reports. */
export const FIFTH = 'a fifth of the tweets';

/** Records to train on, and records of tweets that training does not have. */
export interface HeldOut {
  training: TweetRecord[];
  heldOut: TweetRecord[];
  /** Where the held-out tweets come from, in words. */
  source: string;
  /** Held-out records left out because training has their tweet. */
  dropped: number;
}

/** The first of the records to each tweet. */
function distinctTweets<T extends Tweet>(records: readonly T[]): T[] {
  const [ids, texts] = [new Set<string>(), new Set<string>()];
  return records.filter((record) => {
    const text = tweetText(record);
    const known = ids.has(record.tweet_id) || texts.has(text);
    ids.add(record.tweet_id);
    texts.add(text);
    return !known;
  });
}

/** Records in groups: those that share an id or a text, directly or through others, are together. */
function groupsOf(records: readonly TweetRecord[]): TweetRecord[][] {
  return records.reduce<TweetRecord[][]>((groups, record) => {
    const touches = (group: readonly TweetRecord[]): boolean => membership(group)(record);
    const joined = groups.filter(touches).flat();
    return [...groups.filter((group) => !touches(group)), [...joined, record]];
  }, []);
}

/** A fifth of the tweets, drawn by the seed; both sides keep the order of the records. */
function holdOutFifth(records: readonly TweetRecord[], seed: number): [TweetRecord[], TweetRecord[]] {
  const groups = new Random(seed, 'hold out').shuffle(groupsOf(records));
  const held = new Set(groups.slice(0, Math.ceil(groups.length / 5)).flat());
  return [records.filter((record) => !held.has(record)), records.filter((record) => held.has(record))];
}

/**
 * Training records and held-out ones. Held out: the evaluation records; else those after the first 100; else, when
 * fewer than 2 tweets are there, a fifth of the tweets. Held-out records whose tweet training has are left out.
 */
export function holdOut(
  records: readonly TweetRecord[],
  evaluation: readonly TweetRecord[] | undefined,
  seed: number,
): HeldOut {
  const training = records.slice(0, TRAINING_EXAMPLES);
  const candidates = evaluation ?? records.slice(TRAINING_EXAMPLES);
  const seen = membership(training);
  const heldOut = candidates.filter((record) => !seen(record));
  const dropped = candidates.length - heldOut.length;
  if (evaluation !== undefined) return { training, heldOut, source: 'the evaluation data', dropped };
  if (distinctTweets(heldOut).length >= LEAST_PROMPTS)
    return { training, heldOut, source: `the records after the first ${TRAINING_EXAMPLES}`, dropped };
  const [rest, fifth] = holdOutFifth(training, seed);
  return { training: rest, heldOut: fifth, source: FIFTH, dropped };
}

/** The prompts to evaluate on. */
export interface ChosenPrompts {
  prompts: TweetPrompt[];
  /** Tweets passed over because their prompt is too long. */
  tooLong: number;
}

/**
 * One prompt for each of the first `count` tweets whose prompts have fewer than `maxLength` tokens.
 *
 * @param file  where the tweets come from, for the error
 * @throws DataError  when there are fewer than 2
 */
export function choosePrompts(
  { heldOut, dropped }: Pick<HeldOut, 'heldOut' | 'dropped'>,
  tokenizer: Tokenizer,
  { count, maxLength, file }: { count: number; maxLength: number; file: string },
): ChosenPrompts {
  const prompts: TweetPrompt[] = [];
  let tooLong = 0;
  for (const { tweet_id: id, tweet } of distinctTweets(heldOut)) {
    if (prompts.length === count) break;
    const tokenIds = promptIds(tokenizer, tweet);
    if (tokenIds.length >= maxLength) tooLong++;
    else prompts.push({ id, tweet, tokenIds });
  }
  if (prompts.length < LEAST_PROMPTS)
    throw new DataError(
      `${file}: ${prompts.length} held-out tweets; expected at least ${LEAST_PROMPTS} that training does not have ` +
        `(left out: ${dropped} records of training's tweets, ${tooLong} tweets of ${maxLength} tokens or more). ` +
        'Bring more tweets, or name others with --eval-data.',
    );
  return { prompts, tooLong };
}

/**
 * The world quality that the best share of what people wrote has at least, rounded down to three digits: what a reply
 * may be asked for that is to be as good as theirs.
 * @param records  replies to tweets of the embedded world, at least one
 * @param share    such as 0.1 for the best tenth
 */
export function qualityOfBest(records: readonly TweetRecord[], share: number): number {
  const qualities = records.map(({ tweet, reply }) => worldQuality(tweet, reply).total);
  const [quantile] = percentiles(qualities, [100 * (1 - share)]);
  return Math.floor(quantile * 1000) / 1000;
}
