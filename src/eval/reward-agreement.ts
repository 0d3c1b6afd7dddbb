/** How well a reward agrees with what happened to replies, on tweets that it was not made from. */
import type { Estimate } from '../metrics/ranking';
import { clusterBootstrap, pairAccuracy } from '../metrics/ranking';
import { mean, spearman } from '../metrics/statistics';
import type { LikedReply, TweetGroup } from '../rewards/learned-training';
import type { Reward } from '../rewards/reward';
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

export interface RewardAgreement {
  n_tweets: number;
  n_replies: number;
  /** likes within a tweet; over all replies engagement, likes / max(likes of the tweet, 1) */
  likes: Agreement;
  /** with the truth of an examiner, such as the embedded world's law */
  worth?: Agreement;
}

/** Scores and truths of one tweet's replies. */
interface Judged {
  scores: number[];
  /** comparable within the tweet */
  within: number[];
  /** comparable between tweets */
  across: number[];
}

const MIN_REPLIES = 3; // two replies have a correlation of 1 or -1, which the pair accuracy says already

/** Mean over tweets of a statistic of each, those left out that have none. */
function meanOverTweets(
  tweets: readonly Judged[],
  statistic: (tweet: Judged) => number | null,
  seed: number,
): Estimate | null {
  const values = tweets.map(statistic).filter((value) => value !== null);
  return clusterBootstrap(values, (sample) => (sample.length === 0 ? null : mean(sample)), { seed });
}

/** @param seed  of the bootstrap over tweets (1,000 resamples, 95 %) */
export function agreementOf(tweets: readonly Judged[], seed: number): Agreement {
  return {
    pair_accuracy: meanOverTweets(tweets, ({ scores, within }) => pairAccuracy(scores, within), seed),
    spearman_within_tweet: meanOverTweets(
      tweets,
      ({ scores, within }) => (scores.length < MIN_REPLIES ? null : spearman(scores, within)),
      seed,
    ),
    spearman: clusterBootstrap(
      tweets,
      (sample) => {
        const scores = sample.flatMap((tweet) => tweet.scores);
        return scores.length < 2
          ? null
          : spearman(
              scores,
              sample.flatMap(({ across }) => across),
            );
      },
      { seed },
    ),
  };
}

function engagementOf({ reply_likes, tweet_likes }: LikedReply): number {
  return reply_likes / Math.max(tweet_likes, 1);
}

/** Scores every reply and compares the scores with likes and, where there is one, an examiner's worth. */
export async function rewardAgreement(
  reward: Reward,
  groups: readonly TweetGroup[],
  { seed, examiner }: { seed: number; examiner?: Examiner },
): Promise<RewardAgreement> {
  const results = await reward.scoreBatch(groups.flat());
  let next = 0;
  const scored = groups.map((group) => ({
    group,
    scores: group.map(() => results[next++].total),
    worth: examiner === undefined ? [] : group.map(({ tweet, reply }) => examiner(tweet, reply)),
  }));
  const likes = scored.map(({ group, scores }): Judged => ({
    scores,
    within: group.map(({ reply_likes }) => reply_likes),
    across: group.map(engagementOf),
  }));
  return {
    n_tweets: groups.length,
    n_replies: results.length,
    likes: agreementOf(likes, seed),
    ...(examiner !== undefined && {
      worth: agreementOf(
        scored.map(({ scores, worth }) => ({ scores, within: worth, across: worth })),
        seed,
      ),
    }),
  };
}
