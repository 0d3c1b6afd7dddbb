/** The output head: its softmax against double precision, and its gradient where products are in bfloat16. */
import { afterEach, describe, expect, it } from 'vitest';
import { relativeDifference } from '../../test/golden-model';
import { bitsOf, rounded } from '../../test/rounding';
import { compile } from '../runtime/compile';
import { profiled } from '../runtime/profile';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { MatmulPrecision } from './config';
import { PanelMatrix } from './matrix';
import { tokenLogProbs } from './ops';
import { fusedSoftmax } from './fused';

const [size, vocabulary, target] = [64, 50, 7];
const random = new Random(1, 'head precision');
const rows = Float32Array.from({ length: size * vocabulary }, () => rounded(0.2 * random.normal()));

const open: PanelMatrix[] = [];
afterEach(() => open.splice(0).forEach((w) => w.dispose()));

function matrixOf(precision: MatmulPrecision): PanelMatrix {
  const read = (begin: number, end: number): Uint16Array =>
    Uint16Array.from(bitsOf(rows).subarray(begin * size, end * size), (bits) => bits >>> 16);
  const matrix = PanelMatrix.bfloat16([{ rows: vocabulary, read }], size, { precision });
  open.push(matrix);
  return matrix;
}

/** Probability of the target, and the gradient of its logarithm in the state. */
function gradientOf(state: Float32Array, precision: MatmulPrecision, mode: 'graph' | 'eager') {
  const matrix = matrixOf(precision);
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

type Rows = readonly (readonly number[])[];

/** In double precision: log-probabilities of targets, entropies, onehot(target) - p. */
function definition(logits: Rows, targets: readonly number[], temperature: number) {
  return logits.map((row, r) => {
    const z = row.map((x) => Math.fround(x) / temperature);
    const max = Math.max(...z);
    const masses = z.map((x) => Math.exp(x - max));
    const sum = masses.reduce((a, b) => a + b, 0);
    const p = masses.map((mass) => mass / sum);
    const logP = z.map((x) => x - max - Math.log(sum));
    const others = p.reduce((total, x, i) => (i === targets[r] ? total : total + x), 0);
    return {
      logProb: logP[targets[r]],
      entropy: -p.reduce((total, x, i) => (x === 0 ? total : total + x * logP[i]), 0),
      errors: p.map((x, i) => (i === targets[r] ? others : -x)),
    };
  });
}

function softmaxOf(logits: Rows, targets: readonly number[], temperature: number) {
  return tf.tidy(() => {
    const ids = tf.tensor1d([...targets], 'int32');
    const run = compile('softmax', (x) => Object.values(fusedSoftmax(x, ids, temperature)), {
      mode: 'graph',
    });
    const outputs = run(tf.tensor2d(logits.map((row) => [...row])));
    const [value, errors] = outputs.map((tensor) => tensor.arraySync() as number[][]);
    run.dispose();
    return logits.map((_, r) => ({ logProb: value[0][r], entropy: value[1][r], errors: errors[r] }));
  });
}

describe('the softmax as one op', () => {
  it.each([1, 7, 16, 33, 511, 512, 513, 1500])('is as defined for %i words', (words) => {
    for (const [spread, temperature] of [
      [0, 1],
      [1, 1],
      [3, 0.7],
      [40, 1],
      [150, 2], // beyond the exponents of float32
    ]) {
      const logits = [0, 1, 2].map(() => Array.from({ length: words }, () => spread * random.normal()));
      const likeliest = logits[1].indexOf(Math.max(...logits[1]));
      const targets = [words - 1, likeliest, Math.floor(words / 2)];
      const expected = definition(logits, targets, temperature);
      softmaxOf(logits, targets, temperature).forEach((actual, r) => {
        const scale = Math.max(1, Math.abs(expected[r].logProb));
        expect(Math.abs(actual.logProb - expected[r].logProb)).toBeLessThan(1e-6 * scale);
        expect(Math.abs(actual.entropy - expected[r].entropy)).toBeLessThan(5e-6);
        actual.errors.forEach((error, i) => {
          const size = Math.abs(expected[r].errors[i]);
          // Below 1e-37 a float32 is 0 here.
          if (size > 1e-36) expect(Math.abs(error - expected[r].errors[i])).toBeLessThan(1e-5 * size);
          else expect(Math.abs(error)).toBeLessThan(2e-36);
        });
      });
    }
  });

  it('keeps what is left of 1 where a target is all but certain', () => {
    const [{ errors }] = softmaxOf([[0, -18, -20]], [0], 1);
    expect(errors[0]).toBeCloseTo(-(errors[1] + errors[2]), 14);
    expect(errors[0]).toBeGreaterThan(1.6e-8);
  });

  it('takes words that cannot be, and gives NaN for a row without a softmax, and for no other', () => {
    const rowsOf = (bad: number): Rows => [[1, 2, bad], [1, 2, 3]]; // prettier-ignore
    const [masked] = softmaxOf(rowsOf(-Infinity), [1, 1], 1);
    expect(masked.logProb).toBeCloseTo(-Math.log(1 + Math.exp(-1)), 6);
    expect(masked.errors[2]).toBeCloseTo(0);
    for (const bad of [NaN, Infinity]) {
      const [first, second] = softmaxOf(rowsOf(bad), [1, 1], 1);
      expect(first.logProb).toBeNaN();
      expect(second).toEqual(softmaxOf([[1, 2, 3]], [1], 1)[0]);
    }
  });

  it('leaves logits alone that somebody else reads', () => {
    const logits = [[0.5, -1, 2, 0.25]];
    tf.tidy(() => {
      const ids = tf.tensor1d([2], 'int32');
      const run = compile(
        'twice',
        (x) => {
          const doubled = tf.mul(x, 2);
          return [1, 0.5].flatMap((t) => Object.values(fusedSoftmax(doubled, ids, t))).concat(doubled);
        },
        { mode: 'graph' },
      );
      const results = run(tf.tensor2d(logits)).map((tensor) => tensor.arraySync() as number[][]);
      run.dispose();
      const twice = logits.map((row) => row.map((x) => 2 * x));
      expect(results[4]).toEqual(twice);
      [1, 0.5].forEach((t, i) => {
        const [{ logProb }] = definition(twice, [2], t);
        expect(results[2 * i][0][0]).toBeCloseTo(logProb, 6);
      });
    });
  });

  it('refuses targets that are no words', () => {
    for (const bad of [-1, 3]) expect(() => softmaxOf([[1, 2, 3]], [bad], 1)).toThrow(`target ${bad}`);
  });
});

// An op that TensorFlow takes to have a state runs wherever it stands: a product with the largest matrix, for nothing.
it.each([
  { pass: 'with a gradient', products: 1 },
  { pass: 'without one', products: 0 },
])('goes back through the matrix $products times in a pass $pass', async ({ products }) => {
  const matrix = matrixOf('float32');
  const head = { matrix, transposed: false, trainable: false };
  const ids = tf.tensor1d([target], 'int32');
  const logProb = (h: Tensor): Tensor => tf.sum(tokenLogProbs(h, ids, head, 1).logProbs);
  const run = compile('head', (h) => [products > 0 ? tf.grad(logProb)(h) : logProb(h)], { mode: 'graph' });
  const state = tf.zeros([1, size]);
  const { ops } = await profiled(() => Promise.resolve(tf.dispose(run(state))));
  const count = (name: string): number => ops.find(({ op }) => op === name)?.count ?? 0;
  expect([count('GrpolabProduct'), count('GrpolabProductGrad')]).toEqual([1, products]);
  run.dispose();
  tf.dispose([state, ids]);
});
