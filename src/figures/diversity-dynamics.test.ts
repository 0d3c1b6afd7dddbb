import { describe, expect, it } from 'vitest';
import { ConfigError, ShapeError } from '../runtime/errors';
import { drawDiversityDynamics } from './diversity-dynamics';
import type { DiversityDynamics } from './diversity-dynamics';
import type { JsonObject } from './spec';

type Points = DiversityDynamics['models'][number]['points'];

function mean(value: number): { value: number; band: [number, number] } {
  return { value, band: [value - 0.05, value + 0.05] };
}

function points(...steps: [step: number, phase: 1 | 2][]): Points {
  return steps.map(([step, phase], i) => ({
    ...{ step, phase, selfBleu: mean(0.2 + 0.1 * i), distinct2: mean(0.7 - 0.1 * i), semantic: mean(0.5) },
  }));
}

const DATA: DiversityDynamics = {
  boundary: 100,
  models: [
    { name: 'baseline', seeds: 3, points: points([0, 1], [50, 1], [100, 1]) },
    { name: 'grpo', seeds: 3, points: points([100, 1], [100, 2], [200, 2]) },
  ],
};

const spec = drawDiversityDynamics(DATA);
const texts = (layout: JsonObject) => (layout.annotations as readonly JsonObject[]).map(({ text }) => text);
const withPoints = (some: Points): DiversityDynamics => ({
  ...DATA,
  models: [{ name: 'grpo', seeds: 1, points: some }],
});

describe('drawDiversityDynamics', () => {
  it('draws a line a model and measure, each panel with its own axis and unit', () => {
    const lines = spec.data.filter(({ name, showlegend }) => name === 'GRPO' && showlegend === false);
    expect(lines.map(({ yaxis }) => yaxis)).toEqual(['y', 'y2', 'y3']);
    expect(lines[0]).toMatchObject({ x: [100, 100, 200] });
    const titles = ['yaxis', 'yaxis2', 'yaxis3'].map(
      (key) => ((spec.layout[key] as JsonObject).title as JsonObject).text,
    );
    expect(titles).toEqual(['self-BLEU (0 to 1)', 'distinct-2 (0 to 1)', 'cosine distance (0 to 2)']);
    expect(spec.layout.xaxis3).toMatchObject({ title: { text: 'optimiser step of the whole run' } });
  });

  it('draws the bands over seeds below all lines and says what they are', () => {
    const first = spec.data.filter(({ yaxis, x }) => yaxis === 'y' && (x as unknown[]).length > 0);
    expect(first.map(({ fill }) => fill)).toEqual(['toself', 'toself', undefined, undefined]);
    expect(texts(spec.layout)).toContain(
      'Lines: mean over seeds (n = 3 seeds); bands: from the smallest to the largest seed.',
    );
    const sd = drawDiversityDynamics({ ...DATA, band: 'sd' });
    expect(texts(sd.layout).join()).toContain('bands: ± 1 standard deviation over seeds');
  });

  it('marks the end of phase 1 in every panel and names both phases', () => {
    const shapes = spec.layout.shapes as readonly JsonObject[];
    expect(shapes.every(({ x0, x1 }) => x0 === 100 && x1 === 100)).toBe(true);
    expect(shapes.map(({ yref }) => yref)).toEqual(['y domain', 'y2 domain', 'y3 domain', 'paper']);
    expect(texts(spec.layout)).toEqual(
      expect.arrayContaining(['<b>Phase 1: SFT</b> up to step 100', '<b>Phase 2: GRPO</b>']),
    );
  });

  it('names the phases where there is room for it', () => {
    const named = (boundary: number, last: number) =>
      texts(drawDiversityDynamics({ ...withPoints(points([0, 1], [last, 2])), boundary }).layout).filter(
        (text) => String(text).includes('hase 2'),
      );
    expect(named(10, 100)).toEqual(['<b>Phase 2: GRPO</b> after step 10']);
    expect(named(95, 100)).toEqual(['<b>Phase 1: SFT</b> up to step 95, then <b>phase 2: GRPO</b>']);
  });

  it('has each model once in the legend, told apart by marker and dash', () => {
    const entries = spec.data.filter(({ showlegend }) => showlegend !== false);
    expect(entries.map(({ name }) => name)).toEqual(['Baseline SFT', 'GRPO']);
    for (const [part, trait] of [
      ['marker', 'symbol'],
      ['line', 'dash'],
    ])
      expect(new Set(entries.map((entry) => (entry[part] as JsonObject)[trait])).size).toBe(2);
  });

  it('leaves a gap where there is no value and says why; a measure of nobody is an empty panel', () => {
    const none = { value: null, reason: 'one reply only' };
    const some = points([0, 1], [50, 1], [100, 1]).map(({ step, phase, selfBleu }, i) => ({
      ...{ step, phase, selfBleu: i === 1 ? none : selfBleu, distinct2: none },
    }));
    const { data, layout } = drawDiversityDynamics(withPoints(some));
    const line = data.find(
      ({ yaxis, fill, x }) => yaxis === 'y' && fill === undefined && (x as number[]).length === 3,
    );
    expect((line?.y as unknown[])[1]).toBeNull();
    const notes = texts(layout).join(' ').replaceAll('<br>', ' ');
    expect(notes).toContain(
      'Self-BLEU of GRPO at step 50; Distinct-2 of GRPO at step 0, 50, 100 (one reply only)',
    );
    expect(texts(layout).filter((text) => text === 'no value')).toHaveLength(2);
  });

  it('has a name in the legend for a model without any value', () => {
    const { data } = drawDiversityDynamics(withPoints([{ step: 0, phase: 1 }]));
    expect(data[0].name).toBe('GRPO (no value)');
  });

  it.each([
    [points([50, 1], [0, 1]), 'grpo: step 0 of phase 1 follows step 50 of phase 1'],
    [points([50, 1], [50, 1]), 'grpo: step 50 of phase 1 follows step 50 of phase 1'],
    [points([100, 2], [100, 1]), 'grpo: step 100 of phase 1 follows step 100 of phase 2'],
    [points([50, 2]), 'grpo: step 50 of phase 2 is on the wrong side of the boundary at step 100'],
    [points([150, 1], [200, 2]), 'grpo: step 150 of phase 1 is on the wrong side'],
  ])('refuses steps that cannot be: %#', (some, message) => {
    expect(() => drawDiversityDynamics(withPoints(some))).toThrow(ShapeError);
    expect(() => drawDiversityDynamics(withPoints(some))).toThrow(message);
  });

  it('takes a model that goes on with phase 1, and refuses unknown keys', () => {
    expect(() => drawDiversityDynamics(withPoints(points([50, 1], [150, 1])))).not.toThrow();
    expect(() => drawDiversityDynamics({ ...DATA, bands: 'sd' } as never)).toThrow(ConfigError);
  });
});
