import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { NumericError, ShapeError } from '../runtime/errors';
import { leaveOneOutCredits, pairCredits, runningMeanCredits } from './diversity-credit';
import type { RunningMean } from './diversity-credit';

type Matrix = number[][];

interface Estimator {
  total_variance: number;
  examples: { samples: number[]; D: number; coefficients: number[] }[];
}

interface Toy {
  one_step: {
    pi: number[];
    diversity: {
      n: number;
      distance: Matrix;
      grad_expected_D: number[];
      estimators: Record<string, Estimator>;
    };
  };
}

const toy = readGolden<Toy>('toy-grpo.json').one_step;
const { estimators } = toy.diversity;

const pairMean = (distance: Matrix, members: readonly number[]): number => {
  const values = members.flatMap((a, i) => members.slice(i + 1).map((b) => distance[a][b]));
  return values.reduce((sum, value) => sum + value, 0) / values.length;
};

const submatrix = (distance: Matrix, members: readonly number[]): Matrix =>
  members.map((a) => members.map((b) => distance[a][b]));

type CreditsOf = (distance: Matrix, members: readonly number[]) => number[] | Promise<number[]>;

const rules: Record<string, CreditsOf> = {
  no_baseline: (distance, members) => members.map(() => pairMean(distance, members)),
  leave_one_out: async (distance, members) =>
    (
      await leaveOneOutCredits(
        (indices) =>
          pairMean(
            distance,
            indices.map((i) => members[i]),
          ),
        members.length,
      )
    ).credits,
  pair_terms: (distance, members) => pairCredits(submatrix(distance, members)).credits,
};

/** Mean and total variance of sum_i c_i grad log pi(y_i) in the logits of a softmax policy, over all groups of three. */
async function moments(
  pi: readonly number[],
  distance: Matrix,
  creditsOf: CreditsOf,
): Promise<{ mean: number[]; variance: number }> {
  const mean = pi.map(() => 0);
  let square = 0;
  for (const [a, pa] of pi.entries())
    for (const [b, pb] of pi.entries())
      for (const [c, pc] of pi.entries()) {
        const members = [a, b, c];
        const credits = await creditsOf(distance, members);
        const estimate = pi.map((p, id) =>
          credits.reduce((sum, credit, i) => sum + credit * (Number(members[i] === id) - p), 0),
        );
        estimate.forEach((g, id) => (mean[id] += pa * pb * pc * g));
        square += pa * pb * pc * estimate.reduce((sum, g) => sum + g * g, 0);
      }
  return { mean, variance: square - mean.reduce((sum, g) => sum + g * g, 0) };
}

const symmetric = (n: number): fc.Arbitrary<Matrix> =>
  fc
    .array(fc.double({ min: 0, max: 2, noNaN: true }), { minLength: n * n, maxLength: n * n })
    .map((values) =>
      Array.from({ length: n }, (_, i) =>
        Array.from({ length: n }, (_other, j) => (i === j ? 0 : values[Math.min(i, j) * n + Math.max(i, j)])),
      ),
    );

describe('credits of a group of three, against torch', () => {
  it.each(['leave_one_out', 'pair_terms'])('%s has the coefficients of single groups', async (name) => {
    for (const { samples, D, coefficients } of estimators[name].examples) {
      const credits = await rules[name](toy.diversity.distance, samples);
      credits.forEach((credit, i) => expect(credit).toBeCloseTo(coefficients[i], 12));
      expect(pairCredits(submatrix(toy.diversity.distance, samples)).diversity).toBeCloseTo(D, 12);
    }
  });

  it.each(Object.keys(rules))('%s has the exact gradient on average, and its variance', async (name) => {
    const { mean, variance } = await moments(toy.pi, toy.diversity.distance, rules[name]);
    mean.forEach((g, i) => expect(g).toBeCloseTo(toy.diversity.grad_expected_D[i], 12));
    expect(variance).toBeCloseTo(estimators[name].total_variance, 12);
  });
});

