/** What training changed on held-out prompts: every prompt before against after, and the mean difference with its interval. */
import { z } from 'zod';
import { ShapeError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { binCounts, histogramBins, linearEdges, outline } from './histogram';
import type { FigureSpec, JsonObject, Trace } from './spec';
import {
  axis,
  baseLayout,
  FAINT_INK,
  FIGURE_WIDTH,
  gridCells,
  OKABE_ITO,
  panelTitle,
  styleOf,
  withOpacity,
} from './theme';
import type { Cell } from './theme';

const measureSchema = z.strictObject({
  /** e.g. `Reward`, `World quality` */
  name: z.string().min(1),
  /** one value a prompt */
  before: z.array(z.number()).min(2),
  /** the same prompts in the same order */
  after: z.array(z.number()).min(2),
  /** mean of after - before */
  difference: z.number(),
  /** bootstrap interval of that mean over prompts */
  interval: z.tuple([z.number(), z.number()]),
});

export const pairedChangeSchema = z.strictObject({
  beforeLabel: z.string().default('before GRPO'),
  afterLabel: z.string().default('after GRPO'),
  /** of the intervals */
  level: z.number().gt(0).lt(1).default(0.95),
  measures: z.array(measureSchema).min(1).max(3),
});

/** Measures of held-out prompts before and after training, at most three. */
export type PairedChange = z.input<typeof pairedChangeSchema>;
type Measure = z.infer<typeof measureSchema>;
type Change = z.output<typeof pairedChangeSchema>;

const STYLE = styleOf('grpo');

function signed(value: number): string {
  return `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(3)}`;
}

/** The same range for both axes of the scatter plot, so that the diagonal means "no change". */
function commonRange(measure: Measure): [number, number] {
  const values = [...measure.before, ...measure.after];
  const low = Math.min(...values);
  const high = Math.max(...values);
  const margin = 0.05 * (high - low) || 0.05;
  return [low - margin, high + margin];
}

function scatterTraces(measure: Measure, range: readonly number[], axes: JsonObject): Trace[] {
  const diagonal: Trace = {
    type: 'scatter',
    mode: 'lines',
    name: 'no change',
    x: range,
    y: range,
    line: { color: FAINT_INK, width: 1, dash: 'dash' },
    ...axes,
  };
  const prompts: Trace = {
    type: 'scatter',
    mode: 'markers',
    name: 'prompts',
    x: measure.before,
    y: measure.after,
    marker: {
      color: withOpacity(STYLE.color, 0.45),
      symbol: 'circle',
      size: 6,
      line: { color: STYLE.color, width: 0.8 },
    },
    ...axes,
  };
  return [diagonal, prompts];
}

function differences(measure: Measure): number[] {
  return measure.after.map((value, i) => value - measure.before[i]);
}

/** Bins of the differences; zero is always in view. */
function differenceEdges(measure: Measure): number[] {
  const values = differences(measure);
  return linearEdges(Math.min(...values, 0), Math.max(...values, 0), histogramBins(values.length));
}

function differenceRange(measure: Measure): [number, number] {
  const edges = differenceEdges(measure);
  const low = Math.min(edges[0], measure.interval[0]);
  const high = Math.max(edges[edges.length - 1], measure.interval[1]);
  return [low - 0.04 * (high - low), high + 0.04 * (high - low)];
}

/** The histogram of the differences, the interval of their mean as a band, the mean and "no change" as lines. */
function histogramTraces(measure: Measure, axes: JsonObject): Trace[] {
  const edges = differenceEdges(measure);
  const counts = binCounts(differences(measure), edges);
  const top = Math.max(...counts) * 1.08;
  const upright = (at: number, name: string, line: JsonObject): Trace => ({
    type: 'scatter',
    mode: 'lines',
    name,
    x: [at, at],
    y: [0, top],
    line,
    ...axes,
  });
  const [low, high] = measure.interval;
  const band: Trace = {
    type: 'scatter',
    mode: 'lines',
    name: 'interval of the mean',
    x: [low, low, high, high],
    y: [0, top, top, 0],
    fill: 'toself',
    fillcolor: withOpacity(OKABE_ITO.vermillion, 0.3),
    line: { width: 0, color: OKABE_ITO.vermillion },
    ...axes,
  };
  const bars: Trace = {
    type: 'scatter',
    mode: 'lines',
    name: 'prompts',
    ...outline(edges, counts),
    line: { color: STYLE.color, width: 1.5, shape: 'hv' },
    fill: 'tozeroy',
    fillcolor: withOpacity(STYLE.color, 0.18),
    ...axes,
  };
  return [
    bars,
    upright(0, 'no change', { color: FAINT_INK, width: 1, dash: 'dash' }),
    band,
    upright(measure.difference, 'mean', { color: OKABE_ITO.vermillion, width: 2 }),
  ];
}

function titles(measure: Measure, change: Change, left: Cell, right: Cell): JsonObject[] {
  const n = measure.before.length;
  const risen = differences(measure).filter((value) => value > 0).length;
  const fallen = differences(measure).filter((value) => value < 0).length;
  const [low, high] = measure.interval;
  const percent = Number((100 * change.level).toPrecision(6));
  const interval = `band: bootstrap ${percent} % [${signed(low)}, ${signed(high)}]`;
  return [
    ...panelTitle(
      left,
      `${measure.name} of each prompt`,
      `after: ${risen} higher, ${fallen} lower of ${n}; dashed: no change`,
    ),
    ...panelTitle(right, `Mean difference ${signed(measure.difference)} (n = ${n})`, interval),
  ];
}

interface Place {
  readonly left: Cell;
  readonly right: Cell;
  /** the number of the row's first axis, from 1 */
  readonly first: number;
}

function axisSuffix(number: number): string {
  return number === 1 ? '' : String(number);
}

function rowAxes(measure: Measure, change: Change, place: Place, range: readonly number[]): JsonObject {
  const [a, b] = [axisSuffix(place.first), axisSuffix(place.first + 1)];
  const name = measure.name.replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase());
  const scatter = { range, nticks: 6 };
  return {
    [`xaxis${a}`]: axis(`${name} ${change.beforeLabel}`, '', {
      domain: place.left.x,
      anchor: `y${a}`,
      ...scatter,
    }),
    [`yaxis${a}`]: axis(`${name} ${change.afterLabel}`, '', {
      domain: place.left.y,
      anchor: `x${a}`,
      ...scatter,
    }),
    [`xaxis${b}`]: axis(`difference in ${name}`, '', {
      domain: place.right.x,
      anchor: `y${b}`,
      range: differenceRange(measure),
      nticks: 7,
    }),
    [`yaxis${b}`]: axis('prompts', 'count', {
      domain: place.right.y,
      anchor: `x${b}`,
      rangemode: 'tozero',
      nticks: 6,
    }),
  };
}

