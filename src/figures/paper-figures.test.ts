import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { makeFigure, readFigure } from './draw';
import type { FigureSource } from './draw';
import { exportFigures } from './export';
import type { JsonObject } from './spec';

const FOLDER = mkdtempSync(join(tmpdir(), 'paper-figures-'));
afterAll(() => rmSync(FOLDER, { recursive: true, force: true }));

function estimate(value: number): { value: number; ci: [number, number] } {
  return { value, ci: [value * 0.9, value * 1.05] };
}

const NONE = { value: null, reason: 'Pass@1 is 0' };
const NAMES = ['zero_shot', 'baseline', 'polychromic_grpo', 'a<b & c'];
const MODULE = {
  layer: 0,
  module: 'q_proj' as const,
  norm: { value: 1, band: [0.9, 1.2] as [number, number] },
};

const SOURCES: readonly FigureSource[] = [
  { kind: 'method-overview', data: { records: 1000, groupSize: 4 } },
  {
    kind: 'diversity-dynamics',
    data: {
      boundary: 10,
      models: NAMES.map((name, i) => ({
        ...{ name, seeds: 2 },
        points: [0, 5, 10].map((step) => ({
          ...{
            step,
            phase: 1 as const,
            selfBleu: { value: 0.3 + 0.1 * i, band: [0.2, 0.8] as [number, number] },
          },
          distinct2: NONE,
        })),
      })),
    },
  },
  {
    kind: 'pareto-frontier',
    data: {
      ...{ tweets: 100, secondQuality: { name: 'reward' } },
      models: NAMES.map((name, i) => ({
        ...{ name, diversity: estimate(0.3 + 0.1 * i), quality: i === 0 ? NONE : estimate(0.5 - 0.1 * i) },
        secondQuality: estimate(0.5),
      })),
    },
  },
  {
    kind: 'lora-parameters',
    data: {
      models: NAMES.map((name) => ({
        ...{ name, seeds: 2, rank: 4 },
        modules: [{ ...MODULE, effectiveRank: NONE }],
      })),
    },
  },
  {
    kind: 'der-at-k',
    data: {
      tweets: 100,
      models: NAMES.map((name, i) => ({
        name,
        points: [1, 2, 3].map((k) => ({ k, der: i === 0 ? NONE : estimate(1 / Math.sqrt(k)) })),
      })),
    },
  },
  {
    kind: 'collapse-points',
    data: {
      ...{ tweets: 100, n: 10 },
      models: NAMES.map((name, i) => ({ name, collapse: i === 0 ? NONE : estimate(5), beyond: i === 0 })),
    },
  },
];
const FIGURES = SOURCES.map((source) => makeFigure(source.kind, source));

describe('the six figures of the paper', () => {
  it('are drawn again from their JSON alone, the same', async () => {
    await exportFigures(FIGURES, FOLDER, { formats: [] });
    for (const figure of FIGURES) {
      const again = readFigure(join(FOLDER, `${figure.name}.json`));
      expect(JSON.stringify(again.spec)).toBe(JSON.stringify(figure.spec));
    }
  });

  it('are valid plotly figures', async () => {
    const result = await exportFigures(FIGURES, FOLDER, { formats: ['svg'] });
    expect(result.rendered).toBe(true);
    expect(readdirSync(FOLDER).filter((file) => file.endsWith('.svg'))).toHaveLength(6);
  });

  it('are 7 inches wide and have no second scale in a panel', () => {
    for (const { spec } of FIGURES) {
      expect(spec.width).toBe(672);
      for (const [key, axis] of Object.entries(spec.layout))
        if (/^[xy]axis/.test(key)) expect(axis as JsonObject).not.toHaveProperty('overlaying');
    }
  });

  it('name the reason of what has no value', () => {
    for (const { name, spec } of FIGURES.slice(1)) {
      expect(JSON.stringify(spec.layout.annotations), name).toContain('Pass@1 is 0');
    }
  });

  it('show names with marks of HTML as they are', () => {
    for (const { name, spec } of FIGURES.slice(1)) {
      const shown = JSON.stringify([spec.layout, spec.data]);
      expect(shown, name).toContain('a&lt;b &amp; c');
      expect(shown, name).not.toContain('a<b');
    }
  });

  it('refuse data of another figure with one clear error', () => {
    expect(() => makeFigure('x', { kind: 'der-at-k', data: { n: 3 } } as never)).toThrow(
      /^DER@k: tweets is missing/,
    );
  });
});
