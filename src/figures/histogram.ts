/** Bins whose edges are round numbers, and the share of values in each. */
import { ShapeError } from '../runtime/errors';

/** The most bins for n values: 2 sqrt(n), within 6 and 25. Round edges then make them fewer, down to half. */
export function histogramBins(n: number): number {
  return Math.min(25, Math.max(6, Math.ceil(2 * Math.sqrt(n))));
}

/** The smallest of 1, 2, 5 times a power of ten that is at least `size`. */
export function roundStep(size: number): number {
  const power = 10 ** Math.floor(Math.log10(size));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= size * (1 - 1e-9)) ?? 10;
  return Number((factor * power).toPrecision(12));
}

/**
 * The edges edge(first)..edge(last) that cover low..high: counted from the guess and moved outwards where rounding
 * left an end outside.
 */
function coveringEdges(
  edge: (index: number) => number,
  low: number,
  high: number,
  guess: (value: number) => number,
): number[] {
  let first = Math.floor(guess(low) + 1e-9);
  while (edge(first) > low) first--;
  let last = Math.max(Math.ceil(guess(high) - 1e-9), first + 1);
  while (edge(last) < high) last++;
  return Array.from({ length: last - first + 1 }, (_, index) => edge(first + index));
}

/**
 * Edges of equal bins that cover low..high, at most about `bins` of them, each a multiple of a round step.
 * Ends that are equal, or so close that edges of 12 digits cannot part them, get one bin around them.
 */
export function linearEdges(low: number, high: number, bins: number): number[] {
  const size = Math.max(Math.abs(low), Math.abs(high));
  const isSpread = high - low > 1e-9 * size;
  const step = isSpread ? roundStep((high - low) / bins) : roundStep(Math.max(size, 1) / 10);
  const edge = (index: number): number => Number((index * step).toPrecision(12));
  return coveringEdges(edge, low, high, (value) => value / step);
}

/** Edges that part every power of ten into `perDecade` bins of equal ratio and cover low..high, both > 0. */
export function logEdges(low: number, high: number, perDecade: number): number[] {
  const edge = (index: number): number => Number((10 ** (index / perDecade)).toPrecision(12));
  return coveringEdges(edge, low, high, (value) => Math.log10(value) * perDecade);
}

/**
 * Counts of the values in [edge_i, edge_i+1); the last bin holds its upper edge too.
 * @throws ShapeError  when a value lies outside the edges
 */
export function binCounts(values: ArrayLike<number>, edges: readonly number[]): number[] {
  const counts = new Array<number>(edges.length - 1).fill(0);
  const last = counts.length - 1;
  for (let i = 0; i < values.length; i++) {
    let low = 0;
    let high = edges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (edges[middle] <= values[i]) low = middle + 1;
      else high = middle;
    }
    const bin = values[i] === edges[edges.length - 1] ? last : low - 1;
    if (!(bin >= 0 && bin <= last)) {
      throw new ShapeError(
        `value ${values[i]} lies outside the bins ${edges[0]} to ${edges[edges.length - 1]}.`,
      );
    }
    counts[bin]++;
  }
  return counts;
}

/**
 * The outline of a histogram as a line: up from zero, along every bin, down to zero (draw it with `shape: 'hv'`).
 * @param positions  the bins' edges on the axis, one more than heights
 */
export function outline(
  positions: readonly number[],
  heights: readonly number[],
): { x: number[]; y: number[] } {
  return { x: [positions[0], ...positions], y: [0, ...heights, 0] };
}
