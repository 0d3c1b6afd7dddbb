import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericError, ShapeError } from '../runtime/errors';
import { analyseAdapter } from './lora-analysis';
import type { ModuleAnalysis } from './lora-analysis';
import type { Adapter } from './peft';

interface Sizes {
  readonly inputs: number;
  readonly outputs: number;
  readonly rank: number;
}

function adapter(a: number[], b: number[], changes: Partial<Adapter['config']> = {}): Adapter {
  const config = {
    ...{ base_model_name_or_path: null, r: 3, lora_alpha: 8, lora_dropout: 0, use_rslora: false },
    ...{ target_modules: ['up_proj'], ...changes },
  };
  const factors = { a: Float32Array.from(a), b: Float32Array.from(b) };
  return { config, matrices: new Map([['layers.2.mlp.up_proj', factors]]) };
}

/** Factors that a formula gives to any program: A[i, j] = ((5 i^2 + 3 j + i j^2) mod 11 - 5) / 8 and its like for B. */
function patterned({ inputs, outputs, rank }: Sizes): { a: number[]; b: number[] } {
  const fill = (rows: number, columns: number, value: (i: number, j: number) => number): number[] =>
    Array.from({ length: rows * columns }, (_, at) => value(Math.floor(at / columns), at % columns));
  return {
    a: fill(rank, inputs, (i, j) => (((5 * i * i + 3 * j + i * j * j) % 11) - 5) / 8),
    b: fill(outputs, rank, (i, j) => (((7 * i + 2 * j * j + 3 * i * j) % 13) - 6) / 16),
  };
}

function only(of: Adapter): ModuleAnalysis {
  const { modules } = analyseAdapter(of);
  expect(modules).toHaveLength(1);
  return modules[0];
}

function expectClose(actual: readonly number[], expected: readonly number[], digits = 12): void {
  expect(actual).toHaveLength(expected.length);
  actual.forEach((value, i) => expect(value).toBeCloseTo(expected[i], digits));
}

const { a, b } = patterned({ inputs: 7, outputs: 6, rank: 3 });

describe('analyseAdapter', () => {
  // numpy 2.4.6: s = numpy.linalg.svd(scale * B @ A, compute_uv=False)[:3]; numpy.linalg.norm(scale * B @ A);
  // p = s / s.sum(); numpy.exp(-(p * numpy.log(p)).sum()), all in float64.
  it('gives what numpy gives for the explicit product', () => {
    const module = only(adapter(a, b));
    expect(module).toMatchObject({ layer: 2, module: 'up_proj' });
    expect(module.norm).toBeCloseTo(2.839224879551929, 13);
    expectClose(module.singularValues, [2.1832044872924543, 1.7667197351896826, 0.41655427092283737], 13);
    expect(module.effectiveRank.value).toBeCloseTo(2.551896326169573, 12);
  });

  it('scales by alpha / sqrt(r) with rsLoRA, which leaves the effective rank as it is', () => {
    const rooted = adapter(a, b, { use_rslora: true });
    expect(analyseAdapter(rooted)).toMatchObject({ rank: 3, scale: 8 / Math.sqrt(3) });
    expect(only(rooted).norm).toBeCloseTo(4.917681745497568, 13);
    expect(only(rooted).effectiveRank.value).toBeCloseTo(2.551896326169573, 12);
  });

  it('takes a rank above the sizes of the matrix', () => {
    const wide = patterned({ inputs: 3, outputs: 2, rank: 4 });
    const module = only(adapter(wide.a, wide.b, { r: 4, lora_alpha: 4 }));
    expectClose(module.singularValues, [0.358625385129082, 0.1718427274712771], 14);
    expect(module.norm).toBeCloseTo(0.3976708310195129, 14);
    expect(module.effectiveRank.value).toBeCloseTo(1.8772496046171723, 13);
  });

  it('finds rank 1 where all columns of B are multiples of one, and full rank where the product is a rotation', () => {
    const one = b.map((_, at) => Math.floor(at / 3) - 2.5);
    expect(only(adapter(a, one)).effectiveRank.value).toBeCloseTo(1, 9);
    const identity = [1, 0, 0, 0, 1, 0, 0, 0, 1];
    const module = only(adapter(identity, identity, { lora_alpha: 3 }));
    expect(module.singularValues).toEqual([1, 1, 1]);
    expect(module.effectiveRank.value).toBeCloseTo(3, 14);
  });

  it('gives the product of zero no effective rank, with the reason', () => {
    const { norm, effectiveRank } = only(
      adapter(
        a,
        b.map(() => 0),
      ),
    );
    expect(norm).toBe(0);
    expect(effectiveRank).toEqual({ value: null, reason: 'B A is zero' });
  });

  it('is accurate for weights of any size, whose squares a float could not hold', () => {
    for (const size of [1e-30, 1e30]) {
      const module = only(
        adapter(
          a.map((value) => value * size),
          b,
        ),
      );
      expect(module.norm / (2.839224879551929 * size)).toBeCloseTo(1, 6);
      expect(module.effectiveRank.value).toBeCloseTo(2.551896326169573, 5);
    }
  });

  it('gives the norm of the explicit product and a rank between 1 and r, for any factors', () => {
    const sizes = fc.record({
      inputs: fc.integer({ min: 1, max: 9 }),
      outputs: fc.integer({ min: 1, max: 9 }),
      rank: fc.integer({ min: 1, max: 6 }),
    });
    const factors = sizes.chain((size) => {
      const values = (length: number) =>
        fc.array(fc.integer({ min: -8, max: 8 }), { minLength: length, maxLength: length });
      return fc.tuple(fc.constant(size), values(size.rank * size.inputs), values(size.outputs * size.rank));
    });
    fc.assert(
      fc.property(factors, ([size, left, right]) => {
        const { rank, inputs, outputs } = size;
        const { norm, effectiveRank } = only(adapter(left, right, { r: rank, lora_alpha: rank }));
        let squares = 0;
        for (let i = 0; i < outputs; i++)
          for (let j = 0; j < inputs; j++) {
            let entry = 0;
            for (let k = 0; k < rank; k++) entry += right[i * rank + k] * left[k * inputs + j];
            squares += entry * entry;
          }
        expect(norm).toBeCloseTo(Math.sqrt(squares), 9);
        if (effectiveRank.value === null) return;
        expect(effectiveRank.value).toBeGreaterThan(1 - 1e-9);
        expect(effectiveRank.value).toBeLessThan(Math.min(rank, inputs, outputs) + 1e-9);
      }),
    );
  });

  it('refuses factors of another rank and weights that are not finite', () => {
    expect(() => analyseAdapter(adapter(a.slice(1), b))).toThrow(ShapeError);
    expect(() => analyseAdapter(adapter(a.slice(1), b))).toThrow(
      'layers.2.mlp.up_proj: a factor of 20 values; expected a multiple of the rank 3',
    );
    expect(() => analyseAdapter(adapter([NaN, ...a.slice(1)], b))).toThrow(NumericError);
  });
});