describe('the variance of credits', () => {
  it('is the least for leave-one-out where all completions differ, and for pair terms where they repeat', async () => {
    const n = 16;
    const distance = Array.from({ length: n }, (_, i) =>
      Array.from({ length: n }, (_other, j) => (i === j ? 0 : 0.7 + (0.2 * ((i * j + i + j) % 5)) / 4)),
    );
    const uniform = distance.map(() => 1 / n);
    const measured: Record<string, number> = {};
    for (const [name, rule] of Object.entries(rules))
      measured[name] = (await moments(uniform, distance, rule)).variance;
    const stated = { no_baseline: 1.58, leave_one_out: 0.112, pair_terms: 0.691 }; // in the docstring
    for (const [name, value] of Object.entries(stated)) expect(measured[name]).toBeCloseTo(value, 3);
    expect(measured.leave_one_out).toBeLessThan(measured.pair_terms / 6);
    expect(estimators.pair_terms.total_variance).toBeLessThan(estimators.leave_one_out.total_variance);
  });
});

describe('pairCredits', () => {
  it('sums to twice D, and is leave-one-out without its baseline', async () => {
    const groups = fc.integer({ min: 3, max: 6 }).chain(symmetric);
    await fc.assert(
      fc.asyncProperty(groups, async (distance) => {
        const n = distance.length;
        const measure = (indices: readonly number[]): number => pairMean(distance, indices);
        const { diversity, credits } = pairCredits(distance);
        const leaveOneOut = await leaveOneOutCredits(measure, n);
        expect(diversity).toBeCloseTo(leaveOneOut.diversity, 12);
        expect(credits.reduce((a, b) => a + b, 0)).toBeCloseTo(2 * diversity, 12);
        leaveOneOut.credits.forEach((credit, i) => {
          const others = distance.map((_, j) => j).filter((j) => j !== i);
          expect(credit).toBeCloseTo(credits[i] - (2 / n) * measure(others), 12);
        });
      }),
      { numRuns: 50 },
    );
  });

  it('of two completions is their distance for both', () => {
    expect(pairCredits([[0, 0.3], [0.3, 0]])).toEqual({ diversity: 0.3, credits: [0.3, 0.3] }); // prettier-ignore
  });

  it('refuses one completion, a matrix that is not square and a distance that is not finite', () => {
    expect(() => pairCredits([[0]])).toThrow(ShapeError);
    expect(() => pairCredits([[0, 1], [1]])).toThrow('have a row of 1; expected 2');
    expect(() => pairCredits([[0, NaN], [NaN, 0]])).toThrow(NumericError); // prettier-ignore
  });
});

describe('leaveOneOutCredits', () => {
  it('asks for all completions and for each set without one', async () => {
    const asked: string[] = [];
    const measure = (indices: readonly number[]): number => {
      asked.push(indices.join(''));
      return indices.reduce((product, i) => product * (i + 2), 1);
    };
    const { diversity, credits } = await leaveOneOutCredits(measure, 3);
    expect(asked).toEqual(['012', '12', '02', '01']);
    expect([diversity, ...credits]).toEqual([24, 12, 16, 18]);
  });

  it('refuses two completions, and a diversity that is not finite', async () => {
    await expect(leaveOneOutCredits(() => 1, 2)).rejects.toThrow(ShapeError);
    const broken = (indices: readonly number[]): number => (indices.length === 3 ? 1 : NaN);
    await expect(leaveOneOutCredits(broken, 3)).rejects.toThrow(NumericError);
  });
});

describe('runningMeanCredits', () => {
  it('credits both completions with what D is above the mean of the groups before', () => {
    let baseline: RunningMean = { mean: 0, count: 0 };
    const given = [0.5, 0.7, 0.3].map((diversity) => {
      const { credits, baseline: next } = runningMeanCredits(diversity, baseline);
      baseline = next;
      return credits;
    });
    [0.5, 0.2, -0.3].forEach((credit, i) => given[i].forEach((got) => expect(got).toBeCloseTo(credit, 12)));
    expect(baseline.mean).toBeCloseTo(0.5, 12);
    expect(baseline.count).toBe(3);
  });

  it('forgets old groups, so that it follows a policy that changes', () => {
    let baseline: RunningMean = { mean: 0, count: 0 };
    for (const [level, groups] of [
      [1, 5000],
      [0, 500],
    ])
      // prettier-ignore
      for (let i = 0; i < groups; i++) ({ baseline } = runningMeanCredits(level, baseline));
    expect(baseline.count).toBe(100);
    expect(baseline.mean).toBeLessThan(0.01);
  });

  it('refuses a diversity that is not finite', () => {
    expect(() => runningMeanCredits(Infinity, { mean: 0, count: 0 })).toThrow(NumericError);
  });
});
