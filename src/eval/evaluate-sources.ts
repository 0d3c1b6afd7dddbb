/** From models and records to an evaluation: what the command line and a notebook do alike. */
import { engagementOf, membership } from '../data/records';
import type { Tweet, TweetRecord } from '../data/records';
import { isWorldText, worldQuality } from '../data/world-law';
import { ConfigError } from '../runtime/errors';
import type { Shot } from './answerers';
import { referencesOf } from './model-replies';
import type { ModelReplies } from './model-replies';
import { openModelReplies, repliesFile } from './model-sources';
import type { ModelSource, OpenRepliesOptions } from './model-sources';
import { evaluateModels } from './suite';
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

export interface OpenAllOptions extends Omit<OpenRepliesOptions, 'examples' | 'references' | 'onProgress'> {
  /** records of which few-shot prompts show the best */
  examples?: readonly TweetRecord[];
  /** only so many tweets of the test data */
  maxTweets?: number;
  /** Told of each run's tweets. @param label  the model's name, with the seed where there is one */
  onProgress?: (label: string, done: number, total: number, written: number) => void;
}

/**
 * Every run's replies to the tweets of the test data, one run after the other.
 * @throws ConfigError  when a run needs tweets and there are none, or two would write to one file
 * @throws as `openModelReplies`
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
  const models: ModelReplies[] = [];
  for (const source of sources) {
    opening.signal?.throwIfAborted();
    const label = `${source.name}${source.seed === undefined ? '' : `, seed ${source.seed}`}`;
    const replies = await openModelReplies(source, tweets, {
      ...{ ...opening, examples: shots, references },
      onProgress: (...counts) => onProgress?.(label, ...counts),
    });
    models.push(replies);
  }
  return models;
}

/** @throws ConfigError  when a check asks for the world's truth of tweets that are not of the world */
export function requireTruth(test: readonly TweetRecord[], quality?: EvaluateOptions['quality']): void {
  if ((quality?.min_world_quality ?? 0) === 0 || test.every(({ tweet }) => isWorldText(tweet))) return;
  throw new ConfigError(
    'min_world_quality is given, but the tweets are not of the embedded world; expected its tweets. Ask for a least reward instead.',
  );
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
