import { median, percentiles } from '../metrics/statistics';
import { ConfigError, DataError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { TweetRecord } from './records';
import { engagementOf, replyLengthOf } from './records';
import type { PartDistributions, SplitStatistics } from './split-statistics';
import { describePart, distributionsOf, splitNotices, validateSplit } from './split-statistics';

export interface SplitOptions {
  /** share of the training replies that goes to phase 1, in (0, 1); default 0.5 */
  ratio?: number;
  /** default 42 */
  seed?: number;
  /** share of the replies set aside before that as a test set, in [0, 1); default 0 */
  testFraction?: number;
}

/** The parts of a split: supervised fine-tuning, GRPO, held out. */
export type Part = 'phase1' | 'phase2' | 'test';

/** All that the splitter must know of the replies, row by row: small enough to keep for a million of them. */
export interface SplitIndex {
  /** number of the reply's tweet, 0 .. tweets - 1, in order of first appearance */
  tweet: ArrayLike<number>;
  engagement: ArrayLike<number>;
  replyLength: ArrayLike<number>;
}

export interface StratumCounts {
  tweets: number;
  replies: number;
  /** replies by part */
  parts: Record<Part, number>;
}

export interface Assignment {
  /** the part of each row */
  parts: Part[];
  /** the 25, 50 and 75 % points of the engagement of all replies */
  boundaries: number[];
  /** one per quartile, lowest engagement first */
  strata: StratumCounts[];
}

export interface PhaseSplit<R> {
  /** for supervised fine-tuning, in input order, as the others */
  phase1: R[];
  /** for GRPO */
  phase2: R[];
  test: R[];
  /** what `phase_split_statistics.json` holds; its `validation.passed` says whether the phases are alike */
  statistics: SplitStatistics;
  /** the values behind it, for a histogram and a box plot */
  distributions: Record<Part, PartDistributions>;
}

/** The quartile of a value: the number of boundaries strictly below it. */
export function quartileLabel(value: number, boundaries: readonly number[]): number {
  return boundaries.filter((boundary) => boundary < value).length;
}

function requireShares({ ratio, testFraction }: Required<SplitOptions>): void {
  if (!(ratio > 0 && ratio < 1)) {
    throw new ConfigError(`ratio is ${ratio}; expected a share above 0 and below 1, such as 0.5.`);
  }
  if (!(testFraction >= 0 && testFraction < 1)) {
    throw new ConfigError(
      `testFraction is ${testFraction}; expected a share from 0 and below 1, such as 0.1.`,
    );
  }
}

/** Takes tweets in order while their replies fit into `target`, passing over those that do not: which are taken. */
function fill(sizes: readonly number[], target: number): boolean[] {
  let room = target;
  return sizes.map((size) => {
    if (size > room) return false;
    room -= size;
    return true;
  });
}

/** The parts of one stratum's tweets, in their shuffled order. */
function partsOfStratum(sizes: readonly number[], { ratio, testFraction }: Required<SplitOptions>): Part[] {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const tested = fill(sizes, Math.floor(total * testFraction));
  // A tweet of the test part has no replies left to give to phase 1.
  const left = sizes.reduce((sum, size, i) => sum + (tested[i] ? 0 : size), 0);
  const candidates = sizes.map((size, i) => (tested[i] ? Infinity : size));
  const chosen = fill(candidates, Math.floor(left * ratio));
  return sizes.map((_, i) => (tested[i] ? 'test' : chosen[i] ? 'phase1' : 'phase2'));
}

function rowsByTweet(tweet: ArrayLike<number>): number[][] {
  const rows: number[][] = [];
  for (let row = 0; row < tweet.length; row++) (rows[tweet[row]] ??= []).push(row);
  return rows;
}

/**
 * Assigns every reply to a part, stratified by engagement, all replies to a tweet together.
 *
 * 1. Boundaries: the quartiles of the engagement of all replies.
 * 2. A tweet's stratum: the quartile of its replies' median engagement.
 * 3. In each stratum the tweets are shuffled. Of its n replies up to floor(n testFraction) are the test part, of the m
 *    others up to floor(m ratio) phase 1, the rest phase 2. Tweets are taken in order, one whose replies do not fit
 *    any more is passed over; so a share is missed by less than one tweet, and not at all with one reply a tweet.
 *
 * Memory is that of the index: no record is needed.
 */
export function assignParts(index: SplitIndex, options: Required<SplitOptions>): Assignment {
  requireShares(options);
  const { seed } = options;
  const { tweet, engagement } = index;
  if (engagement.length === 0) throw new DataError('no records to split; expected at least 2 tweets.');
  const boundaries = percentiles(engagement, [25, 50, 75]);
  const rows = rowsByTweet(tweet);
  const tweetsOf: number[][] = [[], [], [], []];
  rows.forEach((ofTweet, number) => {
    const label = quartileLabel(median(ofTweet.map((row) => engagement[row])), boundaries);
    tweetsOf[label].push(number);
  });
  const parts = new Array<Part>(engagement.length);
  const strata = tweetsOf.map((tweets, label): StratumCounts => {
    const shuffled = new Random(seed, 'split', label).shuffle(tweets);
    const sizes = shuffled.map((number) => rows[number].length);
    const counts = { phase1: 0, phase2: 0, test: 0 };
    partsOfStratum(sizes, options).forEach((part, position) => {
      counts[part] += sizes[position];
      for (const row of rows[shuffled[position]]) parts[row] = part;
    });
    return { tweets: tweets.length, replies: sizes.reduce((sum, size) => sum + size, 0), parts: counts };
  });
  return { parts, boundaries, strata };
}

/** The index of records that are in memory. */
export function indexRecords(
  records: readonly Pick<TweetRecord, 'tweet_id' | 'reply' | 'reply_likes' | 'tweet_likes'>[],
): SplitIndex {
  const numbers = new Map<string, number>();
  const tweet = records.map(({ tweet_id }) => {
    const number = numbers.get(tweet_id) ?? numbers.size;
    numbers.set(tweet_id, number);
    return number;
  });
  return { tweet, engagement: records.map(engagementOf), replyLength: records.map(replyLengthOf) };
}

function requireParts(
  assignment: Assignment,
  index: SplitIndex,
  { ratio, testFraction }: Required<SplitOptions>,
): void {
  const found = new Set(assignment.parts);
  const input = `${index.engagement.length} replies to ${assignment.strata.reduce((n, s) => n + s.tweets, 0)} tweets`;
  for (const part of ['phase1', 'phase2'] as const) {
    if (found.has(part)) continue;
    throw new DataError(
      `${part} would be empty: ${input}, ratio ${ratio}. Bring more tweets, or change the ratio.`,
    );
  }
  if (testFraction > 0 && !found.has('test')) {
    throw new DataError(
      `test would be empty: ${input}, testFraction ${testFraction}. Bring more tweets, or raise it.`,
    );
  }
}

/**
 * Counts, boundaries, summaries and the validation of an assignment, from the index alone.
 *
 * @throws DataError  when a part that was asked for is empty
 */
export function describeSplit(
  index: SplitIndex,
  assignment: Assignment,
  options: Required<SplitOptions>,
): SplitStatistics {
  requireParts(assignment, index, options);
  const values = (part: Part) => distributionsOf(part, index, assignment.parts);
  return {
    ratio: options.ratio,
    seed: options.seed,
    test_fraction: options.testFraction,
    quartile_boundaries: assignment.boundaries,
    strata: assignment.strata,
    phase1: describePart('phase1', index, assignment),
    phase2: describePart('phase2', index, assignment),
    ...(options.testFraction > 0 && { test: describePart('test', index, assignment) }),
    validation: validateSplit(values('phase1'), values('phase2'), assignment.strata),
    notices: splitNotices(index),
  };
}

/**
 * Splits records into the data of two training phases, SFT and GRPO, which share no tweet, and optionally a test set;
 * `assignParts` says how. Every record lands in exactly one part; parts keep the order of the input. The same records,
 * options and seed give the same parts. It does not throw when the validation fails: see `statistics.validation`.
 *
 * @throws ConfigError  when a share is out of range
 * @throws DataError  when there are no records, or too few tweets to fill every part
 */
export function splitPhases<R extends TweetRecord>(
  records: readonly R[],
  { ratio = 0.5, seed = 42, testFraction = 0 }: SplitOptions = {},
): PhaseSplit<R> {
  const options = { ratio, seed, testFraction };
  const index = indexRecords(records);
  const assignment = assignParts(index, options);
  const statistics = describeSplit(index, assignment, options);
  const rowsOf = (part: Part) => records.filter((_, row) => assignment.parts[row] === part);
  const valuesOf = (part: Part) => distributionsOf(part, index, assignment.parts);
  return {
    phase1: rowsOf('phase1'),
    phase2: rowsOf('phase2'),
    test: rowsOf('test'),
    statistics,
    distributions: { phase1: valuesOf('phase1'), phase2: valuesOf('phase2'), test: valuesOf('test') },
  };
}
