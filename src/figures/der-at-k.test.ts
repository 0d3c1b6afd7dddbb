import { describe, expect, it } from 'vitest';
import { ConfigError, ShapeError } from '../runtime/errors';
import { drawDerAtK } from './der-at-k';
import type { DerAtK } from './der-at-k';
import type { JsonObject, Trace } from './spec';

type Der = DerAtK['models'][number]['points'][number]['der'];

function model(name: string, ders: readonly Der[]): DerAtK['models'][number] {
  return { name, points: ders.map((der, i) => ({ k: i + 1, der })) };
}

const NONE: Der = { value: null, reason: 'Pass@1 is 0' };
const GRPO = model('grpo', [
  { value: 1, ci: [1, 1] },
  { value: 0.7, ci: [0.65, 0.75] },
  { value: 0.5, ci: [0.45, 0.56] },
]);
const DATA: DerAtK = {
  ...{ tweets: 200, seeds: 3 },
  models: [
    model('zero_shot', [NONE, NONE, NONE]),
    model(
      'baseline',
      GRPO.points.map(({ der }) => der),
    ),
    GRPO,
  ],
};

const spec = drawDerAtK(DATA);
const texts = (layout: JsonObject) => (layout.annotations as readonly JsonObject[]).map(({ text }) => text);
const named = (name: string) => spec.data.find((trace) => trace.name === name) as Trace;

describe('drawDerAtK', () => {
  it('draws a line a model over k, and its interval as a band', () => {
    expect(named('GRPO')).toMatchObject({ x: [1, 2, 3], y: [1, 0.7, 0.5] });
    expect(named('GRPO, interval')).toMatchObject({ y: [1, 0.75, 0.56, 0.45, 0.65, 1, 1], fill: 'toself' });
    expect(texts(spec.layout)).toContain(
      'bands: bootstrap 95 % intervals, n = 200 tweets, 3 seeds; dotted: 1/k, no gain from more replies',
    );
  });

  it('marks and names both thresholds, where they lie', () => {
    expect(named('good').y).toEqual([0.3, 0.3]);
    expect(named('moderate').y).toEqual([0.15, 0.15]);
    const labels = spec.layout.annotations as readonly JsonObject[];
    expect(labels.find(({ text }) => text === 'good: above 0.3')?.y).toBeCloseTo(Math.log10(0.3), 12);
    expect(texts(spec.layout)).toContain('moderate: above 0.15');
    const other = drawDerAtK({ ...DATA, thresholds: { good: 0.4, moderate: 0.2 } });
    expect(texts(other.layout)).toEqual(expect.arrayContaining(['good: above 0.4', 'moderate: above 0.2']));
  });

  it('has axes with units, all values in their range', () => {
    const { xaxis, yaxis } = spec.layout as Record<string, JsonObject>;
    expect(xaxis.title).toMatchObject({ text: 'k (replies per tweet, log scale)' });
    expect(yaxis.title).toMatchObject({ text: 'DER@k (ratio, log scale)' });
    expect((yaxis.range as number[])[0]).toBeLessThan(Math.log10(0.15));
    expect((yaxis.range as number[])[1]).toBeGreaterThan(0);
    expect(xaxis.tickvals).toEqual([1, 2, 3]);
  });

  it('draws 1/k, below which no model falls', () => {
    const { x, y } = named('1/k') as unknown as { x: number[]; y: number[] };
    x.forEach((k, i) => expect(y[i]).toBeCloseTo(1 / k, 12));
  });

  it('shows models apart by marker and dash', () => {
    const [a, b] = [named('Baseline SFT'), named('GRPO')];
    expect((a.marker as JsonObject).symbol).not.toBe((b.marker as JsonObject).symbol);
    expect((a.line as JsonObject).dash).not.toBe((b.line as JsonObject).dash);
  });

  it('says in legend and footnote what has no value, and why', () => {
    expect(spec.data.map(({ name }) => name)).toContain('Zero-shot (no value)');
    expect(texts(spec.layout)).toContain('No value: Zero-shot at k = 1 to 3 (Pass@1 is 0)');
    const gap = model('grpo', [GRPO.points[0].der, NONE, GRPO.points[2].der]);
    const { data, layout, height } = drawDerAtK({ ...DATA, models: [gap] });
    expect(data.find(({ name }) => name === 'GRPO')?.y).toEqual([1, null, 0.5]);
    expect(texts(layout)).toContain('No value: GRPO at k = 2 (Pass@1 is 0)');
    expect(height).toBeGreaterThan(drawDerAtK({ ...DATA, models: [GRPO] }).height);
  });

  it('keeps few labels on the axis of many k', () => {
    const many = model('grpo', Array<Der>(64).fill({ value: 0.5, ci: [0.4, 0.6] }));
    const { xaxis } = drawDerAtK({ tweets: 2, models: [many] }).layout as Record<string, JsonObject>;
    expect(xaxis.tickvals).toEqual([1, 2, 4, 8, 16, 32, 64]);
  });

  it('refuses k that do not rise, and values that no DER can have', () => {
    const twice = { name: 'grpo', points: [GRPO.points[1], GRPO.points[0]] };
    expect(() => drawDerAtK({ ...DATA, models: [twice] })).toThrow(ShapeError);
    expect(() => drawDerAtK({ ...DATA, models: [twice] })).toThrow('grpo: k = 1 follows 2');
    const zero = model('grpo', [{ value: 0, ci: [0, 0] }]);
    expect(() => drawDerAtK({ ...DATA, models: [zero] })).toThrow(ConfigError);
    expect(() => drawDerAtK({ ...DATA, tweet: 3 } as never)).toThrow(
      'unknown key "tweet"; did you mean "tweets"',
    );
  });
});
