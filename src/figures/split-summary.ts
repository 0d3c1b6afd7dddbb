/** Bins and percentiles of the two phases of a split: the data of the splitter's chart. */
import { z } from 'zod';
import { mean, median, percentiles } from '../metrics/statistics';
import { ShapeError } from '../runtime/errors';
import { binCounts, histogramBins, linearEdges, logEdges } from './histogram';

/** What one phase holds, a number a reply. */
export interface PhaseValues {
  /** reply likes / max(tweet likes, 1), each >= 0 */
  readonly engagement: ArrayLike<number>;
  /** code points */
  readonly replyLength: ArrayLike<number>;
}

/** The values of both phases that `summariseSplit` describes. */
export interface SplitValues {
  readonly phase1: PhaseValues;
  readonly phase2: PhaseValues;
}

/** Result of a two-sample Kolmogorov–Smirnov test, to be named in the chart. */
const ksSchema = z.strictObject({ statistic: z.number(), pValue: z.number() });

const sampleSchema = z.strictObject({
  n: z.int().positive(),
  /** values that are 0 on a logarithmic scale, which has no place for them among its bins */
  zeros: z.int().nonnegative(),
  counts: z.array(z.int().nonnegative()),
  min: z.number(),
  p5: z.number(),
  q1: z.number(),
  median: z.number(),
  q3: z.number(),
  p95: z.number(),
  max: z.number(),
  mean: z.number(),
});

const distributionSchema = z.strictObject({
  scale: z.enum(['linear', 'log']),
  edges: z.array(z.number()).min(2),
  phase1: sampleSchema,
  phase2: sampleSchema,
  ks: ksSchema.optional(),
});

/** The data of the chart: bins and percentiles, whose size does not grow with the number of records. */
export const splitSummarySchema = z.strictObject({
  engagement: distributionSchema,
  replyLength: distributionSchema,
});

/** Engagement and reply length of both phases as histograms and box plots, with a test of each. */
export type SplitSummary = z.infer<typeof splitSummarySchema>;
export type Distribution = z.infer<typeof distributionSchema>;
export type Sample = z.infer<typeof sampleSchema>;
/** Result of a two-sample Kolmogorov–Smirnov test. */
export type TestResult = z.infer<typeof ksSchema>;

/** From this ratio of the largest to the median positive value on, a linear axis would show one bar and a tail. */
const LOG_RATIO = 20;

function summariseSample(
  values: ArrayLike<number>,
  edges: readonly number[],
  scale: 'linear' | 'log',
): Sample {
  const all = new Float64Array(values);
  const binned = scale === 'log' ? all.filter((value) => value > 0) : all;
  const [min, p5, q1, middle, q3, p95, max] = percentiles(all, [0, 5, 25, 50, 75, 95, 100]);
  const counts = binCounts(binned, edges);
  return {
    n: all.length,
    zeros: all.length - binned.length,
    counts,
    min,
    p5,
    q1,
    median: middle,
    q3,
    p95,
    max,
    mean: mean(all),
  };
}

function extent(values: Float64Array): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

function summariseQuantity(
  first: ArrayLike<number>,
  second: ArrayLike<number>,
  name: string,
  ks: TestResult | undefined,
): Distribution {
  const all = new Float64Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  if (first.length === 0 || second.length === 0) {
    throw new ShapeError(
      `${name}: phases of ${first.length} and ${second.length} values; expected at least 1 of each.`,
    );
  }
  const [low, high] = extent(all);
  if (!(low >= 0 && Number.isFinite(high))) throw new ShapeError(`${name}: expected finite numbers >= 0.`);
  const positive = all.filter((value) => value > 0);
  const isSkewed = positive.length > 0 && high > LOG_RATIO * median(positive);
  const scale = isSkewed ? 'log' : 'linear';
  const smallest = extent(positive)[0];
  const bins = histogramBins(all.length);
  const edges = isSkewed
    ? logEdges(smallest, high, Math.max(1, Math.round(bins / Math.max(Math.log10(high / smallest), 1))))
    : linearEdges(low, high, bins);
  const phase1 = summariseSample(first, edges, scale);
  const phase2 = summariseSample(second, edges, scale);
  return { scale, edges, phase1, phase2, ...(ks === undefined ? {} : { ks }) };
}

/**
 * Bins and percentiles of both phases over common edges. A heavy-tailed quantity gets a logarithmic scale, with its
 * zeros counted apart.
 *
 * @param tests  Kolmogorov–Smirnov results to print in the chart
 * @throws ShapeError  when a phase is empty or a value is negative or not finite
 */
export function summariseSplit(
  values: SplitValues,
  tests: { engagement?: TestResult; replyLength?: TestResult } = {},
): SplitSummary {
  const { phase1, phase2 } = values;
  return {
    engagement: summariseQuantity(phase1.engagement, phase2.engagement, 'engagement', tests.engagement),
    replyLength: summariseQuantity(phase1.replyLength, phase2.replyLength, 'reply length', tests.replyLength),
  };
}
