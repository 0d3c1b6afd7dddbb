import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { evaluateOne, mean, near, repliesOf, rewardsOf, subsets } from '../../test/evaluation-task';
import { resampleIndices } from '../metrics/statistics';
import type { ModelEvaluation, SeededMetric } from './model-evaluation';

const GOOD = 'a fine reply #0.8';
const POOR = 'a poor reply #0.2';
const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i + 1);

/** The share of the subsets of k replies with one that passes, the mean over tweets; then what follows from the curve. */
function byEnumeration(passes: readonly (readonly boolean[])[]): {
  curve: number[];
  collapse: number | undefined;
} {
  const curve = upTo(passes[0].length).map((k) =>
    mean(
      passes.map((row) => {
        const all = subsets(row.length, k);
        return all.filter((subset) => subset.some((i) => row[i])).length / all.length;
      }),
    ),
  );
  return { curve, collapse: upTo(curve.length).find((k) => k > 1 && curve[k - 1] - curve[k - 2] < 0.01) };
}

describe('Pass@k, DER@k and the collapse point', () => {
  it('are those of all subsets of the replies, counted one by one', async () => {
    const table = fc
      .tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 6 }))
      .chain(([tweets, n]) =>
        fc.array(fc.array(fc.boolean(), { minLength: n, maxLength: n }), {
          minLength: tweets,
          maxLength: tweets,
        }),
      );
    await fc.assert(
      fc.asyncProperty(table, async (passes) => {
        const rows = passes.map((row) => row.map((isGood) => (isGood ? GOOD : POOR)));
        const k = upTo(passes[0].length);
        const model = await evaluateOne(repliesOf('m', rows), { k, resamples: 5 });
        const { curve, collapse } = byEnumeration(passes);
        expect(Object.keys(model.der_at_k)).toEqual(k.map(String));
        for (const size of k) {
          near(model.pass_at_k[size], curve[size - 1]);
          if (curve[0] === 0)
            expect(model.der_at_k[size]).toEqual({ value: null, reason: 'Pass@1 is 0: DER divides by it' });
          else near(model.der_at_k[size], curve[size - 1] / (size * curve[0]));
        }
        expect(model.collapse_point.value).toBe(collapse ?? null);
      }),
      { seed: 3, numRuns: 25 },
    );
  });

  it('are those of a case by hand', async () => {
    const rows = [
      [GOOD, POOR, POOR, POOR],
      [GOOD, GOOD, POOR, POOR],
      [POOR, POOR, POOR, POOR],
    ];
    const model = await evaluateOne(repliesOf('m', rows), { k: [1, 2, 4] });
    near(model.pass_at_k[1], (1 / 4 + 1 / 2) / 3);
    near(model.pass_at_k[2], (1 / 2 + 5 / 6) / 3);
    near(model.pass_at_k[4], 2 / 3);
    near(model.der_at_k[2], (1 / 2 + 5 / 6) / (2 * (1 / 4 + 1 / 2)));
    // Pass@3 is (3/4 + 1) / 3: each reply up to the fourth adds 1/12 and more.
    expect(model.collapse_point).toEqual({
      ...{ value: null, reason: 'not reached: every reply up to k = 4 adds at least 0.01 to Pass@k' },
      beyond: 4,
    });
    near((await evaluateOne(repliesOf('m', [[GOOD, GOOD, GOOD]]))).collapse_point, 2);
  });

  it('take a reply for good only when it is long enough, does not repeat itself, and earns 0.6', async () => {
    const rows = [['so #0.9', 'tea tea tea tea tea #0.9', 'a fine reply #0.59', 'a fine reply #0.6']];
    near((await evaluateOne(repliesOf('m', rows))).pass_at_k[1], 1 / 4);
    const quality = { min_characters: 0, max_repetition: 1, min_reward: 0.59 };
    near((await evaluateOne(repliesOf('m', rows), { quality })).pass_at_k[1], 1);
  });

  it('use no more replies than the tweet with the fewest has', async () => {
    const model = await evaluateOne(
      repliesOf('m', [
        [GOOD, POOR, POOR],
        [GOOD, POOR],
      ]),
      { k: [2] },
    );
    expect(Object.keys(model.der_at_k)).toEqual(['1', '2']);
    near(model.pass_at_k[2], (2 / 3 + 1) / 2);
    expect(model.n_replies).toBe(5);
  });
});

