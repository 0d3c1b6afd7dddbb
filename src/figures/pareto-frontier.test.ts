import { describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { drawParetoFrontier } from './pareto-frontier';
import type { ParetoFrontier } from './pareto-frontier';
import type { JsonObject } from './spec';

function estimate(value: number): { value: number; ci: [number, number] } {
  return { value, ci: [value - 0.02, value + 0.03] };
}

const DATA: ParetoFrontier = {
  ...{ tweets: 200, seeds: 3 },
  models: [
    { name: 'baseline', diversity: estimate(0.4), quality: estimate(0.3) },
    { name: 'grpo', diversity: estimate(0.35), quality: estimate(0.25) },
    { name: 'polychromic_grpo', diversity: estimate(0.6), quality: estimate(0.2) },
  ],
};
const TWO: ParetoFrontier = {
  ...DATA,
  secondQuality: { name: 'reward', unit: '0 to 1' },
  models: DATA.models.map((model, i) => ({ ...model, secondQuality: estimate(0.5 + 0.1 * i) })),
};

const texts = (layout: JsonObject) => (layout.annotations as readonly JsonObject[]).map(({ text }) => text);

describe('drawParetoFrontier', () => {
  const spec = drawParetoFrontier(DATA);
  const named = (name: string) => spec.data.filter((trace) => trace.name === name);

  it('draws every model where it lies, with both intervals as a cross', () => {
    expect(named('GRPO')[0]).toMatchObject({ x: [0.35], y: [0.25], marker: { symbol: 'square' } });
    const [across, upright] = named('GRPO, interval') as unknown as { x: number[]; y: number[] }[];
    expect([across.y, upright.x]).toEqual([
      [0.25, 0.25],
      [0.35, 0.35],
    ]);
    expect([across.x[0], across.x[1]]).toEqual(estimate(0.35).ci);
    expect([upright.y[0], upright.y[1]]).toEqual(estimate(0.25).ci);
  });

  it('fills the optimal models and joins them by a staircase; the others are hollow', () => {
    const fill = (name: string) => (named(name)[0].marker as JsonObject).color;
    expect(fill('GRPO')).toBe('#FFFFFF');
    expect(fill('Baseline SFT')).not.toBe('#FFFFFF');
    const { x, y } = named('Pareto frontier')[0] as unknown as { x: number[]; y: number[] };
    expect(x.slice(1)).toEqual([0.4, 0.4, 0.6, 0.6]);
    expect(y.slice(0, -1)).toEqual([0.3, 0.3, 0.2, 0.2]);
  });

  it('names every model at its point, the axes with units and the intervals', () => {
    expect(texts(spec.layout)).toEqual(
      expect.arrayContaining([
        ...['Baseline SFT', 'GRPO', 'Polychromic + GRPO'],
        'crosses: bootstrap 95 % intervals, n = 200 tweets, 3 seeds; filled, dashed line: Pareto-optimal',
      ]),
    );
    const { xaxis, yaxis } = spec.layout as Record<string, JsonObject>;
    expect(xaxis.title).toMatchObject({ text: 'distinct-2 (share of bigrams, 0 to 1)' });
    expect(yaxis.title).toMatchObject({ text: 'ROUGE-L (F1, 0 to 1)' });
  });

  it('names intervals of another kind, and then says what is optimal above the second panel', () => {
    const diversity = { name: 'distinct-2', unit: '', interval: 'jackknife' as const };
    const models = DATA.models.map((model) => ({ ...model, secondQuality: model.quality }));
    const drawn = drawParetoFrontier({
      ...DATA,
      diversity,
      secondQuality: { name: 'reward', unit: '' },
      models,
    });
    expect(texts(drawn.layout)).toEqual(
      expect.arrayContaining([
        'crosses: bootstrap 95 % intervals, n = 200 tweets, 3 seeds (distinct-2: jackknife)',
        'filled, dashed line: Pareto-optimal',
      ]),
    );
  });

  it('draws no cross over a marker', () => {
    const kinds = spec.data.map(({ mode }) => mode);
    expect(kinds.lastIndexOf('lines+markers')).toBeLessThan(kinds.indexOf('markers'));
  });

  it('adds a panel of a second quality, over the same diversity', () => {
    const two = drawParetoFrontier(TWO);
    expect(texts(two.layout)).toContain('<b>Reward against distinct-2</b>');
    expect(two.layout.yaxis2).toMatchObject({ title: { text: 'reward (0 to 1)' } });
    expect((two.layout.xaxis2 as JsonObject).range).toEqual((two.layout.xaxis as JsonObject).range);
    expect(new Set(two.data.map(({ yaxis }) => yaxis))).toEqual(new Set(['y', 'y2']));
  });

  it('names what has no value with its reason, and draws the rest', () => {
    const none = { value: null, reason: 'no reference reply' };
    const models = DATA.models.map((model, i) => (i === 1 ? { ...model, quality: none } : model));
    const without = drawParetoFrontier({ ...DATA, models });
    expect(texts(without.layout)).toContain('No value: ROUGE-L of GRPO (no reference reply)');
    expect(without.data.map(({ name }) => name)).not.toContain('GRPO');
    const empty = drawParetoFrontier({ tweets: 1, models: [{ ...DATA.models[0], diversity: none }] });
    expect(texts(empty.layout)).toContain('no model has both values');
  });

  it('draws one model, whose intervals are points', () => {
    const point = { value: 0.5, ci: [0.5, 0.5] as [number, number] };
    const one = drawParetoFrontier({
      tweets: 1,
      models: [{ name: 'mine', diversity: point, quality: point }],
    });
    const [low, high] = (one.layout.xaxis as JsonObject).range as number[];
    expect([low < 0.5, high > 0.5]).toEqual([true, true]);
  });

  it('refuses a second quality that only some models or only the models have', () => {
    const models = TWO.models.slice(0, 1);
    expect(() => drawParetoFrontier({ ...DATA, models })).toThrow(ConfigError);
    expect(() => drawParetoFrontier({ ...TWO, models: [...models, DATA.models[1]] })).toThrow(
      'models[1].secondQuality: grpo: expected secondQuality in the figure and in all its models, or in none',
    );
  });
});
