/** The scale of a panel of points with intervals, and the names beside the points. */
import { plain } from './captions';
import type { Box } from './label-placement';
import { placeLabels } from './label-placement';
import type { Point } from './pareto-front';
import { frontEdge } from './pareto-front';
import type { JsonObject } from './spec';
import type { ModelStyle } from './theme';
import { FAINT_INK, FONT_SIZE, INK } from './theme';
import { rangeOf } from './training-panels';

/** A model with a value in both directions. */
export interface ModelPoint extends Point {
  readonly style: ModelStyle;
  /** [low, high] */
  readonly xInterval: readonly [number, number];
  readonly yInterval: readonly [number, number];
}

/** Values of one direction and the pixels that they lie at. */
interface Direction {
  readonly range: readonly [number, number];
  readonly pixel: (value: number) => number;
}

export interface PanelScale {
  readonly x: Direction;
  readonly y: Direction;
  readonly size: { readonly width: number; readonly height: number };
}

/** The range of values with room for the names around them; of no value, 0 to 1. */
function roomyRange(values: readonly number[]): [number, number] {
  if (values.length === 0) return [0, 1];
  const [low, high] = rangeOf(values);
  const margin = 0.1 * (high - low) || 0.1 * Math.abs(high) || 0.1;
  return [low - margin, high + margin];
}

export function panelScale(points: readonly ModelPoint[], size: PanelScale['size']): PanelScale {
  const [left, right] = roomyRange(points.flatMap(({ x, xInterval }) => [x, ...xInterval]));
  const [low, high] = roomyRange(points.flatMap(({ y, yInterval }) => [y, ...yInterval]));
  return {
    x: { range: [left, right], pixel: (value) => ((value - left) / (right - left)) * size.width },
    y: { range: [low, high], pixel: (value) => ((high - value) / (high - low)) * size.height },
    size,
  };
}

/** A line between two places as a box with room around it. */
function strip(from: Point, to: Point, { x, y }: PanelScale, room: number): Box {
  const [left, right] = rangeOf([x.pixel(from.x), x.pixel(to.x)]);
  const [top, bottom] = rangeOf([y.pixel(from.y), y.pixel(to.y)]);
  return { left: left - room, right: right + room, top: top - room, bottom: bottom + room };
}

function marksOf(points: readonly ModelPoint[], front: readonly ModelPoint[], scale: PanelScale): Box[] {
  const edge = frontEdge(front, { x: scale.x.range[0], y: scale.y.range[0] });
  return [
    ...points.flatMap((point) => [
      strip(point, point, scale, 5.5),
      strip({ ...point, x: point.xInterval[0] }, { ...point, x: point.xInterval[1] }, scale, 2),
      strip({ ...point, y: point.yInterval[0] }, { ...point, y: point.yInterval[1] }, scale, 2),
    ]),
    ...edge.slice(1).map((corner, i) => strip(edge[i], corner, scale, 1)),
  ];
}

/** Of the labels' font, pixels a character on average, a little more than that of Open Sans; and a line's height. */
const CHARACTER = 6.5;
const LINE = 16;

const ANCHORS = { x: ['right', 'center', 'left'], y: ['bottom', 'middle', 'top'] } as const;

/** The names of the models beside their points, with a thin line to the point where they stand away from it. */
export function labelsOf(
  points: readonly ModelPoint[],
  front: readonly ModelPoint[],
  scale: PanelScale,
  suffix: string,
): JsonObject[] {
  const labels = points.map(({ x, y, style }) => {
    const width = CHARACTER * style.label.length;
    return { x: scale.x.pixel(x), y: scale.y.pixel(y), width, height: LINE };
  });
  const panel = { left: 2, right: scale.size.width - 2, top: 2, bottom: scale.size.height - 2 };
  const placements = placeLabels(labels, marksOf(points, front, scale), panel);
  return placements.map(({ dx, dy, far }, i) => ({
    ...{ x: points[i].x, y: points[i].y, xref: `x${suffix}`, yref: `y${suffix}` },
    text: plain(points[i].style.label),
    font: { size: FONT_SIZE.tick, color: INK },
    xanchor: ANCHORS.x[Math.sign(dx) + 1],
    yanchor: ANCHORS.y[Math.sign(dy) + 1],
    borderpad: 0,
    ...(far
      ? { showarrow: true, ax: dx, ay: dy, arrowhead: 0, arrowwidth: 0.8, arrowcolor: FAINT_INK, standoff: 6 }
      : { showarrow: false, xshift: dx, yshift: -dy }),
  }));
}
