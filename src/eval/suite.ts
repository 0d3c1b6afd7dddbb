/** Models side by side on the same tweets: metrics with intervals, tests between every two, and what to read beside them. */
import { resampleTweets } from '../metrics/bootstrap-metric';
import type { TokenizerName } from '../metrics/tokenizers';
import type { Embedder } from '../rewards/embeddings';
import type { Reward } from '../rewards/reward';
import { ConfigError } from '../runtime/errors';
import { compareModels } from './comparisons';
import type { Comparison } from './comparisons';
import { judgeModels } from './judge-models';
import type { Judge, JudgeReport } from './judge-models';
import { evaluateModel } from './model-evaluation';
import type { ModelEvaluation } from './model-evaluation';
import { alignModels } from './model-replies';
import type { ModelReplies, TweetReference } from './model-replies';
import { qualityCheck } from './quality';
import type { QualityCheck, QualitySettings } from './quality';
import type { Examiner } from './replies';
import { scoreRun } from './run-scores';
import type { RunScores } from './run-scores';

/** What the models are measured with. */
export interface EvaluateOptions {
  /** scores replies for Pass@k and USQ@k */
  reward: Reward;
  learned?: Reward;
  examiner?: Examiner;
  embedder: Embedder;
  references?: ReadonlyMap<string, TweetReference>;
  /** the check of Pass@k, DER@k and the collapse point */
  quality?: Partial<QualitySettings>;
  /** further checks, whose Pass@k stands beside */
  otherQuality?: readonly Partial<QualitySettings>[];
  /** of Pass@k and USQ@k, default 1, 5, 10 */
  k?: readonly number[];
  /** asked which of two models' replies is better, for every two models */
  judge?: Judge;
  /** Given the evaluation before the judge is asked: what it costs need not be lost with an answer that does not come. */
  beforeJudge?: (evaluation: Evaluation) => Promise<void>;
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
  version: 2;
  settings: {
    reward: string;
    learned: string | null;
    quality: string;
    /** names of the further checks */
    other_quality: string[];
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
  /** null where no judge was asked */
  judge: JudgeReport | null;
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

/** The check of Pass@k and the further ones, each once. @throws ConfigError when one asks for a truth that is not known */
function checksOf({ quality, otherQuality = [], examiner }: EvaluateOptions): QualityCheck[] {
  const [first, ...others] = [quality, ...otherQuality].map((settings) => qualityCheck(settings));
  const byName = new Map(others.map((check) => [check.name, check]));
  byName.delete(first.name);
  const checks = [first, ...byName.values()];
  if (checks.some(({ needsTruth }) => needsTruth)) requireTruth(examiner !== undefined);
  return checks;
}

/** @throws ConfigError  when a check asks for a truth that is not known */
export function requireTruth(isKnown: boolean): void {
  if (isKnown) return;
  throw new ConfigError(
    'min_world_quality is given, but the tweets are not of the embedded world; expected its tweets. Ask for a least reward instead.',
  );
}

/** Runs by the name of their model, in the order in which the names came. */
async function scoreModels(
  models: readonly ModelReplies[],
  options: EvaluateOptions,
  k: readonly number[],
  quality: readonly QualityCheck[],
): Promise<Map<string, RunScores[]>> {
  const { reward, learned, examiner, embedder, references, tokenizer = 'wordpunct', signal } = options;
  const scored = new Map<string, RunScores[]>();
  const total = models.length;
  for (const [i, model] of models.entries()) {
    options.onProgress?.(i, total, model.name);
    const run = await scoreRun(model, {
      ...{ reward, learned, examiner, embedder, references, tokenizer, signal, k, quality },
    });
    scored.set(model.name, [...(scored.get(model.name) ?? []), run]);
  }
  options.onProgress?.(total, total, 'statistics');
  return scored;
}

/** @throws ConfigError  when there is nothing to judge, before anything is scored */
function requirePairs(models: readonly ModelReplies[]): void {
  const names = new Set(models.map(({ name }) => name)).size;
  const tweets = models[0].tweets.length;
  if (names < 2) throw new ConfigError('a judge compares models, and there is one; expected at least two.');
  if (tweets < 2)
    throw new ConfigError('a judge was asked about one tweet; expected at least two, for the interval.');
}

function judgeAll(
  models: readonly ModelReplies[],
  judge: Judge,
  options: { seed: number; resamples: number },
): Promise<JudgeReport> {
  const names = [...new Set(models.map(({ name }) => name))];
  return judgeModels(
    new Map(names.map((name) => [name, models.filter((model) => model.name === name)])),
    judge,
    options,
  );
}

/**
 * Evaluates models on the same tweets. Runs of one name with different seeds are one model: its metrics are means over
 * seeds, with the spread beside them. The tweet is the unit of all intervals and tests.
 *
 * @throws DataError     when the models are not on the same tweets
 * @throws ConfigError   when a k is larger than the number of replies
 * @throws NumericError  for a score that is not finite
 * @throws JudgeError    when the judge does not answer
 */
export async function evaluateModels(
  given: readonly ModelReplies[],
  options: EvaluateOptions,
): Promise<Evaluation> {
  const { reward, learned, embedder, seed = 1, resamples = 10_000, tokenizer = 'wordpunct' } = options;
  const models = alignModels(given);
  const k = [...new Set(options.k ?? [1, 5, 10])].sort((a, b) => a - b);
  requireK(k, models);
  if (options.judge !== undefined) requirePairs(models);
  const checks = checksOf(options);
  const [check, ...others] = checks.map(({ name }) => name);
  const scored = await scoreModels(models, options, k, checks);
  const { tweets } = models[0];
  const drawn = resampleTweets(tweets.length, { seed, resamples, level: LEVEL });
  const engagement = tweets.map(({ tweet_id: id }) => options.references?.get(id)?.engagement ?? null);
  const evaluations: Record<string, ModelEvaluation> = {};
  for (const [name, runs] of scored) {
    options.signal?.throwIfAborted();
    await new Promise((resolve) => setImmediate(resolve));
    evaluations[name] = evaluateModel(runs, k, engagement, drawn);
  }
  const evaluation: Evaluation = {
    ...{ format: 'grpolab-evaluation', version: 2 },
    settings: {
      ...{ reward: reward.name, learned: learned?.name ?? null, quality: check, other_quality: others },
      ...{ k, tokenizer, embedding: embedder.name, seed, resamples, level: LEVEL },
      correction: 'Holm, over all comparisons of this evaluation',
    },
    degraded: [...new Set([...reward.degraded, ...(learned?.degraded ?? [])])],
    models: evaluations,
    comparisons: compareModels(scored, k, drawn),
    judge: null,
    samples: samplesOf(scored),
  };
  if (options.judge === undefined) return evaluation;
  await options.beforeJudge?.(evaluation);
  return { ...evaluation, judge: await judgeAll(models, options.judge, { seed, resamples }) };
}
