import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { areaUnderCurve } from '../metrics/ranking';
import { mean, spearman } from '../metrics/statistics';
import { loadReward, rewardFromSettings } from '../rewards/config';
import { rewardDefaults } from '../rewards/settings';
import { ConfigError, DataError, ShapeError } from '../runtime/errors';
import { readLabelledPairs, scoreReplies } from './labelled-pairs';
import type { ScoredPair } from './labelled-pairs';
import { disagreements, rankChanges } from './reward-examples';

function row(reply: string, total: number, components = {}): ScoredPair {
  const label = reply.startsWith('good') ? 'good' : 'bad';
  return { tweet_id: 't1', tweet: 'a tweet', reply, label, total, components };
}

const rowsOf = (totals: Record<string, number>): ScoredPair[] =>
  Object.entries(totals).map(([reply, total]) => row(reply, total));

describe('rankChanges', () => {
  it('of a small example is what one counts by hand', () => {
    const before = rowsOf({ good1: 0.9, bad1: 0.8, good2: 0.5, bad2: 0.5, bad3: 0.1 });
    const after = rowsOf({ good1: 0.3, bad1: 0.2, good2: 0.6, bad2: 0.1, bad3: 0.4 });
    const { n, swaps, rows, spearman: correlation } = rankChanges(before, after);
    expect(n).toBe(5);
    // Ranks before: 1, 2, 3.5, 3.5, 5; after: 3, 4, 1, 5, 2.
    expect(
      rows.map(({ reply, rankBefore, rankAfter, change }) => [reply, rankBefore, rankAfter, change]),
    ).toEqual([
      ['bad3', 5, 2, 3],
      ['good2', 3.5, 1, 2.5],
      ['good1', 1, 3, -2],
      ['bad1', 2, 4, -2],
      ['bad2', 3.5, 5, -1.5],
    ]);
    // good1 fell below bad3; good2 rose above bad1; good2 and bad2 were tied.
    expect(swaps).toEqual({ pairs: 6, better: 1, worse: 1 });
    expect(correlation).toBeCloseTo(spearman([5, 4, 2.5, 2.5, 1], [3, 2, 5, 1, 4]) ?? NaN, 12);
    expect(rows[0]).toMatchObject({ tweet_id: 't1', label: 'bad', before: 0.1, after: 0.4 });
    expect(rows[0]).not.toHaveProperty('components');
  });

  it('returns the rows that moved most, equal ones in the order given', () => {
    const before = rowsOf({ good1: 0.4, bad1: 0.3, bad2: 0.2, bad3: 0.1 });
    const after = rowsOf({ good1: 0.1, bad1: 0.2, bad2: 0.3, bad3: 0.4 });
    const { rows } = rankChanges(before, after, { top: 2 });
    expect(rows.map(({ reply }) => reply)).toEqual(['good1', 'bad3']);
    expect(rankChanges(before, before).rows.map(({ reply }) => reply)).toEqual([
      'good1',
      'bad1',
      'bad2',
      'bad3',
    ]);
  });

  const twoRewards = fc.array(
    fc.record({
      good: fc.boolean(),
      before: fc.integer({ min: 0, max: 5 }),
      after: fc.integer({ min: 0, max: 5 }),
    }),
    { minLength: 2, maxLength: 12 },
  );
  const scoredBy = (rows: { good: boolean; before: number; after: number }[], of: 'before' | 'after') =>
    rows.map((each, i) => row(`${each.good ? 'good' : 'bad'}${i}`, each[of]));

  it('sums to no change, and turns round when the rewards change places', () => {
    fc.assert(
      fc.property(twoRewards, (rows) => {
        const [before, after] = [scoredBy(rows, 'before'), scoredBy(rows, 'after')];
        const there = rankChanges(before, after, { top: 100 });
        const back = rankChanges(after, before, { top: 100 });
        expect(there.rows.reduce((sum, { change }) => sum + change, 0)).toBe(0);
        const changes = (of: typeof there) => new Map(of.rows.map(({ reply, change }) => [reply, change]));
        for (const [reply, change] of changes(there)) expect(changes(back).get(reply)).toBe(0 - change);
        expect([there.swaps.better, there.swaps.worse]).toEqual([back.swaps.worse, back.swaps.better]);
        expect(there.spearman).toBe(back.spearman);
      }),
    );
  });

  it('counts swaps that make up the change of the AUC where there is no tie', () => {
    const order = fc.integer({ min: 2, max: 12 }).chain((n) => {
      const places = Array.from({ length: n }, (_, i) => i);
      const shuffled = fc.shuffledSubarray(places, { minLength: n });
      return fc.tuple(fc.array(fc.boolean(), { minLength: n, maxLength: n }), shuffled, shuffled);
    });
    fc.assert(
      fc.property(order, ([good, before, after]) => {
        fc.pre(good.includes(true) && good.includes(false));
        const rows = good.map((isGood, i) => ({ good: isGood, before: before[i], after: after[i] }));
        const { swaps } = rankChanges(scoredBy(rows, 'before'), scoredBy(rows, 'after'));
        const auc = (of: 'before' | 'after') =>
          areaUnderCurve(
            rows.filter((each) => each.good).map((each) => each[of]),
            rows.filter((each) => !each.good).map((each) => each[of]),
          );
        expect((swaps.better - swaps.worse) / swaps.pairs).toBeCloseTo(auc('after') - auc('before'), 12);
      }),
    );
  });

  it('of a reward and itself moves nothing', async () => {
    const pairs = await readLabelledPairs('data/labelled-pairs.jsonl');
    const scored = await scoreReplies(await loadReward('sharp'), pairs);
    const { spearman: correlation, swaps, rows } = rankChanges(scored, scored);
    expect([correlation, swaps.better, swaps.worse]).toEqual([1, 0, 0]);
    expect(rows.every(({ change }) => change === 0)).toBe(true);
  });

  it('has no correlation where a reward gives all the same', () => {
    expect(rankChanges(rowsOf({ good: 1, bad: 1 }), rowsOf({ good: 2, bad: 1 })).spearman).toBeNull();
  });

  const rows = rowsOf({ good: 0.5, bad: 0.4 });
  it.each([
    ['2 scored replies before and 1 after', ShapeError, rows, rows.slice(1), {}],
    ['ranks of 0 replies; expected at least 2', ShapeError, [], [], {}],
    ['scored reply 1: reply differs before and after', DataError, rows, [...rows].reverse(), {}],
    ['reply 2: label differs', DataError, rows, [rows[0], { ...rows[1], label: 'good' as const }], {}],
    ['total is NaN', DataError, rows, rowsOf({ good: 0.5, bad: NaN }), {}],
    ['top is 0; expected an integer >= 1', ConfigError, rows, rows, { top: 0 }],
  ])('refuses: %s', (message, Kind, before, after, options) => {
    expect(() => rankChanges(before, after, options)).toThrow(Kind);
    expect(() => rankChanges(before, after, options)).toThrow(message);
  });
});

