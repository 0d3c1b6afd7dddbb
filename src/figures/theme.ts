/**
 * The one look of all figures: colours that colour-blind readers tell apart, a marker and a dash for every model
 * (never colour alone), sizes that stay legible in print, axes that name their unit.
 */
import type { JsonObject } from './spec';

/** The palette of Okabe and Ito ("Color Universal Design", 2008). */
export const OKABE_ITO = {
  black: '#000000',
  orange: '#E69F00',
  skyBlue: '#56B4E9',
  green: '#009E73',
  yellow: '#F0E442',
  blue: '#0072B2',
  vermillion: '#D55E00',
  purple: '#CC79A7',
} as const;

export const INK = '#222222';
export const FAINT_INK = '#5F5F5F';
const GRID = '#E4E4E4';

/** 7 inches, a page's text width; font sizes below are 9 to 10.5 points at that width. */
export const FIGURE_WIDTH = 672;
export const FONT_SIZE = { tick: 12, label: 13, title: 14 } as const;

/** How one model is drawn in every figure. */
export interface ModelStyle {
  readonly label: string;
  readonly color: string;
  readonly marker: string;
  readonly dash: string;
}

const STYLES: Readonly<Record<string, ModelStyle>> = {
  zero_shot: { label: 'Zero-shot', color: OKABE_ITO.black, marker: 'x', dash: 'dot' },
  few_shot: { label: 'Few-shot', color: OKABE_ITO.purple, marker: 'cross', dash: 'dashdot' },
  baseline: { label: 'Baseline SFT', color: OKABE_ITO.blue, marker: 'circle', dash: 'dash' },
  polychromic: { label: 'Polychromic', color: OKABE_ITO.orange, marker: 'diamond', dash: 'longdash' },
  grpo: { label: 'GRPO', color: OKABE_ITO.green, marker: 'square', dash: 'solid' },
  polychromic_grpo: {
    label: 'Polychromic + GRPO',
    color: OKABE_ITO.vermillion,
    marker: 'triangle-up',
    dash: 'longdashdot',
  },
};

/** Looks left for models that the study does not name; no marker and dash of theirs is used above. */
const OTHER_STYLES: readonly Omit<ModelStyle, 'label'>[] = [
  { color: OKABE_ITO.skyBlue, marker: 'star', dash: '2px 6px' },
  { color: OKABE_ITO.vermillion, marker: 'hexagon', dash: '12px 3px' },
  { color: OKABE_ITO.purple, marker: 'triangle-down', dash: '8px 3px 2px 3px 2px 3px' },
  { color: OKABE_ITO.black, marker: 'pentagon', dash: '5px 2px' },
];

function styleKey(model: string): string {
  return model.toLowerCase().replace(/[^a-z0-9]+/g, '_');
}

/** The look of one model; a name that the study does not know gets the first spare look and keeps its name. */
export function styleOf(model: string): ModelStyle {
  return stylesOf([model])[0];
}

/** The looks of the models of one figure, in their order; unknown names take the spare looks in turn. */
export function stylesOf(models: readonly string[]): ModelStyle[] {
  let spare = 0;
  return models.map(
    (model) => STYLES[styleKey(model)] ?? { label: model, ...OTHER_STYLES[spare++ % OTHER_STYLES.length] },
  );
}

/** A `#RRGGBB` colour with an opacity, for bands and areas. */
export function withOpacity(color: string, opacity: number): string {
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));
  return `rgba(${red}, ${green}, ${blue}, ${opacity})`;
}

/** Where a panel sits in its figure, in fractions of the plotting area (plotly's paper coordinates). */
export interface Cell {
  readonly x: readonly [number, number];
  readonly y: readonly [number, number];
}

/**
 * Panels of equal size in reading order: left to right, top to bottom.
 * @param gap  fractions of the plotting area between columns and between rows
 */
export function gridCells(rows: number, columns: number, gap: { x: number; y: number }): Cell[] {
  const width = (1 - gap.x * (columns - 1)) / columns;
  const height = (1 - gap.y * (rows - 1)) / rows;
  return Array.from({ length: rows * columns }, (_, index) => {
    const left = (index % columns) * (width + gap.x);
    const top = 1 - Math.floor(index / columns) * (height + gap.y);
    return { x: [left, left + width], y: [Math.max(0, top - height), top] };
  });
}

/** An axis with its title; the unit, where the quantity has one, stands in brackets behind it. */
export function axis(title: string, unit: string, more: JsonObject = {}): JsonObject {
  const text = unit === '' ? title : `${title} (${unit})`;
  return {
    title: { text, font: { size: FONT_SIZE.label, color: INK }, standoff: 8 },
    tickfont: { size: FONT_SIZE.tick, color: INK },
    ticks: 'outside',
    ticklen: 4,
    tickcolor: FAINT_INK,
    showline: true,
    linecolor: FAINT_INK,
    linewidth: 1,
    gridcolor: GRID,
    zeroline: false,
    ...more,
  };
}

/** A line of text at a place in paper coordinates, shifted by pixels: panel titles and notes. */
export function note(text: string, x: number, y: number, more: JsonObject = {}): JsonObject {
  return {
    text,
    xref: 'paper',
    yref: 'paper',
    x,
    y,
    xanchor: 'left',
    yanchor: 'bottom',
    align: 'left',
    showarrow: false,
    font: { size: FONT_SIZE.tick, color: FAINT_INK },
    ...more,
  };
}

/** A panel's title above its top left corner, and under it one line that says how to read the panel. */
export function panelTitle(cell: Cell, title: string, explanation: string): JsonObject[] {
  const lineHeight = 17;
  const heading = note(`<b>${title}</b>`, cell.x[0], cell.y[1], {
    yshift: explanation === '' ? 4 : 4 + lineHeight,
    font: { size: FONT_SIZE.label, color: INK },
  });
  if (explanation === '') return [heading];
  return [heading, note(explanation, cell.x[0], cell.y[1], { yshift: 3 })];
}

/** The legend in a row along the top edge. */
const TOP_LEGEND: JsonObject = {
  orientation: 'h',
  x: 0,
  xanchor: 'left',
  y: 1,
  yref: 'container',
  yanchor: 'top',
  font: { size: FONT_SIZE.label },
};

/** The layout that every figure starts from: white paper, one font; with `showlegend`, the legend in a row on top. */
export function baseLayout(size: { width: number; height: number }, more: JsonObject): JsonObject {
  return {
    ...size,
    font: { family: 'Open Sans, Helvetica, Arial, sans-serif', size: FONT_SIZE.tick, color: INK },
    paper_bgcolor: '#FFFFFF',
    plot_bgcolor: '#FFFFFF',
    margin: { l: 64, r: 16, t: 52, b: 56 },
    showlegend: false,
    hovermode: 'closest',
    // Plotly's check fails on a legend that is not shown.
    ...(more.showlegend === true ? { legend: TOP_LEGEND } : {}),
    ...more,
  };
}
