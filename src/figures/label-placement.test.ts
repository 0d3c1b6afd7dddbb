import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { overlap, placeLabels } from './label-placement';
import type { Box, Label } from './label-placement';

const PANEL: Box = { left: 0, right: 500, top: 0, bottom: 300 };

function label(x: number, y: number): Label {
  return { x, y, width: 60, height: 14 };
}

function around({ x, y }: Label): Box {
  return { left: x - 5.5, right: x + 5.5, top: y - 5.5, bottom: y + 5.5 };
}

describe('placeLabels', () => {
  it('puts a name right beside its point, above its cross', () => {
    const point = label(100, 100);
    const bar = { left: 50, right: 150, top: 98, bottom: 102 };
    for (const marks of [[around(point)], [around(point), bar]]) {
      const [{ dx, dy, far }] = placeLabels([point], marks, PANEL);
      expect([dx > 0, dy < 0, far]).toEqual([true, true, false]);
    }
  });

  it('keeps names inside the panel', () => {
    const points = [label(495, 5), label(5, 295), label(498, 298)];
    for (const { box } of placeLabels(points, points.map(around), PANEL)) {
      expect(box.left).toBeGreaterThanOrEqual(0);
      expect(box.right).toBeLessThanOrEqual(500);
      expect(box.top).toBeGreaterThanOrEqual(0);
      expect(box.bottom).toBeLessThanOrEqual(300);
    }
  });

  it('lets no two of six names meet, and none cover a point, also of points in one place', () => {
    const place = fc.record({ x: fc.integer({ min: 150, max: 350 }), y: fc.integer({ min: 100, max: 200 }) });
    fc.assert(
      fc.property(fc.array(place, { minLength: 1, maxLength: 6 }), (places) => {
        const points = places.map(({ x, y }) => label(x, y));
        const boxes = placeLabels(points, points.map(around), PANEL).map(({ box }) => box);
        boxes.forEach((box, i) => {
          for (const other of boxes.slice(i + 1)) expect(overlap(box, other)).toBe(0);
          for (const point of points) expect(overlap(box, around(point))).toBeLessThan(30);
        });
      }),
    );
  });
});
