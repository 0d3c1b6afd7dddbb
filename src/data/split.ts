import { percentiles } from '../metrics/statistics';
import { ConfigError, DataError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { TweetRecord } from './records';
import { shown } from './records';
import type { SplitIndex } from './split-index';
import { indexRecords, mediansByTweet, rowsByTweet } from './split-index';
import type { PartDistributions, SplitStatistics } from './split-statistics';
import {
  describePart,
  distributionsOf,
  splitNotices,
  tweetDistributionsOf,
  tweetOverlap,
  validateSplit,
} from './split-statistics';

/** The shares of the parts, and the seed that draws them. */
export interface SplitOptions {
  /** share of the training replies that goes to phase 1, in (0, 1); default 0.5 */
  ratio?: number;
  /** default 42 */
  seed?: number;
  /** share of the replies set aside before that as a test set, in [0, 1); default 0 */
  testFraction?: number;
}

export { indexRecords };
export type { SplitIndex };

/** The parts of a split: supervised fine-tuning, GRPO, held out. */
export type Part = 'phase1' | 'phase2' | 'test';

/** What a quartile of engagement holds. */
export interface StratumCounts {
  tweets: number;
  replies: number;
  /** replies by part */
  parts: Record<Part, number>;
}

/** Which part each row goes to, and the strata of engagement that it was drawn from. */
export interface Assignment {
  /** the part of each row */
  parts: Part[];
  /** the 25, 50 and 75 % points of the engagement of all replies */
  boundaries: number[];
  /** one per quartile, lowest engagement first */
  strata: StratumCounts[];
}

/** A split, described without its records. */
export interface SplitDescription {
  /** what `phase_split_statistics.json` holds; its `validation.passed` says whether the phases are alike */
  statistics: SplitStatistics;
  /** the values behind it, for a histogram and a box plot */
  distributions: Record<Part, PartDistributions>;
}

export interface PhaseSplit<R> extends SplitDescription {
  /** for supervised fine-tuning, in input order, as the others */
  phase1: R[];
  /** for GRPO */
  phase2: R[];
  test: R[];
}

/** Relative: values that differ by less, about four units in the last place, are one value, rounded in two ways. */
const ROUNDING = 4 * Number.EPSILON;

/**
 * The quartile of a value: the number of boundaries strictly below it. Values and boundaries are means of ratios, such as
 * 1/3: one that is below by rounding alone does not count.
 */
export function quartileLabel(value: number, boundaries: readonly number[]): number {
  return boundaries.filter((boundary) => value - boundary > ROUNDING * Math.abs(value)).length;
}

/** How many of n a share is: floor(n share), where 0.29 of 100 are 29 although the product of doubles is a little less. */
export function countOfShare(n: number, share: number): number {
  return Math.floor(n * share * (1 + ROUNDING));
}

/** The options with their defaults. @throws ConfigError  when a share is out of range, or the seed */
export function splitOptions({
  ratio = 0.5,
  seed = 42,
  testFraction = 0,
}: SplitOptions): Required<SplitOptions> {
  if (!(typeof ratio === 'number' && ratio > 0 && ratio < 1)) {
    throw new ConfigError(`ratio is ${shown(ratio)}; expected a share above 0 and below 1, such as 0.5.`);
  }
  if (!(typeof testFraction === 'number' && testFraction >= 0 && testFraction < 1)) {
    throw new ConfigError(
      `testFraction is ${shown(testFraction)}; expected a share from 0 and below 1, such as 0.1.`,
    );
  }
  if (!(Number.isSafeInteger(seed) && seed >= 0)) {
    throw new ConfigError(`seed is ${shown(seed)}; expected an integer >= 0, such as 42.`);
  }
  return { ratio, seed, testFraction };
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
  const tested = fill(sizes, countOfShare(total, testFraction));
  // A tweet of the test part has no replies left to give to phase 1.
  const left = sizes.reduce((sum, size, i) => sum + (tested[i] ? 0 : size), 0);
  const candidates = sizes.map((size, i) => (tested[i] ? Infinity : size));
  const chosen = fill(candidates, countOfShare(left, ratio));
  return sizes.map((_, i) => (tested[i] ? 'test' : chosen[i] ? 'phase1' : 'phase2'));
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
 *
 * @throws ConfigError  when a share is out of range, or the seed
 * @throws DataError  when there is no row
 */
export function assignParts(index: SplitIndex, options: SplitOptions = {}): Assignment {
  const shares = splitOptions(options);
  const { engagement } = index;
  if (engagement.length === 0) throw new DataError('no records to split; expected at least 2 tweets.');
  const boundaries = percentiles(engagement, [25, 50, 75]);
  const byTweet = rowsByTweet(index);
  const { rows, starts } = byTweet;
  const tweetsOf: number[][] = [[], [], [], []];
  mediansByTweet(engagement, byTweet).forEach((value, t) =>
    tweetsOf[quartileLabel(value, boundaries)].push(t),
  );
  const parts = new Array<Part>(engagement.length);
  const strata = tweetsOf.map((tweets, label): StratumCounts => {
    const shuffled = new Random(shares.seed, 'split', label).shuffle(tweets);
    const sizes = shuffled.map((t) => starts[t + 1] - starts[t]);
    const counts = { phase1: 0, phase2: 0, test: 0 };
    partsOfStratum(sizes, shares).forEach((part, position) => {
      const t = shuffled[position];
      counts[part] += sizes[position];
      for (let i = starts[t]; i < starts[t + 1]; i++) parts[rows[i]] = part;
    });
    return { tweets: tweets.length, replies: sizes.reduce((sum, size) => sum + size, 0), parts: counts };
  });
  return { parts, boundaries, strata };
}

function requireParts(
  assignment: Assignment,
  index: SplitIndex,
  { ratio, testFraction }: Required<SplitOptions>,
): void {
  const found = new Set(assignment.parts);
  const input = `${index.engagement.length} replies to ${index.tweets} tweets`;
  for (const part of ['phase1', 'phase2'] as const) {
    if (found.has(part)) continue;
    // A stratum's only tweet goes to phase 2, whatever the ratio.
    const isDivisible = assignment.strata.some(({ tweets }) => tweets >= 2);
    const shares = testFraction > 0 ? 'the ratio or the test fraction' : 'the ratio';
    const remedy = isDivisible ? `, or change ${shares}` : ': no quartile has two, so no ratio would do';
    throw new DataError(`${part} would be empty: ${input}, ratio ${ratio}. Bring more tweets${remedy}.`);
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
  options: SplitOptions = {},
): SplitDescription {
  const { ratio, seed, testFraction } = splitOptions(options);
  requireParts(assignment, index, { ratio, seed, testFraction });
  const valuesOf = (part: Part) => distributionsOf(part, index, assignment.parts);
  const distributions = { phase1: valuesOf('phase1'), phase2: valuesOf('phase2'), test: valuesOf('test') };
  const describe = (part: Part) => describePart(part, index, assignment, distributions[part]);
  const overlap = tweetOverlap(index, assignment.parts);
  const byTweet = tweetDistributionsOf(['phase1', 'phase2'], index, assignment.parts);
  const [phase1, phase2] = (['phase1', 'phase2'] as const).map((part, i) => ({
    replies: distributions[part],
    tweets: byTweet[i],
  }));
  const statistics = {
    ratio,
    seed,
    test_fraction: testFraction,
    quartile_boundaries: assignment.boundaries,
    strata: assignment.strata,
    phase1: describe('phase1'),
    phase2: describe('phase2'),
    ...(testFraction > 0 && { test: describe('test') }),
    validation: validateSplit(phase1, phase2, assignment.strata, overlap),
    notices: splitNotices(index),
  };
  return { statistics, distributions };
}

/**
 * Splits records into the data of two training phases, SFT and GRPO, which share no tweet, and optionally a test set;
 * `assignParts` says how. Every record lands in exactly one part; parts keep the order of the input. The same records,
 * options and seed give the same parts, those of `splitFile`. It does not throw when the validation fails: see
 * `statistics.validation`.
 *
 * @throws ConfigError  when a share is out of range, or the seed
 * @throws DataError  when there are no records, too few tweets to fill every part, or likes that are not numbers
 */
export function splitPhases<R extends TweetRecord>(
  records: readonly R[],
  options: SplitOptions = {},
): PhaseSplit<R> {
  const index = indexRecords(records);
  const assignment = assignParts(index, options);
  const description = describeSplit(index, assignment, options);
  const rowsOf = (part: Part) => records.filter((_, row) => assignment.parts[row] === part);
  return { phase1: rowsOf('phase1'), phase2: rowsOf('phase2'), test: rowsOf('test'), ...description };
}
