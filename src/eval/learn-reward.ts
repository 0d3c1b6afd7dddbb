/** From records to a learned reward with its report: hold tweets out, train on the others, judge on the held-out ones. */
import type { TweetRecord } from '../data/records';
import { isWorldText, worldQuality } from '../data/world-law';
import { DataError } from '../runtime/errors';
import { ownVersion } from '../runtime/machine';
import { Random } from '../runtime/random';
import { binding } from '../runtime/tf';
import type { Embedder } from '../rewards/embeddings';
import { learnedReward } from '../rewards/learned';
import type { LearnedModel } from '../rewards/learned';
import { isUsable } from '../rewards/learned-targets';
import type { RewardObjective } from '../rewards/learned-targets';
import { LEARNED_DEFAULTS, trainLearned } from '../rewards/learned-training';
import type { LearnedHistory, LearnedHooks, LearnedTrainingOptions } from '../rewards/learned-training';
import type { Reward } from '../rewards/reward';
import type { Examiner } from './replies';
import { rewardAgreement } from './reward-agreement';
import type { RewardAgreement } from './reward-agreement';

/** Share of the usable tweets that are held out of training to choose the epoch. */
const VALIDATION_SHARE = 0.1;
const LEAST_TWEETS = 10;

/** How a reward is learned and judged. */
export interface LearnRewardOptions extends Partial<LearnedTrainingOptions> {
  /** share of the tweets that judge the reward, default 0.2 */
  testFraction?: number;
  /** name of the file that the records come from, for the reward's description */
  data?: string;
  /** other rewards to judge on the same held-out tweets */
  compareWith?: readonly Reward[];
}

/** A reward that was learned, and how it orders the replies of held-out tweets. */
export interface LearnedRewardReport {
  model: LearnedModel;
  history: LearnedHistory;
  /** on the held-out tweets: the learned reward first, then those to compare with */
  agreement: Record<string, RewardAgreement>;
}

/** What is needed of a record. */
export type LikedRecord = Pick<TweetRecord, 'tweet_id' | 'tweet' | 'reply' | 'reply_likes' | 'tweet_likes'>;

/** A tweet's text for finding it again under another id: NFKC, lower case, single spaces. */
function normalised(text: string): string {
  return text.normalize('NFKC').toLowerCase().replace(/\s+/gu, ' ').trim();
}

/** All records of a tweet together, in order of first appearance. */
function groupByTweet(records: readonly LikedRecord[]): LikedRecord[][] {
  const groups = new Map<string, LikedRecord[]>();
  for (const record of records) {
    const group = groups.get(record.tweet_id);
    if (group === undefined) groups.set(record.tweet_id, [record]);
    else group.push(record);
  }
  return [...groups.values()];
}

/**
 * Families of tweets that may not be parted: those of the same normalised text under several ids, and whatever they are
 * linked to by an id with several texts.
 */
export function tweetFamilies<R extends LikedRecord>(tweets: readonly R[][]): R[][][] {
  const parent = tweets.map((_, i) => i);
  const rootOf = (i: number): number => {
    while (parent[i] !== i) i = parent[i] = parent[parent[i]];
    return i;
  };
  const firstWith = new Map<string, number>();
  tweets.forEach((records, i) => {
    for (const text of new Set(records.map(({ tweet }) => normalised(tweet)))) {
      const first = firstWith.get(text);
      if (first === undefined) firstWith.set(text, i);
      else parent[Math.max(rootOf(i), rootOf(first))] = Math.min(rootOf(i), rootOf(first));
    }
  });
  const families = new Map<number, R[][]>();
  tweets.forEach((records, i) => {
    const family = families.get(rootOf(i));
    if (family === undefined) families.set(rootOf(i), [records]);
    else family.push(records);
  });
  return [...families.values()];
}

/** What trains, what chooses the epoch and what judges: tweets, by families. */
interface Parts {
  train: LikedRecord[][];
  validation: LikedRecord[][];
  test: LikedRecord[][];
  /** of each test tweet, the number of its family */
  testFamilies: number[];
}