describe('intervals', () => {
  /** The 2.5th and the 97.5th percentile, between two neighbours in proportion. */
  function interval(values: readonly number[]): [number, number] {
    const sorted = [...values].sort((a, b) => a - b);
    const at = (share: number): number => {
      const position = (sorted.length - 1) * share;
      const low = Math.floor(position);
      return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (position - low);
    };
    return [at(0.025), at(0.975)];
  }
  const ofResamples = (statistic: (tweets: readonly number[]) => number, tweets: number): [number, number] =>
    interval([...resampleIndices(tweets, 100, 7)].map((row) => statistic(Array.from(row))));
  const expectInterval = (metric: SeededMetric, [low, high]: [number, number]): void => {
    if (metric.value === null) throw new Error(metric.reason);
    expect(metric.ci[0]).toBeCloseTo(low, 12);
    expect(metric.ci[1]).toBeCloseTo(high, 12);
  };
  const perTweet = [0.1, 0.9, 0.4, 0.7, 0.35, 0.65];

  it('are those of means over tweets that are drawn anew, whole tweets with all of their replies', async () => {
    const rows = perTweet.map((reward, t) => Array.from({ length: t + 1 }, () => `a fine reply #${reward}`));
    const model = await evaluateOne(repliesOf('m', rows));
    expectInterval(
      model.reward,
      ofResamples((drawn) => mean(drawn.map((t) => perTweet[t])), 6),
    );
    expectInterval(
      model.pass_at_k[1],
      ofResamples((drawn) => mean(drawn.map((t) => (perTweet[t] >= 0.6 ? 1 : 0))), 6),
    );
  });

  it('are one number for one tweet, and of a level of 95 %', async () => {
    const model = await evaluateOne(repliesOf('m', [['a fine reply #0.75', 'another reply #0.25']]));
    expect(model.reward).toEqual({ value: 0.5, ci: [0.5, 0.5] });
  });

  it('are over the same tweets for each run where there are several seeds', async () => {
    const other = perTweet.map((reward) => reward * reward);
    const model = await evaluateOne([rewardsOf('m', perTweet, 1), rewardsOf('m', other, 2)]);
    const both = (t: number): number => (perTweet[t] + other[t]) / 2;
    near(model.reward, mean([mean(perTweet), mean(other)]));
    expectInterval(
      model.reward,
      ofResamples((drawn) => mean(drawn.map(both)), 6),
    );
  });
});

