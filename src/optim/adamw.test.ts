import { afterAll, describe, expect, it } from 'vitest';
import { compile } from '../runtime/compile';
import type { ExecutionMode } from '../runtime/compile';
import { ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import type { Tensor } from '../runtime/tf';
import type { AdamwOptions, AdamwResult } from './adamw';
import { adamwUpdate, biasCorrections, clipCoefficient, globalNorm } from './adamw';

const numTensors = tf.memory().numTensors;
afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));

const options: AdamwOptions = { betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 };
const sizes = [6, 4, 1];
const STEPS = 5;

/** Normal numbers that differ by list, step and scale, so that the two moments and eps all matter. */
function lists(seed: number, scale: number): number[][] {
  const random = new Random(seed, 'adamw');
  return sizes.map((size) => Array.from({ length: size }, () => Math.fround(scale * random.normal())));
}

/** torch.optim.AdamW after clip_grad_norm_, in double precision, on plain lists. */
class DoubleAdamw {
  private readonly first = sizes.map((size) => new Array<number>(size).fill(0));
  private readonly second = sizes.map((size) => new Array<number>(size).fill(0));
  private step = 0;

  constructor(readonly params: number[][]) {}

  update(grads: number[][], rate: number, clipNorm: number): void {
    this.step++;
    const [beta1, beta2] = options.betas;
    const norm = Math.hypot(...grads.flat());
    const coefficient = clipNorm === 0 ? 1 : Math.min(1, clipNorm / (norm + 1e-6));
    this.params.forEach((param, i) =>
      param.forEach((_, k) => {
        const g = grads[i][k] * coefficient;
        param[k] *= 1 - rate * options.weightDecay;
        this.first[i][k] = beta1 * this.first[i][k] + (1 - beta1) * g;
        this.second[i][k] = beta2 * this.second[i][k] + (1 - beta2) * g * g;
        const mHat = this.first[i][k] / (1 - beta1 ** this.step);
        const vHat = this.second[i][k] / (1 - beta2 ** this.step);
        param[k] -= (rate * mHat) / (Math.sqrt(vHat) + options.eps);
      }),
    );
  }
}

/** Runs some steps, each of one compiled function. */
function train(mode: ExecutionMode, rates: number[], gradScale: number, clipNorm: number): number[][] {
  const n = sizes.length;
  const fn = compile(
    'adamw',
    (learningRate, correction1, correction2, coefficient, ...rest) => {
      const [grads, params, first, second] = [0, 1, 2, 3].map((k) => rest.slice(k * n, (k + 1) * n));
      const scalars = { learningRate, correction1, correction2, clipCoefficient: coefficient };
      const result = adamwUpdate(params, grads, first, second, scalars, options);
      return [...result.params, ...result.first, ...result.second];
    },
    { mode },
  );
  const tensors = (values: number[][]): Tensor[] => values.map((list) => tf.tensor1d(list));
  const zeros = (): Tensor[] => sizes.map((size) => tf.zeros([size]));
  let state = [...tensors(lists(1, 1)), ...zeros(), ...zeros()];
  rates.forEach((rate, step) => {
    const grads = tensors(lists(100 + step, gradScale));
    const norm = globalNorm(grads);
    const coefficient = clipCoefficient(norm.dataSync()[0], clipNorm);
    const corrections = biasCorrections(step + 1, options.betas);
    const scalars = [rate, ...corrections, coefficient].map((value) => tf.scalar(value));
    const next = fn(...scalars, ...grads, ...state);
    tf.dispose([norm, scalars, grads, state]);
    state = next;
  });
  expect(fn.signatures).toBe(mode === 'eager' ? 0 : 1);
  const values = state.slice(0, n).map((tensor) => Array.from(tensor.dataSync()));
  tf.dispose(state);
  fn.dispose();
  return values;
}

const rates = Array.from({ length: STEPS }, (_, step) => 0.02 * (step + 1));

describe('adamwUpdate', () => {
  it.each<[ExecutionMode, number, number]>([
    ['eager', 1, 1],
    ['graph', 1, 1],
    ['xla', 1, 1],
    ['graph', 0.01, 1],
    ['graph', 1, 0],
    ['graph', 1e-8, 1],
  ])(
    'follows torch over several steps, traced once (%s, gradients of size %d, clip %d)',
    (mode, scale, clip) => {
      const reference = new DoubleAdamw(lists(1, 1));
      rates.forEach((rate, step) => reference.update(lists(100 + step, scale), rate, clip));
      const got = train(mode, rates, scale, clip);
      reference.params.forEach((param, i) =>
        param.forEach((value, k) => expect(Math.abs(got[i][k] - value)).toBeLessThan(2e-6)),
      );
    },
  );

  it('moves nothing at learning rate 0, and still fills the moments', () => {
    const result: AdamwResult = tf.tidy(() => {
      const [one, zero] = [tf.scalar(1), tf.scalar(0)];
      const scalars = { learningRate: zero, correction1: one, correction2: one, clipCoefficient: one };
      const [p, g, m] = [tf.tensor1d([3, -2]), tf.tensor1d([1, 2]), tf.zeros([2])];
      return adamwUpdate([p], [g], [m], [m], scalars, options);
    });
    expect(Array.from(result.params[0].dataSync())).toEqual([3, -2]);
    expect(result.first[0].dataSync()[1]).toBeCloseTo(0.2, 6);
    expect(result.second[0].dataSync()[1]).toBeCloseTo(0.004, 6);
    tf.dispose(result);
  });

  it('names the list or tensor that does not fit', () => {
    const update = (grads: Tensor[]): AdamwResult =>
      tf.tidy(() => {
        const [one, p] = [tf.scalar(1), tf.zeros([2])];
        const scalars = { learningRate: one, correction1: one, correction2: one, clipCoefficient: one };
        return adamwUpdate([p], grads, [p], [p], scalars, options);
      });
    const wrong = tf.zeros([3]);
    expect(() => update([])).toThrow(ShapeError);
    expect(() => update([])).toThrow(/1 parameters, but 0 tensors in grads/);
    expect(() => update([wrong])).toThrow(/grads\[0\] has shape \[3\]; its parameter has \[2\]/);
    wrong.dispose();
  });
});

describe('globalNorm and clipCoefficient', () => {
  it('scale a gradient that is too long to the limit, and leave a short one', () => {
    tf.tidy(() => {
      const norm = globalNorm([tf.tensor1d([3, 0]), tf.tensor2d([[4]])]).dataSync()[0];
      expect(norm).toBeCloseTo(5, 6);
      expect([clipCoefficient(norm, 1), clipCoefficient(norm, 10), clipCoefficient(norm, 0)]).toEqual([
        1 / (norm + 1e-6),
        1,
        1,
      ]);
    });
  });
});
