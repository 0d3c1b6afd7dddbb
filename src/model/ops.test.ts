import { describe, expect, it } from 'vitest';
import { largestDifference } from '../../test/golden-model';
import { compile } from '../runtime/compile';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { gatherRows, rmsNorm, rotaryTable, rotate, tokenLogProbs, writeRows, writeRowsCopy } from './ops';
import type { OutputHead } from './ops';

function normal(name: string, shape: number[]): Tensor {
  const random = new Random(1, name);
  const size = shape.reduce((a, b) => a * b, 1);
  return tf.tensor(
    Float32Array.from({ length: size }, () => random.normal()),
    shape,
  );
}

/** Loss, log-probabilities, entropies, d/dh and d/dW of a weighted sum of log-probabilities. */
function headResults(
  h: Tensor,
  w: Tensor,
  targets: Tensor,
  transposed: boolean,
  limit?: number,
): Float32Array[] {
  const weights = tf.range(1, h.shape[0] + 1, 1, 'float32');
  const forward = (hidden: Tensor, matrix: Tensor) =>
    tokenLogProbs(hidden, targets, { matrix, transposed, trainable: true }, 0.7, limit);
  const run = compile('head', (hidden, matrix) => {
    const grads = tf.grads((a: Tensor, b: Tensor) => tf.sum(tf.mul(forward(a, b).logProbs, weights)))([
      hidden,
      matrix,
    ]);
    const { logProbs, entropies } = forward(hidden, matrix);
    return [logProbs, entropies, ...grads];
  });
  const outputs = run(h, w);
  const values = outputs.map((tensor) => tensor.dataSync() as Float32Array);
  tf.dispose(outputs);
  run.dispose();
  return values;
}

/** d/dh of a weighted sum of log-probabilities. */
function hiddenGradient(h: Tensor, targets: Tensor, head: OutputHead, limit?: number): Float32Array {
  const weights = tf.range(1, h.shape[0] + 1, 1, 'float32');
  const run = compile('head', (hidden) => [
    tf.grad((a: Tensor) => tf.sum(tf.mul(tokenLogProbs(a, targets, head, 0.7, limit).logProbs, weights)))(
      hidden,
    ),
  ]);
  const [gradient] = run(h);
  run.dispose();
  return gradient.dataSync() as Float32Array;
}

describe('tokenLogProbs', () => {
  const [tokens, hidden, vocabulary] = [11, 6, 40];
  const targets = tf.tensor1d(
    Array.from({ length: tokens }, (_, i) => (7 * i) % vocabulary),
    'int32',
  );

  it.each([false, true])(
    'gives a frozen head the gradient of a trained one (transposed: %s)',
    (transposed) => {
      const h = normal('h', [tokens, hidden]);
      const matrix = normal('w', transposed ? [vocabulary, hidden] : [hidden, vocabulary]);
      const expected = hiddenGradient(h, targets, { matrix, transposed, trainable: true });
      for (const limit of [undefined, 1, 3 * vocabulary]) {
        const actual = hiddenGradient(h, targets, { matrix, transposed, trainable: false }, limit);
        expect(largestDifference(actual, expected)).toBeLessThan(2e-5);
      }
    },
  );

  it.each([false, true])(
    'gives the same values and gradients in chunks as at once (transposed: %s)',
    (transposed) => {
      const h = normal('h', [tokens, hidden]);
      const w = normal('w', transposed ? [vocabulary, hidden] : [hidden, vocabulary]);
      const whole = headResults(h, w, targets, transposed);
      for (const limit of [1, 3 * vocabulary, 8 * vocabulary]) {
        const parts = headResults(h, w, targets, transposed, limit);
        parts.forEach((values, i) => expect(largestDifference(values, whole[i])).toBeLessThan(2e-5));
      }
    },
  );

  it('is log softmax and its entropy, with the gradients of the plain formula', () => {
    const [h, w] = [normal('h', [tokens, hidden]), normal('w', [hidden, vocabulary])];
    const weights = tf.range(1, tokens + 1, 1, 'float32');
    const plain = (a: Tensor, b: Tensor): Tensor => {
      const logProbs = tf.logSoftmax(tf.div(tf.matMul(a as never, b as never), 0.7));
      return tf.sum(tf.mul(logProbs, tf.oneHot(targets as never, vocabulary)), 1);
    };
    const grads = tf.grads((a: Tensor, b: Tensor) => tf.sum(tf.mul(plain(a, b), weights)))([h, w]);
    const [logProbs, , dh, dw] = headResults(h, w, targets, false);
    expect(largestDifference(logProbs, plain(h, w).dataSync())).toBeLessThan(1e-5);
    expect(largestDifference(dh, grads[0].dataSync())).toBeLessThan(2e-4);
    expect(largestDifference(dw, grads[1].dataSync())).toBeLessThan(2e-4);
  });
});

