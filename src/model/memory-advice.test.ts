import { describe, expect, it } from 'vitest';
import { planMemory } from './memory';
import { memoryAdvice, memoryChoices } from './memory-advice';
import type { PlannedStep } from './memory-advice';
import { QWEN3_SIZES } from './qwen3-sizes';

const GIBIBYTE = 2 ** 30;
const step: PlannedStep = {
  ...{ config: QWEN3_SIZES['Qwen3-0.6B'], shape: { P: 2, G: 4, Tp: 64, Tc: 48 }, rank: 16 },
};
const advice = (gib: number, change: Partial<PlannedStep> = {}, lower?: string[]): string =>
  memoryAdvice({ ...step, ...change }, gib * GIBIBYTE, lower);
const others = 'training.max_length, lora.r, grpo.n_generations, grpo.max_new_tokens';

describe('memoryChoices', () => {
  it('plans every type of the base weights, layers kept and recomputed, with the other options as they are', () => {
    const options = { sampled: [], reference: false, dtype: 'bfloat16' as const };
    const choices = memoryChoices({ ...step, options });
    expect(choices.map(({ dtype, recompute }) => `${dtype} ${recompute}`)).toEqual(
      ['float32', 'bfloat16', 'nf4'].flatMap((dtype) => [`${dtype} false`, `${dtype} true`]),
    );
    for (const { total, ...choice } of choices)
      expect(total).toBe(planMemory(step.config, step.shape, 16, { ...options, ...choice }).total);
  });
});

describe('memoryAdvice', () => {
  it('names what fits, cheapest first, and nothing that costs more without needing less', () => {
    expect(advice(3.8)).toBe(
      'dtype: bfloat16 would need 3.3 GiB; with training.gradient_checkpointing: true 2.3 GiB; ' +
        'dtype: nf4 with training.gradient_checkpointing: true 1.7 GiB',
    );
    expect(advice(3)).toBe(
      'dtype: bfloat16 with training.gradient_checkpointing: true would need 2.3 GiB; ' +
        'dtype: nf4 with training.gradient_checkpointing: true 1.7 GiB',
    );
  });

  it('starts from what is in force', () => {
    expect(advice(3, { options: { dtype: 'bfloat16' } })).toBe(
      'training.gradient_checkpointing: true would need 2.3 GiB; dtype: nf4 with training.gradient_checkpointing: true 1.7 GiB',
    );
    expect(advice(3, { options: { recompute: true } })).toBe(
      'dtype: bfloat16 would need 2.3 GiB; dtype: nf4 1.7 GiB',
    );
  });

  it('says where nothing fits what the least is, and what else to lower', () => {
    expect(advice(1)).toBe(
      'even dtype: nf4 with training.gradient_checkpointing: true would need 1.7 GiB; ' +
        `beside that, lower training.batch_size (1: 1.6 GiB), ${others}`,
    );
    const smallest = { options: { dtype: 'nf4', recompute: true } } as const;
    expect(advice(1.6, smallest)).toBe(`lower training.batch_size (1: 1.6 GiB), ${others}`);
    expect(advice(1, { ...smallest, shape: { ...step.shape, P: 1 } }, ['a', 'b'])).toBe('lower a, b');
  });

  it('names the largest batch that fits, with the settings in force where that is enough', () => {
    const shape = { ...step.shape, P: 1000 };
    const found = /lower training\.batch_size \((\d+): ([\d.]+) GiB\)/.exec(advice(12, { shape }));
    const totalOf = (P: number): number => planMemory(step.config, { ...shape, P }, 16).total / GIBIBYTE;
    const P = Number(found?.[1]);
    expect(totalOf(P)).toBeLessThanOrEqual(12);
    expect(totalOf(P + 1)).toBeGreaterThan(12);
    expect(Number(found?.[2])).toBeCloseTo(totalOf(P), 1);
    expect(advice(12, { shape })).not.toContain('beside that');
  });

  it('names every choice that needs less where it is not known what is available', () => {
    expect(memoryAdvice(step)).toBe(`${advice(3.8)}; or lower training.batch_size, ${others}`);
  });
});
