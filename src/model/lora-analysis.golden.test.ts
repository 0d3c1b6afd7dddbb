import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { goldenPath, readGolden } from '../../test/golden';
import { readModelConfig } from './config';
import { analyseAdapter } from './lora-analysis';
import { adapterShapes, loraScale, readAdapter } from './peft';
import type { LoraMatrices } from './peft';

const raw = readGolden<{ base_model_name_or_path: string }>('lora', 'adapter', 'adapter_config.json');
const model = readModelConfig(goldenPath('tiny-qwen3', basename(raw.base_model_name_or_path)));
const adapter = readAdapter(goldenPath('lora', 'adapter'), model);
const { r: rank } = adapter.config;

/** s B A, its rows one by one. */
function product({ a, b }: LoraMatrices, inputs: number, scale: number): number[][] {
  return Array.from({ length: b.length / rank }, (_, i) =>
    Array.from({ length: inputs }, (_unused, j) => {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += b[i * rank + k] * a[k * inputs + j];
      return scale * sum;
    }),
  );
}

/** X Y^T. */
function timesTransposed(x: number[][], y: number[][]): number[][] {
  return x.map((row) => y.map((other) => row.reduce((sum, value, k) => sum + value * other[k], 0)));
}

/** The sums of sigma^2, sigma^4, ... of M, which decide all sigma, as traces of the powers of M M^T: no decomposition. */
function powerSums(matrix: number[][], count: number): number[] {
  const square = timesTransposed(matrix, matrix);
  let power = square;
  return Array.from({ length: count }, (_, k) => {
    if (k > 0) power = timesTransposed(power, square);
    return power.reduce((sum, row, i) => sum + row[i], 0);
  });
}

describe('the analysis of an adapter of PEFT', () => {
  const analysis = analyseAdapter(adapter);
  const shapes = adapterShapes(adapter.config, model);

  it('has every module of every layer once', () => {
    const names = analysis.modules.map(({ layer, module }) => `${layer} ${module}`);
    expect(new Set(names).size).toBe(adapter.matrices.size);
    expect(analysis).toMatchObject({ rank, scale: loraScale(adapter.config) });
  });

  it('is that of the explicit product', () => {
    [...adapter.matrices].forEach(([name, factors], at) => {
      const rows = product(factors, shapes.get(name)!.a[1], analysis.scale);
      const { norm, singularValues, effectiveRank } = analysis.modules[at];
      const sums = powerSums(rows, rank);
      expect(norm / Math.sqrt(sums[0])).toBeCloseTo(1, 13);
      sums.forEach((sum, k) => {
        const own = singularValues.reduce((total, value) => total + value ** (2 * k + 2), 0);
        expect(own / sum).toBeCloseTo(1, 12);
      });
      const total = singularValues.reduce((sum, value) => sum + value, 0);
      const logs = singularValues.map((value) => (value / total) * Math.log(total / value));
      const entropy = logs.reduce((sum, value) => sum + value, 0);
      expect(effectiveRank.value! / Math.exp(entropy)).toBeCloseTo(1, 13);
    });
  });
});
