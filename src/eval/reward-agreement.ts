/** How well a reward agrees with what happened to replies, on tweets that it was not made from. */
import type { Estimate } from '../metrics/ranking';
import { meanOverTweets } from '../metrics/bootstrap-metric';
import type { TweetStatistic } from '../metrics/bootstrap-metric';
import { pairAccuracy, resampledSpearman } from '../metrics/ranking';
import { percentileInterval, resampleIndices, spearman } from '../metrics/statistics';
import { breather } from '../rewards/breather';
import type { LikedReply, TweetGroup } from '../rewards/learned-targets';
import type { LearnedHooks } from '../rewards/learned-training';
import { DEFAULT_BATCH_SIZE } from '../rewards/reward';
import type { Reward, RewardResult } from '../rewards/reward';
import type { Examiner } from './replies';

/** Agreement of scores with a truth; null where it does not exist, as without two replies of different truth. */
export interface Agreement {
  /** share of the pairs of replies to one tweet that stand in the right order, mean over tweets */
  pair_accuracy: Estimate | null;
  /** Spearman's correlation within a tweet of three replies or more, mean over tweets */
  spearman_within_tweet: Estimate | null;
  /** Spearman's correlation over all replies */
  spearman: Estimate | null;
}

/** How well a reward orders replies, by likes and by a known truth. */
export interface RewardAgreement {
  n_tweets: number;
  n_replies: number;
  /** likes within a tweet; over all replies engagement, likes / max(likes of the tweet, 1) */
  likes: Agreement;
  /** with the truth of an examiner, such as the embedded world's law */
  worth?: Agreement;
}

/** Scores and truths of one tweet's replies. */
export interface Judged {
  scores: number[];
  /** comparable within the tweet */
  within: number[];
  /** comparable between tweets */
  across: number[];
}

const RESAMPLES = 1000;
const MIN_REPLIES = 3; // two replies have a correlation of 1 or -1, which the pair accuracy says already

/** How the intervals of an agreement are drawn; see `agreementOf`. */
export interface AgreementOptions {
  seed: number;
  families?: readonly number[];
  breathe?: () => Promise<void>;
}

function spearmanOverReplies(tweets: readonly Judged[]): TweetStatistic {
  const tweetOf = Int32Array.from(tweets.flatMap(({ scores }, t) => scores.map(() => t)));
  const ofReplies = resampledSpearman(
    tweets.flatMap(({ scores }) => scores),
    tweets.flatMap(({ across }) => across),
  );
  return (counts) => ofReplies(tweetOf.map((t) => counts[t]));
}

/**
 * The three statistics with their intervals: 1,000 bootstrap resamples of tweets (percentile method, 95 %), the same
 * ones for all three. The replies are put in order once, not in every resample.
 *
 * @param families  of each tweet the number of its family, from 0: whole families are resampled. Default: each its own
 * @param breathe   awaited between resamples
 */
export async function agreementOf(
  tweets: readonly Judged[],
  { seed, families = tweets.map((_, t) => t), breathe = breather() }: AgreementOptions,
): Promise<Agreement> {
  const pairs: (number | null)[] = [];
  const correlations: (number | null)[] = [];
  for (const { scores, within } of tweets) {
    await breathe();
    pairs.push(pairAccuracy(scores, within));
    correlations.push(scores.length < MIN_REPLIES ? null : spearman(scores, within));
  }
  const statistics = [meanOverTweets(pairs), meanOverTweets(correlations), spearmanOverReplies(tweets)];
  const once = new Int32Array(tweets.length).fill(1);
  const values = statistics.map((statistic) => statistic(once));
  const resampled: number[][] = statistics.map(() => []);
  const familyOf = Int32Array.from(families);
  for (const indices of resampleIndices(new Set(families).size, RESAMPLES, seed)) {
    await breathe();
    const drawn = new Int32Array(indices.length);
    for (const family of indices) drawn[family]++;
    const counts = familyOf.map((family) => drawn[family]);
    statistics.forEach((statistic, s) => {
      const value = statistic(counts);
      if (value !== null) resampled[s].push(value);
    });
  }
  const [pairAgreement, within, across] = values.map((value, s) =>
    value === null ? null : { value, interval: percentileInterval(resampled[s]) },
  );
  return { pair_accuracy: pairAgreement, spearman_within_tweet: within, spearman: across };
}

function engagementOf({ reply_likes, tweet_likes }: LikedReply): number {
  return reply_likes / Math.max(tweet_likes, 1);
}

/** How `rewardAgreement` draws its intervals, and what it compares the reward with. */
export interface RewardAgreementOptions extends Omit<AgreementOptions, 'breathe'> {
  examiner?: Examiner;
  signal?: AbortSignal;
  onProgress?: LearnedHooks['onProgress'];
}

/**
 * Scores every reply and compares the scores with likes and, where there is one, an examiner's worth.
 *
 * @throws the reason of the signal, soon after it is aborted
 */
export async function rewardAgreement(
  reward: Reward,
  groups: readonly TweetGroup[],
  { seed, families, examiner, signal, onProgress }: RewardAgreementOptions,
): Promise<RewardAgreement> {
  const pairs = groups.flat();
  const results: RewardResult[] = [];
  const breathe = breather(signal);
  while (results.length < pairs.length) {
    await breathe();
    const batch = pairs.slice(results.length, results.length + (reward.batchSize ?? DEFAULT_BATCH_SIZE));
    for (const result of await reward.scoreBatch(batch)) results.push(result);
    onProgress?.({ phase: 'judging', done: results.length, total: pairs.length, note: reward.name });
  }
  let next = 0;
  const scored = groups.map((group) => ({ group, scores: group.map(() => results[next++].total) }));
  const likes = scored.map(({ group, scores }): Judged => ({
    scores,
    within: group.map(({ reply_likes }) => reply_likes),
    across: group.map(engagementOf),
  }));
  const agreement: RewardAgreement = {
    n_tweets: groups.length,
    n_replies: results.length,
    likes: await agreementOf(likes, { seed, families, breathe }),
  };
  if (examiner === undefined) return agreement;
  const worth: Judged[] = [];
  for (const { group, scores } of scored) {
    await breathe();
    const truth = group.map(({ tweet, reply }) => examiner(tweet, reply));
    worth.push({ scores, within: truth, across: truth });
  }
  return { ...agreement, worth: await agreementOf(worth, { seed, families, breathe }) };
}
