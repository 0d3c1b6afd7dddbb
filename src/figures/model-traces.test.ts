import { describe, expect, it } from 'vitest';
import { intervalBar, legendEntry, legendLabels, modelBand, modelLegend, modelLine } from './model-traces';
import { styleOf } from './theme';

const STYLE = styleOf('grpo');
const GAP = [
  { x: 1, y: 0.5, interval: [0.4, 0.6] as const },
  { x: 2, y: 0.6, interval: [0.5, 0.7] as const },
  { x: 3, y: null },
  { x: 4, y: 0.7, interval: [0.6, 0.8] as const },
];

describe('a model', () => {
  it('has a line with its colour, dash and marker that breaks where there is no value', () => {
    expect(modelLine(STYLE, 'GRPO', GAP)).toMatchObject({
      ...{ x: [1, 2, 3, 4], y: [0.5, 0.6, null, 0.7], connectgaps: false },
      line: { color: STYLE.color, dash: STYLE.dash },
      marker: { color: STYLE.color, symbol: STYLE.marker },
    });
  });

  it('loses no value between two gaps to the thinning of markers', () => {
    const most = (points: { x: number; y: number | null }[]) =>
      (modelLine(STYLE, 'GRPO', points).marker as { maxdisplayed: number }).maxdisplayed;
    expect(most(GAP)).toBe(0);
    expect(most(GAP.slice(0, 3))).toBeGreaterThan(0);
  });

  it('has a band for each run of values', () => {
    const [band] = modelBand(STYLE, 'GRPO', GAP);
    expect(band.x).toEqual([1, 2, 2, 1, 1, null, 4, 4, 4]);
    expect(band.y).toEqual([0.6, 0.7, 0.5, 0.4, 0.6, null, 0.8, 0.6, 0.8]);
    expect(modelBand(STYLE, 'GRPO', [{ x: 1, y: 1 }])).toEqual([]);
  });

  it('is in the legend also without a value, which it then says', () => {
    expect(
      legendLabels([legendEntry(STYLE, true), { ...legendEntry(STYLE, false), showlegend: true }]),
    ).toEqual(['GRPO', 'GRPO (no value)']);
  });
});

describe('an interval', () => {
  it('lies along its axis, with caps, or an arrow head where it goes on', () => {
    const look = { color: '#000000', name: 'interval' };
    expect(intervalBar('x', [1, 2], 5, look)).toMatchObject({ x: [1, 2], y: [5, 5] });
    expect(intervalBar('y', [1, 2], 5, look)).toMatchObject({ x: [5, 5], y: [1, 2] });
    const open = intervalBar('x', [1, 2], 5, { ...look, openEnd: true });
    expect(open.marker).toMatchObject({ symbol: ['line-ns', 'triangle-right'] });
  });
});

describe('the legend', () => {
  it('has as many columns as its names leave room for, evenly filled', () => {
    const width = (labels: string[]) =>
      (modelLegend(labels, 592).layout.legend as { entrywidth: number }).entrywidth;
    expect(width(Array<string>(6).fill('Baseline SFT'))).toBeCloseTo(1 / 3, 2);
    expect(width(Array<string>(4).fill('Baseline SFT'))).toBeCloseTo(1 / 2, 2);
    expect(width(['a', 'x'.repeat(60)])).toBeCloseTo(1, 2);
    expect(modelLegend(['a', 'x'.repeat(60)], 592).height).toBe(46);
  });
});
