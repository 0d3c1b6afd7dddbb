import { describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { countParameters } from './config';
import { planMemory } from './memory';
import { memoryRows, QWEN3_SIZES } from './qwen3-sizes';

describe('the published sizes', () => {
  it.each([
    // Elements in each model's safetensors files on the hub, the tied output projection counted once.
    ['Qwen3-0.6B', 596_049_920],
    ['Qwen3-4B', 4_022_468_096],
    ['Qwen3-8B', 8_190_735_360],
  ] as const)('%s has %i parameters', (name, count) => {
    expect(countParameters(QWEN3_SIZES[name])).toBe(count);
  });

  it('are planned as any model is', () => {
    const shape = { P: 2, G: 4, Tp: 64, Tc: 48 };
    const [small, , large] = memoryRows(QWEN3_SIZES, shape, 16);
    expect(small.parameters).toBe('0.60 billion');
    expect(large.total * 2 ** 30).toBeCloseTo(
      planMemory(QWEN3_SIZES['Qwen3-8B'], shape, 16, { fused: false }).total,
      0,
    );
    expect(large.weights).toBeGreaterThan(30);
    expect(() => memoryRows(QWEN3_SIZES, { ...shape, P: 0 }, 16)).toThrow(ConfigError);
  });
});
