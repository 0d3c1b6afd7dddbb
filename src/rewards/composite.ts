/** A weighted mean of named rewards. */
import { ConfigError } from '../runtime/errors';
import type { Reward, RewardResult } from './reward';

export interface WeightedReward {
  reward: Reward;
  /** >= 0; all sum to 1 */
  weight: number;
}

/** `heuristic/relevance`: a part's component, beside the part's own total under its name. */
function breakdown(name: string, { total, components }: RewardResult): [string, number][] {
  const inner = Object.entries(components).filter(([key]) => key !== name);
  return [[name, total], ...inner.map(([key, value]): [string, number] => [`${name}/${key}`, value])];
}

/**
 * total = sum of weight x total of the part. Components: every part's total under its name, its components as
 * `part/component`.
 *
 * @param parts  by the names that the breakdown shows
 * @throws ConfigError  when there is no part, a name has a slash, a weight is negative, or they do not sum to 1
 */
export function compositeReward(parts: Readonly<Record<string, WeightedReward>>, name = 'composite'): Reward {
  const entries = Object.entries(parts);
  const sum = entries.reduce((total, [, { weight }]) => total + weight, 0);
  const negative = entries.find(([, { weight }]) => !(weight >= 0));
  const slashed = entries.find(([part]) => part.includes('/'));
  if (entries.length === 0) throw new ConfigError(`${name}: has no parts; expected at least one reward.`);
  if (negative !== undefined) {
    throw new ConfigError(`${name}: the weight of "${negative[0]}" is ${negative[1].weight}; expected >= 0.`);
  }
  if (slashed !== undefined) {
    throw new ConfigError(`${name}: the part "${slashed[0]}" has a slash in its name; expected none.`);
  }
  if (Math.abs(sum - 1) > 1e-9) {
    throw new ConfigError(
      `${name}: the weights sum to ${Number(sum.toFixed(6))}; expected 1. Change them so that they do.`,
    );
  }
  const combine = (results: readonly RewardResult[]): RewardResult => ({
    // The weights may sum to 1 + 1e-16.
    total: Math.min(
      1,
      entries.reduce((total, [, { weight }], i) => total + weight * results[i].total, 0),
    ),
    components: Object.fromEntries(entries.flatMap(([part], i) => breakdown(part, results[i]))),
  });
  return {
    name,
    degraded: [...new Set(entries.flatMap(([, { reward }]) => reward.degraded))],
    score: async (tweet, reply) =>
      combine(await Promise.all(entries.map(([, part]) => part.reward.score(tweet, reply)))),
    async scoreBatch(pairs) {
      const byPart: RewardResult[][] = [];
      for (const [, { reward }] of entries) byPart.push(await reward.scoreBatch(pairs));
      return pairs.map((_, i) => combine(byPart.map((results) => results[i])));
    },
    dispose: () => entries.forEach(([, { reward }]) => reward.dispose?.()),
  };
}