describe('rmsNorm', () => {
  it('has the gradients of its formula', () => {
    const [x, w, dy] = [normal('x', [3, 4, 8]), normal('scale', [8]), normal('dy', [3, 4, 8])];
    const plain = (a: Tensor, b: Tensor): Tensor =>
      tf.mul(tf.div(a, tf.sqrt(tf.add(tf.mean(tf.square(a), -1, true), 1e-6))), b);
    const gradients = (fn: (a: Tensor, b: Tensor) => Tensor): Tensor[] =>
      tf.grads((a: Tensor, b: Tensor) => tf.sum(tf.mul(fn(a, b), dy)))([x, w]);
    const [expected, got] = [gradients(plain), gradients((a, b) => rmsNorm(a, b, 1e-6))];
    expected.forEach((g, i) => expect(largestDifference(got[i].dataSync(), g.dataSync())).toBeLessThan(1e-5));
  });
});

describe('gatherRows', () => {
  it('sums the gradients of a row that is gathered twice', () => {
    const [table, dy] = [normal('table', [5, 3]), normal('rows', [4, 3])];
    const ids = tf.tensor1d([4, 1, 4, 0], 'int32');
    const grad = tf
      .grad((t: Tensor) => tf.sum(tf.mul(gatherRows(t, ids), dy)))(table)
      .arraySync() as number[][];
    const d = dy.arraySync() as number[][];
    expect(
      largestDifference(
        grad[4],
        d[0].map((value, k) => value + d[2][k]),
      ),
    ).toBeLessThan(1e-6);
    expect([grad[1], grad[0]]).toEqual([d[1], d[3]]);
    expect([...grad[2], ...grad[3]]).toEqual([0, 0, 0, 0, 0, 0]);
  });
});

describe('rotate', () => {
  it('keeps lengths, and makes products depend on the distance of positions only', () => {
    const [q, k] = [normal('q', [1, 1, 8]), normal('k', [1, 1, 8])];
    const at = (x: Tensor, position: number): Tensor =>
      rotate(x, rotaryTable(tf.tensor1d([position]), 8, 10000));
    const product = (i: number, j: number): number => tf.sum(tf.mul(at(q, i), at(k, j))).dataSync()[0];
    expect(tf.norm(at(q, 37)).dataSync()[0]).toBeCloseTo(tf.norm(q).dataSync()[0], 5);
    expect(product(12, 5)).toBeCloseTo(product(107, 100), 4);
    expect(Math.abs(product(12, 5) - product(12, 6))).toBeGreaterThan(1e-3);
  });
});

describe('writeRows', () => {
  it('writes what writeRowsCopy writes', () => {
    const [indices, values] = [tf.tensor1d([2, 0], 'int32'), normal('values', [2, 3])];
    const copied = writeRowsCopy(tf.zeros([4, 3]), indices, values).dataSync();
    expect(Array.from(writeRows(tf.fill([4, 3], 0), indices, values).dataSync())).toEqual(Array.from(copied));
  });
});
