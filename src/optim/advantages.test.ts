import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { NumericError, ShapeError } from '../runtime/errors';
import type { AdvantageScale } from './advantages';
import { groupAdvantages, hasNoSignal, leaveOneOut, withDiversity } from './advantages';

interface GoldenAdvantages {
  num_generations: number;
  advantages: Record<string, { rewards: number[]; scale_rewards?: AdvantageScale; advantages: number[] }>;
}

const golden = readGolden<GoldenAdvantages>('lora', 'grpo.json');
// The project_rule entries are another rule, without the 1e-4.
const cases = Object.entries(golden.advantages).filter(
  ([, { scale_rewards }]) => scale_rewards !== undefined,
);

function chunks(values: readonly number[], size: number): number[][] {
  return Array.from({ length: values.length / size }, (_, i) => values.slice(i * size, (i + 1) * size));
}

const groups = fc.array(
  fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 2, maxLength: 8 }),
  { minLength: 1, maxLength: 5 },
);
const scales = fc.constantFrom<AdvantageScale>('group', 'batch', 'none');

describe('groupAdvantages', () => {
  it('finds cases in the golden file', () => expect(cases.length).toBeGreaterThan(0));

  it.each(cases)('equals TRL: %s', (_name, { rewards, scale_rewards, advantages }) => {
    const got = groupAdvantages(chunks(rewards, golden.num_generations), { scale: scale_rewards }).flat();
    // TRL computes in float32, with rewards near 0.5.
    got.forEach((value, i) => expect(Math.abs(value - advantages[i])).toBeLessThan(2e-6));
  });

  it('sums to zero in every group and ignores a constant added to the rewards', () => {
    fc.assert(
      fc.property(groups, scales, fc.double({ min: -5, max: 5, noNaN: true }), (rewards, scale, shift) => {
        const plain = groupAdvantages(rewards, { scale, clip: Infinity });
        const shifted = groupAdvantages(
          rewards.map((group) => group.map((reward) => reward + shift)),
          { scale, clip: Infinity },
        );
        plain.forEach((group, g) => {
          expect(Math.abs(group.reduce((a, b) => a + b, 0))).toBeLessThan(1e-9);
          group.forEach((value, i) => expect(Math.abs(value - shifted[g][i])).toBeLessThan(1e-4));
        });
      }),
      { seed: 1 },
    );
  });

  it('keeps the order of the rewards', () => {
    fc.assert(
      fc.property(groups, scales, (rewards, scale) => {
        groupAdvantages(rewards, { scale }).forEach((group, g) => {
          for (let i = 1; i < group.length; i++)
            if (rewards[g][i] > rewards[g][0]) expect(group[i]).toBeGreaterThanOrEqual(group[0]);
        });
      }),
      { seed: 2 },
    );
  });

  it('gives zeros to a group without signal, also where rounding leaves a difference', () => {
    for (const scale of ['group', 'batch', 'none'] as const)
      expect(
        groupAdvantages(
          [
            [0.1, 0.1, 0.1, 0.1 + 1e-12],
            [0, 1],
          ],
          { scale },
        )[0],
      ).toEqual([0, 0, 0, 0]);
    expect([hasNoSignal([0.3, 0.3]), hasNoSignal([0.3, 0.31])]).toEqual([true, false]);
  });

  it('clips', () => {
    const rewards = [new Array<number>(200).fill(0).concat(1)];
    expect(Math.max(...groupAdvantages(rewards)[0])).toBe(10);
    expect(Math.max(...groupAdvantages(rewards, { clip: 2 })[0])).toBe(2);
    expect(Math.max(...groupAdvantages(rewards, { clip: Infinity })[0])).toBeGreaterThan(10);
  });

  it('refuses a group of one and a reward that is not a number', () => {
    expect(() => groupAdvantages([[1, 2], [1]])).toThrow(ShapeError);
    expect(() => groupAdvantages([[1, NaN]])).toThrow(NumericError);
    expect(() => leaveOneOut([[1]])).toThrow(/group 0 has 1 reward/);
  });
});

describe('leaveOneOut', () => {
  it('is the reward minus the mean of the others', () => {
    fc.assert(
      fc.property(groups, (rewards) => {
        leaveOneOut(rewards).forEach((group, g) =>
          group.forEach((value, i) => {
            const others = rewards[g].filter((_, j) => j !== i);
            const expected = rewards[g][i] - others.reduce((a, b) => a + b, 0) / others.length;
            expect(Math.abs(value - expected)).toBeLessThan(1e-12);
          }),
        );
      }),
      { seed: 3 },
    );
  });
});

describe('withDiversity', () => {
  it('adds G - 1 times the weighted credit, and nothing without a weight', () => {
    expect(withDiversity([0.5, 0.25, 1], [0.5, -1, 0.25], 0.5)).toEqual([1, -0.75, 1.25]);
    expect(withDiversity([0.5, 0.25, 1], [0.5, -1, 0.25], 0)).toEqual([0.5, 0.25, 1]);
  });

  it('refuses credits of other completions', () => {
    expect(() => withDiversity([1, 2, 3], [1, 2], 0.3)).toThrow(ShapeError);
  });
});