function splitTweets(
  records: readonly LikedRecord[],
  objective: RewardObjective,
  testFraction: number,
  seed: number,
): Parts {
  const families = new Random(seed, 'learned reward split').shuffle(tweetFamilies(groupByTweet(records)));
  if (families.length < LEAST_TWEETS) {
    throw new DataError(
      `${records.length} replies to ${families.length} different tweets; expected at least ${LEAST_TWEETS} tweets. Bring more data.`,
    );
  }
  const held = Math.max(1, Math.round(families.length * testFraction));
  const usable = families
    .slice(held)
    .map((family) => family.filter((tweet) => isUsable(tweet, objective)))
    .filter((family) => family.length > 0);
  if (usable.length < 2) {
    throw new DataError(
      `of ${families.length - held} tweets to learn from, ${usable.length} have two replies with different likes; expected at least 2 for the objective "rank". Bring more replies a tweet, or use the objective "regression".`,
    );
  }
  const validating = Math.max(1, Math.round((usable.length * VALIDATION_SHARE) / (1 - testFraction)));
  const test = families.slice(0, held);
  return {
    test: test.flat(),
    testFamilies: test.flatMap((family, f) => family.map(() => f)),
    validation: usable.slice(0, validating).flat(),
    train: usable.slice(validating).flat(),
  };
}

/** The embedded world's law where all texts are in its words, else nothing: it can judge no other. */
export function examinerOf(records: readonly Pick<TweetRecord, 'tweet' | 'reply'>[]): Examiner | undefined {
  const isWorld = records.every(({ tweet, reply }) => isWorldText(tweet) && isWorldText(reply));
  return isWorld ? (tweet, reply) => worldQuality(tweet, reply).total : undefined;
}

/**
 * Trains a reward on records and judges it on tweets held out.
 *
 * 1. The tweets are shuffled by the seed; `testFraction` of them are held out, and of the usable ones among the others
 *    as many as a tenth of all choose the epoch. With `rank`, usable are tweets with replies of different likes. Tweets
 *    of the same text (but for case, white space and NFKC) under several ids go into one part together; they stay
 *    tweets of their own in training and judging, because each had a reach of its own, and intervals resample them
 *    together. Equal replies to different tweets ("thanks") are natural and may stand in several parts.
 * 2. `trainLearned` on the others.
 * 3. Agreement with likes on the held-out tweets; with the true worth where all texts are of the embedded world, which
 *    training never sees.
 *
 * @throws DataError     when there are fewer than 10 tweets, or none to learn from
 * @throws NumericError  when a loss is not finite
 */
export async function learnReward(
  records: readonly LikedRecord[],
  embedder: Embedder,
  { testFraction = 0.2, data, compareWith = [], ...given }: LearnRewardOptions,
  hooks: LearnedHooks = {},
): Promise<LearnedRewardReport> {
  const options: LearnedTrainingOptions = { ...LEARNED_DEFAULTS, ...given };
  const { seed, objective } = options;
  const parts = splitTweets(records, objective, testFraction, seed);
  const { train, validation, test, testFamilies: families } = parts;
  const { parameters, history, dimensions } = await trainLearned(train, validation, embedder, options, hooks);
  const model: LearnedModel = {
    description: {
      ...{ type: 'learned', version: 2, objective },
      embedding: { name: embedder.name, source: embedder.source ?? null, dimensions },
      // With these the hold-out can be made again from the data.
      data: { file: data ?? null, records: records.length, test_fraction: testFraction, seed },
      versions: { grpolab: ownVersion(), tensorflow: binding.TF_Version },
      training: {
        ...options,
        ...{ tweets: train.length, validation_tweets: validation.length, steps: history.steps },
        ...{ epochs_run: history.epochs, best_epoch: history.best },
      },
      evaluation: {},
    },
    parameters,
  };
  const examiner = examinerOf(test.flat());
  const reward = learnedReward(model, embedder);
  const agreement: Record<string, RewardAgreement> = {};
  try {
    for (const each of [reward, ...compareWith]) {
      agreement[each.name] = await rewardAgreement(each, test, { seed, families, examiner, ...hooks });
    }
  } finally {
    reward.dispose?.();
  }
  model.description.evaluation = { ...agreement[reward.name] };
  return { model, history, agreement };
}
