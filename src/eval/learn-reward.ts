/** From records to a learned reward with its report: hold tweets out, train on the others, judge on the held-out ones. */
import type { TweetRecord } from '../data/records';
import { isWorldText, worldQuality } from '../data/world-law';
import { DataError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { Embedder } from '../rewards/embeddings';
import { learnedReward } from '../rewards/learned';
import type { LearnedModel } from '../rewards/learned';
import { LEARNED_DEFAULTS, trainLearned } from '../rewards/learned-training';
import type { LearnedHistory, LearnedHooks, LearnedTrainingOptions } from '../rewards/learned-training';
import type { Reward } from '../rewards/reward';
import type { Examiner } from './replies';
import { rewardAgreement } from './reward-agreement';
import type { RewardAgreement } from './reward-agreement';

/** Share of the tweets that are held out of training to choose the epoch. */
const VALIDATION_SHARE = 0.1;
const LEAST_TWEETS = 10;

export interface LearnRewardOptions extends Partial<LearnedTrainingOptions> {
  /** share of the tweets that judge the reward, default 0.2 */
  testFraction?: number;
  /** how the embedding is named where it is opened again: `lexical`, a directory, or a hub id */
  embeddingName: string;
  /** other rewards to judge on the same held-out tweets */
  compareWith?: readonly Reward[];
}

export interface LearnedRewardReport {
  model: LearnedModel;
  history: LearnedHistory;
  /** on the held-out tweets: the learned reward first, then those to compare with */
  agreement: Record<string, RewardAgreement>;
}

/** What is needed of a record. */
type LikedRecord = Pick<TweetRecord, 'tweet_id' | 'tweet' | 'reply' | 'reply_likes' | 'tweet_likes'>;

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

/** The embedded world's law where all texts are in its words, else nothing: it can judge no other. */
export function examinerOf(records: readonly Pick<TweetRecord, 'tweet' | 'reply'>[]): Examiner | undefined {
  const isWorld = records.every(({ tweet, reply }) => isWorldText(tweet) && isWorldText(reply));
  return isWorld ? (tweet, reply) => worldQuality(tweet, reply).total : undefined;
}

/**
 * Trains a reward on records and judges it on tweets held out.
 *
 * 1. The tweets are shuffled by the seed; `testFraction` of them are held out, and a tenth to choose the epoch.
 * 2. `trainLearned` on the others.
 * 3. Agreement with likes on the held-out tweets; with the true worth where all texts are of the embedded world, which
 *    training never sees.
 *
 * @throws DataError  when there are fewer than 10 tweets, or none to learn from
 */
export async function learnReward(
  records: readonly LikedRecord[],
  embedder: Embedder,
  { testFraction = 0.2, embeddingName, compareWith = [], ...given }: LearnRewardOptions,
  hooks: LearnedHooks = {},
): Promise<LearnedRewardReport> {
  const options: LearnedTrainingOptions = { ...LEARNED_DEFAULTS, ...given };
  const { seed } = options;
  const tweets = new Random(seed, 'learned reward split').shuffle(groupByTweet(records));
  if (tweets.length < LEAST_TWEETS) {
    throw new DataError(
      `${records.length} replies to ${tweets.length} tweets; expected at least ${LEAST_TWEETS} tweets. Bring more data.`,
    );
  }
  const held = Math.max(1, Math.round(tweets.length * testFraction));
  const validating = Math.max(1, Math.round(tweets.length * VALIDATION_SHARE));
  const [test, validation, train] = [
    tweets.slice(0, held),
    tweets.slice(held, held + validating),
    tweets.slice(held + validating),
  ];
  const { parameters, history, dimensions } = await trainLearned(train, validation, embedder, options, hooks);
  const model: LearnedModel = {
    description: {
      ...{ type: 'learned', version: 1, objective: options.objective },
      embedding: { name: embedder.name, model: embeddingName, dimensions },
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
  for (const each of [reward, ...compareWith]) {
    hooks.signal?.throwIfAborted();
    agreement[each.name] = await rewardAgreement(each, test, { seed, examiner });
  }
  reward.dispose?.();
  model.description.evaluation = { ...agreement[reward.name] };
  return { model, history, agreement };
}
