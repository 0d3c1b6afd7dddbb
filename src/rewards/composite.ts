/** A weighted mean of named rewards. */
import { ConfigError } from '../runtime/errors';
import { DEFAULT_BATCH_SIZE } from './reward';
import type { Reward, RewardResult } from './reward';

/** A part of a composite reward. */
export interface WeightedReward {
  reward: Reward;
  /** >= 0; all sum to 1 */
  weight: number;
}

/**
 * `heuristic/relevance`: a part's component, beside the part's own total under its name. An only component of the same
 * name, as of a learned reward, is the total and shown once.
 */
function breakdown(name: string, { total, components }: RewardResult): [string, number][] {
  const entries = Object.entries(components);
  const inner = entries.length === 1 && entries[0][0] === name ? [] : entries;
  return [[name, total], ...inner.map(([key, value]): [string, number] => [`${name}/${key}`, value])];
}

/**
 * Refuses weights that make no mean, and names that the breakdown could not show.
 *
 * @throws ConfigError  when there is no part, a name has a slash or is `__proto__`, a weight is negative, or they do not sum to 1
 */
export function requireMixture(parts: Readonly<Record<string, { weight: number }>>, where: string): void {
  const entries = Object.entries(parts);
  const sum = entries.reduce((total, [, { weight }]) => total + weight, 0);
  const negative = entries.find(([, { weight }]) => !(weight >= 0));
  const misnamed = entries.find(([part]) => part.includes('/') || part === '__proto__');
  if (entries.length === 0) throw new ConfigError(`${where}: has no parts; expected at least one reward.`);
  if (negative !== undefined) {
    throw new ConfigError(
      `${where}: the weight of "${negative[0]}" is ${negative[1].weight}; expected >= 0.`,
    );
  }
  if (misnamed !== undefined) {
    throw new ConfigError(
      `${where}: a part is called "${misnamed[0]}"; expected a name without a slash that is not __proto__.`,
    );
  }
  if (Math.abs(sum - 1) > 1e-9) {
    throw new ConfigError(
      `${where}: the weights sum to ${Number(sum.toFixed(6))}; expected 1. Change them so that they do.`,
    );
  }
}

/**
 * total = sum of weight x total of the part. Components: every part's total under its name, its components as
 * `part/component`.
 *
 * @param parts  by the names that the breakdown shows
 * @throws ConfigError  when there is no part, a name has a slash or is `__proto__`, a weight is negative, or they do not sum to 1
 */
export function compositeReward(parts: Readonly<Record<string, WeightedReward>>, name = 'composite'): Reward {
  requireMixture(parts, name);
  const entries = Object.entries(parts);
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
    batchSize: Math.max(...entries.map(([, { reward }]) => reward.batchSize ?? DEFAULT_BATCH_SIZE)),
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
