import { describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { drawCollapsePoints } from './collapse-points';
import type { CollapsePoints } from './collapse-points';
import type { JsonObject } from './spec';

const DATA: CollapsePoints = {
  ...{ tweets: 200, seeds: 3, n: 10 },
  models: [
    { name: 'baseline', collapse: { value: 2, ci: [2, 3] } },
    { name: 'polychromic', collapse: { value: 8, ci: [6, 10] }, beyond: true },
    { name: 'grpo', collapse: { value: null, reason: 'not reached by k = 10' }, beyond: true },
    { name: 'zero_shot', collapse: { value: null, reason: 'no reply passed' } },
  ],
};

const spec = drawCollapsePoints(DATA);
const texts = (layout: JsonObject) => (layout.annotations as readonly JsonObject[]).map(({ text }) => text);
const named = (name: string) => spec.data.filter((trace) => trace.name === name);
const withModel = (model: CollapsePoints['models'][number]): CollapsePoints => ({ ...DATA, models: [model] });

describe('drawCollapsePoints', () => {
  it('draws a bar a model to its value, with the interval and the marker of the model', () => {
    expect(named('Baseline SFT, bar')[0]).toMatchObject({ x: [0, 2, 2, 0, 0], fill: 'toself' });
    expect(named('Baseline SFT, interval')[0]).toMatchObject({ x: [2, 3], y: [0, 0] });
    expect(named('Baseline SFT')[0]).toMatchObject({ x: [2], marker: { symbol: 'circle' } });
    expect(named('Polychromic')[0]).toMatchObject({ x: [8], y: [1], marker: { symbol: 'diamond' } });
  });

  it('names what is drawn, the intervals and the numbers', () => {
    expect(texts(spec.layout)).toEqual(
      expect.arrayContaining([
        '<b>First k at which one more reply adds less than 0.01 to Pass@k</b>',
        'lines with caps: bootstrap 95 % intervals, n = 200 tweets, 3 seeds',
        '<b>2</b>  [2, 3]',
        '<b>8</b>  [6, > 10]',
        '<b>> 10</b>',
      ]),
    );
    expect(texts(drawCollapsePoints({ ...DATA, slope: 0.02 }).layout)[0]).toContain('less than 0.02');
  });

  it('draws an open bar to n with its reason where the point was not reached', () => {
    const [sides, head] = named('GRPO, beyond n');
    expect(sides).toMatchObject({ x: [0, 10, null, 0, 10], line: { dash: '5px 3px' } });
    expect(sides).not.toHaveProperty('fill');
    expect(head).toMatchObject({ x: [10], marker: { symbol: 'triangle-right' } });
    expect(texts(spec.layout)).toContain('not reached by k = 10');
  });

  it('draws an arrow head where only the interval goes on beyond n', () => {
    expect(named('Polychromic, interval')[0].marker).toMatchObject({ symbol: ['line-ns', 'triangle-right'] });
  });

  it('draws no bar for another reason, and says it in the row', () => {
    expect(spec.data.filter(({ name }) => String(name).startsWith('Zero-shot'))).toEqual([]);
    expect(texts(spec.layout)).toEqual(expect.arrayContaining(['no value: no reply passed', '–']));
  });

  it('has a row a model under its name, and an axis with a unit from 0 to n', () => {
    const { xaxis, yaxis } = spec.layout as Record<string, JsonObject>;
    expect(yaxis.ticktext).toEqual(['Baseline SFT', 'Polychromic', 'GRPO', 'Zero-shot']);
    expect(xaxis.title).toMatchObject({ text: 'collapse point k (replies per tweet)' });
    expect((xaxis.range as number[])[1]).toBeGreaterThan(10);
    expect(drawCollapsePoints(withModel(DATA.models[0])).height).toBeLessThan(spec.height);
  });

  it.each([
    [{ name: 'grpo', collapse: { value: 11, ci: [9, 12] } }, 'grpo: 11 [9, 12]; expected k up to n = 10'],
    [
      { name: 'grpo', collapse: { value: 8, ci: [7, 9] }, beyond: true },
      'expected an interval that ends at n = 10, as beyond is true',
    ],
    [{ name: 'grpo', collapse: { value: 8 } }, 'models[0].collapse.ci is missing'],
  ])('refuses %j', (model, message) => {
    const draw = () => drawCollapsePoints(withModel(model as CollapsePoints['models'][number]));
    expect(draw).toThrow(ConfigError);
    expect(draw).toThrow(message);
  });
});