describe('disagreements', () => {
  const scored = [
    row('good1', 0.2, { wit: 0.1, tone: 0.5, length: 0.9 }),
    row('good2', 0.9, { wit: 0.9, tone: 0.5, length: 0.5 }),
    row('bad1', 0.6, { wit: 0.8, tone: 0.7, length: 0.5 }),
    row('bad2', 0.2, { wit: 0.2, tone: 0.3, length: 0.5 }),
  ];

  it('are the good replies that score lowest and the bad ones that score highest', () => {
    const { good, bad } = disagreements(scored);
    expect(good.map(({ reply, losesTo }) => [reply, losesTo])).toEqual([
      ['good1', 0.75], // below bad1, tied with bad2
      ['good2', 0],
    ]);
    expect(bad.map(({ reply, losesTo }) => [reply, losesTo])).toEqual([
      ['bad1', 0.5],
      ['bad2', 0.75],
    ]);
    const one = disagreements(scored, { top: 1 });
    expect([one.good.length, one.bad.length]).toEqual([1, 1]);
    expect(good[0]).toMatchObject({ tweet_id: 't1', label: 'good', total: 0.2 });
  });

  it('name the components that pull to the wrong side, the strongest first', () => {
    const { good, bad } = disagreements(scored); // means: wit 0.5, tone 0.5, length 0.6
    expect(good[0].pulls.map(({ component }) => component)).toEqual(['wit']);
    expect(good[0].pulls[0]).toMatchObject({ value: 0.1, mean: 0.5 });
    expect(good[0].pulls[0].pull).toBeCloseTo(-0.4, 12);
    expect(bad[0].pulls.map(({ component }) => component)).toEqual(['wit', 'tone']);
  });

  it('weigh the pulls where weights are given, and leave out what has none', () => {
    const { bad } = disagreements(scored, { weights: { wit: 0.1, tone: 0.9 } });
    expect(bad[0].pulls.map(({ component }) => component)).toEqual(['tone', 'wit']);
    expect(bad[0].pulls[0].pull).toBeCloseTo(0.9 * 0.2, 12);
    const { bad: byTone } = disagreements(scored, { weights: { tone: 1 } });
    expect(byTone[0].pulls.map(({ component }) => component)).toEqual(['tone']);
  });

  it('have a mean of losesTo over the good replies of 1 - AUC, and of AUC over the bad ones', () => {
    const scores = fc.array(fc.integer({ min: 0, max: 6 }), { minLength: 1, maxLength: 10 });
    fc.assert(
      fc.property(scores, scores, (good, bad) => {
        const rows = [
          ...good.map((total, i) => row(`good${i}`, total)),
          ...bad.map((total, i) => row(`bad${i}`, total)),
        ];
        const found = disagreements(rows, { top: 10 });
        const auc = areaUnderCurve(good, bad);
        expect(mean(found.good.map(({ losesTo }) => losesTo))).toBeCloseTo(1 - auc, 12);
        expect(mean(found.bad.map(({ losesTo }) => losesTo))).toBeCloseTo(auc, 12);
        expect(found.good.map(({ total }) => total)).toEqual([...good].sort((a, b) => a - b));
        expect(found.bad.map(({ total }) => total)).toEqual([...bad].sort((a, b) => b - a));
      }),
    );
  });

  it('under a weighted mean of three components have pulls that sum to no more than what the total lacks', async () => {
    const { weights } = rewardDefaults('study');
    const [relevance, sentiment, diversity] = [0.5, 0.25, 0.25];
    const three = { ...weights, relevance, sentiment, diversity, length: 0, punctuation: 0, engagement: 0 };
    const reward = await rewardFromSettings({ weights: three });
    const pairs = await readLabelledPairs('data/labelled-pairs.jsonl');
    const scoredPairs = await scoreReplies(reward, pairs);
    const centre = mean(scoredPairs.map(({ total }) => total));
    const found = disagreements(scoredPairs, { top: 50, weights: three });
    let whole = 0;
    for (const { total, pulls } of found.good) {
      const sum = pulls.reduce((a, { pull }) => a + pull, 0);
      expect(sum).toBeLessThanOrEqual(total - centre + 1e-12);
      if (pulls.length === 3) whole++;
      if (pulls.length === 3) expect(sum).toBeCloseTo(total - centre, 12);
    }
    expect(whole).toBeGreaterThan(0);
  });

  it('refuse one side only, scores that are not finite, a bad top and a weight of no component', () => {
    expect(() => disagreements(scored.slice(0, 2))).toThrow('2 good and 0 bad replies');
    expect(() => disagreements([])).toThrow(ShapeError);
    expect(() => disagreements([...scored, row('bad', NaN)])).toThrow(DataError);
    expect(() => disagreements(scored, { top: 1.5 })).toThrow(ConfigError);
    expect(() => disagreements(scored, { weights: { wti: 1 } })).toThrow('did you mean "wit"?');
  });
});
