import { describe, expect, it } from 'vitest';
import { deviation, readGolden } from '../../test/golden';
import { derAtK, meanPassAtKCurve, passAtK, passAtKCurve } from './pass-at-k';

interface PassAtKGolden {
  source: { formula: string };
  pass_at_k: { n: number; c: number; k: number; pass_at_k: number }[];
  DER: {
    n: number;
    correct_per_task: number[];
    pass_at: Record<string, number>;
    DER: Record<string, number>;
  }[];
}

const golden = readGolden<PassAtKGolden>('text-metrics.json');

describe('Pass@k and DER@k', () => {
  it.each(golden.pass_at_k)('Pass@$k of $c in $n is the exact one', ({ n, c, k, pass_at_k }) => {
    expect(deviation(passAtK(n, c, k), pass_at_k)).toBeLessThan(1e-9);
  });

  it.each(golden.DER.map((group, i) => [i, group] as const))(
    'means over tasks and DER of group %i',
    (_, { n, correct_per_task, pass_at, DER }) => {
      const curve = meanPassAtKCurve(correct_per_task.map((c) => passAtKCurve(n, c)));
      for (const [k, value] of Object.entries(pass_at)) {
        expect(deviation(curve[Number(k) - 1], value)).toBeLessThan(1e-9);
      }
      for (const [k, value] of Object.entries(DER)) {
        expect(deviation(derAtK(curve, Number(k)) ?? NaN, value)).toBeLessThan(1e-9);
      }
    },
  );
});
