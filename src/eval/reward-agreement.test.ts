import { describe, expect, it } from 'vitest';
import { clusterBootstrap } from '../metrics/ranking';
import type { Estimate } from '../metrics/ranking';
import { mean, spearman } from '../metrics/statistics';
import { Random } from '../runtime/random';
import { scoreEach } from '../rewards/reward';
import type { Reward } from '../rewards/reward';
import { agreementOf, rewardAgreement } from './reward-agreement';
import type { Judged } from './reward-agreement';

/** Tweets whose scores follow the truth loosely, with ties. */
function judged(tweets: number): Judged[] {
  return Array.from({ length: tweets }, (_, t) => {
    const random = new Random(3, 'judged', t);
    const truth = Array.from({ length: 3 + random.integer(4) }, () => random.integer(6));
    truth[0] = truth[1] + 1;
    const scores = truth.map((value) => Math.round(value + 2 * random.normal()));
    return { scores, within: truth, across: truth };
  });
}

describe('agreementOf', () => {
  it('has the overall correlation and interval of resamples that are ranked anew, each of whole tweets', async () => {
    const tweets = judged(60);
    const { spearman: found } = await agreementOf(tweets, { seed: 4 });
    const anew = clusterBootstrap(
      tweets,
      (sample) =>
        spearman(
          sample.flatMap(({ scores }) => scores),
          sample.flatMap(({ across }) => across),
        ),
      { seed: 4 },
    );
    expect(found?.value).toBeCloseTo(anew?.value ?? NaN, 12);
    found?.interval.forEach((bound, i) => expect(bound).toBeCloseTo(anew?.interval[i] ?? NaN, 12));
  });

  it('has the mean over tweets of pair accuracy and correlation', async () => {
    const tweets = judged(30);
    const { spearman_within_tweet: within } = await agreementOf(tweets, { seed: 4 });
    const values = tweets.map(({ scores, within: truth }) => spearman(scores, truth));
    expect(within?.value).toBeCloseTo(mean(values.filter((value) => value !== null)), 12);
    const perfect = tweets.map(({ within: truth }) => ({ scores: truth, within: truth, across: truth }));
    const { pair_accuracy: accuracy } = await agreementOf(perfect, { seed: 4 });
    expect(accuracy).toEqual({ value: 1, interval: [1, 1] });
  });

  it('has the interval of the families where tweets stand in it several times', async () => {
    const tweets = judged(40);
    const copies = [...tweets, ...tweets, ...tweets];
    const families = copies.map((_, t) => t % 40);
    const width = ({ interval }: Estimate): number => interval[1] - interval[0];
    const widthOf = async (of: Judged[], options: { families?: number[] }): Promise<number> => {
      const { pair_accuracy: accuracy } = await agreementOf(of, { seed: 2, ...options });
      return accuracy === null ? NaN : width(accuracy);
    };
    const single = await widthOf(tweets, {});
    expect(await widthOf(copies, { families })).toBeCloseTo(single, 12);
    expect(await widthOf(copies, {})).toBeLessThan(0.75 * single);
  });

  it('has no value where none exists', async () => {
    const flat = [{ scores: [1], within: [2], across: [2] }];
    expect(await agreementOf(flat, { seed: 1 })).toEqual({
      pair_accuracy: null,
      spearman_within_tweet: null,
      spearman: null,
    });
  });

  it('resamples 5,000 tweets in seconds, and lets others in meanwhile', async () => {
    let turns = 0;
    const timer = setInterval(() => turns++, 5);
    const started = performance.now();
    const { spearman: found } = await agreementOf(
      judged(500).flatMap((tweet) => new Array<Judged>(10).fill(tweet)),
      { seed: 1 },
    );
    clearInterval(timer);
    expect(found).not.toBeNull();
    expect(performance.now() - started).toBeLessThan(15_000);
    expect(turns).toBeGreaterThan(10);
  });
});

describe('rewardAgreement', () => {
  const score = async (_tweet: string, reply: string) => ({ total: reply.length / 10, components: {} });
  const groups = judged(50).map(({ within }, t) =>
    within.map((likes) => ({ tweet: `t${t}`, reply: 'x'.repeat(likes), reply_likes: likes, tweet_likes: 1 })),
  );

  it('scores in batches of the size that the reward wants, and reports how far it is', async () => {
    const sizes: number[] = [];
    const reward: Reward = {
      ...{ name: 'r', degraded: [], batchSize: 100, score },
      scoreBatch: (pairs) => {
        sizes.push(pairs.length);
        return scoreEach(score, pairs);
      },
    };
    const done: number[] = [];
    const total = groups.flat().length;
    const agreement = await rewardAgreement(reward, groups, {
      seed: 1,
      examiner: (_tweet, reply) => -reply.length,
      onProgress: (progress) => done.push(progress.done),
    });
    expect(Math.max(...sizes)).toBe(100);
    expect(done.at(-1)).toBe(total);
    expect([agreement.n_tweets, agreement.n_replies]).toEqual([50, total]);
    expect(agreement.likes.spearman?.value).toBeCloseTo(1, 12);
    expect(agreement.worth?.pair_accuracy?.value).toBe(0);
  });
});
