/** Models side by side on the same tweets: metrics with intervals, tests between every two, and what to read beside them. */
import { resampleTweets } from '../metrics/bootstrap-metric';
import type { TokenizerName } from '../metrics/tokenizers';
import type { Embedder } from '../rewards/embeddings';
import type { Reward } from '../rewards/reward';
import { ConfigError } from '../runtime/errors';
import { compareModels } from './comparisons';
import type { Comparison } from './comparisons';
import { evaluateModel } from './model-evaluation';
import type { ModelEvaluation } from './model-evaluation';
import { alignModels } from './model-replies';
import type { ModelReplies, TweetReference } from './model-replies';
import { qualityCheck } from './quality';
import type { QualitySettings } from './quality';
import type { Examiner } from './replies';
import { scoreRun } from './run-scores';
import type { RunScores } from './run-scores';

export interface EvaluateOptions {
  /** scores replies for Pass@k and USQ@k */
  reward: Reward;
  learned?: Reward;
  examiner?: Examiner;
  embedder: Embedder;
  references?: ReadonlyMap<string, TweetReference>;
  quality?: Partial<QualitySettings>;
  /** of Pass@k and USQ@k, default 1, 5, 10 */
  k?: readonly number[];
  /** of self-BLEU, distinct-n, richness and entropy; default wordpunct */
  tokenizer?: TokenizerName;
  /** of the bootstrap, default 1 */
  seed?: number;
  /** default 10,000 */
  resamples?: number;
  signal?: AbortSignal;
  onProgress?: (done: number, total: number, note: string) => void;
}

/** What `evaluation.json` holds. */
export interface Evaluation {
  format: 'grpolab-evaluation';
  version: 1;
  settings: {
    reward: string;
    learned: string | null;
    quality: string;
    k: number[];
    tokenizer: TokenizerName;
    embedding: string;
    seed: number;
    resamples: number;
    /** of the intervals */
    level: number;
    correction: string;
  };
  /** what runs on a substitute, in words */
  degraded: string[];
  models: Record<string, ModelEvaluation>;
  comparisons: Comparison[];
  /** the first tweets with the replies of each model's first run */
  samples: { tweet: string; replies: Record<string, { text: string; reward: number }[]> }[];
}

const LEVEL = 0.95;
/** Replies of a model to a tweet that a report shows. */
const SHOWN_REPLIES = 3;

/** @throws ConfigError  unless every k is from 1 to the least number of replies to a tweet */
function requireK(k: readonly number[], models: readonly ModelReplies[]): void {
  for (const { name, tweets } of models) {
    const least = tweets.reduce((a, b) => (b.generations.length < a.generations.length ? b : a));
    const n = least.generations.length;
    const bad = k.find((size) => !Number.isInteger(size) || size < 1 || size > n);
    if (bad !== undefined)
      throw new ConfigError(
        `k is ${bad}, but ${name} has ${n} replies to tweet ${least.tweet_id}; expected 1 to ${n}. Generate more replies, or ask for smaller k.`,
      );
  }
}

function samplesOf(runs: ReadonlyMap<string, readonly RunScores[]>): Evaluation['samples'] {
  const entries = [...runs].map(([name, [first]]) => [name, first.samples] as const);
  return entries[0][1].map(({ tweet }, t) => ({
    tweet,
    replies: Object.fromEntries(
      entries.map(([name, samples]) => [
        name,
        samples[t].replies
          .slice(0, SHOWN_REPLIES)
          .map((text, i) => ({ text, reward: samples[t].rewards[i] })),
      ]),
    ),
  }));
}

/** Runs by the name of their model, in the order in which the names came. */
async function scoreModels(
  models: readonly ModelReplies[],
  options: EvaluateOptions,
  k: readonly number[],
): Promise<Map<string, RunScores[]>> {
  const { reward, learned, examiner, embedder, references, tokenizer = 'wordpunct', signal } = options;
  const scored = new Map<string, RunScores[]>();
  const total = models.length;
  for (const [i, model] of models.entries()) {
    options.onProgress?.(i, total, model.name);
    const run = await scoreRun(model, {
      ...{ reward, learned, examiner, embedder, references, tokenizer, signal, k },
      quality: qualityCheck(options.quality),
    });
    scored.set(model.name, [...(scored.get(model.name) ?? []), run]);
  }
  options.onProgress?.(total, total, 'statistics');
  return scored;
}

/**
 * Evaluates models on the same tweets. Runs of one name with different seeds are one model: its metrics are means over
 * seeds, with the spread beside them. The tweet is the unit of all intervals and tests.
 *
 * @throws DataError     when the models are not on the same tweets
 * @throws ConfigError   when a k is larger than the number of replies
 * @throws NumericError  for a score that is not finite
 */
export async function evaluateModels(
  given: readonly ModelReplies[],
  options: EvaluateOptions,
): Promise<Evaluation> {
  const { reward, learned, embedder, seed = 1, resamples = 10_000, tokenizer = 'wordpunct' } = options;
  const models = alignModels(given);
  const k = [...new Set(options.k ?? [1, 5, 10])].sort((a, b) => a - b);
  requireK(k, models);
  const scored = await scoreModels(models, options, k);
  const { tweets } = models[0];
  const drawn = resampleTweets(tweets.length, { seed, resamples, level: LEVEL });
  const engagement = tweets.map(({ tweet_id: id }) => options.references?.get(id)?.engagement ?? null);
  const evaluations: Record<string, ModelEvaluation> = {};
  for (const [name, runs] of scored) {
    options.signal?.throwIfAborted();
    await new Promise((resolve) => setImmediate(resolve));
    evaluations[name] = evaluateModel(runs, k, engagement, drawn);
  }
  return {
    ...{ format: 'grpolab-evaluation', version: 1 },
    settings: {
      ...{ reward: reward.name, learned: learned?.name ?? null, quality: qualityCheck(options.quality).name },
      ...{ k, tokenizer, embedding: embedder.name, seed, resamples, level: LEVEL },
      correction: 'Holm, over all comparisons of this evaluation',
    },
    degraded: [...new Set([...reward.degraded, ...(learned?.degraded ?? [])])],
    models: evaluations,
    comparisons: compareModels(scored, seed),
    samples: samplesOf(scored),
  };
}
