/**
 * Training of the learned reward, and how well it does on tweets that it has not seen.
 *
 * Two objectives:
 * - `rank` (default): of two replies to one tweet, which got more likes? Likes grow with the reach of the tweet, which no
 *   reply can earn; within a tweet it cancels. GRPO too compares only replies to one prompt.
 * - `regression`: the percentile of a reply's engagement among the training replies. For data with one reply a tweet.
 */
import { orderedPairs } from '../metrics/ranking';
import { LocalOptimiser } from '../policy/local-optimiser';
import { dropoutKeys } from '../model/dropout';
import { DataError, NumericError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { Tensor, Variable } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { Embedder } from './embeddings';
import { initialParameters, learnedLogits, learnedShapes } from './learned';
import type { HiddenDropout } from './learned';
import { VectorStore } from './vector-store';

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

export interface LearnedTrainingOptions {
  objective: RewardObjective;
  /** passes over the training replies, at most; the pass with the least validation loss is kept */
  epochs: number;
  /** passes without a better validation loss after which training ends */
  patience: number;
  /** replies a step, at least: whole tweets are added until there are as many */
  batchReplies: number;
  learningRate: number;
  weightDecay: number;
  dropout: number;
  seed: number;
}

/** The reference's dropout and optimiser; batch and patience are ours. */
export const LEARNED_DEFAULTS: LearnedTrainingOptions = {
  objective: 'rank',
  epochs: 20,
  patience: 3,
  batchReplies: 64,
  learningRate: 1e-4,
  weightDecay: 0.01,
  dropout: 0.1,
  seed: 42,
};

/** What a step compares or predicts: numbers for each reply of the batch, or pairs of its rows. */
type Targets =
  | { better: Int32Array; worse: Int32Array; weights: Float32Array }
  | { values: Float32Array; weights: Float32Array };

/** A tweet's replies as rows of features, with what is to be learned of them. */
interface Example {
  id: string;
  rows: number[];
  likes: number[];
  engagement: number[];
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
    const difference = tf.sub(tf.gather(logits, [...worse]), tf.gather(logits, [...better]));
    return tf.sum(tf.mul(tf.softplus(difference), [...weights]));
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
    tf.sum(tf.mul(tf.sub(tf.softplus(logits), tf.mul(logits, [...values])), [...weights])),
  );
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

/** The targets of a batch whose first row of each example is known. */
function targetsOf(
  batch: readonly Example[],
  objective: RewardObjective,
  sortedEngagement: Float64Array,
): Targets {
  if (objective === 'regression') {
    const values = batch.flatMap(({ engagement }) =>
      engagement.map((x) => percentileOf(x, sortedEngagement)),
    );
    const weights = batch.flatMap(({ rows }) => rows.map(() => 1 / (batch.length * rows.length)));
    return { values: Float32Array.from(values), weights: Float32Array.from(weights) };
  }
  const [better, worse, weights]: number[][] = [[], [], []];
  let first = 0;
  for (const { likes } of batch) {
    const pairs = orderedPairs(likes);
    for (const [i, j] of pairs) {
      better.push(first + i);
      worse.push(first + j);
      weights.push(1 / (batch.length * pairs.length));
    }
    first += likes.length;
  }
  return {
    better: Int32Array.from(better),
    worse: Int32Array.from(worse),
    weights: Float32Array.from(weights),
  };
}

function lossOf(logits: Tensor, targets: Targets): Tensor {
  return 'better' in targets ? rankLoss(logits, targets) : regressionLoss(logits, targets);
}

/** The course of a training. */
export interface LearnedHistory {
  /** mean training loss and validation loss of every pass */
  epochs: { train: number; validation: number }[];
  /** the pass that was kept, from 1 */
  best: number;
  /** steps of the optimiser */
  steps: number;
}

export interface TrainedReward {
  parameters: Map<string, Float32Array>;
  /** of the embedding */
  dimensions: number;
  history: LearnedHistory;
}

export interface LearnedHooks {
  /** after each step, with the tweets done and all there are to do */
  onProgress?: (done: number, total: number, note: string) => void;
  signal?: AbortSignal;
}

/** Trains on whole tweets; `dispose` frees its tensors. */
class RewardTrainer {
  readonly names: string[];
  private readonly variables: Variable[];
  private readonly optimiser: LocalOptimiser;
  steps = 0;

  constructor(
    private readonly store: VectorStore,
    private readonly sortedEngagement: Float64Array,
    private readonly options: LearnedTrainingOptions,
  ) {
    const inputs = 2 * store.dimensions;
    const shapes = learnedShapes(inputs);
    const initial = initialParameters(inputs, options.seed);
    this.names = [...shapes.keys()];
    this.variables = this.names.map((name) => {
      const values = tf.tensor(initial.get(name) as Float32Array, shapes.get(name) as number[]);
      const variable = tf.variable(values);
      values.dispose(); // the variable has a handle of its own
      return variable;
    });
    this.optimiser = new LocalOptimiser(this.names, this.variables, 'eager');
  }

  /** [N, 2D] features of all replies of a batch. */
  private features(batch: readonly Example[]): Tensor {
    const rows = batch.flatMap((example) => example.rows);
    const width = 2 * this.store.dimensions;
    const values = new Float32Array(rows.length * width);
    rows.forEach((row, i) => {
      this.store.write(2 * row, values, i * width);
      this.store.write(2 * row + 1, values, i * width + this.store.dimensions);
    });
    return tf.tensor2d(values, [rows.length, width]);
  }

  /** One step; the loss before it. */
  step(batch: readonly Example[], epoch: number): number {
    const { objective, dropout: rate, seed, learningRate, weightDecay } = this.options;
    const targets = targetsOf(batch, objective, this.sortedEngagement);
    const keys = batch.flatMap(({ id, rows }) => [
      ...dropoutKeys({ seed, example: id, visit: epoch }, rows.length),
    ]);
    const { value, grads } = tf.tidy(() => {
      const x = this.features(batch);
      const masks: HiddenDropout | undefined =
        rate === 0 ? undefined : { keys: tf.tensor1d(keys, 'int32'), rate };
      return tf.variableGrads(
        () => lossOf(learnedLogits(this.variables, x, masks), targets) as never,
        this.variables as never,
      );
    });
    const [loss] = value.dataSync();
    value.dispose();
    this.optimiser.accumulate(this.variables.map((variable) => grads[variable.name]));
    const { skipped } = this.optimiser.step({ learningRate, weightDecay });
    if (skipped || !Number.isFinite(loss)) {
      throw new NumericError(
        `the loss of the reward is ${loss} at step ${this.steps + 1}: use a smaller learning rate.`,
      );
    }
    this.steps++;
    return loss;
  }

  /** Mean loss over tweets, without dropout, and the logits of their replies. */
  evaluate(batches: readonly (readonly Example[])[]): { loss: number; logits: number[] } {
    let [sum, tweets] = [0, 0];
    const all: number[] = [];
    for (const batch of batches) {
      const targets = targetsOf(batch, this.options.objective, this.sortedEngagement);
      const [loss, logits] = tf.tidy(() => {
        const s = learnedLogits(this.variables, this.features(batch));
        return [lossOf(s, targets), s];
      });
      sum += loss.dataSync()[0] * batch.length;
      tweets += batch.length;
      all.push(...logits.dataSync());
      tf.dispose([loss, logits]);
    }
    return { loss: sum / tweets, logits: all };
  }

  parameters(): Map<string, Float32Array> {
    return new Map(
      this.names.map((name, i) => [name, Float32Array.from(this.variables[i].dataSync() as Float32Array)]),
    );
  }

  dispose(): void {
    this.optimiser.dispose();
    tf.dispose(this.variables);
  }
}

/** Whole tweets, in order, in batches of at least so many replies (but for the last). */
function batchesOf(examples: readonly Example[], replies: number): Example[][] {
  const batches: Example[][] = [];
  let size = Infinity;
  for (const example of examples) {
    if (size >= replies) {
      batches.push([]);
      size = 0;
    }
    batches[batches.length - 1].push(example);
    size += example.rows.length;
  }
  return batches;
}

function engagementOf({ reply_likes, tweet_likes }: LikedReply): number {
  return reply_likes / Math.max(tweet_likes, 1);
}

/** The examples of an objective: with `rank`, tweets whose replies differ in likes. */
async function examplesOf(
  groups: readonly TweetGroup[],
  objective: RewardObjective,
  store: VectorStore,
  part: string,
): Promise<Example[]> {
  const usable = groups.filter(
    (group) =>
      objective === 'regression' || group.some(({ reply_likes }) => reply_likes !== group[0].reply_likes),
  );
  if (usable.length === 0) {
    throw new DataError(
      objective === 'rank'
        ? `${part}: none of ${groups.length} tweets has two replies with different likes; expected some for the objective "rank". Bring more replies a tweet, or use the objective "regression".`
        : `${part}: no tweets; expected some. Bring more data.`,
    );
  }
  const examples: Example[] = [];
  for (const [i, group] of usable.entries()) {
    const rows: number[] = [];
    for (const { tweet, reply } of group) rows.push(await store.addPair(tweet, reply.trim()));
    const likes = group.map(({ reply_likes }) => reply_likes);
    examples.push({ id: `${part} ${i}`, rows, likes, engagement: group.map(engagementOf) });
  }
  return examples;
}

/** Shifts the last bias so that the mean logit is 0: the objective `rank` leaves the level open. */
function centre(parameters: Map<string, Float32Array>, logits: readonly number[]): void {
  const name = [...parameters.keys()].pop() as string;
  const level = logits.reduce((sum, logit) => sum + logit, 0) / logits.length;
  (parameters.get(name) as Float32Array)[0] -= level;
}

/**
 * Trains the network of `learned.ts` by AdamW.
 *
 * 1. Every epoch: the tweets in a new order, a step for each batch of whole tweets.
 * 2. After it the loss on the validation tweets; the parameters of the best epoch are kept, and training ends after
 *    `patience` epochs without a better one.
 * 3. With `rank`, the level of the scores is set: the mean logit of the training replies is 0.
 *
 * @throws DataError     when a part has no tweet to learn from
 * @throws NumericError  when the loss is not finite
 */
export async function trainLearned(
  train: readonly TweetGroup[],
  validation: readonly TweetGroup[],
  embedder: Embedder,
  options: LearnedTrainingOptions,
  { onProgress = () => {}, signal }: LearnedHooks = {},
): Promise<TrainedReward> {
  const { objective, epochs, patience, batchReplies, seed } = options;
  const store = new VectorStore(embedder);
  const examples = await examplesOf(train, objective, store, 'training');
  const held = batchesOf(await examplesOf(validation, objective, store, 'validation'), batchReplies);
  const sorted = Float64Array.from(examples.flatMap(({ engagement }) => engagement)).sort();
  const trainer = new RewardTrainer(store, sorted, options);
  try {
    const history: LearnedHistory = { epochs: [], best: 0, steps: 0 };
    let best = { loss: Infinity, parameters: trainer.parameters(), logits: [] as number[] };
    for (let epoch = 1; epoch <= epochs && epoch - history.best <= patience; epoch++) {
      const order = new Random(seed, 'learned reward order', epoch).shuffle(examples);
      let [sum, done] = [0, 0];
      for (const batch of batchesOf(order, batchReplies)) {
        signal?.throwIfAborted();
        sum += trainer.step(batch, epoch) * batch.length;
        done += batch.length;
        onProgress(
          (epoch - 1) * examples.length + done,
          epochs * examples.length,
          `loss ${(sum / done).toFixed(4)}`,
        );
        await new Promise(setImmediate); // lets Ctrl-C in
      }
      const { loss } = trainer.evaluate(held);
      history.epochs.push({ train: sum / examples.length, validation: loss });
      if (loss < best.loss) {
        const { logits } = trainer.evaluate(batchesOf(examples, batchReplies));
        best = { loss, parameters: trainer.parameters(), logits };
        history.best = epoch;
      }
    }
    if (objective === 'rank') centre(best.parameters, best.logits);
    const { parameters } = best;
    return { parameters, dimensions: store.dimensions, history: { ...history, steps: trainer.steps } };
  } finally {
    trainer.dispose();
  }
}
