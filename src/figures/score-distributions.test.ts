import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ConfigError, ShapeError } from '../runtime/errors';
import { makeFigure, readFigure } from './draw';
import { exportFigures } from './export';
import { drawScoreDistributions, scoreDistributionsSchema, summariseScores } from './score-distributions';
import type { ScoredReward } from './score-distributions';
import type { JsonObject, Trace } from './spec';

const FOLDER = mkdtempSync(join(tmpdir(), 'scores-'));
afterAll(() => rmSync(FOLDER, { recursive: true }));

function scoredReward(name: string, good: readonly number[], bad: readonly number[]): ScoredReward {
  const rows = (label: 'good' | 'bad', totals: readonly number[]) =>
    totals.map((total) => ({ label, total }));
  const separation = { auc: { value: 0.7492, interval: [0.6456, 0.8393] as [number, number] } };
  return { name, scored: [...rows('good', good), ...rows('bad', bad)], separation };
}

const BEFORE = scoredReward('study', [0.81, 0.84, 0.9, 0.82], [0.8, 0.78, 0.83]);
const AFTER = scoredReward('tuned', [0.7, 0.75, 0.92, 0.66], [0.3, 0.52, 0.61]);

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

function texts(layout: JsonObject): unknown[] {
  return (layout.annotations as readonly JsonObject[]).map(({ text }) => text);
}

function histograms(data: readonly Trace[]): Trace[] {
  return data.filter(({ fill }) => fill === 'tozeroy');
}

describe('summariseScores', () => {
  it('counts every reply of all rewards over the same edges', () => {
    const { edges, rewards } = summariseScores([BEFORE, AFTER]);
    expect(rewards.map(({ name }) => name)).toEqual(['study', 'tuned']);
    for (const { good, bad } of rewards) {
      expect([good.n, sum(good.counts), bad.n, sum(bad.counts)]).toEqual([4, 4, 3, 3]);
      expect(good.counts).toHaveLength(edges.length - 1);
    }
    expect(edges[0]).toBeLessThanOrEqual(0.3);
    expect(edges[edges.length - 1]).toBeGreaterThanOrEqual(0.92);
    expect(rewards[1]).toMatchObject({ auc: 0.7492, interval: [0.6456, 0.8393] });
    expect(rewards[1].bad.mean).toBeCloseTo(1.43 / 3, 12);
  });

  it('is data that its own schema accepts', () => {
    const summary = summariseScores([BEFORE, AFTER]);
    expect(scoreDistributionsSchema.parse(summary)).toEqual(summary);
  });

  it('works when all scores are equal', () => {
    const { rewards } = summariseScores([scoredReward('flat', [0, 0], [0])]);
    expect([sum(rewards[0].good.counts), sum(rewards[0].bad.counts)]).toEqual([2, 1]);
  });

  it.each([
    ['scores of 0 rewards; expected 1, or 2', []],
    ['scores of 3 rewards', [BEFORE, AFTER, AFTER]],
    ['r: no good reply; expected at least 1', [scoredReward('r', [], [0.5])]],
    ['r: no bad reply', [scoredReward('r', [0.5], [])]],
    ['r: a score is not finite', [scoredReward('r', [0.5], [NaN])]],
  ])('refuses %s', (message, rewards) => {
    expect(() => summariseScores(rewards)).toThrow(ShapeError);
    expect(() => summariseScores(rewards)).toThrow(message);
  });
});

