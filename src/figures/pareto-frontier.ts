/** Quality against diversity: every model with both intervals, and the models that no other beats in both. */
import { z } from 'zod';
import { parseStrict } from '../runtime/strict';
import type { Missing } from './captions';
import { emptyPanel, footnotes, missingLines, plain } from './captions';
import { intervalBar, onPanel } from './model-traces';
import { frontEdge, paretoFront } from './pareto-front';
import { labelsOf, panelScale } from './pareto-labels';
import type { ModelPoint, PanelScale } from './pareto-labels';
import { estimateSchema, intervalNote, modelsOf, samplingFields } from './result-shapes';
import type { FigureSpec, JsonObject, Trace } from './spec';
import type { Cell } from './theme';
import {
  axis,
  baseLayout,
  FAINT_INK,
  FIGURE_WIDTH,
  gridCells,
  panelTitle,
  stylesOf,
  withOpacity,
} from './theme';

/** A measure of which more is better. */
const measureSchema = z.strictObject({ name: z.string().min(1), unit: z.string().default('') });

const diversitySchema = measureSchema.extend({
  /** its intervals, where they are not bootstrap ones, too */
  interval: z.enum(['bootstrap', 'jackknife']).default('bootstrap'),
});

export const paretoFrontierSchema = z
  .strictObject({
    ...samplingFields,
    diversity: diversitySchema.default({
      ...{ name: 'distinct-2', unit: 'share of bigrams, 0 to 1', interval: 'bootstrap' },
    }),
    quality: measureSchema.default({ name: 'ROUGE-L', unit: 'F1, 0 to 1' }),
    /** of a second panel, e.g. the reward */
    secondQuality: measureSchema.optional(),
    models: modelsOf(
      z.strictObject({
        name: z.string().min(1),
        diversity: estimateSchema,
        quality: estimateSchema,
        secondQuality: estimateSchema.optional(),
      }),
    ),
  })
  .superRefine(({ secondQuality, models }, context) => {
    for (const [i, model] of models.entries()) {
      if ((secondQuality === undefined) === (model.secondQuality === undefined)) continue;
      const message = `${model.name}: expected secondQuality in the figure and in all its models, or in none`;
      context.addIssue({ code: 'custom', path: ['models', i, 'secondQuality'], message });
    }
  });

/** Quality and diversity of every model, each with its interval. */
export type ParetoFrontier = z.input<typeof paretoFrontierSchema>;
type Data = z.output<typeof paretoFrontierSchema>;
type Measure = z.output<typeof measureSchema>;
type QualityKey = 'quality' | 'secondQuality';

function pointsOf({ models }: Data, key: QualityKey): ModelPoint[] {
  const styles = stylesOf(models.map(({ name }) => name));
  return models.flatMap((model, i) => {
    const [x, y] = [model.diversity, model[key]];
    if (x.value === null || y === undefined || y.value === null) return [];
    return [{ style: styles[i], x: x.value, y: y.value, xInterval: x.ci, yInterval: y.ci }];
  });
}

function missing(data: Data): Missing[] {
  const keys = ['diversity', 'quality', 'secondQuality'] as const;
  const styles = stylesOf(data.models.map(({ name }) => name));
  return data.models.flatMap((model, i) =>
    keys.flatMap((key) => {
      const estimate = model[key];
      if (estimate === undefined || estimate.value !== null) return [];
      return [{ what: `${data[key]!.name} of ${styles[i].label}`, reason: estimate.reason }];
    }),
  );
}

/** The staircase under which models are dominated, and its area. */
function frontTraces(front: readonly ModelPoint[], { x, y }: PanelScale): Trace[] {
  const edge = frontEdge(front, { x: x.range[0], y: y.range[0] });
  const line = (corners: readonly { x: number; y: number }[], name: string, more: JsonObject): Trace => ({
    type: 'scatter',
    mode: 'lines',
    name,
    x: corners.map((corner) => corner.x),
    y: corners.map((corner) => corner.y),
    hoverinfo: 'skip',
    ...more,
  });
  const area = { fill: 'toself', fillcolor: withOpacity(FAINT_INK, 0.06), line: { width: 0 } };
  return [
    line([...edge, { x: x.range[0], y: y.range[0] }], 'dominated', area),
    line(edge, 'Pareto frontier', { line: { color: FAINT_INK, width: 1.2, dash: '4px 3px' } }),
  ];
}

