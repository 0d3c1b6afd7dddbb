/** Which of several models no other one beats in both of two qualities. */
import { ShapeError } from '../runtime/errors';

/** Two qualities of a model, more being better. */
export interface Point {
  readonly x: number;
  readonly y: number;
}

/**
 * Indices of the points that no other dominates (as large in both coordinates and larger in one), from small to large x;
 * equal points are all kept. O(n log n).
 *
 * @throws ShapeError  when a coordinate is not finite
 */
export function paretoFront(points: readonly Point[]): number[] {
  const wrong = points.findIndex(({ x, y }) => !Number.isFinite(x) || !Number.isFinite(y));
  if (wrong >= 0)
    throw new ShapeError(`point ${wrong} is (${points[wrong].x}, ${points[wrong].y}); expected numbers.`);
  const order = points
    .map((_, index) => index)
    .sort((a, b) => points[b].x - points[a].x || points[b].y - points[a].y || b - a);
  const front: number[] = [];
  for (const index of order) {
    const last = points[front[front.length - 1]];
    const { x, y } = points[index];
    // From large x to small, only a larger y is not dominated.
    if (last === undefined || y > last.y || (x === last.x && y === last.y)) front.push(index);
  }
  return front.reverse();
}

/**
 * The edge of what the front dominates, as corners of a line: from the left end at the height of the first point, down at
 * each point's x and on to the next one, down to the lower end at the last.
 *
 * @param front  from small to large x
 * @param ends   where the line leaves the panel: smallest x and y
 */
export function frontEdge(front: readonly Point[], ends: Point): Point[] {
  if (front.length === 0) return [];
  const corners = front.flatMap((point, i) => {
    const next = front[i + 1];
    return [point, { x: point.x, y: next === undefined ? ends.y : next.y }];
  });
  return [{ x: ends.x, y: front[0].y }, ...corners];
}