function drawRow(measure: Measure, change: Change, place: Place) {
  const [a, b] = [axisSuffix(place.first), axisSuffix(place.first + 1)];
  const range = commonRange(measure);
  return {
    traces: [
      ...scatterTraces(measure, range, { xaxis: `x${a}`, yaxis: `y${a}` }),
      ...histogramTraces(measure, { xaxis: `x${b}`, yaxis: `y${b}` }),
    ],
    axes: rowAxes(measure, change, place, range),
    notes: titles(measure, change, place.left, place.right),
  };
}

/**
 * A row a measure: left, a dot a prompt, before against after; right, the histogram of the differences with their
 * mean and its bootstrap interval drawn and named.
 *
 * @throws ShapeError   when before and after have different lengths
 * @throws ConfigError  naming a field that is missing, unknown or not a finite number
 */
export function drawPairedChange(data: PairedChange): FigureSpec {
  const change = parseStrict(pairedChangeSchema, data, 'paired change');
  for (const { name, before, after } of change.measures) {
    if (before.length !== after.length) {
      throw new ShapeError(
        `${name}: ${before.length} values before and ${after.length} after; expected pairs.`,
      );
    }
  }
  const count = change.measures.length;
  const size = { width: FIGURE_WIDTH, height: 48 + 320 * count };
  const cells = gridCells(count, 2, { x: 0.15, y: count === 2 ? 0.2 : 0.14 });
  const rows = change.measures.map((measure, i) =>
    drawRow(measure, change, { left: cells[2 * i], right: cells[2 * i + 1], first: 2 * i + 1 }),
  );
  const layout = baseLayout(size, {
    annotations: rows.flatMap(({ notes }) => notes),
    ...Object.assign({}, ...rows.map(({ axes }) => axes)),
  });
  return { kind: 'paired-change', ...size, data: rows.flatMap(({ traces }) => traces.map(hidden)), layout };
}

/** The panels say in words what each mark is; a legend would say it twice. */
function hidden(trace: Trace): Trace {
  return { ...trace, showlegend: false };
}
