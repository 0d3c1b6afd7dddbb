import { describe, expect, it } from 'vitest';
import { axis, baseLayout, gridCells, OKABE_ITO, panelTitle, styleOf, stylesOf, withOpacity } from './theme';

const NAMED = ['zero_shot', 'few_shot', 'baseline', 'polychromic', 'grpo', 'polychromic_grpo'];

describe('theme', () => {
  it('tells the named models apart by colour, by marker and by dash', () => {
    const styles = stylesOf(NAMED);
    for (const trait of ['label', 'color', 'marker', 'dash'] as const) {
      expect(new Set(styles.map((style) => style[trait])).size).toBe(NAMED.length);
    }
  });

  it('takes every colour from the palette of Okabe and Ito', () => {
    const palette: string[] = Object.values(OKABE_ITO);
    for (const { color } of stylesOf([...NAMED, 'a', 'b', 'c', 'd'])) expect(palette).toContain(color);
  });

  it('knows a model however its name is spelt', () => {
    expect(styleOf('Zero-Shot')).toEqual(styleOf('zero_shot'));
    expect(styleOf('Polychromic GRPO')).toEqual(styleOf('polychromic_grpo'));
  });

  it('gives unknown models their own names and looks that no other model has', () => {
    const styles = stylesOf([...NAMED, 'mine', 'yours', 'theirs', 'ours']);
    expect(styles.slice(6).map(({ label }) => label)).toEqual(['mine', 'yours', 'theirs', 'ours']);
    expect(new Set(styles.map(({ marker }) => marker)).size).toBe(10);
    expect(new Set(styles.map(({ dash }) => dash)).size).toBe(10);
  });

  it('writes the unit behind the title of an axis', () => {
    expect(axis('length', 'tokens')).toMatchObject({ title: { text: 'length (tokens)' } });
    expect(axis('reward', '')).toMatchObject({ title: { text: 'reward' } });
  });

  it('lays panels out in reading order without overlap', () => {
    const cells = gridCells(2, 2, { x: 0.2, y: 0.2 });
    expect(cells[0]).toEqual({ x: [0, 0.4], y: [0.6, 1] });
    expect(cells[1].x[0]).toBeCloseTo(0.6);
    expect(cells[2].y[0]).toBeCloseTo(0);
    expect(cells[2].y[1]).toBeCloseTo(0.4);
  });

  it('adds the explanation line only where there is one', () => {
    const cell = gridCells(1, 1, { x: 0, y: 0 })[0];
    expect(panelTitle(cell, 'Reward', '')).toHaveLength(1);
    expect(panelTitle(cell, 'Reward', 'mean').map(({ text }) => text)).toEqual(['<b>Reward</b>', 'mean']);
  });

  it('shows a legend only on request', () => {
    const size = { width: 100, height: 100 };
    expect(baseLayout(size, {})).not.toHaveProperty('legend');
    expect(baseLayout(size, { showlegend: true })).toHaveProperty('legend');
  });

  it('turns a colour into a transparent one', () => {
    expect(withOpacity('#009E73', 0.5)).toBe('rgba(0, 158, 115, 0.5)');
  });
});
