import { describe, expect, it } from 'vitest';
import { Random } from '../runtime/random';
import { ShapeError } from '../runtime/errors';
import type { JsonObject, Trace } from './spec';
import { drawSplitDistributions } from './split-distributions';
import { splitSummarySchema, summariseSplit } from './split-summary';
import type { SplitValues } from './split-summary';

function heavyTailed(n: number, name: string): { engagement: number[]; replyLength: number[] } {
  const random = new Random(3, name);
  return {
    engagement: Array.from({ length: n }, (_, i) => (i % 10 === 0 ? 0 : Math.exp(2 * random.normal() - 3))),
    replyLength: Array.from({ length: n }, () => 20 + random.integer(200)),
  };
}

const VALUES: SplitValues = { phase1: heavyTailed(200, 'first'), phase2: heavyTailed(190, 'second') };

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function tracesOf(data: readonly Trace[], type: string): Trace[] {
  return data.filter((trace) => trace.type === type);
}

function texts(layout: JsonObject): unknown[] {
  return (layout.annotations as readonly JsonObject[]).map(({ text }) => text);
}

describe('summariseSplit', () => {
  it('counts every reply of both phases over the same edges', () => {
    const { engagement, replyLength } = summariseSplit(VALUES);
    for (const { phase1, phase2, edges } of [engagement, replyLength]) {
      expect(sum(phase1.counts) + phase1.zeros).toBe(200);
      expect(sum(phase2.counts) + phase2.zeros).toBe(190);
      expect(phase1.counts).toHaveLength(edges.length - 1);
    }
  });

  it('takes a logarithmic scale with the zeros apart for a heavy tail, a linear one otherwise', () => {
    const { engagement, replyLength } = summariseSplit(VALUES);
    expect(engagement).toMatchObject({ scale: 'log', phase1: { zeros: 20 } });
    expect(replyLength).toMatchObject({ scale: 'linear', phase1: { zeros: 0 } });
  });

  it('gives the percentiles of a phase with linear interpolation', () => {
    const phase = { engagement: [1, 2, 3, 4, 5], replyLength: [10, 20, 30, 40, 50] };
    const { replyLength } = summariseSplit({ phase1: phase, phase2: phase });
    expect(replyLength.phase1).toMatchObject({
      n: 5,
      min: 10,
      p5: 12,
      q1: 20,
      median: 30,
      q3: 40,
      p95: 48,
      max: 50,
      mean: 30,
    });
  });

  it('works when all values are equal, zero included', () => {
    const phase = { engagement: [0, 0, 0], replyLength: [7, 7] };
    const { engagement, replyLength } = summariseSplit({ phase1: phase, phase2: phase });
    expect(sum(engagement.phase1.counts)).toBe(3);
    expect(sum(replyLength.phase2.counts)).toBe(2);
  });

  it('is data that its own schema accepts', () => {
    const summary = summariseSplit(VALUES, { engagement: { statistic: 0.05, pValue: 0.9 } });
    expect(splitSummarySchema.parse(summary)).toEqual(summary);
  });

  it('refuses an empty phase and values that are negative or not finite', () => {
    const empty = { engagement: [], replyLength: [] };
    expect(() => summariseSplit({ phase1: VALUES.phase1, phase2: empty })).toThrow(
      /phases of 200 and 0 values/,
    );
    for (const wrong of [-1, Number.NaN, Infinity]) {
      const phase2 = { engagement: [wrong], replyLength: [10] };
      expect(() => summariseSplit({ phase1: VALUES.phase1, phase2 })).toThrow(ShapeError);
    }
  });
});

describe('drawSplitDistributions', () => {
  const tests = {
    engagement: { statistic: 0.0512, pValue: 0.87 },
    replyLength: { statistic: 0.4, pValue: 1e-9 },
  };
  const spec = drawSplitDistributions(summariseSplit(VALUES, tests));

  it('draws a box and a histogram of each quantity and phase', () => {
    expect(tracesOf(spec.data, 'box')).toHaveLength(4);
    expect(spec.data.filter(({ fill }) => fill === 'tozeroy')).toHaveLength(4);
  });

  it('names each phase once in the legend, with its number of replies', () => {
    const names = spec.data.filter(({ showlegend }) => showlegend === true).map(({ name }) => name);
    expect(names).toEqual(['Phase 1, SFT (n = 200 replies)', 'Phase 2, GRPO (n = 190 replies)']);
  });

  it('draws shares: the heights of each histogram add up to 100 %', () => {
    for (const { y } of spec.data.filter(({ fill }) => fill === 'tozeroy')) {
      expect(sum((y as (number | null)[]).map((height) => height ?? 0))).toBeCloseTo(100, 9);
    }
  });

  it('puts zero in a slot of its own to the left of the logarithmic bins', () => {
    const axis = spec.layout.xaxis as { tickvals: number[]; ticktext: string[] };
    expect(axis.ticktext[0]).toBe('0');
    expect(axis.tickvals[0]).toBeLessThan(axis.tickvals[1]);
    expect(axis.ticktext).toContain('0.1');
  });

  it('prints the test results, a tiny p as a bound', () => {
    expect(texts(spec.layout)).toContain('Kolmogorov–Smirnov D = 0.051, p = 0.870');
    expect(texts(spec.layout)).toContain('Kolmogorov–Smirnov D = 0.400, p < 0.001');
  });

  it('tells the phases apart by dash and marker, not by colour alone', () => {
    const lines = spec.data
      .filter(({ fill }) => fill === 'tozeroy')
      .map(({ line }) => (line as JsonObject).dash);
    expect(new Set(lines).size).toBe(2);
  });
});
