import { kolmogorovSmirnov } from '../metrics/kolmogorov-smirnov';
import { mean, percentiles, sampleStd } from '../metrics/statistics';
import type { Assignment, Part, SplitIndex } from './split';

/** Values of one part, row by row: what a histogram and a box plot are drawn from. */
export interface PartDistributions {
  engagement: number[];
  /** code points */
  reply_length: number[];
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

function summarise(values: readonly number[]): Summary {
  const [min, median, max] = percentiles(values, [0, 50, 100]);
  return { mean: mean(values), std: values.length > 1 ? sampleStd(values) : null, median, min, max };
}

/** The values of one part, taken from the index. */
export function distributionsOf(part: Part, index: SplitIndex, parts: readonly Part[]): PartDistributions {
  const result: PartDistributions = { engagement: [], reply_length: [] };
  parts.forEach((assigned, row) => {
    if (assigned !== part) return;
    result.engagement.push(index.engagement[row]);
    result.reply_length.push(index.replyLength[row]);
  });
  return result;
}

/** Counts, summaries and quartile shares of a part that is not empty. */
export function describePart(part: Part, index: SplitIndex, assignment: Assignment): PartStatistics {
  const { engagement, reply_length } = distributionsOf(part, index, assignment.parts);
  const tweets = new Set<number>();
  assignment.parts.forEach((assigned, row) => assigned === part && tweets.add(index.tweet[row]));
  return {
    count: engagement.length,
    tweets: tweets.size,
    engagement: summarise(engagement),
    reply_length: summarise(reply_length),
    quartile_proportions: proportionsOf(part, assignment.strata),
  };
}

/**
 * Compares the phases:
 * - each stratum's share of the replies may differ by max(0.05, 2 / min(n1, n2)). The strata are those of the whole
 *   input: of quartiles found within a phase each would hold 25 %, whatever the split;
 * - a two-sample Kolmogorov-Smirnov test, of engagement and of reply length, fails below p = 0.001, warns below 0.05.
 */
export function validateSplit(
  phase1: PartDistributions,
  phase2: PartDistributions,
  strata: Assignment['strata'],
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
    engagement,
    reply_length,
    failures,
    warnings,
  };
}

/** What a user should know of a split that worked. */
export function splitNotices(index: SplitIndex): string[] {
  const first = index.engagement[0];
  if (!Array.from(index.engagement).every((value) => value === first)) return [];
  return [`all replies have the same engagement (${first}): one stratum, so the split is random by tweet`];
}
