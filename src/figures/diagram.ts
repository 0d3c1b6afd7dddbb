/** Boxes, arrows and text of a diagram, placed in pixels from the figure's top left corner. */
import type { JsonObject } from './spec';
import { FAINT_INK, INK, withOpacity } from './theme';

export interface Rect {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export type Place = readonly [x: number, y: number];

/** Parts of plotly's layout. */
export interface Drawing {
  readonly shapes: readonly JsonObject[];
  readonly annotations: readonly JsonObject[];
}

export const TEXT_SIZE = { heading: 13, title: 12, line: 11 } as const;

/** Axes, not shown, on which a pixel of the figure is 1. */
export function pixelAxes({ width, height }: { width: number; height: number }): JsonObject {
  const hidden = { visible: false, fixedrange: true };
  return {
    margin: { l: 0, r: 0, t: 0, b: 0 },
    xaxis: { ...hidden, range: [0, width] },
    yaxis: { ...hidden, range: [height, 0] },
  };
}

/** The outline of a rectangle with round corners, as an SVG path. */
function roundedPath({ x, y, width, height }: Rect, radius: number): string {
  const [right, bottom, r] = [x + width, y + height, radius];
  return [
    `M${x + r},${y} L${right - r},${y} Q${right},${y} ${right},${y + r}`,
    `L${right},${bottom - r} Q${right},${bottom} ${right - r},${bottom}`,
    `L${x + r},${bottom} Q${x},${bottom} ${x},${bottom - r}`,
    `L${x},${y + r} Q${x},${y} ${x + r},${y} Z`,
  ].join(' ');
}

function roundedShape(rect: Rect, radius: number, more: JsonObject): JsonObject {
  return { type: 'path', path: roundedPath(rect, radius), xref: 'x', yref: 'y', layer: 'below', ...more };
}

/** Text whose anchor point is a place. */
export function text(words: string, [x, y]: Place, more: JsonObject = {}): Drawing {
  const annotation = {
    ...{ text: words, x, y, xref: 'x', yref: 'y', showarrow: false, borderpad: 0 },
    ...{ xanchor: 'center', yanchor: 'middle', font: { size: TEXT_SIZE.line, color: INK } },
    ...more,
  };
  return { shapes: [], annotations: [annotation] };
}

/** An area that holds boxes, with its heading in the top left corner and a remark behind it. */
export function area(rect: Rect, color: string, heading: string, remark = ''): Drawing {
  const fill = { fillcolor: withOpacity(color, 0.07), line: { color: withOpacity(color, 0.55), width: 1 } };
  const faint = `<span style="color:${FAINT_INK};font-size:${TEXT_SIZE.line}px">${remark}</span>`;
  const title = text(`<b>${heading}</b>${remark === '' ? '' : `  ${faint}`}`, [rect.x + 12, rect.y + 15], {
    xanchor: 'left',
    font: { size: TEXT_SIZE.heading, color: INK },
  });
  return { shapes: [roundedShape(rect, 8, fill)], annotations: title.annotations };
}

export interface BoxLook {
  readonly color: string;
  /** the outline of what is frozen */
  readonly dash?: string;
}

/** A white box: a title, and lines under it. */
export function box(rect: Rect, title: string, lines: readonly string[], look: BoxLook): Drawing {
  const outline = { color: look.color, width: 1.5, dash: look.dash ?? 'solid' };
  const under = lines.map((line) => `<span style="font-size:${TEXT_SIZE.line}px">${line}</span>`);
  const words = [`<b>${title}</b>`, ...under].join('<br>');
  const middle: Place = [rect.x + rect.width / 2, rect.y + rect.height / 2];
  const { annotations } = text(words, middle, { font: { size: TEXT_SIZE.title, color: INK } });
  return { shapes: [roundedShape(rect, 5, { fillcolor: '#FFFFFF', line: outline })], annotations };
}

/** Pixels of the line that the arrow head covers. */
const HEAD = 6;

/** A line through places, with an arrow head at the last. */
export function arrow(places: readonly Place[], color: string = FAINT_INK): Drawing {
  const [tail, head] = places.slice(-2);
  const length = Math.hypot(head[0] - tail[0], head[1] - tail[1]);
  const neck = head.map((at, axis) => at + ((tail[axis] - at) * Math.min(HEAD, length)) / length);
  const path = `M${[...places.slice(0, -1), neck].map(([x, y]) => `${x},${y}`).join(' L')}`;
  const line = { type: 'path', path, xref: 'x', yref: 'y', line: { color, width: 1.4 } };
  const last = {
    ...{ text: '', x: head[0], y: head[1], xref: 'x', yref: 'y' },
    ...{ ax: tail[0], ay: tail[1], axref: 'x', ayref: 'y', showarrow: true },
    ...{ arrowhead: 2, arrowsize: 1.1, arrowwidth: 1.4, arrowcolor: color },
  };
  return { shapes: [line], annotations: [last] };
}

export function combine(drawings: readonly Drawing[]): Drawing {
  return {
    shapes: drawings.flatMap(({ shapes }) => shapes),
    annotations: drawings.flatMap(({ annotations }) => annotations),
  };
}