describe('drawScoreDistributions', () => {
  const spec = drawScoreDistributions(summariseScores([BEFORE, AFTER]));

  it('names the AUC with its interval and n above each panel', () => {
    expect(texts(spec.layout)).toEqual([
      '<b>study</b>',
      'AUC 0.749, 95 % bootstrap interval over tweets [0.646, 0.839]; n = 4 good, 3 bad',
      '<b>tuned</b>',
      'AUC 0.749, 95 % bootstrap interval over tweets [0.646, 0.839]; n = 4 good, 3 bad',
    ]);
    const other = drawScoreDistributions(summariseScores([BEFORE], 0.9));
    expect(texts(other.layout)[1]).toContain('90 % bootstrap interval');
  });

  it('draws shares: the heights of each histogram add up to 100 %', () => {
    expect(histograms(spec.data)).toHaveLength(4);
    for (const { y } of histograms(spec.data)) expect(sum(y as number[])).toBeCloseTo(100, 9);
  });

  it('draws the outline from the first reply to the last', () => {
    const data = { edges: [0, 1, 2, 3, 4], rewards: [] };
    const side = { n: 4, counts: [0, 3, 1, 0], mean: 1.5 };
    const reward = { name: 'r', auc: 0.5, interval: [0.4, 0.6] as [number, number], good: side, bad: side };
    const [good] = histograms(drawScoreDistributions({ ...data, rewards: [reward] }).data);
    expect([good.x, good.y]).toEqual([
      [1, 1, 2, 3],
      [0, 75, 25, 0],
    ]);
  });

  it('has the same axes in both panels', () => {
    const { xaxis, xaxis2, yaxis, yaxis2 } = spec.layout as Record<string, JsonObject>;
    expect(xaxis2.range).toEqual(xaxis.range);
    expect(yaxis2.range).toEqual(yaxis.range);
    expect(xaxis.title).toMatchObject({ text: 'total score' });
    expect(yaxis.title).toMatchObject({ text: 'share of replies (%)' });
  });

  it('tells good from bad by dash and marker, not by colour alone, each once in the legend', () => {
    const dashes = histograms(spec.data).map(({ line }) => (line as JsonObject).dash);
    expect(new Set(dashes).size).toBe(2);
    const symbols = spec.data.flatMap(({ marker }) => (marker ? [(marker as JsonObject).symbol] : []));
    expect(new Set(symbols).size).toBe(2);
    const named = spec.data.filter(({ showlegend }) => showlegend === true).map(({ name }) => name);
    expect(named).toEqual(['good replies', 'mean of good replies', 'bad replies', 'mean of bad replies']);
  });

  it('puts the means where they are, one above the other', () => {
    const means = spec.data.filter(({ mode }) => mode === 'markers').slice(0, 2);
    expect((means[0].x as number[])[0]).toBeCloseTo(0.8425, 12);
    expect((means[1].x as number[])[0]).toBeCloseTo(2.41 / 3, 12);
    expect(means[0].y).not.toEqual(means[1].y);
  });

  it('shows a name with marks of HTML as it is', () => {
    const named = { ...BEFORE, name: 'a<5 & <b>' };
    expect(texts(drawScoreDistributions(summariseScores([named])).layout)[0]).toBe(
      '<b>a&lt;5 &amp; &lt;b></b>',
    );
  });

  it('refuses bins that do not fit, and unknown keys', () => {
    const data = summariseScores([BEFORE]);
    const [reward] = data.rewards;
    const changed = (change: object) => () =>
      drawScoreDistributions({ ...data, rewards: [{ ...reward, ...change }] });
    expect(changed({ good: { ...reward.good, n: 5 } })).toThrow(/good replies; expected \d+ with 5/);
    expect(changed({ bad: { ...reward.bad, counts: [3] } })).toThrow(ShapeError);
    expect(changed({ auk: 1 })).toThrow(/unknown key "rewards\[0\].auk"; did you mean "auc"/);
    expect(changed({ auc: 1.5 })).toThrow(ConfigError);
    const falling = { ...data, edges: [...data.edges].reverse() };
    expect(() => drawScoreDistributions(falling)).toThrow('expected rising edges');
  });

  it('is drawn again from its JSON alone', async () => {
    const figure = makeFigure('scores', {
      kind: 'score-distributions',
      data: summariseScores([BEFORE, AFTER]),
    });
    await exportFigures([figure], FOLDER, { formats: [] });
    expect(JSON.stringify(readFigure(join(FOLDER, 'scores.json')).spec)).toBe(JSON.stringify(figure.spec));
  });

  it('is a figure that plotly takes as it is', async () => {
    const figure = makeFigure('drawn', {
      kind: 'score-distributions',
      data: summariseScores([BEFORE, AFTER]),
    });
    const result = await exportFigures([figure], FOLDER, { formats: ['svg'] });
    expect(result.rendered).toBe(true);
  });
});
