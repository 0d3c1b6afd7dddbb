/** From models and records to an evaluation: what the command line and a notebook do alike. */
import { engagementOf, membership } from '../data/records';
import type { Tweet, TweetRecord } from '../data/records';
import { isWorldText, worldQuality } from '../data/world-law';
import { ConfigError } from '../runtime/errors';
import type { Shot } from './answerers';
import { referencesOf } from './model-replies';
import type { ModelReplies } from './model-replies';
import { prepareReplies, repliesFile } from './model-sources';
import type { ModelSource, OpenRepliesOptions, PreparedSource } from './model-sources';
import { qualityCheck } from './quality';
import { evaluateModels, requireTruth } from './suite';
import type { EvaluateOptions, Evaluation } from './suite';
import type { TweetToAnswer } from './write-replies';

/** The tweets of records, the first text of each id. @param limit  at most so many */
export function tweetsOf(records: readonly TweetRecord[], limit = Infinity): TweetToAnswer[] {
  const tweets = new Map<string, TweetToAnswer>();
  for (const { tweet_id, tweet } of records)
    if (!tweets.has(tweet_id)) tweets.set(tweet_id, { tweet_id, tweet });
  return [...tweets.values()].slice(0, limit);
}

/** Replies that did well, the best first, one a tweet and none to a tweet of the test: what a few-shot prompt shows. */
export function bestReplies(records: readonly TweetRecord[], tests: readonly Tweet[]): Shot[] {
  const seen = new Set<string>();
  const isTested = membership(tests);
  return records
    .filter((record) => !isTested(record))
    .sort((a, b) => engagementOf(b) - engagementOf(a))
    .filter(({ tweet_id: id }) => !seen.has(id) && seen.add(id))
    .map(({ tweet, reply }) => ({ tweet, reply }));
}

/** @throws ConfigError  when the replies of two runs would be written to one file, before any are */
export function requireOwnFiles(sources: readonly ModelSource[]): void {
  const byFile = new Map<string, ModelSource>();
  for (const source of sources.filter((one) => !('replies' in one))) {
    const file = repliesFile('', source);
    const other = byFile.get(file);
    if (other !== undefined && other.name === source.name)
      throw new ConfigError(`two models are called ${source.name}; expected different names, or seeds.`);
    if (other !== undefined)
      throw new ConfigError(
        `the replies of ${other.name} and of ${source.name} would both be written to ${file}; expected names that differ in letters or digits.`,
      );
    byFile.set(file, source);
  }
}

/** How the replies of all models are read or written; see `OpenRepliesOptions`. */
export interface OpenAllOptions extends Omit<OpenRepliesOptions, 'examples' | 'references' | 'onProgress'> {
  /** records of which few-shot prompts show the best */
  examples?: readonly TweetRecord[];
  /** only so many tweets of the test data */
  maxTweets?: number;
  /** Told of each run's tweets. @param label  the model's name, with the seed where there is one */
  onProgress?: (label: string, done: number, total: number, written: number) => void;
}

/**
 * Every run's replies to the tweets of the test data, one run after the other; first all are made ready, so that the last
 * one is not refused after the first has been written.
 * @throws ConfigError  when a run needs tweets and there are none, or two would write to one file
 * @throws as `prepareReplies` and `openModelReplies`
 */
export async function openAllReplies(
  sources: readonly ModelSource[],
  test: readonly TweetRecord[],
  options: OpenAllOptions,
): Promise<ModelReplies[]> {
  const { examples = [], maxTweets, onProgress, ...opening } = options;
  requireOwnFiles(sources);
  const tweets = tweetsOf(test, maxTweets);
  const writer = sources.find((source) => !('replies' in source));
  if (writer !== undefined && tweets.length === 0)
    throw new ConfigError(`${writer.name} needs tweets to reply to; expected test data with some.`);
  const shots = bestReplies(examples, tweets);
  const references = test.length === 0 ? undefined : referencesOf(test);
  const prepared: PreparedSource[] = [];
  for (const source of sources) {
    const label = `${source.name}${source.seed === undefined ? '' : `, seed ${source.seed}`}`;
    const own = await prepareReplies(source, tweets, {
      ...{ ...opening, examples: shots, references },
      onProgress: (...counts) => onProgress?.(label, ...counts),
    });
    prepared.push(own);
  }
  const models: ModelReplies[] = [];
  for (const { open } of prepared) {
    opening.signal?.throwIfAborted();
    models.push(await open());
  }
  return models;
}

/** What replies of an evaluation are drawn by, where nothing else is said. */
export const EVALUATION_DEFAULTS = { n: 10, temperature: 0.7, topP: 0.9, maxNewTokens: 100, seed: 42 };

/**
 * The check of Pass@k that asks for a least reward, for a least truth, or for both, and beside it the default one.
 * @param minReward        default 0.6, and none where a truth is asked for
 * @param minWorldQuality  default none; of several the first is the check, the others stand beside it
 * @throws ConfigError  when a value is out of range, or a truth is asked for of tweets that are not of the embedded world
 */
export function checksFor(
  test: readonly TweetRecord[],
  { minReward, minWorldQuality = [] }: { minReward?: number; minWorldQuality?: number | readonly number[] },
): Pick<EvaluateOptions, 'quality' | 'otherQuality'> {
  // 0 asks for none.
  const least = [minWorldQuality].flat().filter((truth) => truth !== 0);
  const checks =
    least.length === 0
      ? [minReward === undefined ? {} : { min_reward: minReward }]
      : least.map((truth) => ({ min_reward: minReward ?? 0, min_world_quality: truth }));
  checks.forEach(qualityCheck);
  if (least.length > 0) requireTruth(test.every(({ tweet }) => isWorldText(tweet)));
  const [quality, ...others] = checks;
  return { quality, otherQuality: [...others, {}] };
}

/**
 * `evaluateModels` with the test data's replies as references and, where all tweets are of the embedded world, its law as
 * the truth.
 */
export function evaluateOn(
  test: readonly TweetRecord[],
  models: readonly ModelReplies[],
  options: Omit<EvaluateOptions, 'references' | 'examiner'>,
): Promise<Evaluation> {
  const isWorld = models.length > 0 && models[0].tweets.every(({ tweet }) => isWorldText(tweet));
  return evaluateModels(models, {
    ...options,
    references: test.length === 0 ? undefined : referencesOf(test),
    examiner: isWorld ? (tweet, reply) => worldQuality(tweet, reply).total : undefined,
  });
}
