/** What is asked of scored pairs before anything is computed of them. */
import { ConfigError, DataError, ShapeError } from '../runtime/errors';
import { nearest } from '../runtime/strict';
import type { ReplyLabel, ScoredPair } from './labelled-pairs';

/** @throws DataError  for a label that is none, and for a total or component that is not finite */
export function requireScores(scored: readonly ScoredPair[]): void {
  scored.forEach(({ tweet_id, label, total, components }, i) => {
    const where = `scored reply ${i + 1} (tweet ${tweet_id})`;
    if (label !== 'good' && label !== 'bad') {
      throw new DataError(`${where}: label is ${JSON.stringify(label)}; expected "good" or "bad".`);
    }
    const flaw = Object.entries({ ...components, total }).find(([, value]) => !Number.isFinite(value));
    if (flaw === undefined) return;
    throw new DataError(`${where}: ${flaw[0]} is ${flaw[1]}; expected a finite number. Correct the reward.`);
  });
}

export const isLabelled =
  (label: ReplyLabel) =>
  (row: ScoredPair): boolean =>
    row.label === label;

/** The good and the bad ones. @throws ShapeError  when one side is empty */
export function bothSides(scored: readonly ScoredPair[]): { good: ScoredPair[]; bad: ScoredPair[] } {
  requireScores(scored);
  const [good, bad] = [scored.filter(isLabelled('good')), scored.filter(isLabelled('bad'))];
  if (good.length > 0 && bad.length > 0) return { good, bad };
  throw new ShapeError(
    `${good.length} good and ${bad.length} bad replies; expected at least 1 of each, which are to be parted.`,
  );
}

export const totals = (rows: readonly ScoredPair[]): number[] => rows.map(({ total }) => total);

/** The names of all components, in the order in which the rows bring them up. */
export function componentNames(scored: readonly ScoredPair[]): string[] {
  return [...new Set(scored.flatMap(({ components }) => Object.keys(components)))];
}

/** @throws ConfigError  for a weight of no component, or one that is not finite */
export function requireWeights(
  weights: Readonly<Record<string, number>>,
  components: readonly string[],
): void {
  for (const [name, weight] of Object.entries(weights)) {
    if (!components.includes(name)) {
      const guess = nearest(name, components);
      const hint = guess === undefined ? 'it has none at all' : `did you mean "${guess}"?`;
      throw new ConfigError(`weights: the reward has no component "${name}"; ${hint}`);
    }
    if (!Number.isFinite(weight)) {
      throw new ConfigError(`weights: ${name} is ${weight}; expected a finite number.`);
    }
  }
}
