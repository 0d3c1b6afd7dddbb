import { kolmogorovSmirnov } from '../metrics/kolmogorov-smirnov';
import { mean, percentiles, sampleStd } from '../metrics/statistics';
import type { Assignment, Part } from './split';
import type { SplitIndex } from './split-index';

/** Values of one part, row by row: what a histogram and a box plot are drawn from. */
export interface PartDistributions {
  engagement: Float64Array;
  /** code points */
  reply_length: Uint32Array;
}

export interface Summary {
  mean: number;
  /** sample standard deviation; null for a single value, which has none */
  std: number | null;
  median: number;
  min: number;
  max: number;
}

export interface PartStatistics {
  /** replies */
  count: number;
  tweets: number;
  engagement: Summary;
  reply_length: Summary;
  /** share of the replies whose tweet is in each stratum, lowest engagement first */
  quartile_proportions: number[];
}

export interface TwoSampleTest {
  ks_statistic: number;
  p_value: number;
}

/** Whether phase 1 and phase 2 look like samples of the same data. */
export interface SplitValidation {
  passed: boolean;
  /** largest difference of a stratum's share between the phases, and what it may be */
  max_proportion_difference: number;
  tolerance: number;
  /** tweets with replies in more than one part, the test part included; must be 0 */
  tweet_overlap: number;
  engagement: TwoSampleTest;
  reply_length: TwoSampleTest;
  /** why it did not pass */
  failures: string[];
  /** what is worth a look although it passed */
  warnings: string[];
}

/** What `phase_split_statistics.json` holds. */
export interface SplitStatistics {
  ratio: number;
  seed: number;
  test_fraction: number;
  /** 25, 50 and 75 % points of the engagement of all replies */
  quartile_boundaries: number[];
  strata: Assignment['strata'];
  phase1: PartStatistics;
  phase2: PartStatistics;
  /** only when a test set was asked for */
  test?: PartStatistics;
  validation: SplitValidation;
  notices: string[];
}

/** Below it a two-sample test fails the split, or warns. */
const FAILING_P = 0.001;
const WARNING_P = 0.05;

function proportionsOf(part: Part, strata: Assignment['strata']): number[] {
  const total = strata.reduce((sum, { parts }) => sum + parts[part], 0);
  return strata.map(({ parts }) => parts[part] / total);
}

function summarise(values: ArrayLike<number>): Summary {
  const [min, median, max] = percentiles(values, [0, 50, 100]);
  return { mean: mean(values), std: values.length > 1 ? sampleStd(values) : null, median, min, max };
}

/** The values of one part, taken from the index. */
export function distributionsOf(part: Part, index: SplitIndex, parts: readonly Part[]): PartDistributions {
  const count = parts.reduce((sum, assigned) => sum + Number(assigned === part), 0);
  const result = { engagement: new Float64Array(count), reply_length: new Uint32Array(count) };
  let position = 0;
  parts.forEach((assigned, row) => {
    if (assigned !== part) return;
    result.engagement[position] = index.engagement[row];
    result.reply_length[position++] = index.replyLength[row];
  });
  return result;
}

/** How many tweets have replies in more than one part. */
export function tweetOverlap({ tweet, tweets }: SplitIndex, parts: readonly Part[]): number {
  const partOf = new Array<Part | undefined>(tweets);
  const parted = new Uint8Array(tweets);
  parts.forEach((part, row) => {
    partOf[tweet[row]] ??= part;
    if (partOf[tweet[row]] !== part) parted[tweet[row]] = 1;
  });
  return parted.reduce((sum, each) => sum + each, 0);
}

/** Counts, summaries and quartile shares of a part that is not empty. */
export function describePart(
  part: Part,
  index: SplitIndex,
  { parts, strata }: Assignment,
  { engagement, reply_length }: PartDistributions,
): PartStatistics {
  const isThere = new Uint8Array(index.tweets);
  parts.forEach((assigned, row) => {
    if (assigned === part) isThere[index.tweet[row]] = 1;
  });
  return {
    count: engagement.length,
    tweets: isThere.reduce((sum, each) => sum + each, 0),
    engagement: summarise(engagement),
    reply_length: summarise(reply_length),
    quartile_proportions: proportionsOf(part, strata),
  };
}

/**
 * Compares the phases:
 * - each stratum's share of the replies may differ by max(0.05, 2 / min(n1, n2)). The strata are those of the whole
 *   input: of quartiles found within a phase each would hold 25 %, whatever the split;
 * - no tweet may have replies in more than one part;
 * - a two-sample Kolmogorov-Smirnov test, of engagement and of reply length, fails below p = 0.001, warns below 0.05.
 */
export function validateSplit(
  phase1: Readonly<Record<keyof PartDistributions, ArrayLike<number>>>,
  phase2: Readonly<Record<keyof PartDistributions, ArrayLike<number>>>,
  strata: Assignment['strata'],
  overlap: number,
): SplitValidation {
  const failures: string[] = [];
  const warnings: string[] = [];
  const [shares1, shares2] = [proportionsOf('phase1', strata), proportionsOf('phase2', strata)];
  const maxDifference = Math.max(...shares1.map((share, stratum) => Math.abs(share - shares2[stratum])));
  const tolerance = Math.max(0.05, 2 / Math.min(phase1.engagement.length, phase2.engagement.length));
  if (maxDifference > tolerance) {
    const [found, allowed] = [maxDifference.toFixed(3), tolerance.toFixed(3)];
    failures.push(`quartile shares differ by ${found} between the phases; expected at most ${allowed}`);
  }
  if (overlap > 0) failures.push(`${overlap} tweets have replies in more than one part; expected 0`);
  const test = (key: keyof PartDistributions, name: string): TwoSampleTest => {
    const { statistic, pValue } = kolmogorovSmirnov(phase1[key], phase2[key]);
    const finding = `${name} differs between the phases: Kolmogorov-Smirnov p = ${pValue.toPrecision(2)}`;
    if (pValue < FAILING_P) failures.push(`${finding}; expected at least ${FAILING_P}`);
    else if (pValue < WARNING_P) warnings.push(finding);
    return { ks_statistic: statistic, p_value: pValue };
  };
  const engagement = test('engagement', 'engagement');
  const reply_length = test('reply_length', 'reply length');
  const passed = failures.length === 0;
  return {
    passed,
    max_proportion_difference: maxDifference,
    tolerance,
    tweet_overlap: overlap,
    engagement,
    reply_length,
    failures,
    warnings,
  };
}

/** What a user should know of a split that worked. */
export function splitNotices({ engagement, notices }: SplitIndex): string[] {
  const first = engagement[0];
  for (let row = 1; row < engagement.length; row++) if (engagement[row] !== first) return notices;
  return [
    `all replies have the same engagement (${first}): one stratum, so the split is random by tweet`,
    ...notices,
  ];
}
