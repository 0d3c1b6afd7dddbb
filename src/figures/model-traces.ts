/** How a model's numbers become marks: lines with markers, bands and interval bars that have gaps where there is no value. */
import { plain } from './captions';
import type { JsonObject, Trace } from './spec';
import type { ModelStyle } from './theme';
import { FONT_SIZE, withOpacity } from './theme';

/** A point of a line; `y` is null where there is no value. */
export interface LinePoint {
  readonly x: number;
  readonly y: number | null;
  /** [low, high] of the band around the line */
  readonly interval?: readonly [number, number];
}

/** Sizes of a line: the markers that fit on it before they touch, their size, its width. */
const LINE_LOOK = { markers: 14, markerSize: 7, width: 2 };

/** The model's line, which breaks where there is no value. */
export function modelLine(
  style: ModelStyle,
  label: string,
  points: readonly LinePoint[],
  look: typeof LINE_LOOK = LINE_LOOK,
): Trace {
  // Between two gaps a value is its marker alone: then no marker is left out.
  const isGap = (at: number): boolean => (points[at]?.y ?? null) === null;
  const alone = points.some((_, at) => !isGap(at) && isGap(at - 1) && isGap(at + 1));
  const maxdisplayed = alone ? 0 : look.markers;
  return {
    type: 'scatter',
    mode: 'lines+markers',
    name: label,
    x: points.map(({ x }) => x),
    y: points.map(({ y }) => y),
    line: { color: style.color, dash: style.dash, width: look.width },
    marker: { color: style.color, symbol: style.marker, size: look.markerSize, maxdisplayed },
    connectgaps: false,
  };
}

/** Runs of neighbouring points that have an interval. */
function runs(points: readonly LinePoint[]): LinePoint[][] {
  return points.reduce<LinePoint[][]>(
    (parts, point) => {
      if (point.y === null || point.interval === undefined) return [...parts, []];
      return [...parts.slice(0, -1), [...parts[parts.length - 1], point]];
    },
    [[]],
  );
}

/** The band of the intervals, a polygon a run; none when no point has one. */
export function modelBand(style: ModelStyle, label: string, points: readonly LinePoint[]): Trace[] {
  const outlines = runs(points)
    .filter((run) => run.length > 0)
    .map((run) => {
      const back = [...run].reverse();
      const x = [...run, ...back].map((point) => point.x);
      const y = [...run.map(({ interval }) => interval![1]), ...back.map(({ interval }) => interval![0])];
      return { x: [...x, x[0]], y: [...y, y[0]] };
    });
  if (outlines.length === 0) return [];
  const joined = (axis: 'x' | 'y'): (number | null)[] =>
    outlines.flatMap((outline, i) => (i === 0 ? outline[axis] : [null, ...outline[axis]]));
  return [
    {
      type: 'scatter',
      mode: 'lines',
      name: `${label}, interval`,
      x: joined('x'),
      y: joined('y'),
      fill: 'toself',
      fillcolor: withOpacity(style.color, 0.14),
      line: { width: 0.6, color: withOpacity(style.color, 0.45) },
      hoverinfo: 'skip',
      showlegend: false,
    },
  ];
}

/** An interval of one value as a bar with caps, along one axis; with an arrow head where it goes on beyond its end. */
export function intervalBar(
  axis: 'x' | 'y',
  [low, high]: readonly [number, number],
  at: number | string,
  style: { readonly color: string; readonly name: string; readonly cap?: number; readonly openEnd?: boolean },
): Trace {
  const across = axis === 'x' ? 'y' : 'x';
  const [cap, head] = axis === 'x' ? ['line-ns', 'triangle-right'] : ['line-ew', 'triangle-up'];
  const size = style.cap ?? 8;
  return {
    type: 'scatter',
    mode: 'lines+markers',
    name: style.name,
    [axis]: [low, high],
    [across]: [at, at],
    line: { color: style.color, width: 1.4 },
    marker: {
      symbol: style.openEnd === true ? [cap, head] : cap,
      size: style.openEnd === true ? [size, size + 3] : size,
      color: style.color,
      opacity: 1,
      line: { color: style.color, width: 1.4 },
    },
    hoverinfo: 'skip',
    showlegend: false,
  };
}

/** A trace on the axes of a panel: `''` is the first, then `2`, `3`, ... */
export function onPanel(trace: Trace, suffix: string, more: JsonObject = {}): Trace {
  return { ...trace, xaxis: `x${suffix}`, yaxis: `y${suffix}`, ...more };
}

/** A model's entry in the legend, whatever is drawn of it. */
export function legendEntry(style: ModelStyle, hasValue: boolean): Trace {
  const label = `${plain(style.label)}${hasValue ? '' : ' (no value)'}`;
  return { ...modelLine(style, label, []), x: [null], y: [null] };
}

/** The names that a legend of these traces shows. */
export function legendLabels(traces: readonly Trace[]): string[] {
  return traces.filter(({ showlegend }) => showlegend !== false).map(({ name }) => String(name));
}

const LEGEND_SYMBOL = 40;
/** Of the legend's font, pixels a character on average; a little more than that of Open Sans. */
const CHARACTER = 7;

/**
 * The legend of models along the top edge in up to three columns, and the pixels that it takes of the top margin.
 * @param width  pixels of the plotting area
 */
export function modelLegend(
  labels: readonly string[],
  width: number,
): { layout: JsonObject; height: number } {
  const longest = Math.max(...labels.map((label) => label.length));
  const fitting = Math.floor(width / (LEGEND_SYMBOL + 14 + CHARACTER * longest));
  const rows = Math.ceil(labels.length / Math.max(1, Math.min(3, fitting)));
  const columns = Math.ceil(labels.length / rows);
  const legend = {
    ...{ orientation: 'h', x: 0, xanchor: 'left', y: 1, yref: 'container', yanchor: 'top' },
    ...{ entrywidth: 0.999 / columns, entrywidthmode: 'fraction', itemwidth: LEGEND_SYMBOL },
    font: { size: FONT_SIZE.label },
  };
  return { layout: { showlegend: true, legend }, height: 6 + 20 * rows };
}
