/** Where the names of points go so that they cover neither each other nor the marks. All numbers are pixels, y downwards. */

export interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

/** A point and the size of its name. */
export interface Label {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Where a name stands: its corner or side nearest to the point is (dx, dy) from the point. */
export interface Placement {
  readonly dx: number;
  readonly dy: number;
  /** far enough for a line between point and name */
  readonly far: boolean;
  readonly box: Box;
}

/** Sides in order of preference; -1 is left or above. */
const SIDES = [
  [1, -1],
  [1, 0],
  [-1, -1],
  [-1, 0],
  [1, 1],
  [-1, 1],
  [0, -1],
  [0, 1],
] as const;

/** Between point and name, near to far. */
const GAPS = [8, 16, 24, 34, 46, 60, 78];

/** The start of a box of this size that lies before, over or behind a place. */
function startOf(place: number, side: number, gap: number, size: number): number {
  if (side === 0) return place - size / 2;
  return side > 0 ? place + gap : place - gap - size;
}

function candidatesOf({ x, y, width, height }: Label): Placement[] {
  return GAPS.flatMap((gap, at) =>
    SIDES.map(([right, down]) => {
      // On a diagonal both parts are shorter, so that the name is as far as beside the point.
      const reach = right !== 0 && down !== 0 ? 0.7 * gap : gap;
      const [left, top] = [startOf(x, right, reach, width), startOf(y, down, reach, height)];
      return {
        ...{ dx: right * reach, dy: down * reach, far: at > 0 },
        box: { left, top, right: left + width, bottom: top + height },
      };
    }),
  );
}

export function overlap(a: Box, b: Box): number {
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return width > 0 && height > 0 ? width * height : 0;
}

/** Pixels by which a box leaves its panel. */
function outside(box: Box, panel: Box): number {
  return (
    Math.max(0, panel.left - box.left) +
    Math.max(0, box.right - panel.right) +
    Math.max(0, panel.top - box.top) +
    Math.max(0, box.bottom - panel.bottom)
  );
}

/** Whether the line from a point to its name passes over a box. */
function leaderCrosses({ x, y }: Label, { dx, dy, far }: Placement, box: Box): boolean {
  if (!far) return false;
  return Array.from({ length: 17 }, (_, i) => i / 16).some((part) => {
    const [atX, atY] = [x + part * dx, y + part * dy];
    return atX > box.left && atX < box.right && atY > box.top && atY < box.bottom;
  });
}

const POINT_RADIUS = 6;

function pointBox({ x, y }: Label): Box {
  const r = POINT_RADIUS;
  return { left: x - r, right: x + r, top: y - r, bottom: y + r };
}

/** What a placement covers, in square pixels or what outweighs them, and its distance. */
function costOf(
  own: number,
  at: Placement,
  labels: readonly Label[],
  chosen: readonly Placement[],
  panel: Box,
) {
  const others = labels.flatMap((label, i) => (i === own ? [] : [{ label, placement: chosen[i] }]));
  const names = others.reduce((sum, { placement }) => sum + overlap(at.box, placement.box), 0);
  const crossings = others.reduce(
    (sum, { label, placement }) =>
      sum +
      Number(leaderCrosses(labels[own], at, placement.box)) +
      Number(leaderCrosses(labels[own], at, pointBox(label))) +
      Number(leaderCrosses(label, placement, at.box)),
    0,
  );
  const distance = at.far ? Math.hypot(at.dx, at.dy) : 0;
  return 1000 * outside(at.box, panel) + 20 * names + 200 * crossings + distance;
}

const ROUNDS = 4;

/**
 * A place for each name, the same for the same input: the one of its candidates that covers least, near before far, the
 * names chosen in turn until none moves.
 *
 * @param marks  what no name should cover
 */
export function placeLabels(labels: readonly Label[], marks: readonly Box[], panel: Box): Placement[] {
  const candidates = labels.map((label) =>
    candidatesOf(label).map((placement, rank) => {
      const covered = marks.reduce((sum, mark) => sum + overlap(placement.box, mark), 0);
      return { placement, fixed: 5 * covered + rank };
    }),
  );
  const chosen = candidates.map(([{ placement }]) => placement);
  for (let round = 0; round < ROUNDS; round++)
    candidates.forEach((options, own) => {
      const costs = options.map(
        ({ placement, fixed }) => fixed + costOf(own, placement, labels, chosen, panel),
      );
      chosen[own] = options[costs.indexOf(Math.min(...costs))].placement;
    });
  return chosen;
}
