import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { binCounts, histogramBins, linearEdges, logEdges, outline, roundStep } from './histogram';

describe('histogram', () => {
  it('takes bin widths of 1, 2 or 5 times a power of ten', () => {
    expect([0.9, 1, 1.1, 3, 7, 0.012, 400].map(roundStep)).toEqual([1, 1, 2, 5, 10, 0.02, 500]);
  });

  it('starts and ends the bins at multiples of their width', () => {
    expect(linearEdges(3, 97, 10)).toEqual([0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    expect(linearEdges(0.1, 0.3, 2)).toEqual([0.1, 0.2, 0.3]);
  });

  it('gives one value a bin of its own', () => {
    expect(linearEdges(5, 5, 10)).toEqual([5, 5.5]);
    expect(logEdges(0.5, 0.5, 1)).toEqual([0.1, 1]);
  });

  it('gives values that differ by rounding only a bin of their own', () => {
    for (const low of [0.3, 5, 813456.125, 1e-6]) {
      const high = low * (1 + 2 ** -52);
      expect(linearEdges(low, high, 10).length).toBe(2);
      expect(binCounts([low, high], linearEdges(low, high, 10))).toEqual([2]);
    }
  });

  it('parts powers of ten evenly on a logarithmic scale', () => {
    expect(logEdges(0.01, 10, 1)).toEqual([0.01, 0.1, 1, 10]);
  });

  it('puts an inner edge into the bin above it and the last edge into the last bin', () => {
    expect(binCounts([0, 1, 1.5, 2, 3], [0, 1, 2, 3])).toEqual([1, 2, 2]);
  });

  it('refuses values outside the edges', () => {
    expect(() => binCounts([4], [0, 1, 2])).toThrow(ShapeError);
    expect(() => binCounts([-1], [0, 1, 2])).toThrow(/lies outside the bins 0 to 2/);
    expect(() => binCounts([Number.NaN], [0, 1, 2])).toThrow(ShapeError);
  });

  it('loses no value, whatever the values, on either scale', () => {
    const values = fc.array(fc.double({ min: 1e-6, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(values, (sample) => {
        const [low, high] = [Math.min(...sample), Math.max(...sample)];
        for (const edges of [linearEdges(low, high, histogramBins(sample.length)), logEdges(low, high, 3)]) {
          const counts = binCounts(sample, edges);
          expect(counts.reduce((sum, count) => sum + count, 0)).toBe(sample.length);
        }
      }),
    );
  });

  it('draws an outline that leaves and returns to zero', () => {
    expect(outline([0, 1, 2], [3, 4])).toEqual({ x: [0, 0, 1, 2], y: [0, 3, 4, 0] });
  });
});
