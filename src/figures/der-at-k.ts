/** Diversity efficiency of more replies: DER@k of every model against k, with the thresholds that grade it. */
import { z } from 'zod';
import { parseStrict } from '../runtime/strict';
import type { Missing } from './captions';
import { footnotes, missingLines, plain } from './captions';
import type { LinePoint } from './model-traces';
import { legendEntry, modelBand, legendLabels, modelLegend, modelLine } from './model-traces';
import {
  positiveEstimateSchema,
  intervalNote,
  modelsOf,
  requireRising,
  samplingFields,
} from './result-shapes';
import type { FigureSpec, JsonObject, Trace } from './spec';
import type { ModelStyle } from './theme';
import {
  axis,
  baseLayout,
  FAINT_INK,
  FIGURE_WIDTH,
  FONT_SIZE,
  gridCells,
  INK,
  note,
  panelTitle,
  stylesOf,
} from './theme';
import { rangeOf } from './training-panels';

export const derAtKSchema = z.strictObject({
  ...samplingFields,
  /** DER above these is good, or moderate */
  thresholds: z
    .strictObject({ good: z.number().positive(), moderate: z.number().positive() })
    .default({ good: 0.3, moderate: 0.15 }),
  models: modelsOf(
    z.strictObject({
      name: z.string().min(1),
      /** for every k from 1 to the replies of a tweet */
      points: z.array(z.strictObject({ k: z.int().positive(), der: positiveEstimateSchema })).min(1),
    }),
  ),
});

/** DER@k of every model, by k. */
export type DerAtK = z.input<typeof derAtKSchema>;
type Data = z.output<typeof derAtKSchema>;
type Model = Data['models'][number];

const [CELL] = gridCells(1, 1, { x: 0, y: 0 });

function linePoints({ points }: Model): LinePoint[] {
  return points.map(({ k, der }) =>
    der.value === null ? { x: k, y: null } : { x: k, y: der.value, interval: der.ci },
  );
}

function modelTraces(model: Model, style: ModelStyle): Trace[] {
  const points = linePoints(model);
  const label = plain(style.label);
  if (points.every(({ y }) => y === null)) return [legendEntry(style, false)];
  return [...modelBand(style, label, points), modelLine(style, label, points)];
}

function requireRisingK({ name, points }: Model): void {
  const ks = points.map(({ k }) => k);
  requireRising(`${name}: k =`, ks);
}

/** `k = 1, 2, 3` as `k = 1 to 3`. */
function rangeText(ks: readonly number[]): string {
  const [first, last] = [ks[0], ks[ks.length - 1]];
  const whole = ks.length > 2 && last - first === ks.length - 1;
  return `k = ${whole ? `${first} to ${last}` : ks.join(', ')}`;
}

/** What has no value: a line a model and reason. */
function missing({ models }: Data, styles: readonly ModelStyle[]): Missing[] {
  return models.flatMap(({ points }, i) => {
    const none = points.flatMap(({ k, der }) => (der.value === null ? [{ k, reason: der.reason }] : []));
    const reasons = [...new Set(none.map(({ reason }) => reason))];
    return reasons.map((reason) => {
      const ks = none.filter((one) => one.reason === reason).map(({ k }) => k);
      return { what: `${styles[i].label} at ${rangeText(ks)}`, reason };
    });
  });
}

/** 1/k: what is left of DER when a tweet that passes with k replies passes with one. */
function floorTrace(most: number): Trace {
  const ks = Array.from({ length: 20 * (most - 1) + 1 }, (_, i) => 1 + i / 20);
  return {
    type: 'scatter',
    mode: 'lines',
    name: '1/k',
    x: ks,
    y: ks.map((k) => 1 / k),
    line: { color: FAINT_INK, width: 1.2, dash: 'dot' },
    hoverinfo: 'skip',
    showlegend: false,
  };
}

/** The threshold's line, and its name at the left edge, where no model can be: every DER@k is at least 1/k. */
function threshold(
  value: number,
  grade: string,
  range: readonly number[],
): { line: Trace; label: JsonObject } {
  const line: Trace = {
    type: 'scatter',
    mode: 'lines',
    name: grade,
    x: range,
    y: [value, value],
    line: { color: INK, width: 1, dash: '6px 3px' },
    hoverinfo: 'skip',
    showlegend: false,
  };
  // An annotation on a log axis is placed by the logarithm.
  const label = note(`${grade}: above ${value}`, 0, Math.log10(value), {
    ...{ yref: 'y', yanchor: 'bottom', xshift: 4, yshift: -2 },
    font: { size: FONT_SIZE.tick, color: INK },
  });
  return { line, label };
}

const DER_TICKS = [1, 0.7, 0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001];

/** All k while their labels fit, else the powers of two. */
function kTicks(most: number): number[] {
  if (most <= 12) return Array.from({ length: most }, (_, i) => i + 1);
  return Array.from({ length: Math.floor(Math.log2(most)) + 1 }, (_, i) => 2 ** i);
}

function axes(most: number, ends: readonly number[], { models, thresholds }: Data): JsonObject {
  const values = models.flatMap(linePoints).flatMap(({ interval }) => interval ?? []);
  const [lowest, highest] = rangeOf([...values, 1, 1 / most, thresholds.good, thresholds.moderate]);
  const logarithmic = (ticks: readonly number[], range: readonly number[]): JsonObject => ({
    ...{ type: 'log', tickvals: ticks, ticktext: ticks.map(String), range: range.map(Math.log10) },
  });
  return {
    xaxis: axis('k', 'replies per tweet, log scale', logarithmic(kTicks(most), ends)),
    yaxis: axis('DER@k', 'ratio, log scale', logarithmic(DER_TICKS, [lowest / 1.12, highest * 1.08])),
  };
}

/**
 * A line a model over all k, its bootstrap intervals as a band; the thresholds as named lines, and 1/k, below which no
 * model can fall. What has no value is named below with its reason.
 *
 * @throws ShapeError   when a model's k do not rise
 * @throws ConfigError  naming a field that is missing, unknown or out of range
 */
export function drawDerAtK(data: DerAtK): FigureSpec {
  const full = parseStrict(derAtKSchema, data, 'DER@k');
  for (const model of full.models) requireRisingK(model);
  const styles = stylesOf(full.models.map(({ name }) => name));
  const most = Math.max(2, ...full.models.flatMap(({ points }) => points.map(({ k }) => k)));
  const ends = [1 / 1.05, most * 1.05];
  const { good, moderate } = full.thresholds;
  const thresholds = [threshold(good, 'good', ends), threshold(moderate, 'moderate', ends)];
  const notes = footnotes(missingLines(missing(full, styles)), 52, 48);
  const traces = full.models.flatMap((model, i) => modelTraces(model, styles[i]));
  const legend = modelLegend(legendLabels(traces), FIGURE_WIDTH - 80);
  const size = { width: FIGURE_WIDTH, height: 400 + legend.height + notes.height };
  const explanation = `bands: ${intervalNote(full)}; dotted: 1/k, no gain from more replies`;
  const layout = baseLayout(size, {
    margin: { l: 64, r: 16, t: 48 + legend.height, b: 56 + notes.height },
    ...legend.layout,
    annotations: [
      ...panelTitle(CELL, 'DER@k = Pass@k / (k · Pass@1)', explanation),
      ...thresholds.map(({ label }) => label),
      ...notes.annotations,
    ],
    ...axes(most, ends, full),
  });
  const lines = thresholds.map(({ line }) => line);
  return { kind: 'der-at-k', ...size, data: [...lines, floorTrace(most), ...traces], layout };
}
