import { describe, expect, it } from 'vitest';
import { goldenPath } from '../../test/golden';
import { readModelConfig } from './config';
import type { WeightDtype } from './config';
import { loadWeights, weightTensors } from './load';
import { openModelWeights } from './model-weights';

describe('loadWeights', () => {
  const models = ['tied-f32', 'untied-bf16', 'untied-bf16-sharded'];
  it.each(
    models.flatMap((name) => (['float32', 'bfloat16'] as const).map((dtype) => [name, dtype] as const)),
  )('tells how much of %s it has read, to the last byte (%s)', (name, dtype) => {
    const directory = goldenPath('tiny-qwen3', name);
    const files = openModelWeights(directory);
    const bytes = [...files.tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
    files.close();
    const told: number[] = [];
    const onLoad = (loaded: number, total: number): void => {
      expect(total).toBe(bytes);
      told.push(loaded);
    };
    const weights = loadWeights(directory, readModelConfig(directory), { dtype, onLoad });
    weightTensors(weights).forEach((tensor) => tensor.dispose());
    expect(told).toEqual([...told].sort((a, b) => a - b));
    expect(told.length).toBeGreaterThan(10);
    expect(told.at(-1)).toBe(bytes);
  });

  it('refuses a type that there is not, and one that the sizes do not allow, before it reads anything', () => {
    const directory = goldenPath('tiny-qwen3', 'tied-f32');
    const config = readModelConfig(directory);
    const load = (dtype: string) => () => loadWeights(directory, config, { dtype: dtype as WeightDtype });
    expect(load('float16')).toThrow('dtype is "float16"; expected float32, bfloat16, nf4');
    expect(load('nf4')).toThrow(
      'nf4 needs projections whose inputs are a multiple of 64 and at most 16384, this model has one of 160: use bfloat16',
    );
  });
});
