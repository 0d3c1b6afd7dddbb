import { afterEach, describe, expect, it } from 'vitest';
import { goldenPath } from '../../test/golden';
import { weightTensors } from '../model/load';
import { Random } from '../runtime/random';
import type { Variable } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { LocalPolicy } from './local';
import type { MicroBatch } from './policy';

const open: LocalPolicy[] = [];
afterEach(() => open.splice(0).forEach((policy) => policy.dispose()));

const batch: MicroBatch = {
  groups: [
    { promptIds: [5, 9, 300, 5, 77], rows: [{ tokenIds: [12, 9, 411, 626] }, { tokenIds: [5, 5, 626] }] },
    { promptIds: [9, 8], rows: [{ tokenIds: [1, 2, 3] }, { tokenIds: [626] }] },
  ],
  totalRows: 4,
  totalTokens: 11,
  totalMicroBatches: 1,
};

describe.each(['tied-f32', 'untied-f32'])('training all weights of %s', (name) => {
  it('gives gradients that agree with finite differences for every weight, embeddings too', async () => {
    const policy = LocalPolicy.load({ modelDirectory: goldenPath('tiny-qwen3', name), trainable: 'all' });
    open.push(policy);
    const loss = async (): Promise<number> =>
      (await policy.forwardBackward(batch, { kind: 'cross_entropy' })).loss;
    await loss();
    const gradients = [...policy.pendingGradients().values()];
    const variables = weightTensors(policy.weights) as Variable[];
    expect(gradients.length).toBe(variables.length);
    for (const [i, variable] of variables.entries()) {
      const random = new Random(1, 'direction', i);
      const original = Float32Array.from(variable.dataSync());
      const direction = original.map(() => random.normal() / Math.sqrt(original.length));
      const size = 0.02 * Math.sqrt(original.reduce((a, b) => a + b * b, 0));
      const at = async (sign: number): Promise<number> => {
        variable.assign(
          tf.tensor(
            original.map((w, k) => w + sign * size * direction[k]),
            variable.shape,
          ) as never,
        );
        return loss();
      };
      const numeric = ((await at(1)) - (await at(-1))) / (2 * size);
      variable.assign(tf.tensor(original, variable.shape) as never);
      const analytic = gradients[i].values.reduce((sum, g, k) => sum + g * direction[k], 0);
      expect(Math.abs(numeric - analytic), `weight ${i} [${variable.shape.join()}]`).toBeLessThan(
        2e-3 + 0.03 * Math.abs(analytic),
      );
    }
  });

  it('lowers the loss at every step', async () => {
    const policy = LocalPolicy.load({ modelDirectory: goldenPath('tiny-qwen3', name), trainable: 'all' });
    open.push(policy);
    const losses: number[] = [];
    for (let step = 0; step < 4; step++) {
      losses.push((await policy.forwardBackward(batch, { kind: 'cross_entropy' })).loss);
      await policy.optimStep({ learningRate: 1e-3, clipNorm: 1 });
    }
    for (let i = 1; i < losses.length; i++) expect(losses[i]).toBeLessThan(losses[i - 1]);
  });
});
