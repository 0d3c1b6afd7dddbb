import { describe, expect, it } from 'vitest';
import { ConfigError, ShapeError } from '../runtime/errors';
import { drawLoraParameters } from './lora-parameters';
import { summariseAdapters } from './lora-summary';
import type { AnalysedAdapter } from './lora-summary';
import type { JsonObject } from './spec';

type Rank = AnalysedAdapter['modules'][number]['effectiveRank'];

const MODULES = ['q_proj', 'v_proj', 'down_proj'] as const;

function adapter(norm: number, effectiveRank: Rank = { value: 3 }, rank = 8): AnalysedAdapter {
  const modules = [0, 1].flatMap((layer) =>
    MODULES.map((module) => ({ layer, module, norm, effectiveRank })),
  );
  return { rank, modules };
}

const NONE: Rank = { value: null, reason: 'B A is zero' };
const DATA = summariseAdapters({ baseline: [adapter(1), adapter(2)], grpo: [adapter(3), adapter(4)] });
const spec = drawLoraParameters(DATA);
const texts = (layout: JsonObject) => (layout.annotations as readonly JsonObject[]).map(({ text }) => text);

describe('summariseAdapters', () => {
  it('gives the mean over seeds and the band from the smallest to the largest', () => {
    const [first] = summariseAdapters({ grpo: [adapter(1), adapter(4), adapter(1)] }).models;
    expect(first).toMatchObject({ name: 'grpo', seeds: 3, rank: 8 });
    expect(first.modules).toHaveLength(6);
    expect(first.modules[0]).toEqual({
      ...{ layer: 0, module: 'q_proj', norm: { value: 2, band: [1, 4] } },
      effectiveRank: { value: 3, band: [3, 3] },
    });
    expect(summariseAdapters({ grpo: [adapter(1)] }).models[0].modules[0].norm).toEqual({ value: 1 });
  });

  it('has no mean where a seed has no value', () => {
    const rank = (...adapters: AnalysedAdapter[]) =>
      summariseAdapters({ grpo: adapters }).models[0].modules[0].effectiveRank;
    expect(rank(adapter(0, NONE))).toEqual({ value: null, reason: 'B A is zero' });
    expect(rank(adapter(1), adapter(0, NONE))).toEqual({
      value: null,
      reason: 'B A is zero in 1 of 2 seeds',
    });
  });

  it('refuses adapters that do not belong together', () => {
    expect(() => summariseAdapters({ grpo: [] })).toThrow('grpo: no adapter; expected one a seed.');
    expect(() => summariseAdapters({ grpo: [adapter(1), adapter(1, { value: 1 }, 4)] })).toThrow(ShapeError);
    const short = { ...adapter(1), modules: adapter(1).modules.slice(1) };
    expect(() => summariseAdapters({ grpo: [adapter(1), short] })).toThrow('differ in rank or modules');
  });
});

describe('drawLoraParameters', () => {
  it('draws a column a module that is adapted: norm above, effective rank below', () => {
    expect(texts(spec.layout)).toEqual(
      expect.arrayContaining([
        ...['<b>q_proj</b>', '<b>v_proj</b>', '<b>down_proj</b>', 'attention', 'feed-forward'],
        'layer (index from 0)',
      ]),
    );
    const lines = spec.data.filter(({ name, showlegend }) => name === 'GRPO' && showlegend === false);
    expect(lines.map(({ yaxis }) => yaxis)).toEqual(['y', 'y2', 'y3', 'y4', 'y5', 'y6']);
    expect(lines[0]).toMatchObject({ x: [0, 1], y: [3.5, 3.5] });
    expect(lines[3]).toMatchObject({ x: [0, 1], y: [3, 3] });
  });

  it('has one scale a row, whose axis is named once', () => {
    const axes = spec.layout as Record<string, JsonObject>;
    const title = (key: string) => (axes[key].title as JsonObject).text;
    expect(['yaxis', 'yaxis2', 'yaxis3'].map(title)).toEqual([
      '‖<i>s</i> BA‖<sub>F</sub> (weight units)',
      '',
      '',
    ]);
    expect(title('yaxis4')).toBe('effective rank (directions)');
    expect(axes.yaxis3.range).toEqual(axes.yaxis.range);
    expect(axes.yaxis6.range).toEqual(axes.yaxis4.range);
    expect(axes.yaxis4.range).not.toEqual(axes.yaxis.range);
  });

  it('draws bands over seeds, and the rank that no effective rank passes', () => {
    expect(spec.data.filter(({ name }) => name === 'GRPO, interval')).toHaveLength(6);
    const ranks = spec.data.filter(({ name }) => name === 'rank 8');
    expect(ranks.map(({ yaxis }) => yaxis)).toEqual(['y4', 'y5', 'y6']);
    expect(ranks[0].y).toEqual([8, 8]);
    expect(texts(spec.layout).join()).toContain('mean over seeds (n = 2 seeds)');
    expect(texts(spec.layout).join()).toContain('rank r of the adapters (8)');
  });

  it('has each model once in the legend, told apart by marker and dash', () => {
    const entries = spec.data.filter(({ showlegend }) => showlegend !== false);
    expect(entries.map(({ name }) => name)).toEqual(['Baseline SFT', 'GRPO']);
    const traits = entries.map(({ line, marker }) => [
      (line as JsonObject).dash,
      (marker as JsonObject).symbol,
    ]);
    expect(traits[0][0]).not.toBe(traits[1][0]);
    expect(traits[0][1]).not.toBe(traits[1][1]);
  });

  it('leaves a gap for an effective rank that does not exist, and says why', () => {
    const zero = drawLoraParameters(summariseAdapters({ grpo: [adapter(0, NONE)] }));
    const lines = zero.data.filter(({ name, showlegend }) => name === 'GRPO' && showlegend === false);
    expect(lines[0].y).toEqual([0, 0]);
    expect(lines[3].y).toEqual([null, null]);
    expect(texts(zero.layout).join()).toContain(
      'No value: effective rank of GRPO, all modules (B A is zero)',
    );
  });

  it('says which modules have no value when they are few', () => {
    const { modules } = adapter(1);
    const one = { rank: 8, modules: [{ ...modules[0], norm: 0, effectiveRank: NONE }, ...modules.slice(1)] };
    const { layout } = drawLoraParameters(summariseAdapters({ grpo: [one] }));
    expect(texts(layout).join()).toContain('effective rank of GRPO, layer 0 q_proj (B A is zero)');
  });

  it('refuses layers that do not rise, a fifth model and unknown modules', () => {
    const [model] = DATA.models;
    const back = { ...model, modules: [...model.modules].reverse() };
    expect(() => drawLoraParameters({ models: [back] })).toThrow('baseline, q_proj: layer 0 follows 1');
    const five = ['a', 'b', 'c', 'd', 'grpo'].map((name) => ({ ...model, name }));
    expect(() => drawLoraParameters({ models: five })).toThrow(ConfigError);
    const other = { ...model, modules: [{ ...model.modules[0], module: 'lm_head' as never }] };
    expect(() => drawLoraParameters({ models: [other] })).toThrow(
      /models\[0\]\.modules\[0\]\.module is "lm_head"/,
    );
  });
});
