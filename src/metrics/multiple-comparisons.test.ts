import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { bonferroni, holm } from './multiple-comparisons';

const probabilities = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 6 });

describe('holm', () => {
  it('is the closed test: the worst Bonferroni test of the sets of hypotheses that a hypothesis is in', () => {
    fc.assert(
      fc.property(probabilities, (pValues) => {
        const sets = Array.from({ length: 2 ** pValues.length }, (_, bits) =>
          pValues.map((__, i) => i).filter((i) => (bits >> i) & 1),
        );
        const adjusted = holm(pValues);
        pValues.forEach((_, i) => {
          const tests = sets
            .filter((set) => set.includes(i))
            .map((set) => Math.min(1, set.length * Math.min(...set.map((j) => pValues[j]))));
          expect(adjusted[i]).toBeCloseTo(Math.max(...tests), 14);
        });
      }),
    );
  });

  it('stands between the p-values and those of Bonferroni', () => {
    fc.assert(
      fc.property(probabilities, (pValues) => {
        const [adjusted, coarse] = [holm(pValues), bonferroni(pValues)];
        pValues.forEach((p, i) => {
          expect(adjusted[i]).toBeGreaterThanOrEqual(p);
          expect(adjusted[i]).toBeLessThanOrEqual(coarse[i]);
        });
      }),
    );
  });

  it('keeps the order of its argument', () => {
    const adjusted = holm([0.04, 0.01, 0.03]);
    [0.06, 0.03, 0.06].forEach((p, i) => expect(adjusted[i]).toBeCloseTo(p, 15));
    expect(bonferroni([0.04, 0.5])).toEqual([0.08, 1]);
  });

  it('has nothing to correct without tests, and refuses what is not a probability', () => {
    expect(holm([])).toEqual([]);
    for (const wrong of [NaN, -0.1, 1.1]) {
      expect(() => holm([0.5, wrong])).toThrow(ShapeError);
      expect(() => bonferroni([wrong])).toThrow(ShapeError);
    }
  });
});
