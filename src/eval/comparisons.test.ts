import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mean, options, repliesOf, rewardsOf } from '../../test/evaluation-task';
import { readGolden } from '../../test/golden';
import { bootstrapMetric, meanOverTweets, resampleTweets } from '../metrics/bootstrap-metric';
import { percentileInterval, resampleIndices } from '../metrics/statistics';
import { Random } from '../runtime/random';
import type { Comparison } from './comparisons';
import type { ModelReplies } from './model-replies';
import { evaluateModels } from './suite';

const compare = async (models: ModelReplies[], own = {}): Promise<Comparison[]> =>
  (await evaluateModels(models, { ...options, resamples: 5, ...own })).comparisons;
const ofReward = async (models: ModelReplies[]): Promise<Comparison> => {
  const found = (await compare(models)).filter(({ metric }) => metric === 'reward');
  expect(found).toHaveLength(1);
  return found[0];
};

interface PairedGolden {
  paired: {
    name: string;
    a: number[];
    b: number[];
    paired_t: { t: number; df: number; p: number };
    cohen_dz: number;
  }[];
}
const { paired } = readGolden<PairedGolden>('stats.json');
const finite = paired.filter(({ cohen_dz: d }) => Number.isFinite(d));

describe('a comparison of two models', () => {
  it.each(finite)(
    'is that of b against a, tweet by tweet, on the case $name',
    async ({ a, b, paired_t, cohen_dz }) => {
      const one = await ofReward([rewardsOf('first', a), rewardsOf('second', b)]);
      expect([one.a, one.b, one.n]).toEqual(['first', 'second', a.length]);
      // The golden numbers are those of a against b.
      expect(one.t).toBeCloseTo(-paired_t.t, 8);
      expect(one.p).toBeCloseTo(paired_t.p, 9);
      expect(one.d).toBeCloseTo(-cohen_dz, 9);
      expect(one.difference).toBeCloseTo(mean(b) - mean(a), 12);
      expect(one.ci[0]).toBeLessThanOrEqual(one.difference);
      expect(one.ci[1]).toBeGreaterThanOrEqual(one.difference);
      const signs = b.flatMap((y) => a.map((x) => Math.sign(y - x)));
      expect(one.delta).toBeCloseTo(mean(signs), 12);
      expect(one.u).toBeCloseTo(
        signs.reduce((sum, sign) => sum + (sign + 1) / 2, 0),
        9,
      );
    },
  );

  it('turns round with the models: all that has a sign changes it, p-values stay', async () => {
    for (const { a, b } of finite) {
      const [one, other] = [
        await ofReward([rewardsOf('x', a), rewardsOf('y', b)]),
        await ofReward([rewardsOf('y', b), rewardsOf('x', a)]),
      ];
      expect([other.a, other.b]).toEqual(['y', 'x']);
      for (const key of ['difference', 't', 'd', 'delta'] as const)
        expect(other[key], key).toBeCloseTo(-(one[key] as number), 10);
      expect(other.u).toBeCloseTo(a.length * b.length - one.u, 9);
      for (const key of ['p', 'p_holm', 'p_mann_whitney'] as const)
        expect(other[key], key).toBeCloseTo(one[key] as number, 10);
      expect(other.ci[0]).toBeCloseTo(-one.ci[1], 10);
    }
  });

  it('has the p-value of U that all ways to part the values give', async () => {
    const [a, b] = [
      [0.1, 0.35, 0.2, 0.5],
      [0.3, 0.9, 0.6, 0.7],
    ];
    const { u, p_mann_whitney: p } = await ofReward([rewardsOf('a', a), rewardsOf('b', b)]);
    const all = [...a, ...b];
    const uOf = (own: number): number => {
      const [ours, theirs] = [1, 0].map((side) => all.filter((_, i) => ((own >> i) & 1) === side));
      return ours.flatMap((y) => theirs.filter((x) => x < y)).length;
    };
    const halves = Array.from({ length: 256 }, (_, own) => own).filter(
      (own) => own.toString(2).replaceAll('0', '').length === 4,
    );
    expect(u).toBe(uOf(0b11110000));
    expect(p).toBeCloseTo((2 * halves.filter((own) => uOf(own) >= Math.max(u, 16 - u)).length) / 70, 12);
  });

  it('takes the tweet for the unit, however many replies it has', async () => {
    const [a, b] = [
      [0.1, 0.4, 0.3, 0.8, 0.6],
      [0.2, 0.5, 0.7, 0.7, 0.9],
    ];
    const often = (name: string, rewards: number[]) =>
      repliesOf(
        name,
        rewards.map((reward) => Array.from({ length: 8 }, () => `one reply #${reward}`)),
      );
    const [one, many] = [
      await ofReward([rewardsOf('a', a), rewardsOf('b', b)]),
      await ofReward([often('a', a), often('b', b)]),
    ];
    expect(many.n).toBe(5);
    for (const key of ['difference', 'u', 'p_mann_whitney', 't', 'p', 'd', 'delta'] as const)
      expect(many[key], key).toBeCloseTo(one[key] as number, 9);
  });

  it('is of the means over seeds where a model has several', async () => {
    const [a, b, c] = [
      [0.1, 0.4, 0.35, 0.8],
      [0.3, 0.2, 0.75, 0.6],
      [0.5, 0.55, 0.7, 0.9],
    ];
    const one = await ofReward([rewardsOf('m', a, 1), rewardsOf('other', c), rewardsOf('m', b, 2)]);
    const means = a.map((value, t) => (value + b[t]) / 2);
    const expected = await ofReward([rewardsOf('m', means), rewardsOf('other', c)]);
    expect([one.a, one.b, one.n]).toEqual(['m', 'other', 4]);
    for (const key of ['difference', 'u', 't', 'p', 'd', 'delta'] as const)
      expect(one[key], key).toBeCloseTo(expected[key] as number, 9);
  });

  it('leaves out tweets of which one of the models has no value', async () => {
    const a = repliesOf('a', [['x y'], ['a b', 'a b'], ['a', 'b'], ['c', 'b']]);
    const b = repliesOf('b', [
      ['x y', 'x z'],
      ['a b', 'c d'],
      ['a', 'b'],
      ['c', 'b'],
    ]);
    const found = await compare([a, b]);
    const byMetric = Object.fromEntries(found.map((one) => [one.metric, one]));
    expect([byMetric.self_bleu.n, byMetric.semantic_diversity.n, byMetric.reward.n]).toEqual([3, 3, 4]);
    expect(Object.keys(byMetric)).toEqual(
      ['reward', 'self_bleu', 'distinct_2_of_a_tweet', 'semantic_diversity', 'pass@1'].filter(
        (metric) => metric in byMetric,
      ),
    );
    // Distinct bigrams of t0 and t1; t2 and t3 have none. b - a: t0 2/2 - 1, t1 2/2 - 1/2.
    expect(byMetric.distinct_2_of_a_tweet.n).toBe(2);
    expect(byMetric.distinct_2_of_a_tweet.difference).toBeCloseTo(1 / 4, 12);
  });

  it('is of Pass@1 the share of replies that pass', async () => {
    const [good, poor] = ['a fine reply #0.8', 'a poor reply #0.2'];
    const rows = {
      a: [
        [good, poor, poor],
        [poor, poor, poor],
      ],
      b: [
        [good, good, poor],
        [good, poor, poor],
      ],
    };
    const found = await compare([repliesOf('a', rows.a), repliesOf('b', rows.b)]);
    expect(found.find(({ metric }) => metric === 'pass@1')?.difference).toBeCloseTo(1 / 3, 12);
  });

  it('is none of a measure that a model lacks, or of a single tweet', async () => {
    const found = await compare([rewardsOf('a', [0.1, 0.2]), rewardsOf('b', [0.3, 0.5])]);
    expect(found.map(({ metric }) => metric)).toEqual(['reward', 'distinct_2_of_a_tweet', 'pass@1']);
    expect(await compare([rewardsOf('a', [0.1]), rewardsOf('b', [0.3])])).toEqual([]);
    expect(await compare([rewardsOf('a', [0.1, 0.2])])).toEqual([]);
  });

  it('has no t, p and d where both models are the same, and no t and d where all differences are equal', async () => {
    const same = await ofReward([rewardsOf('a', [0.1, 0.2, 0.3]), rewardsOf('b', [0.1, 0.2, 0.3])]);
    expect(same).toMatchObject({
      ...{ difference: 0, ci: [0, 0], t: null, p: null, p_holm: null, d: null, delta: 0 },
      ...{ u: 4.5, p_mann_whitney: 1, delta_size: 'negligible', significant: false },
    });
    const shifted = await ofReward([rewardsOf('a', [0, 1, 2]), rewardsOf('b', [1, 2, 3])]);
    expect(shifted).toMatchObject({ difference: 1, ci: [1, 1], t: null, p: 0, d: null });
  });

  it.each([
    ['up', [0.25, 0.5, 0.75], 0.25, true],
    ['down', [0.25, 0.5, 0.75], -0.125, true],
    ['down on two tweets', [0, 0.5], -0.25, true],
    ['not at all', [0.25, 0.5, 0.75], 0, false],
  ])(
    'is significant where every tweet changes by the same, but not by 0: %s',
    async (_, a, by, significant) => {
      const moved = await ofReward([
        rewardsOf('a', a),
        rewardsOf(
          'b',
          a.map((value) => value + by),
        ),
      ]);
      // Of infinitely many standard deviations, which no number of JSON says.
      expect(moved).toMatchObject({ difference: by, ci: [by, by], t: null, d: null, significant });
      expect([moved.p, moved.p_holm]).toEqual(significant ? [0, 0] : [null, null]);
    },
  );

  it('is of the same reward whatever its scale and zero: only the difference follows', async () => {
    const values = fc.array(fc.integer({ min: 0, max: 64 }), { minLength: 5, maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(values, values, fc.integer({ min: 1, max: 4 }), async (a, b, shift) => {
        // Powers of two, so that nothing is rounded.
        const scaled = (own: number[]): number[] => own.map((value) => value / 2 ** shift + shift);
        const [one, other] = [
          await ofReward([rewardsOf('a', a), rewardsOf('b', b)]),
          await ofReward([rewardsOf('a', scaled(a)), rewardsOf('b', scaled(b))]),
        ];
        for (const key of ['u', 'p_mann_whitney', 'delta'] as const) expect(other[key]).toBe(one[key]);
        for (const key of ['t', 'p', 'd'] as const) {
          if (one[key] === null) expect(other[key]).toBeNull();
          else expect(other[key], key).toBeCloseTo(one[key], 9);
        }
        expect(other.difference).toBeCloseTo(one.difference / 2 ** shift, 12);
      }),
      { seed: 8, numRuns: 20 },
    );
  });
});

describe('several comparisons', () => {
  const random = new Random(11, 'comparisons');
  const rows = (lift: number): string[][] =>
    Array.from({ length: 12 }, () =>
      Array.from({ length: 3 }, () => {
        const words = ['a', 'b', 'c'].map((letter) => letter.repeat(1 + random.integer(3)));
        return `${words.join(' ')} #${(random.uniform() * 0.5 + lift).toFixed(3)}`;
      }),
    );
  const models = [repliesOf('zero', rows(0)), repliesOf('one', rows(0.15)), repliesOf('two', rows(0.5))];

  it('are of every two models in their order, on every measure that both have', async () => {
    const found = await compare(models);
    const pairs = [...new Set(found.map(({ a, b }) => `${b} against ${a}`))];
    expect(pairs).toEqual(['one against zero', 'two against zero', 'two against one']);
    for (const pair of pairs)
      expect(found.filter(({ a, b }) => `${b} against ${a}` === pair).map(({ metric }) => metric)).toEqual([
        'reward',
        'self_bleu',
        'distinct_2_of_a_tweet',
        'semantic_diversity',
        'pass@1',
      ]);
  });

  it("have Holm's correction over all of them together, those without a p-value left out", async () => {
    const same = repliesOf('same', rows(0));
    const twin = { ...same, name: 'twin' };
    const found = await compare([...models, same, twin]);
    const tested = found.filter(({ p }) => p !== null);
    expect(found.length - tested.length).toBeGreaterThanOrEqual(5);
    const sorted = [...tested].sort((x, y) => (x.p as number) - (y.p as number));
    let largest = 0;
    sorted.forEach((one, i) => {
      largest = Math.max(largest, Math.min(1, (sorted.length - i) * (one.p as number)));
      expect(one.p_holm, `${one.b} against ${one.a}: ${one.metric}`).toBeCloseTo(largest, 12);
    });
    expect(sorted[0].p_holm).toBeCloseTo(sorted.length * (sorted[0].p as number), 12);
    for (const one of found.filter(({ p }) => p === null))
      expect([one.p_holm, one.significant]).toEqual([null, false]);
  });

  it('are significant with a corrected p below 0.05 and a d of 0.3 at least, on either side of 0', async () => {
    const lifts = [0.5, 0, 0.1, 0.2, 0.3].map((lift, i) => repliesOf(`model ${i}`, rows(lift)));
    const found = await compare(lifts);
    const kinds = new Set<string>();
    for (const { p, p_holm: corrected, d, difference, significant } of found) {
      const isLarge = d === null ? difference !== 0 : Math.abs(d) >= 0.3;
      const isSure = corrected !== null && corrected < 0.05;
      expect(significant).toBe(isSure && isLarge);
      kinds.add(`${isSure} ${isLarge} ${d !== null && d < 0}`);
      if (p !== null && p < 0.05 && !isSure) kinds.add('lost to the correction');
    }
    for (const kind of ['true true true', 'true true false', 'false true false', 'false false false'])
      expect(kinds).toContain(kind);
    expect(kinds).toContain('lost to the correction');
  });

  it('are none where means over seeds differ by the order of their sum alone', async () => {
    const seeds = (name: string, rewards: number[]) =>
      rewards.map((reward, seed) => rewardsOf(name, [reward, reward, reward], seed));
    const [one] = await compare([...seeds('a', [0.1, 0.2, 0.3]), ...seeds('b', [0.3, 0.2, 0.1])]);
    expect(one).toMatchObject({ metric: 'reward', difference: 0, p: null, delta: 0, significant: false });
  });

  it('are not significant where many tweets make a small difference sure', async () => {
    const noise = Array.from({ length: 400 }, (_, t) => (t % 2 === 0 ? 0.1 : -0.1));
    const base = noise.map(() => 0.5);
    const of = (d: number): Promise<Comparison> =>
      ofReward([
        rewardsOf('a', base),
        rewardsOf(
          'b',
          noise.map((value) => 0.5 + value + 0.1 * d),
        ),
      ]);
    const [small, large] = [await of(0.29), await of(0.31)];
    expect(small.p_holm).toBeLessThan(1e-6);
    expect(small.d).toBeCloseTo(0.29, 2);
    expect([small.significant, large.significant]).toEqual([false, true]);
  });
});

describe('the resamples of comparisons', () => {
  const random = new Random(3, 'resamples');
  const rewards = (lift: number): number[] => Array.from({ length: 9 }, () => random.uniform() * 0.4 + lift);
  const [x, y] = [rewards(0.1), rewards(0.4)];
  const settings = { seed: 7, resamples: 60 };

  it('are those of the metrics: the interval of a difference is of resamples drawn one by one', async () => {
    const models = [rewardsOf('a', x), rewardsOf('b', y)];
    const { comparisons, models: metrics } = await evaluateModels(models, { ...options, ...settings });
    const drawn = [...resampleIndices(9, 60, 7)];
    const of = (value: (t: number) => number): [number, number] =>
      percentileInterval(drawn.map((row) => mean(Array.from(row, value))));
    const near = (actual: readonly number[], expected: readonly number[]): void =>
      actual.forEach((bound, i) => expect(bound).toBeCloseTo(expected[i], 12));
    near(
      comparisons[0].ci,
      of((t) => y[t] - x[t]),
    );
    const { reward } = metrics.b;
    near(
      reward.value === null ? [] : reward.ci,
      of((t) => y[t]),
    );
  });

  it('are drawn of all tweets where one of the models lacks a value of some', async () => {
    // Of "a" and "abb" the cosine is 1 / sqrt(1 + 2 ** 2); one reply alone has none.
    const tweets = Array.from({ length: 9 }, (_, t) => t);
    const rows = tweets.map((t) => (t % 4 === 1 ? ['a'] : ['a', `a${'b'.repeat(t)}`]));
    const others = tweets.map((t) => (t % 4 === 2 ? ['a'] : ['a', 'a']));
    const [a, b] = [repliesOf('a', rows), repliesOf('b', others)];
    const { comparisons } = await evaluateModels([a, b], { ...options, ...settings });
    const one = comparisons.find(({ metric }) => metric === 'semantic_diversity');
    expect(one?.n).toBe(5);
    const differences = tweets.map((t) => ([1, 2].includes(t % 4) ? null : 1 / Math.sqrt(1 + t * t) - 1));
    const expected = bootstrapMetric(meanOverTweets(differences), resampleTweets(9, settings), 'none');
    if (expected.value === null) throw new Error(expected.reason);
    expect(one?.difference).toBeCloseTo(expected.value, 6);
    one?.ci.forEach((bound, i) => expect(bound).toBeCloseTo(expected.ci[i], 6));
  });

  it('are of other numbers from another seed', async () => {
    const of = async (seed: number): Promise<[number, number]> =>
      (await compare([rewardsOf('a', x), rewardsOf('b', y)], { ...settings, seed }))[0].ci;
    expect(await of(7)).toEqual(await of(7));
    expect(await of(8)).not.toEqual(await of(7));
  });
});

describe('comparisons by Pass@k', () => {
  const [good, poor] = ['a fine reply #0.8', 'a poor reply #0.2'];
  const rowsOf = (...passes: number[]): string[][] =>
    passes.map((c) => Array.from({ length: 4 }, (_, i) => (i < c ? good : poor)));
  const [a, b] = [repliesOf('a', rowsOf(0, 1, 2)), repliesOf('b', rowsOf(1, 1, 4))];

  it.each([[[1]], [[1, 2, 4]], [[3]], [[4, 1]]])('are of every k that is asked for: %j', async (k) => {
    const found = (await compare([a, b], { k })).filter(({ metric }) => metric.startsWith('pass'));
    expect(found.map(({ metric }) => metric)).toEqual([...k].sort().map((size) => `pass@${size}`));
    // Subsets of k of 4 replies without one that passes: C(4 - c, k) / C(4, k).
    const misses = [[1, 1, 1, 1], [3 / 4, 1 / 2, 1 / 4, 0], [1 / 2, 1 / 6, 0, 0], [], [0, 0, 0, 0]];
    for (const { metric, difference } of found) {
      const at = (c: number): number => 1 - misses[c][Number(metric.slice(5)) - 1];
      expect(difference).toBeCloseTo(mean([at(1) - at(0), 0, at(4) - at(2)]), 12);
    }
  });

  it('follow the first check alone', async () => {
    const found = await compare([a, b], { k: [1, 4], quality: { min_reward: 0.1 }, otherQuality: [{}] });
    const passes = found.filter(({ metric }) => metric.startsWith('pass'));
    expect(passes.map(({ difference, p }) => [difference, p])).toEqual([
      [0, null],
      [0, null],
    ]);
    expect(found.filter(({ p }) => p !== null).map(({ metric }) => metric)).not.toContain('pass@1');
  });
});
