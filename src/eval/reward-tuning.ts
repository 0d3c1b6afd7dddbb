/** What a change of a reward's weights and thresholds does: how it parts good replies from bad ones, as a whole and by parts. */
import type { Estimate } from '../metrics/ranking';
import { areaUnderCurve, clusterBootstrap } from '../metrics/ranking';
import type { BootstrapOptions } from '../metrics/statistics';
import { mean } from '../metrics/statistics';
import { ShapeError } from '../runtime/errors';
import type { ScoredPair } from './labelled-pairs';
import { bothSides, componentNames, isLabelled, requireWeights, totals } from './scored-pairs';

/** How well a reward parts good replies from bad ones. */
export interface RewardSeparation {
  nGood: number;
  nBad: number;
  nTweets: number;
  /** of good against bad, over all pairs of a good and a bad reply, of whatever tweet; 0.5 is chance */
  auc: Estimate;
  meanGood: number;
  meanBad: number;
  /** meanGood - meanBad */
  difference: number;
}

/** All rows of a tweet together: what a bootstrap over tweets resamples. */
function byTweet(scored: readonly ScoredPair[]): ScoredPair[][] {
  const groups = new Map<string, ScoredPair[]>();
  for (const row of scored) {
    const group = groups.get(row.tweet_id);
    if (group === undefined) groups.set(row.tweet_id, [row]);
    else group.push(row);
  }
  return [...groups.values()];
}

/** Null where a resample has no good or no bad reply. */
function aucOf(tweets: readonly ScoredPair[][]): number | null {
  const rows = tweets.flat();
  const [good, bad] = [rows.filter(isLabelled('good')), rows.filter(isLabelled('bad'))];
  return good.length === 0 || bad.length === 0 ? null : areaUnderCurve(totals(good), totals(bad));
}

/**
 * AUC = P(a good reply scores above a bad one), a tie counting half, with its bootstrap interval (percentile method,
 * default 1,000 resamples of whole tweets, 95 %), and the mean score of each side.
 *
 * @param options  `seed` of the resamples, default 1
 * @throws ShapeError  without a good and a bad reply, or with less than two tweets, which leave nothing to resample
 * @throws DataError   for a score that is not finite
 */
export function rewardSeparation(
  scored: readonly ScoredPair[],
  { seed = 1, ...options }: Partial<BootstrapOptions> = {},
): RewardSeparation {
  const { good, bad } = bothSides(scored);
  const tweets = byTweet(scored);
  if (tweets.length < 2) {
    throw new ShapeError(`replies to 1 tweet; expected at least 2, which the interval resamples.`);
  }
  const auc = clusterBootstrap(tweets, aucOf, { seed, ...options }) as Estimate; // both sides are there
  const [meanGood, meanBad] = [mean(totals(good)), mean(totals(bad))];
  const counts = { nGood: good.length, nBad: bad.length, nTweets: tweets.length };
  return { ...counts, auc, meanGood, meanBad, difference: meanGood - meanBad };
}

/** What the total, or one component, does on its own. */
export interface ComponentRow {
  /** `total`, or the component's name */
  component: string;
  /** null for the total, and for a component that no weight was given for */
  weight: number | null;
  /** replies that have it */
  n: number;
  /** null where no reply of that side has it */
  meanGood: number | null;
  meanBad: number | null;
  /** meanGood - meanBad */
  difference: number | null;
  /** of good against bad by this value alone */
  auc: number | null;
  /** smallest and largest value that came up, and the shares of replies that have exactly those */
  min: number;
  atMin: number;
  max: number;
  atMax: number;
  /** why there is no AUC, or that the value is constant; else '' */
  note: string;
}

function componentRow(
  component: string,
  weight: number | null,
  good: readonly number[],
  bad: readonly number[],
): ComponentRow {
  const values = [...good, ...bad];
  const [min, max] = values.reduce(
    ([low, high], x) => [Math.min(low, x), Math.max(high, x)],
    [Infinity, -Infinity],
  );
  const shareAt = (bound: number): number => values.filter((value) => value === bound).length / values.length;
  const meanOf = (side: readonly number[]): number | null => (side.length === 0 ? null : mean(side));
  const [meanGood, meanBad] = [meanOf(good), meanOf(bad)];
  const has = { component, weight, n: values.length, meanGood, meanBad };
  const range = { min, atMin: shareAt(min), max, atMax: shareAt(max) };
  if (meanGood === null || meanBad === null) {
    const note = `no ${meanGood === null ? 'good' : 'bad'} reply has it`;
    return { ...has, difference: null, auc: null, ...range, note };
  }
  const note = min === max ? `constant: every reply has ${min}` : '';
  return { ...has, difference: meanGood - meanBad, auc: areaUnderCurve(good, bad), ...range, note };
}

/**
 * A row for the total and one for every component: means, difference and AUC of good against bad replies, and how often
 * it stands at its largest or smallest value. A component that nearly always does so, or whose AUC is near 0.5, does not
 * part them. A reply that a guard decided has the guard's value in every component.
 *
 * @param weights  of the components, to stand beside them
 * @throws ShapeError   without a good and a bad reply
 * @throws DataError    for a score that is not finite
 * @throws ConfigError  for a weight of a component that is not there
 */
export function componentTable(
  scored: readonly ScoredPair[],
  weights: Readonly<Record<string, number>> = {},
): ComponentRow[] {
  const { good, bad } = bothSides(scored);
  const names = componentNames(scored);
  requireWeights(weights, names);
  const valuesOf = (rows: readonly ScoredPair[], name: string): number[] =>
    rows
      .filter(({ components }) => Object.hasOwn(components, name))
      .map(({ components }) => components[name]);
  return [
    componentRow('total', null, totals(good), totals(bad)),
    ...names.map((name) =>
      componentRow(name, weights[name] ?? null, valuesOf(good, name), valuesOf(bad, name)),
    ),
  ];
}
