import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { aggregateSeeds } from './seeds';

describe('aggregateSeeds', () => {
  it("has scipy's t interval", () => {
    // scipy 1.17.1: stats.t.interval(0.95, 2, loc=mean, scale=sem) of 0.61, 0.58, 0.66.
    const { n, mean, sd, ci } = aggregateSeeds([0.61, 0.58, 0.66]);
    expect(n).toBe(3);
    expect(mean).toBeCloseTo(0.6166666666666667, 14);
    expect(sd).toBeCloseTo(0.04041451884327382, 14);
    expect(ci?.[0]).toBeCloseTo(0.5162714363058458, 13);
    expect(ci?.[1]).toBeCloseTo(0.7170618970274876, 13);
  });

  it('covers the true mean about as often as it says, for three seeds', () => {
    let covered = 0;
    const trials = 1000;
    for (let trial = 0; trial < trials; trial++) {
      const random = new Random(trial, 'seeds');
      const { ci } = aggregateSeeds([random.normal(), random.normal(), random.normal()]);
      if (ci !== null && ci[0] <= 0 && 0 <= ci[1]) covered++;
    }
    expect(covered / trials).toBeGreaterThan(0.93);
    expect(covered / trials).toBeLessThan(0.97);
  });

  it('has no spread for a single seed, and none to speak of for equal ones', () => {
    expect(aggregateSeeds([0.5])).toEqual({ n: 1, mean: 0.5, sd: null, ci: null });
    expect(aggregateSeeds([0.5, 0.5])).toEqual({ n: 2, mean: 0.5, sd: 0, ci: [0.5, 0.5] });
  });

  it('refuses no seed, NaN and infinity', () => {
    expect(() => aggregateSeeds([])).toThrow(ShapeError);
    expect(() => aggregateSeeds([1, NaN])).toThrow(/NaN/);
    expect(() => aggregateSeeds([1, Infinity])).toThrow(ShapeError);
  });
});
