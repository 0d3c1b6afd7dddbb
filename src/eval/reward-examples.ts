/** Single replies under a reward: how a change of it moves them, and where it disagrees with their label. */
import { mean, ranks, spearman } from '../metrics/statistics';
import { ConfigError, DataError, ShapeError } from '../runtime/errors';
import type { LabelledPair, ScoredPair } from './labelled-pairs';
import { bothSides, componentNames, requireScores, requireWeights, totals } from './scored-pairs';

function requireTop(top: number): void {
  if (Number.isSafeInteger(top) && top >= 1) return;
  throw new ConfigError(`top is ${top}; expected an integer >= 1, the number of replies to show.`);
}

/** Without its scores. */
function pairOf({ total: _total, components: _components, ...pair }: ScoredPair): LabelledPair {
  return pair;
}

/** A reply's place under two rewards. */
export interface RankChange extends LabelledPair {
  /** totals */
  before: number;
  after: number;
  /** from 1, the highest total; equal totals share the mean of their ranks */
  rankBefore: number;
  rankAfter: number;
  /** rankBefore - rankAfter: above 0 for one that moved up */
  change: number;
}

/** What another reward changes in the order of labelled replies. */
export interface RankChanges {
  n: number;
  /** Spearman's correlation of the two rewards over all replies; null where one of them gives all the same total */
  spearman: number | null;
  /** Pairs of a good and a bad reply, of whatever tweets. A tie under one of the rewards is no swap. */
  swaps: {
    pairs: number;
    /** the bad reply was above and is below now */
    better: number;
    /** the good reply was above and is below now */
    worse: number;
  };
  /** those that moved most, at most `top` */
  rows: RankChange[];
}

/** @throws ShapeError, DataError  unless both are scores of the same pairs in the same order */
function requireSamePairs(before: readonly ScoredPair[], after: readonly ScoredPair[]): void {
  if (before.length !== after.length) {
    throw new ShapeError(
      `${before.length} scored replies before and ${after.length} after; expected the same pairs. Score the same rows with both rewards.`,
    );
  }
  if (before.length < 2) {
    throw new ShapeError(`ranks of ${before.length} replies; expected at least 2.`);
  }
  const fields = ['tweet_id', 'tweet', 'reply', 'label'] as const;
  before.forEach((row, i) => {
    const field = fields.find((name) => row[name] !== after[i][name]);
    if (field === undefined) return;
    throw new DataError(
      `scored reply ${i + 1}: ${field} differs before and after; expected the same pairs in the same order. Score the same rows with both rewards.`,
    );
  });
}

/** Counts over all pairs of a good and a bad reply. */
function countSwaps(before: readonly ScoredPair[], after: readonly ScoredPair[]): RankChanges['swaps'] {
  const rows = before.map(({ label, total }, i) => ({ label, before: total, after: after[i].total }));
  const [good, bad] = [
    rows.filter(({ label }) => label === 'good'),
    rows.filter(({ label }) => label === 'bad'),
  ];
  let [better, worse] = [0, 0];
  for (const g of good) {
    for (const b of bad) {
      if (g.before < b.before && g.after > b.after) better++;
      if (g.before > b.before && g.after < b.after) worse++;
    }
  }
  return { pairs: good.length * bad.length, better, worse };
}

/**
 * How the order of the same replies changes from one reward to another.
 *
 * @param options  `top`: rows to return, default 10; by the size of the change, then in the order given
 * @throws ShapeError   when there are less than two replies, or not as many after as before
 * @throws DataError    when the pairs differ, or a score is not finite
 * @throws ConfigError  unless `top` is an integer >= 1
 */
export function rankChanges(
  before: readonly ScoredPair[],
  after: readonly ScoredPair[],
  { top = 10 }: { top?: number } = {},
): RankChanges {
  requireTop(top);
  requireSamePairs(before, after);
  requireScores(before);
  requireScores(after);
  const ranksOf = (rows: readonly ScoredPair[]): number[] => ranks(totals(rows).map((total) => -total));
  const [ranksBefore, ranksAfter] = [ranksOf(before), ranksOf(after)];
  const rows = before.map((row, i): RankChange => ({
    ...pairOf(row),
    before: row.total,
    after: after[i].total,
    rankBefore: ranksBefore[i],
    rankAfter: ranksAfter[i],
    change: ranksBefore[i] - ranksAfter[i],
  }));
  rows.sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
  return {
    n: rows.length,
    spearman: spearman(totals(before), totals(after)),
    swaps: countSwaps(before, after),
    rows: rows.slice(0, top),
  };
}

