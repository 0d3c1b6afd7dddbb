import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import type { JsonObject } from './spec';
import { drawTrainingCurves } from './training-curves';

const SFT = [
  { step: 1, loss: 3 },
  { step: 2, loss: 2.5 },
];
const GRPO = [
  { step: 1, reward: 0.5, rewardStd: 0.1, kl: 0, completionLength: 12 },
  { step: 3, reward: 0.6, rewardStd: 0.05, kl: 0.4, completionLength: 14 },
];

function axisTitles(layout: JsonObject, which: 'xaxis' | 'yaxis'): unknown[] {
  const axes = Object.entries(layout).filter(([key]) => key.startsWith(which));
  return axes.map(([, axis]) => ((axis as JsonObject).title as JsonObject).text);
}

describe('drawTrainingCurves', () => {
  it('names the value that is not a number', () => {
    expect(() => drawTrainingCurves({ sft: [{ step: 1, loss: Number.NaN }] })).toThrow(/sft.*loss/);
  });

  const spec = drawTrainingCurves({ sft: SFT, grpo: GRPO });

  it('draws one panel a quantity, each with its own axis and unit', () => {
    expect(axisTitles(spec.layout, 'yaxis')).toEqual([
      'loss (nats per token)',
      'reward (0 to 1)',
      'KL (nats per completion)',
      'length (tokens)',
    ]);
  });

  it('draws no quantity on a second scale of the same panel', () => {
    const axes = Object.entries(spec.layout).filter(([key]) => key.startsWith('yaxis'));
    for (const [, axis] of axes) expect(axis).not.toHaveProperty('overlaying');
  });

  it('gives the panels of a phase the same range of steps', () => {
    const { xaxis2, xaxis3, xaxis4 } = spec.layout as Record<string, JsonObject>;
    expect(xaxis2.range).toEqual([0.5, 3.5]);
    expect(xaxis3.range).toEqual(xaxis2.range);
    expect(xaxis4.range).toEqual(xaxis2.range);
  });

  it('draws the reward with a band of one standard deviation to each side', () => {
    const band = spec.data.find(({ fill }) => fill === 'toself');
    expect(band?.x).toEqual([1, 3, 3, 1]);
    [0.6, 0.65, 0.55, 0.4].forEach((edge, i) => expect((band?.y as number[])[i]).toBeCloseTo(edge));
    expect(band).toMatchObject({ xaxis: 'x2', yaxis: 'y2' });
  });

  it('leaves out a phase that did not run', () => {
    expect(axisTitles(drawTrainingCurves({ sft: SFT }).layout, 'yaxis')).toEqual(['loss (nats per token)']);
    expect(axisTitles(drawTrainingCurves({ grpo: GRPO }).layout, 'xaxis')).toEqual(
      Array(3).fill('GRPO optimiser step'),
    );
  });

  it('drops the markers of a long run', () => {
    const long = Array.from({ length: 100 }, (_, i) => ({ step: i + 1, loss: 1 }));
    expect(drawTrainingCurves({ sft: long }).data[0].mode).toBe('lines');
    expect(drawTrainingCurves({ sft: SFT }).data[0].mode).toBe('lines+markers');
  });

  it('refuses no rows at all, and steps that go back', () => {
    expect(() => drawTrainingCurves({})).toThrow(ShapeError);
    expect(() => drawTrainingCurves({ sft: [...SFT].reverse() })).toThrow(
      'SFT step 1 follows step 2; expected rising steps.',
    );
  });
});
