import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mean } from '../metrics/statistics';
import { loadReward } from '../rewards/config';
import { ConfigError, DataError, ShapeError } from '../runtime/errors';
import { readLabelledPairs, scoreReplies } from './labelled-pairs';
import type { ScoredPair } from './labelled-pairs';
import { componentTable, rewardSeparation } from './reward-tuning';

function row(label: 'good' | 'bad', tweet: number, total: number, components = {}): ScoredPair {
  return { tweet_id: `t${tweet}`, tweet: 'a tweet', reply: 'a reply', label, total, components };
}

/** Two tweets or more, with a good and a bad reply among theirs; few different totals, so that ties are common. */
const scoredPairs = fc
  .array(
    fc.record({
      label: fc.constantFrom('good' as const, 'bad' as const),
      tweet: fc.integer({ min: 0, max: 5 }),
      total: fc.integer({ min: 0, max: 4 }).map((value) => value / 4),
    }),
    { maxLength: 14 },
  )
  .map((rows) => [
    row('good', 0, 0.5, { a: 0.5, flat: 0.25 }),
    row('bad', 1, 0.25, { a: 0.25, flat: 0.25 }),
    ...rows.map(({ label, tweet, total }) => row(label, tweet, total, { a: total, flat: 0.25 })),
  ]);

/** From the definition: over all pairs of a good and a bad reply. */
function bruteForceAuc(scored: readonly ScoredPair[], value = ({ total }: ScoredPair): number => total) {
  const good = scored.filter(({ label }) => label === 'good').map(value);
  const bad = scored.filter(({ label }) => label === 'bad').map(value);
  return mean(good.flatMap((g) => bad.map((b) => (g > b ? 1 : g === b ? 0.5 : 0))));
}

describe('rewardSeparation', () => {
  it('has the AUC over all pairs of a good and a bad reply, a tie counting half', () => {
    fc.assert(
      fc.property(scoredPairs, (scored) => {
        const { auc, nGood, nBad } = rewardSeparation(scored, { resamples: 20 });
        expect(auc.value).toBeCloseTo(bruteForceAuc(scored), 12);
        expect(nGood + nBad).toBe(scored.length);
        expect(auc.interval[0]).toBeLessThanOrEqual(auc.interval[1]);
      }),
    );
  });

  it('of a small example is what one counts by hand', () => {
    const scored = [row('good', 1, 0.9), row('good', 2, 0.4), row('bad', 1, 0.4), row('bad', 2, 0.1)];
    const separation = rewardSeparation(scored);
    expect(separation).toMatchObject({ nGood: 2, nBad: 2, nTweets: 2, meanGood: 0.65, meanBad: 0.25 });
    expect(separation.difference).toBeCloseTo(0.4, 12);
    expect(separation.auc.value).toBe(3.5 / 4);
    // A resample is tweet 1 twice, tweet 2 twice (each AUC 1), or both (3.5 / 4).
    expect(separation.auc.interval).toEqual([0.875, 1]);
  });

  it('resamples whole tweets: a copy of every reply beside it leaves the interval as it is', () => {
    const scored = Array.from({ length: 60 }, (_, i) =>
      row(i % 3 === 0 ? 'good' : 'bad', i % 15, (i * 37) % 61),
    );
    const once = rewardSeparation(scored);
    expect(rewardSeparation([...scored, ...scored]).auc).toEqual(once.auc);
  });

  it('has the same interval for the same seed, another for another, and a wider one at a higher level', () => {
    const scored = Array.from({ length: 40 }, (_, i) =>
      row(i % 2 === 0 ? 'good' : 'bad', i % 10, (i * 7) % 23),
    );
    const of = (seed: number, level?: number) => rewardSeparation(scored, { seed, level }).auc.interval;
    expect(of(1)).toEqual(rewardSeparation(scored).auc.interval);
    expect(of(2)).not.toEqual(of(1));
    expect(of(1, 0.99)[1] - of(1, 0.99)[0]).toBeGreaterThan(of(1)[1] - of(1)[0]);
  });

  it('leaves out resamples without a good or a bad reply', () => {
    const scored = [row('good', 1, 0.9), row('bad', 2, 0.1), row('bad', 3, 0.2)];
    expect(rewardSeparation(scored).auc).toEqual({ value: 1, interval: [1, 1] });
  });

  it('gives the published numbers of the labelled pairs', async () => {
    const pairs = await readLabelledPairs('data/labelled-pairs.jsonl');
    const show = async (name: string): Promise<string[]> => {
      const { auc, difference } = rewardSeparation(await scoreReplies(await loadReward(name), pairs));
      return [auc.value, ...auc.interval, difference].map((value) => value.toFixed(3));
    };
    expect(await show('heuristic')).toEqual(['0.539', '0.438', '0.643', '-0.001']);
    expect(await show('sharp')).toEqual(['0.749', '0.646', '0.839', '0.121']);
  });

  const [good, bad] = [row('good', 1, 0.5), row('bad', 2, 0.5)];
  it.each([
    ['0 good and 0 bad replies; expected at least 1 of each', ShapeError, []],
    ['2 good and 0 bad replies', ShapeError, [good, good]],
    ['0 good and 1 bad replies', ShapeError, [bad]],
    ['replies to 1 tweet; expected at least 2', ShapeError, [good, row('bad', 1, 0.5)]],
    ['scored reply 2 (tweet t2): total is NaN; expected', DataError, [good, row('bad', 2, NaN)]],
    ['a is Infinity', DataError, [good, row('bad', 2, 0, { a: Infinity })]],
    ['label is "ok"; expected "good" or "bad"', DataError, [good, row('ok' as 'bad', 2, 0)]],
  ])('refuses: %s', (message, Kind, scored) => {
    expect(() => rewardSeparation(scored)).toThrow(Kind);
    expect(() => rewardSeparation(scored)).toThrow(message);
  });
});

