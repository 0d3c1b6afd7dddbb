/**
 * What the learned reward learns from a batch of tweets. Two objectives:
 * - `rank` (default): of two replies to one tweet, which got more likes? Likes grow with the reach of the tweet, which no
 *   reply can earn; within a tweet it cancels. GRPO too compares only replies to one prompt.
 * - `regression`: the percentile of a reply's engagement among the training replies. For data with one reply a tweet.
 */
import { orderedPairs } from '../metrics/ranking';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';

/** What is learned of likes: the order of a tweet's replies, or a value for each. */
export type RewardObjective = 'rank' | 'regression';

/** One reply with how it did. */
export interface LikedReply {
  tweet: string;
  reply: string;
  reply_likes: number;
  tweet_likes: number;
}

/** All replies to one tweet. */
export type TweetGroup = readonly LikedReply[];

/** Most pairs, and with `regression` most replies, of one tweet in a step: a viral tweet may have millions of pairs. */
export const MOST_OF_A_TWEET = 1024;

/** A tweet's replies as rows of a store, with what is to be learned of them. */
export interface Example {
  id: string;
  rows: readonly number[];
  likes: readonly number[];
  engagement: readonly number[];
}

/** What a step compares or predicts: numbers for each reply of the batch, or pairs of its rows. */
export type Targets =
  | { better: Int32Array; worse: Int32Array; weights: Float32Array }
  | { values: Float32Array; weights: Float32Array };

/** Whether there is something to learn of a tweet: with `rank`, two of its replies must differ in likes. */
export function isUsable(group: TweetGroup, objective: RewardObjective): boolean {
  return objective === 'regression' || group.some(({ reply_likes }) => reply_likes !== group[0].reply_likes);
}

/**
 * Mean over tweets of the mean over a tweet's pairs of softplus(s_worse - s_better), s the logits: minus the
 * log-likelihood of the order of likes. Every tweet counts the same, however many replies it has.
 *
 * @param weights  [M] 1 / (tweets x pairs of the tweet)
 * Source: Bradley and Terry 1952; RankNet, Burges et al., ICML 2005.
 */
export function rankLoss(
  logits: Tensor,
  { better, worse, weights }: Extract<Targets, { better: Int32Array }>,
): Tensor {
  return tf.tidy(() => {
    const at = (rows: Int32Array): Tensor => tf.gather(logits, tf.tensor1d(rows, 'int32') as never);
    return tf.sum(tf.mul(tf.softplus(tf.sub(at(worse), at(better))), tf.tensor1d(weights)));
  });
}

/**
 * Mean over tweets of the mean over replies of the cross-entropy of sigmoid(s) against a value y in [0, 1]:
 * softplus(s) - y s.
 */
export function regressionLoss(
  logits: Tensor,
  { values, weights }: Extract<Targets, { values: Float32Array }>,
): Tensor {
  return tf.tidy(() =>
    tf.sum(tf.mul(tf.sub(tf.softplus(logits), tf.mul(logits, tf.tensor1d(values))), tf.tensor1d(weights))),
  );
}

/** The loss of a step by its targets: `rankLoss` of pairs, `regressionLoss` of values. */
export function lossOf(logits: Tensor, targets: Targets): Tensor {
  return 'better' in targets ? rankLoss(logits, targets) : regressionLoss(logits, targets);
}

/** Share of the sorted values below x, those equal to it counting half. */
export function percentileOf(x: number, sorted: Float64Array): number {
  const bound = (after: (value: number) => boolean): number => {
    let [low, high] = [0, sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (after(sorted[middle])) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  return (bound((value) => value >= x) + bound((value) => value > x)) / (2 * sorted.length);
}

/** Typed arrays end to end. */
function joined<A extends Int32Array | Float32Array>(into: A, parts: readonly ArrayLike<number>[]): A {
  let offset = 0;
  for (const part of parts) {
    into.set(part, offset);
    offset += part.length;
  }
  return into;
}

const total = (parts: readonly ArrayLike<number>[]): number =>
  parts.reduce((sum, { length }) => sum + length, 0);

/** The pairs of an example and the replies that stand in them, by their place in the example. */
function drawPairs({ likes }: Example, random: Random) {
  const { better, worse } = orderedPairs(likes, { limit: MOST_OF_A_TWEET, random });
  const chosen = [...new Set([...better, ...worse])].sort((a, b) => a - b);
  const places = new Map(chosen.map((i, place) => [i, place]));
  const placeOf = (i: number): number => places.get(i) as number;
  return { chosen, better: better.map(placeOf), worse: worse.map(placeOf) };
}

function drawReplies({ rows }: Example, random: Random): number[] {
  const all = rows.map((_, i) => i);
  return all.length <= MOST_OF_A_TWEET ? all : random.shuffle(all).slice(0, MOST_OF_A_TWEET);
}

/** The replies that a step looks at, a list of places for each example, and the targets on their rows. */
export interface DrawnBatch {
  chosen: number[][];
  targets: Targets;
}

/**
 * What a step learns of a batch. Of a tweet with more than 1,024 pairs that many are drawn with replacement, and only
 * the replies in them become rows; with `regression`, 1,024 of its replies are drawn. The mean over what is drawn is an
 * unbiased estimate of the mean over all.
 *
 * @param visit             draws differ from visit to visit
 * @param sortedEngagement  of the training replies
 */
export function drawTargets(
  batch: readonly Example[],
  objective: RewardObjective,
  sortedEngagement: Float64Array,
  { seed, visit }: { seed: number; visit: number },
): DrawnBatch {
  const randomOf = ({ id }: Example): Random => new Random(seed, 'learned reward draw', id, visit);
  const evenly = (parts: readonly ArrayLike<number>[]): Float32Array =>
    joined(
      new Float32Array(total(parts)),
      parts.map(({ length }) => new Float32Array(length).fill(1 / (batch.length * length))),
    );
  if (objective === 'regression') {
    const chosen = batch.map((example) => drawReplies(example, randomOf(example)));
    const values = batch.map(({ engagement }, e) =>
      chosen[e].map((i) => percentileOf(engagement[i], sortedEngagement)),
    );
    return {
      chosen,
      targets: { values: joined(new Float32Array(total(values)), values), weights: evenly(values) },
    };
  }
  const draws = batch.map((example) => drawPairs(example, randomOf(example)));
  let first = 0;
  const shifted = draws.map(({ chosen, better, worse }) => {
    const shift = (place: number): number => place + first;
    const pairs = { better: better.map(shift), worse: worse.map(shift) };
    first += chosen.length;
    return pairs;
  });
  const [betters, worses] = [shifted.map(({ better }) => better), shifted.map(({ worse }) => worse)];
  return {
    chosen: draws.map(({ chosen }) => chosen),
    targets: {
      better: joined(new Int32Array(total(betters)), betters),
      worse: joined(new Int32Array(total(worses)), worses),
      weights: evenly(betters),
    },
  };
}
