/** Training of the learned reward; what it learns from stands in `learned-targets.ts`. */
import { LocalOptimiser } from '../policy/local-optimiser';
import { dropoutKeys } from '../model/dropout';
import { ConfigError, DataError, NumericError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { Tensor, Variable } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { breather } from './breather';
import type { Embedder } from './embeddings';
import { initialParameters, learnedLogits, learnedShapes } from './learned';
import type { HiddenDropout } from './learned';
import { drawTargets, isUsable, lossOf, MOST_OF_A_TWEET } from './learned-targets';
import type { Example, LikedReply, RewardObjective, TweetGroup } from './learned-targets';
import { VectorStore } from './vector-store';

/** How a reward is learned; defaults are `LEARNED_DEFAULTS`. */
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

/** The course of a training. */
export interface LearnedHistory {
  /** mean training loss and validation loss of every pass */
  epochs: { train: number; validation: number }[];
  /** the pass that was kept, from 1 */
  best: number;
  /** steps of the optimiser */
  steps: number;
}

/** The parameters of the network by name, and how they were found. */
export interface TrainedReward {
  parameters: Map<string, Float32Array>;
  /** of the embedding */
  dimensions: number;
  history: LearnedHistory;
}

/** How far a part of the work is. */
export interface LearnedProgress {
  phase: 'embedding' | 'training' | 'judging';
  done: number;
  total: number;
  /** such as the loss */
  note?: string;
}

/** Progress and the end of a training. */
export interface LearnedHooks {
  onProgress?: (progress: LearnedProgress) => void;
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

  /** [N, 2D] features of the chosen replies of a batch. */
  private features(batch: readonly Example[], chosen: readonly (readonly number[])[]): Tensor {
    const rows = batch.flatMap((example, e) => chosen[e].map((i) => example.rows[i]));
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
    const { chosen, targets } = drawTargets(batch, objective, this.sortedEngagement, { seed, visit: epoch });
    const keys = batch.flatMap(({ id }, e) => [
      ...dropoutKeys({ seed, example: id, visit: epoch }, chosen[e].length),
    ]);
    const { value, grads } = tf.tidy(() => {
      const x = this.features(batch, chosen);
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
    this.steps++;
    if (skipped || !Number.isFinite(loss)) throw this.divergence('loss', loss);
    return loss;
  }

  private divergence(what: string, value: number): NumericError {
    return new NumericError(
      `the ${what} of the reward is ${value} at step ${this.steps}: use a smaller learning rate than ${this.options.learningRate}.`,
    );
  }

  /** Mean loss over tweets, without dropout, and the mean logit of their replies; always on the same draws. */
  async evaluate(
    batches: readonly (readonly Example[])[],
    breathe: () => Promise<void>,
  ): Promise<{ loss: number; meanLogit: number }> {
    const { objective, seed } = this.options;
    let [sum, tweets, logitSum, replies] = [0, 0, 0, 0];
    for (const batch of batches) {
      await breathe();
      const { chosen, targets } = drawTargets(batch, objective, this.sortedEngagement, { seed, visit: 0 });
      const [loss, logits] = tf.tidy(() => {
        const s = learnedLogits(this.variables, this.features(batch, chosen));
        return [lossOf(s, targets), s];
      });
      sum += loss.dataSync()[0] * batch.length;
      tweets += batch.length;
      for (const logit of logits.dataSync()) logitSum += logit;
      replies += logits.size;
      tf.dispose([loss, logits]);
    }
    if (!Number.isFinite(sum)) throw this.divergence('validation loss', sum / tweets);
    return { loss: sum / tweets, meanLogit: logitSum / replies };
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
    size += Math.min(example.rows.length, MOST_OF_A_TWEET);
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
  { onProgress, signal }: LearnedHooks,
): Promise<Example[]> {
  const usable = groups.filter((group) => isUsable(group, objective));
  if (usable.length === 0) {
    throw new DataError(
      objective === 'rank'
        ? `${part}: none of ${groups.length} tweets has two replies with different likes; expected some for the objective "rank". Bring more replies a tweet, or use the objective "regression".`
        : `${part}: no tweets; expected some. Bring more data.`,
    );
  }
  const examples: Example[] = [];
  const breathe = breather(signal);
  for (const [i, group] of usable.entries()) {
    const rows: number[] = [];
    for (const { tweet, reply } of group) {
      await breathe();
      rows.push(await store.addPair(tweet, reply.trim()));
    }
    onProgress?.({ phase: 'embedding', done: i + 1, total: usable.length, note: part });
    const likes = group.map(({ reply_likes }) => reply_likes);
    examples.push({ id: `${part} ${i}`, rows, likes, engagement: group.map(engagementOf) });
  }
  return examples;
}

/** Shifts the last bias so that a logit of this level becomes 0: the objective `rank` leaves the level open. */
function centre(parameters: Map<string, Float32Array>, level: number): void {
  const name = [...parameters.keys()].pop() as string;
  (parameters.get(name) as Float32Array)[0] -= level;
}

/**
 * Trains the network of `learned.ts` by AdamW.
 *
 * 1. Every epoch: the tweets in a new order, a step for each batch of whole tweets; of a very large one, a draw.
 * 2. After it the loss on the validation tweets; the parameters of the best epoch are kept, and training ends after
 *    `patience` epochs without a better one.
 * 3. With `rank`, the level of the scores is set: the mean logit of the training replies is 0.
 *
 * @throws ConfigError   when epochs or patience is below 1
 * @throws DataError     when a part has no tweet to learn from
 * @throws NumericError  when a loss, of training or of validation, is not finite
 */
export async function trainLearned(
  train: readonly TweetGroup[],
  validation: readonly TweetGroup[],
  embedder: Embedder,
  options: LearnedTrainingOptions,
  hooks: LearnedHooks = {},
): Promise<TrainedReward> {
  const { objective, epochs, patience, batchReplies, seed } = options;
  if (!(epochs >= 1 && patience >= 1)) {
    throw new ConfigError(`epochs is ${epochs} and patience ${patience}; expected at least 1 of each.`);
  }
  const store = new VectorStore(embedder);
  const examples = await examplesOf(train, objective, store, 'training', hooks);
  const held = batchesOf(await examplesOf(validation, objective, store, 'validation', hooks), batchReplies);
  const sorted = Float64Array.from(examples.flatMap(({ engagement }) => engagement)).sort();
  const breathe = breather(hooks.signal);
  const trainer = new RewardTrainer(store, sorted, options);
  try {
    const history: LearnedHistory = { epochs: [], best: 0, steps: 0 };
    let best = { loss: Infinity, parameters: new Map<string, Float32Array>(), meanLogit: 0 };
    for (let epoch = 1; epoch <= epochs && epoch - history.best <= patience; epoch++) {
      const order = new Random(seed, 'learned reward order', epoch).shuffle(examples);
      let [sum, done] = [0, 0];
      for (const batch of batchesOf(order, batchReplies)) {
        await breathe();
        sum += trainer.step(batch, epoch) * batch.length;
        done += batch.length;
        hooks.onProgress?.({
          phase: 'training',
          done: (epoch - 1) * examples.length + done,
          total: epochs * examples.length,
          note: `loss ${(sum / done).toFixed(4)}`,
        });
      }
      const { loss } = await trainer.evaluate(held, breathe);
      history.epochs.push({ train: sum / examples.length, validation: loss });
      if (loss < best.loss) {
        const { meanLogit } = await trainer.evaluate(batchesOf(examples, batchReplies), breathe);
        best = { loss, parameters: trainer.parameters(), meanLogit };
        history.best = epoch;
      }
    }
    if (objective === 'rank') centre(best.parameters, best.meanLogit);
    const { parameters } = best;
    return { parameters, dimensions: store.dimensions, history: { ...history, steps: trainer.steps } };
  } finally {
    trainer.dispose();
  }
}
