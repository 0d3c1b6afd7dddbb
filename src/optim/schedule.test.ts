import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import type { ScheduleKind } from './schedule';
import { learningRateAt, warmupStepsOf } from './schedule';

interface GoldenSchedule {
  kind: ScheduleKind;
  total_steps: number;
  warmup_ratio: number;
  warmup_steps: number;
  base_lr: number;
  step: number[];
  lr: number[];
}

const { cases } = readGolden<{ lr_schedules: { cases: GoldenSchedule[] } }>('lora', 'lora.json').lr_schedules;

describe('learningRateAt', () => {
  it.each(cases.map((c) => [c.kind, c.total_steps, c.warmup_ratio, c] as const))(
    'equals transformers: %s, %d steps, warm-up ratio %d',
    (_kind, _steps, _ratio, example) => {
      const warmupSteps = warmupStepsOf(example.warmup_ratio, example.total_steps);
      expect(warmupSteps).toBe(example.warmup_steps);
      example.step.forEach((step, i) => {
        const rate = learningRateAt(
          {
            kind: example.kind,
            learningRate: example.base_lr,
            totalSteps: example.total_steps,
            warmupSteps,
          },
          step,
        );
        expect(Math.abs(rate - example.lr[i])).toBeLessThanOrEqual(1e-12 * example.base_lr);
      });
    },
  );

  it('stays at 0 after the last step of cosine and linear, and at the full rate of constant', () => {
    const after = (kind: ScheduleKind): number =>
      learningRateAt({ kind, learningRate: 1, totalSteps: 10, warmupSteps: 2 }, 15);
    expect([after('cosine'), after('linear'), after('constant_with_warmup')]).toEqual([0, 0, 1]);
  });

  it('refuses a warm-up ratio outside 0..1', () => {
    expect(() => warmupStepsOf(3, 100)).toThrow(/warm-up ratio is 3/);
    expect(() => warmupStepsOf(NaN, 100)).toThrow(/expected 0..1/);
  });
});