/** The crosses of the intervals, then all markers: no cross hides a marker. */
function pointTraces(points: readonly ModelPoint[], optimal: readonly ModelPoint[]): Trace[] {
  const crosses = points.flatMap(({ style, x, y, xInterval, yInterval }) => {
    const bars = { color: style.color, name: `${plain(style.label)}, interval`, cap: 7 };
    return [intervalBar('x', xInterval, y, bars), intervalBar('y', yInterval, x, bars)];
  });
  const markers = points.map((point): Trace => {
    const { style, x, y } = point;
    const look = optimal.includes(point)
      ? { color: style.color, line: { color: '#FFFFFF', width: 1 } }
      : { color: '#FFFFFF', line: { color: style.color, width: 2 } };
    const marker = { symbol: style.marker, size: 11, opacity: 1, ...look };
    return { type: 'scatter', mode: 'markers', name: plain(style.label), x: [x], y: [y], marker };
  });
  return [...crosses, ...markers];
}

function panelAxes(data: Data, measure: Measure, scale: PanelScale, cell: Cell, suffix: string): JsonObject {
  const { diversity } = data;
  return {
    [`xaxis${suffix}`]: axis(plain(diversity.name), plain(diversity.unit), {
      domain: cell.x,
      anchor: `y${suffix}`,
      range: scale.x.range,
      nticks: 8,
    }),
    [`yaxis${suffix}`]: axis(plain(measure.name), plain(measure.unit), {
      domain: cell.y,
      anchor: `x${suffix}`,
      range: scale.y.range,
      nticks: 6,
    }),
  };
}

const MARGIN = { l: 72, r: 16, t: 48, b: 56 };
const PANEL_HEIGHT = 300;
const PANEL_GAP = 96;
const OPTIMAL = 'filled, dashed line: Pareto-optimal';

function drawPanel(data: Data, key: QualityKey, cell: Cell, suffix: string) {
  const measure = data[key]!;
  const points = pointsOf(data, key);
  const front = paretoFront(points);
  const size = { width: FIGURE_WIDTH - MARGIN.l - MARGIN.r, height: PANEL_HEIGHT };
  const scale = panelScale(points, size);
  const optimal = front.map((index) => points[index]);
  const traces = [...frontTraces(optimal, scale), ...pointTraces(points, optimal)];
  const name = measure.name.replace(/^[a-z]/, (letter) => letter.toUpperCase());
  const title = plain(`${name} against ${data.diversity.name}`);
  const { interval, name: diversity } = data.diversity;
  const other = interval === 'bootstrap' ? '' : ` (${diversity}: ${interval})`;
  const crosses = `crosses: ${intervalNote(data)}${other}`;
  // One line holds both but for the longer name of the intervals; the second panel has room for what is left.
  const [first, second] =
    data.secondQuality === undefined || other === '' ? [`${crosses}; ${OPTIMAL}`, ''] : [crosses, OPTIMAL];
  const explanation = key === 'quality' ? first : second;
  return {
    traces: traces.map((trace) => onPanel(trace, suffix, { showlegend: false })),
    annotations: [
      ...panelTitle(cell, title, explanation),
      ...labelsOf(points, optimal, scale, suffix),
      ...(points.length === 0 ? [emptyPanel(cell, 'no model has both values')] : []),
    ],
    axes: panelAxes(data, measure, scale, cell, suffix),
  };
}

/**
 * One panel, or a second one below it with another quality: a marker a model with its intervals as a cross and its name
 * beside it; models that no other beats in both directions are filled and joined by a staircase, the others are hollow.
 * What has no value is named below with its reason.
 *
 * @throws ConfigError  naming a field that is missing, unknown or not a finite number
 */
export function drawParetoFrontier(data: ParetoFrontier): FigureSpec {
  const full = parseStrict(paretoFrontierSchema, data, 'Pareto frontier');
  const keys: QualityKey[] = full.secondQuality === undefined ? ['quality'] : ['quality', 'secondQuality'];
  const notes = footnotes(missingLines(missing(full)), 52, 56);
  const inner = keys.length * PANEL_HEIGHT + (keys.length - 1) * PANEL_GAP;
  const size = { width: FIGURE_WIDTH, height: inner + MARGIN.t + MARGIN.b + notes.height };
  const cells = gridCells(keys.length, 1, { x: 0, y: PANEL_GAP / inner });
  const panels = keys.map((key, i) => drawPanel(full, key, cells[i], i === 0 ? '' : String(i + 1)));
  const layout = baseLayout(size, {
    margin: { ...MARGIN, b: MARGIN.b + notes.height },
    annotations: [...panels.flatMap(({ annotations }) => annotations), ...notes.annotations],
    ...Object.assign({}, ...panels.map(({ axes }) => axes)),
  });
  return { kind: 'pareto-frontier', ...size, data: panels.flatMap(({ traces }) => traces), layout };
}
