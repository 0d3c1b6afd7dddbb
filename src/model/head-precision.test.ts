/** The gradient of the output head where products are in bfloat16, for tokens that are likely already. */
import { afterEach, expect, it } from 'vitest';
import { relativeDifference } from '../../test/golden-model';
import { bitsOf, rounded } from '../../test/rounding';
import { compile } from '../runtime/compile';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import type { MatmulPrecision } from './config';
import { PanelMatrix } from './matrix';
import { tokenLogProbs } from './ops';

const [size, vocabulary, target] = [64, 50, 7];
const random = new Random(1, 'head precision');
const rows = Float32Array.from({ length: size * vocabulary }, () => rounded(0.2 * random.normal()));

const open: PanelMatrix[] = [];
afterEach(() => open.splice(0).forEach((w) => w.dispose()));

/** Probability of the target, and the gradient of its logarithm in the state. */
function gradientOf(state: Float32Array, precision: MatmulPrecision, mode: 'graph' | 'eager') {
  const read = (begin: number, end: number): Uint16Array =>
    Uint16Array.from(bitsOf(rows).subarray(begin * size, end * size), (bits) => bits >>> 16);
  const matrix = PanelMatrix.bfloat16([{ rows: vocabulary, read }], size, { precision });
  open.push(matrix);
  const head = { matrix, transposed: false, trainable: false };
  return tf.tidy(() => {
    const ids = tf.tensor1d([target], 'int32');
    const run = compile(
      'head',
      (h) => {
        const { value, grad } = tf.valueAndGrad((x) => tf.sum(tokenLogProbs(x, ids, head, 1).logProbs))(h);
        return [value, grad];
      },
      { mode },
    );
    const [value, gradient] = run(tf.tensor2d(state, [1, size])).map((tensor) => tensor.dataSync().slice());
    run.dispose();
    return { probability: Math.exp(value[0]), gradient };
  });
}

// States are bfloat16 already, so that both have the same logits and only what is sent back is rounded.
const errorOf = (scale: number, mode: 'graph' | 'eager'): { probability: number; error: number } => {
  const state = rows.slice(target * size, (target + 1) * size).map((x) => rounded(scale * x));
  const [half, full] = [gradientOf(state, 'bfloat16', mode), gradientOf(state, 'float32', mode)];
  expect(Math.abs(half.probability - full.probability)).toBeLessThan(1e-6);
  return {
    probability: full.probability,
    error: relativeDifference(half.gradient, full.gradient),
  };
};

// Of tokens that are likely already as well: onehot(target) - p is rounded, not p alone, which would leave nothing of 1 - p.
it.each(['graph', 'eager'] as const)('is as near as 8 bits allow (%s)', (mode) => {
  const probabilities = [0, 1, 2, 4, 5, 6].map((scale) => {
    const { probability, error } = errorOf(scale, mode);
    expect(error).toBeLessThan(0.02);
    return probability;
  });
  expect(Math.min(...probabilities)).toBeLessThan(0.1);
  expect(Math.max(...probabilities)).toBeGreaterThan(0.9999);
});