describe('several seeds of one model', () => {
  const runs = [
    [
      [GOOD, POOR, POOR],
      [GOOD, GOOD, POOR],
    ],
    [
      [POOR, POOR, POOR],
      [GOOD, POOR, POOR],
    ],
    [
      [GOOD, GOOD, GOOD],
      [POOR, POOR, GOOD],
    ],
  ].map((rows, i) => repliesOf('m', rows, { seed: 10 + i }));

  it('have the mean over seeds as their value, with the values, their spread and its interval beside it', async () => {
    const model = await evaluateOne(runs, { k: [1, 3] });
    const alone = await Promise.all(runs.map((run) => evaluateOne(run, { k: [1, 3] })));
    expect([model.n_tweets, model.n_replies, model.seeds]).toEqual([2, 18, [10, 11, 12]]);
    const picks: ((one: ModelEvaluation) => SeededMetric)[] = [
      (one) => one.reward,
      (one) => one.pass_at_k[1],
      (one) => one.pass_at_k[3],
      (one) => one.self_bleu,
      (one) => one.distinct[1],
      (one) => one.token_entropy,
      (one) => one.semantic_diversity,
      (one) => one.usq_at_k.reward[3],
      (one) => one.characters,
    ];
    for (const pick of picks) {
      const values = alone.map((one) => pick(one).value as number);
      const { value, seeds } = pick(model);
      const sd = Math.sqrt(values.reduce((sum, x) => sum + (x - mean(values)) ** 2, 0) / 2);
      expect(value).toBeCloseTo(mean(values), 12);
      expect(seeds?.n).toBe(3);
      seeds?.values.forEach((own, i) => expect(own).toBeCloseTo(values[i], 12));
      expect(seeds?.mean).toBeCloseTo(mean(values), 12);
      expect(seeds?.sd).toBeCloseTo(sd, 12);
      // 4.3027 is the 97.5th percentile of Student's distribution with two degrees of freedom.
      expect(seeds?.ci?.[1]).toBeCloseTo(mean(values) + (4.302652729911275 * sd) / Math.sqrt(3), 9);
    }
    for (const one of alone) expect(one.reward.seeds).toBeUndefined();
  });

  it('have DER@k and the collapse point of the mean curve, with those of each run beside it', async () => {
    const pair = [runs[0], runs[2]];
    const model = await evaluateOne(pair, { k: [1, 3] });
    // Pass@1 and Pass@3 of the runs: (1/3 + 2/3)/2 and 1; (1 + 1/3)/2 and 1.
    near(model.der_at_k[3], 1 / (3 * ((1 / 2 + 2 / 3) / 2)));
    expect(model.der_at_k[3].seeds?.values[0]).toBeCloseTo(1 / (3 * (1 / 2)), 12);
    expect(model.der_at_k[3].seeds?.values[1]).toBeCloseTo(1 / (3 * (2 / 3)), 12);
  });

  it('have no spread of a metric that one of them lacks', async () => {
    const model = await evaluateOne([
      runs[0],
      runs[1],
      repliesOf(
        'm',
        [
          [POOR, POOR],
          [POOR, POOR],
        ],
        { seed: 5 },
      ),
    ]);
    expect(model.der_at_k[2].value).toBeGreaterThan(0);
    expect(model.der_at_k[2].seeds).toBeUndefined();
  });

  it('are what they are in whatever order the runs come, also with different numbers of replies', async () => {
    const uneven = [
      ...runs,
      repliesOf(
        'm',
        [
          [GOOD, POOR],
          [POOR, GOOD, POOR, POOR],
        ],
        { seed: 13 },
      ),
    ];
    const models = await Promise.all(
      [uneven, [...uneven].reverse(), [uneven[1], uneven[3], uneven[0], uneven[2]]].map((order) =>
        evaluateOne(order, { k: [1, 2] }),
      ),
    );
    const flat = (model: ModelEvaluation): [string, number | string][] => {
      const found: [string, number | string][] = [];
      const walk = (place: string, value: unknown): void => {
        if (typeof value === 'number' || typeof value === 'string') found.push([place, value]);
        else if (typeof value === 'object' && value !== null)
          for (const [key, inner] of Object.entries(value))
            if (key !== 'values' && key !== 'seeds') walk(`${place}.${key}`, inner);
      };
      walk('', model);
      return found;
    };
    const [first, ...others] = models.map(flat);
    expect(first.length).toBeGreaterThan(60);
    for (const other of others) {
      expect(other.map(([place]) => place)).toEqual(first.map(([place]) => place));
      other.forEach(([place, value], i) => {
        if (typeof value === 'string') expect(value, place).toBe(first[i][1]);
        else expect(value, place).toBeCloseTo(first[i][1] as number, 10);
      });
    }
    expect(Object.keys(models[0].der_at_k)).toEqual(['1', '2']);
  });
});
