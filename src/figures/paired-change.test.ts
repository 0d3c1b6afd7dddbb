import { describe, expect, it } from 'vitest';
import type { JsonObject } from './spec';
import { drawPairedChange } from './paired-change';
import type { PairedChange } from './paired-change';

const REWARD = {
  name: 'Reward',
  before: [0.4, 0.5, 0.6, 0.7],
  after: [0.5, 0.6, 0.55, 0.85],
  difference: 0.075,
  interval: [-0.0125, 0.125] as [number, number],
};

function texts(data: PairedChange): unknown[] {
  return (drawPairedChange(data).layout.annotations as readonly JsonObject[]).map(({ text }) => text);
}

function traceNamed(name: string): JsonObject | undefined {
  return drawPairedChange({ measures: [REWARD] }).data.find((trace) => trace.name === name);
}

describe('drawPairedChange', () => {
  it('names the mean difference, its interval with the level, and n', () => {
    expect(texts({ measures: [REWARD] })).toEqual([
      '<b>Reward of each prompt</b>',
      'after: 3 higher, 1 lower of 4; dashed: no change',
      '<b>Mean difference +0.075 (n = 4)</b>',
      'band: bootstrap 95 % [−0.013, +0.125]',
    ]);
    expect(texts({ measures: [REWARD], level: 0.9 })).toContain('band: bootstrap 90 % [−0.013, +0.125]');
  });

  it('draws a dot a prompt and the line of no change over the same range on both axes', () => {
    expect(traceNamed('prompts')).toMatchObject({ mode: 'markers', x: REWARD.before, y: REWARD.after });
    const { xaxis, yaxis } = drawPairedChange({ measures: [REWARD] }).layout as Record<string, JsonObject>;
    expect(xaxis.range).toEqual(yaxis.range);
    expect(traceNamed('no change')?.x).toEqual(xaxis.range);
  });

  it('draws the mean and its interval where they lie', () => {
    expect(traceNamed('mean')?.x).toEqual([0.075, 0.075]);
    expect(traceNamed('interval of the mean')?.x).toEqual([-0.0125, -0.0125, 0.125, 0.125]);
  });

  it('counts every prompt in the histogram of differences', () => {
    const bars = drawPairedChange({ measures: [REWARD] }).data.find(({ fill }) => fill === 'tozeroy');
    expect((bars?.y as number[]).reduce((sum, count) => sum + count, 0)).toBe(4);
  });

  it('adds a row for each further measure and labels its axes with its name', () => {
    const spec = drawPairedChange({ measures: [REWARD, { ...REWARD, name: 'World quality' }] });
    expect(spec.height).toBeGreaterThan(drawPairedChange({ measures: [REWARD] }).height);
    expect(spec.layout.xaxis3).toMatchObject({ title: { text: 'world quality before GRPO' } });
    expect(new Set(spec.data.map(({ xaxis }) => xaxis))).toEqual(new Set(['x', 'x2', 'x3', 'x4']));
  });

  it('draws prompts that did not change at all', () => {
    const same = {
      ...REWARD,
      before: [0.5, 0.5],
      after: [0.5, 0.5],
      difference: 0,
      interval: [0, 0] as [number, number],
    };
    const spec = drawPairedChange({ measures: [same] });
    const range = (spec.layout.xaxis2 as JsonObject).range as number[];
    expect(range[0]).toBeLessThan(0);
    expect(range[1]).toBeGreaterThan(0);
  });

  it('refuses sides of different lengths', () => {
    const short = { ...REWARD, after: [0.5, 0.6] };
    expect(() => drawPairedChange({ measures: [short] })).toThrow(
      'Reward: 4 values before and 2 after; expected pairs.',
    );
  });
});
