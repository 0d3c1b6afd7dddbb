import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { frontEdge, paretoFront } from './pareto-front';
import type { Point } from './pareto-front';

/** By the definition: no other point is as large in both and larger in one. */
function bruteForce(points: readonly Point[]): number[] {
  const dominates = (a: Point, b: Point): boolean => a.x >= b.x && a.y >= b.y && (a.x > b.x || a.y > b.y);
  return points.flatMap((point, index) => (points.some((other) => dominates(other, point)) ? [] : [index]));
}

const ascending = (a: number, b: number): number => a - b;

describe('paretoFront', () => {
  it('is that of the definition, ties included, from small to large x', () => {
    const coordinate = fc.integer({ min: 0, max: 6 });
    fc.assert(
      fc.property(fc.array(fc.record({ x: coordinate, y: coordinate }), { maxLength: 12 }), (points) => {
        const front = paretoFront(points);
        expect([...front].sort(ascending)).toEqual(bruteForce(points));
        const xs = front.map((index) => points[index].x);
        expect(xs).toEqual([...xs].sort(ascending));
      }),
      { numRuns: 500 },
    );
  });

  it('keeps equal points, and of one column or row the largest', () => {
    const points = [
      { x: 1, y: 3 },
      { x: 1, y: 3 },
      { x: 1, y: 2 },
      { x: 0, y: 3 },
      { x: 2, y: 1 },
    ];
    expect(paretoFront(points)).toEqual([0, 1, 4]);
    expect(paretoFront([])).toEqual([]);
  });

  it('refuses a coordinate that is not a number', () => {
    expect(() => paretoFront([{ x: 0, y: NaN }])).toThrow(ShapeError);
    expect(() => paretoFront([{ x: 0, y: NaN }])).toThrow('point 0 is (0, NaN)');
  });
});

describe('frontEdge', () => {
  it('is the edge of what the front dominates', () => {
    const front = [
      { x: 1, y: 3 },
      { x: 2, y: 1 },
    ];
    const corners = frontEdge(front, { x: 0, y: 0 }).map(({ x, y }) => [x, y]);
    expect(corners).toEqual([
      [0, 3],
      [1, 3],
      [1, 1],
      [2, 1],
      [2, 0],
    ]);
    expect(frontEdge([], { x: 0, y: 0 })).toEqual([]);
  });
});