describe('componentTable', () => {
  it('has a row for the total and for each component, computed from that value alone', () => {
    fc.assert(
      fc.property(scoredPairs, (scored) => {
        const rows = componentTable(scored);
        expect(rows.map(({ component }) => component)).toEqual(['total', 'a', 'flat']);
        const [total, a, flat] = rows;
        expect(total).toEqual({ ...a, component: 'total' });
        expect(total.auc).toBeCloseTo(bruteForceAuc(scored), 12);
        const totals = scored.map((each) => each.total);
        expect([total.min, total.max]).toEqual([Math.min(...totals), Math.max(...totals)]);
        expect(total.atMax).toBe(totals.filter((value) => value === total.max).length / totals.length);
        expect(flat).toMatchObject({ auc: 0.5, difference: 0, atMin: 1, atMax: 1 });
        expect(flat.note).toBe('constant: every reply has 0.25');
      }),
    );
  });

  const scored = [
    row('good', 1, 0.6, { wit: 1, tone: 0.5 }),
    row('good', 2, 0.8, { wit: 1, tone: 0.75 }),
    row('bad', 1, 0.7, { wit: 1, tone: 0.25 }),
    row('bad', 2, 0.1, { wit: 0, tone: 0 }),
  ];

  it('shows how often a component stands at an end of its range', () => {
    expect(componentTable(scored, { wit: 0.25 })[1]).toEqual({
      ...{ component: 'wit', weight: 0.25, n: 4, meanGood: 1, meanBad: 0.5, difference: 0.5, auc: 0.75 },
      ...{ min: 0, atMin: 0.25, max: 1, atMax: 0.75, note: '' },
    });
    expect(componentTable(scored).map(({ weight }) => weight)).toEqual([null, null, null]);
  });

  it('has no AUC, and says why, for a component that no reply of one side has', () => {
    const partly = [...scored, row('bad', 3, 0.2, { shout: 0.5 }), row('bad', 3, 0.2, { shout: 1 })];
    const shout = componentTable(partly).find(({ component }) => component === 'shout');
    expect(shout).toMatchObject({ n: 2, meanGood: null, meanBad: 0.75, difference: null, auc: null });
    expect(shout?.note).toBe('no good reply has it');
    expect(componentTable(partly).find(({ component }) => component === 'tone')?.n).toBe(4);
  });

  it('refuses a weight of no component, naming the nearest, and one that is no number', () => {
    expect(() => componentTable(scored, { wti: 1 })).toThrow(
      'weights: the reward has no component "wti"; did you mean "wit"?',
    );
    expect(() => componentTable(scored, { wit: NaN })).toThrow(ConfigError);
  });

  it('refuses scores of one side only, or not finite', () => {
    expect(() => componentTable(scored.slice(0, 2))).toThrow('2 good and 0 bad replies');
    expect(() => componentTable([...scored, row('bad', 1, 0, { wit: NaN })])).toThrow(DataError);
  });
});
