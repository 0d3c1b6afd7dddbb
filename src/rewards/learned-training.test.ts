import { describe, expect, it } from 'vitest';
import { orderedPairs, pairAccuracy } from '../metrics/ranking';
import { mean } from '../metrics/statistics';
import { ConfigError, DataError, NumericError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import { cachedEmbedder } from './embeddings';
import { learnedReward } from './learned';
import { drawTargets, MOST_OF_A_TWEET, percentileOf, rankLoss, regressionLoss } from './learned-targets';
import type { LikedReply, TweetGroup } from './learned-targets';
import { LEARNED_DEFAULTS, trainLearned } from './learned-training';

const softplus = (x: number): number => Math.log(1 + Math.exp(x));
const values = (tensor: { dataSync(): ArrayLike<number> }): number[] => Array.from(tensor.dataSync());

/** Numeric gradient of a loss in the logits. */
function numericGradient(loss: (logits: number[]) => number, at: number[]): number[] {
  const h = 1e-6;
  return at.map((_, i) => {
    const shifted = (by: number): number => loss(at.map((x, j) => (j === i ? x + by : x)));
    return (shifted(h) - shifted(-h)) / (2 * h);
  });
}

describe('rankLoss', () => {
  const logits = [0.3, -1.2, 2.1, 0.4];
  const likes = [3, 3, 9, 0];
  const pairs = orderedPairs(likes);
  const count = pairs.better.length;
  const targets = { ...pairs, weights: new Float32Array(count).fill(1 / count) };
  const exact = (s: number[]): number =>
    mean(Array.from(pairs.better, (i, k) => softplus(s[pairs.worse[k]] - s[i])));

  it('is the mean of -log sigmoid(s_better - s_worse) over pairs of different likes', () => {
    expect(count).toBe(5);
    expect(values(rankLoss(tf.tensor1d(logits), targets))[0]).toBeCloseTo(exact(logits), 6);
  });

  it('has the gradient of that formula', () => {
    const gradient = values(tf.grad((s) => rankLoss(s, targets))(tf.tensor1d(logits)));
    numericGradient(exact, logits).forEach((expected, i) => expect(gradient[i]).toBeCloseTo(expected, 5));
  });
});

describe('regressionLoss', () => {
  const logits = [0.3, -1.2, 2.1];
  const y = [0.2, 0.5, 1];
  const weights = [0.5, 0.25, 0.25];
  const targets = { values: Float32Array.from(y), weights: Float32Array.from(weights) };
  const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
  const exact = (s: number[]): number =>
    s.reduce(
      (sum, x, i) => sum - weights[i] * (y[i] * Math.log(sigmoid(x)) + (1 - y[i]) * Math.log(1 - sigmoid(x))),
      0,
    );

  it('is the weighted cross-entropy of sigmoid(s) against the value', () => {
    expect(values(regressionLoss(tf.tensor1d(logits), targets))[0]).toBeCloseTo(exact(logits), 6);
  });

  it('has the gradient weight (sigmoid(s) - y)', () => {
    const gradient = values(tf.grad((s) => regressionLoss(s, targets))(tf.tensor1d(logits)));
    logits.forEach((x, i) => expect(gradient[i]).toBeCloseTo(weights[i] * (sigmoid(x) - y[i]), 6));
  });
});

describe('drawTargets', () => {
  const n = 200;
  const likes = Array.from({ length: n }, (_, i) => (i * 37) % 90);
  const viral = { id: 'viral', rows: likes.map((_, i) => i), likes, engagement: likes };
  const small = { id: 'small', rows: [900, 901, 902], likes: [1, 5, 1], engagement: [0, 1, 2] };
  const logits = likes.map((_, i) => Math.sin(i));

  it('looks at every reply and pair of a small tweet, and weighs tweets equally', () => {
    const draw = { seed: 1, visit: 1 };
    const { chosen, targets } = drawTargets(
      [small, { ...small, id: 'other' }],
      'rank',
      new Float64Array(),
      draw,
    );
    expect(chosen).toEqual([
      [0, 1, 2],
      [0, 1, 2],
    ]);
    expect(targets).toEqual({
      better: Int32Array.of(1, 1, 4, 4),
      worse: Int32Array.of(0, 2, 3, 5),
      weights: new Float32Array(4).fill(1 / 4),
    });
  });

  it('draws a bounded number of pairs of a viral tweet, whose mean loss is right on average', () => {
    const all = orderedPairs(likes);
    expect(all.better.length).toBeGreaterThan(10 * MOST_OF_A_TWEET);
    const exact = mean(Array.from(all.better, (i, k) => softplus(logits[all.worse[k]] - logits[i])));
    const estimates = Array.from({ length: 100 }, (_, visit) => {
      const { chosen, targets } = drawTargets([viral], 'rank', new Float64Array(), { seed: 1, visit });
      if (!('better' in targets)) throw new Error('expected pairs');
      const { better, worse, weights } = targets;
      expect(better.length).toBe(MOST_OF_A_TWEET);
      const logit = (place: number): number => logits[chosen[0][place]];
      better.forEach((place, k) =>
        expect(likes[chosen[0][place]]).toBeGreaterThan(likes[chosen[0][worse[k]]]),
      );
      return better.reduce((sum, place, k) => sum + weights[k] * softplus(logit(worse[k]) - logit(place)), 0);
    });
    expect(new Set(estimates).size).toBe(100);
    expect(Math.abs(mean(estimates) - exact)).toBeLessThan(0.01);
  });

  it('draws a bounded number of different replies for regression', () => {
    const many = Array.from({ length: 5000 }, (_, i) => i);
    const example = { id: 'many', rows: many, likes: many, engagement: many };
    const { chosen, targets } = drawTargets([example], 'regression', Float64Array.from(many), {
      seed: 1,
      visit: 1,
    });
    expect(new Set(chosen[0]).size).toBe(MOST_OF_A_TWEET);
    expect(mean((targets as { values: Float32Array }).values)).toBeCloseTo(0.5, 1);
    expect(targets.weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 5);
  });
});

describe('percentileOf', () => {
  it('is the share of values below, ties counting half', () => {
    const sorted = Float64Array.of(0, 0, 1, 4);
    expect([-1, 0, 0.5, 1, 4, 5].map((x) => percentileOf(x, sorted))).toEqual([
      0, 0.25, 0.5, 0.625, 0.875, 1,
    ]);
  });
});

/** Words as numbers: a bag of words over a few buckets, so that a network can learn which word is worth what. */
const WORDS = ['tea', 'rain', 'cat', 'tax', 'gold', 'mud'];
const embedder = cachedEmbedder({
  ...{ name: 'words', duplicateCosine: 0.9, cosineRange: [0, 1] as const },
  embed: async (text) => Float32Array.from(WORDS, (word) => (text.includes(word) ? 0.7 : 0)),
});

/** Tweets of unequal reach whose replies earn likes by the word "gold", and lose them by "mud". */
function world(tweets: number, replies: number, seed: number): LikedReply[][] {
  return Array.from({ length: tweets }, (_, t) => {
    const random = new Random(seed, 'world', t);
    const reach = Math.exp(3 * random.normal());
    return Array.from({ length: replies }, (__, r) => {
      const [first, second] = [random.pick(WORDS), random.pick(WORDS)];
      const worth = [first, second].reduce((sum, w) => sum + Number(w === 'gold') - Number(w === 'mud'), 3);
      const tweet = `${WORDS[t % 4]} ${t}`;
      const likes = Math.round(100 * reach * worth);
      return { tweet, reply: `${first} ${second} ${r}`, reply_likes: likes, tweet_likes: 0 };
    });
  });
}

const fast = { ...LEARNED_DEFAULTS, epochs: 12, learningRate: 3e-3, batchReplies: 16 };

async function heldOutAccuracy(
  groups: readonly TweetGroup[],
  parameters: Map<string, Float32Array>,
): Promise<number> {
  const reward = learnedReward(
    {
      description: {
        ...{ type: 'learned', version: 2, objective: 'rank', training: {}, evaluation: {}, versions: {} },
        data: { file: null, records: 0, test_fraction: 0.2, seed: 1 },
        embedding: { name: 'words', source: null, dimensions: WORDS.length },
      },
      parameters,
    },
    embedder,
  );
  const accuracies: number[] = [];
  for (const group of groups) {
    const scores = (await reward.scoreBatch(group)).map(({ total }) => total);
    const accuracy = pairAccuracy(
      scores,
      group.map(({ reply_likes }) => reply_likes),
    );
    if (accuracy !== null) accuracies.push(accuracy);
  }
  reward.dispose?.();
  return mean(accuracies);
}

describe('trainLearned', () => {
  const [train, validation, test] = [world(60, 4, 1), world(10, 4, 2), world(40, 4, 3)];

  it('learns which replies get more likes, whatever the reach of their tweets', async () => {
    const { parameters, history } = await trainLearned(train, validation, embedder, fast);
    expect(history.epochs[history.best - 1].validation).toBeLessThan(0.3);
    expect(await heldOutAccuracy(test, parameters)).toBeGreaterThan(0.95);
  });

  it('learns from one reply a tweet by regression', async () => {
    const flat = (groups: LikedReply[][]): TweetGroup[] =>
      groups.flat().map((reply) => [{ ...reply, reply_likes: 1 + reply.reply_likes, tweet_likes: 1 }]);
    const options = { ...fast, objective: 'regression' as const };
    const even = (tweets: number, seed: number): LikedReply[][] =>
      world(tweets, 4, seed).map((group) => {
        const scale = Math.max(1, ...group.map(({ reply_likes }) => reply_likes));
        return group.map((reply) => ({
          ...reply,
          reply_likes: Math.round((100 * reply.reply_likes) / scale),
        }));
      });
    const { parameters } = await trainLearned(flat(even(80, 1)), flat(even(10, 2)), embedder, options);
    expect(await heldOutAccuracy(test, parameters)).toBeGreaterThan(0.9);
    await expect(trainLearned(flat(train), flat(validation), embedder, fast)).rejects.toThrow(
      /training: none of 240 tweets has two replies with different likes.*objective "regression"/,
    );
  });

  it('centres the scores: the mean logit of the training replies is 0 with the objective rank', async () => {
    const options = { ...fast, epochs: 2 };
    const { parameters } = await trainLearned(train, validation, embedder, options);
    const inputs: number[][] = [];
    for (const { tweet, reply } of train.flat()) {
      inputs.push([...(await embedder.embed(tweet)), ...(await embedder.embed(reply))]);
    }
    const { learnedLogits, learnedShapes } = await import('./learned.js');
    const shapes = learnedShapes(2 * WORDS.length);
    const tensors = [...parameters].map(([name, data]) => tf.tensor(data, shapes.get(name)));
    // Only tweets whose replies differ in likes are trained on.
    const used = train.flatMap((group) => group.map(() => new Set(group.map((r) => r.reply_likes)).size > 1));
    const logits = values(learnedLogits(tensors, tf.tensor2d(inputs))).filter((_, i) => used[i]);
    expect(Math.abs(mean(logits))).toBeLessThan(1e-4);
  });

  it('gives the same parameters for the same seed, and others for another', async () => {
    const options = { ...fast, epochs: 1 };
    const [a, b, c] = [
      await trainLearned(train, validation, embedder, options),
      await trainLearned(train, validation, embedder, options),
      await trainLearned(train, validation, embedder, { ...options, seed: 7 }),
    ];
    expect(b).toEqual(a);
    expect(c.parameters).not.toEqual(a.parameters);
  });

  it('keeps the best pass and stops after the patience', async () => {
    // Validation of the opposite taste: every step makes it worse.
    const opposite = validation.map((group) =>
      group.map((r) => ({ ...r, reply_likes: 1e9 - r.reply_likes })),
    );
    const { history } = await trainLearned(train, opposite, embedder, { ...fast, epochs: 10, patience: 2 });
    expect(history.best).toBe(1);
    expect(history.epochs).toHaveLength(3);
  });

  it('leaves no tensor behind, also when it is cancelled', async () => {
    const before = tf.memory().numTensors;
    await trainLearned(train, validation, embedder, { ...fast, epochs: 1 });
    expect(tf.memory().numTensors).toBe(before);
    const controller = new AbortController();
    const onProgress = (): void => controller.abort(new Error('enough'));
    const cancelled = trainLearned(train, validation, embedder, fast, {
      signal: controller.signal,
      onProgress,
    });
    await expect(cancelled).rejects.toThrow('enough');
    expect(tf.memory().numTensors).toBe(before);
  });

  it('ends with the remedy when the validation loss is not finite, instead of looking for a best pass', async () => {
    const diverging = { ...fast, learningRate: 1e30, epochs: 1, batchReplies: 1e6 };
    const error = await trainLearned(train, validation, embedder, diverging).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(NumericError);
    expect((error as Error).message).toMatch(
      /validation loss of the reward is .* use a smaller learning rate/,
    );
    await expect(trainLearned(train, validation, embedder, { ...fast, epochs: 0 })).rejects.toThrow(
      ConfigError,
    );
  });

  it('takes a viral tweet in bounded steps, and still learns from it', async () => {
    const viral = world(1, 6000, 4)[0].map((reply, i) => ({
      ...reply,
      reply_likes: reply.reply_likes + (i % 7),
    }));
    const started = performance.now();
    const { parameters } = await trainLearned([viral], [viral], embedder, {
      ...fast,
      objective: 'rank',
      epochs: 60,
      patience: 60,
    });
    expect(await heldOutAccuracy(test, parameters)).toBeGreaterThan(0.8);
    expect(performance.now() - started).toBeLessThan(20_000);
  });

  it('says so when the loss is not finite, and when a part is empty', async () => {
    await expect(
      trainLearned(train, validation, embedder, { ...fast, learningRate: 1e30, epochs: 3 }),
    ).rejects.toThrow(NumericError);
    await expect(trainLearned(train, [], embedder, fast)).rejects.toThrow(DataError);
  });
});