/** How far a component stands from its mean over all replies. */
export interface Pull {
  component: string;
  value: number;
  mean: number;
  /** value - mean, times the component's weight where weights were given */
  pull: number;
}

/** A reply whose score does not fit its label. */
export interface Disagreement extends LabelledPair {
  total: number;
  /** share of the replies of the other label that score above it, a tie counting half: 0 is right for a good one, 1 for a bad one */
  losesTo: number;
  /** the components that pull most to the wrong side, at most 3, the strongest first */
  pulls: Pull[];
}

/** Where a reward and the labels disagree most. */
export interface Disagreements {
  /** the good replies that score lowest, the lowest first */
  good: Disagreement[];
  /** the bad replies that score highest, the highest first */
  bad: Disagreement[];
}

const MOST_PULLS = 3;

/** Share of the others that are above a total, a tie counting half. */
function shareAbove(total: number, others: readonly number[]): number {
  return mean(others.map((other) => (other > total ? 1 : other === total ? 0.5 : 0)));
}

interface Component {
  name: string;
  mean: number;
  weight: number;
}

/** Components with their means over the replies that have them; where there are weights, those with one. */
function componentsOf(
  scored: readonly ScoredPair[],
  weights: Readonly<Record<string, number>> | undefined,
): Component[] {
  const names = componentNames(scored);
  if (weights !== undefined) requireWeights(weights, names);
  return names
    .filter((name) => weights === undefined || Object.hasOwn(weights, name))
    .map((name) => {
      const having = scored.filter(({ components }) => Object.hasOwn(components, name));
      return {
        name,
        mean: mean(having.map(({ components }) => components[name])),
        weight: weights?.[name] ?? 1,
      };
    });
}

/** @param wrong  the sign of a pull to the wrong side */
function pullsOf(row: ScoredPair, components: readonly Component[], wrong: 1 | -1): Pull[] {
  return components
    .filter(({ name }) => Object.hasOwn(row.components, name))
    .map(({ name, mean: centre, weight }) => {
      const value = row.components[name];
      return { component: name, value, mean: centre, pull: weight * (value - centre) };
    })
    .filter(({ pull }) => wrong * pull > 0)
    .sort((a, b) => wrong * (b.pull - a.pull))
    .slice(0, MOST_PULLS);
}

/**
 * Where a reward disagrees with the labels: the good replies that it scores lowest and the bad ones that it scores
 * highest, each with the components that bring that about. The mean of `losesTo` over all good replies is 1 - AUC.
 *
 * @param options  `top`: replies of each label, default 5. `weights` of the components: a pull is then weight x (value -
 *                 mean), a component without weight is left out; under a weighted mean the pulls sum to total - mean total
 * @throws ShapeError   without a good and a bad reply
 * @throws DataError    for a score that is not finite
 * @throws ConfigError  unless `top` is an integer >= 1, and for a weight of a component that is not there
 */
export function disagreements(
  scored: readonly ScoredPair[],
  { top = 5, weights }: { top?: number; weights?: Readonly<Record<string, number>> } = {},
): Disagreements {
  requireTop(top);
  const sides = bothSides(scored);
  const components = componentsOf(scored, weights);
  const worst = (label: 'good' | 'bad', wrong: 1 | -1): Disagreement[] => {
    const others = totals(label === 'good' ? sides.bad : sides.good);
    return [...sides[label]]
      .sort((a, b) => wrong * (b.total - a.total))
      .slice(0, top)
      .map((row) => ({
        ...pairOf(row),
        total: row.total,
        losesTo: shareAbove(row.total, others),
        pulls: pullsOf(row, components, wrong),
      }));
  };
  return { good: worst('good', -1), bad: worst('bad', 1) };
}
