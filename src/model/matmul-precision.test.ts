/**
 * Products in bfloat16 against the formula, y = R(x) R(W) and dx = R(dy) R(W)^T: R is that of test/rounding.ts, and sums are in
 * double precision.
 */
import { resolve } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { temporaryFile } from '../../test/cli';
import { callOnce, expectBits, printedWith, productsBothWays } from '../../test/products';
import { bitsOf, edges, expectRounded, floatsOf, rounded } from '../../test/rounding';
import { compile } from '../runtime/compile';
import type { ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { binding, tf } from '../runtime/tf';
import type { MatmulPrecision } from './config';
import { toBfloat16 } from './half-precision';
import {
  PanelMatrix,
  columns,
  multiply,
  multiplyTransposed,
  product,
  roundedToBfloat16,
  widened,
} from './matrix';
import { dequantizeNf4, quantizeNf4 } from './nf4';

const count = (): [number, number] => [tf.memory().numTensors, binding.getNumOfTensors()];
const open: PanelMatrix[] = [];
const atStart = count();
afterEach(() => open.splice(0).forEach((w) => w.dispose()));
afterAll(() => expect(count()).toEqual(atStart));

const modes: ExecutionMode[] = ['graph', 'eager', 'xla'];

/** Errors as shares of sum |R(x) R(w)|: five times the largest, 2.6e-7. The unit of float32 is 6e-8, that of bfloat16 4e-3. */
const tolerance = 1.3e-6;

describe('rounding to bfloat16', () => {
  /** Every upper half, with lower halves around the tie. */
  const all = floatsOf(
    [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].flatMap((low) =>
      Array.from({ length: 65_536 }, (_, high) => high * 65_536 + low),
    ),
  );

  it('is the same in half-precision.ts and in test/rounding.ts', () => {
    for (const x of [all, edges])
      expectRounded(floatsOf(Array.from(x, (v) => toBfloat16(v) * 65_536)), x, true);
    expect(rounded(1 + 2 ** -8)).toBe(1);
    expect(rounded(1 + 3 * 2 ** -8)).toBe(1 + 2 ** -6);
    expect(rounded(-3.4e38)).toBe(-Infinity);
  });

  it.each(modes)('is that of roundedToBfloat16, of every upper half (%s)', (mode) => {
    for (const x of [all, edges]) {
      const [actual] = callOnce((v) => [roundedToBfloat16(v)], [tf.tensor1d(x)], mode);
      expectRounded(actual, x, true);
    }
  });
});

// ---- matrices ----

type Kind = 'bfloat16' | 'nf4';
interface Shape {
  inputs: number;
  outputs: number;
  parts: number;
}

function normals(name: string, length: number): Float32Array {
  const random = new Random(1, 'matmul precision', name);
  return Float32Array.from({ length }, () => random.normal());
}

/** A matrix of rows [outputs, inputs]; those of one in bfloat16 are rounded already. */
function matrixOf(kind: Kind, rows: Float32Array, { inputs, parts }: Shape, precision: MatmulPrecision) {
  const source = { rows: rows.length / inputs, read: () => rows };
  const upper = (begin: number, end: number): Uint16Array =>
    Uint16Array.from(bitsOf(rows.slice(begin * inputs, end * inputs)), (bits) => bits >>> 16);
  const w =
    kind === 'nf4'
      ? PanelMatrix.quantized([source], inputs, { parts, precision })
      : PanelMatrix.bfloat16([{ ...source, read: upper }], inputs, { parts, precision });
  open.push(w);
  return w;
}

/** Sums a[r, k] b[c, k] in double precision, and sums of their sizes. */
function sums(a: Float32Array, b: Float32Array, k: number): { value: Float64Array; size: Float64Array } {
  const others = b.length / k;
  const [value, size] = [0, 0].map(() => new Float64Array((a.length / k) * others));
  for (let at = 0; at < value.length; at++) {
    const [i, j] = [Math.floor(at / others) * k, (at % others) * k];
    for (let e = 0; e < k; e++) {
      const term = a[i + e] * b[j + e];
      value[at] += term;
      size[at] += Math.abs(term);
    }
  }
  return { value, size };
}
type Sums = ReturnType<typeof sums>;

/** [rows, width] -> [width, rows] */
const transposed = (values: Float32Array, width: number): Float32Array =>
  values.map((_, i) => {
    const rows = values.length / width;
    return values[(i % rows) * width + Math.floor(i / rows)];
  });

/** The largest error as a share of the sum of sizes; of the last rows where there are fewer. */
function largestError(actual: ArrayLike<number>, { value, size }: Sums): number {
  const from = value.length - actual.length;
  let most = 0;
  for (let i = 0; i < actual.length; i++) {
    const error = Math.abs(actual[i] - value[from + i]) / size[from + i];
    if (!(error <= most)) most = error;
  }
  return most;
}

let worst = 0;
afterAll(() => expect(worst).toBeGreaterThan(1e-9));

function expectSums(actual: ArrayLike<number>, expected: Sums, name: string): void {
  const error = largestError(actual, expected);
  worst = Math.max(worst, error);
  expect(error, name).toBeLessThan(tolerance);
}

const most = 50;
const rowCounts = [...Array.from({ length: 17 }, (_, i) => i + 1), 32, 33, most];

/** A matrix, what is multiplied with it, and the sums of the formula; `unrounded` are those of float32 arithmetic. */
function example(kind: Kind, shape: Shape) {
  const { inputs, outputs } = shape;
  const values = normals('w', inputs * outputs);
  const given = kind === 'nf4' ? values : values.map(rounded);
  const exact = kind === 'nf4' ? dequantizeNf4(quantizeNf4(values, [outputs, inputs])) : given;
  const [x, dy] = [normals('x', most * inputs), normals('dy', most * outputs)];
  const both = (a: Float32Array, b: Float32Array, w: Float32Array): [Sums, Sums] => [
    sums(a, w, inputs),
    sums(b, transposed(w, inputs), outputs),
  ];
  const formula = both(x.map(rounded), dy.map(rounded), exact.map(rounded));
  const make = (precision: MatmulPrecision): PanelMatrix => matrixOf(kind, given, shape, precision);
  return { x, dy, given, formula, unrounded: both(x, dy, exact), make };
}

/** Rounding changes some sum by far more than the tolerance, so that sums without it would not pass. */
const expectTold = (actual: ArrayLike<number>, formula: Sums): void =>
  expect(largestError(actual, formula)).toBeGreaterThan(20 * tolerance);

const shapeOf = (kind: Kind, inputs: number, outputs: number, parts = 1) => ({
  kind,
  inputs,
  outputs,
  parts,
});
/** Odd widths of parts and of all; a gradient is summed over 64 panels, 1024 columns of a part, at a time. */
const shapes = [
  ...[1, 2, 7, 33, 40].flatMap((inputs) => [
    shapeOf('bfloat16', inputs, 1),
    shapeOf('bfloat16', inputs, 17),
    shapeOf('bfloat16', inputs, 66, 2),
  ]),
  shapeOf('bfloat16', 7, 1100),
  shapeOf('bfloat16', 33, 2102, 2),
  shapeOf('bfloat16', 1031, 34, 2),
  shapeOf('nf4', 64, 1),
  shapeOf('nf4', 64, 17),
  shapeOf('nf4', 192, 66, 2),
  shapeOf('nf4', 64, 1100),
  shapeOf('nf4', 64, 2102, 2),
];

describe('a matrix', () => {
  it.each(shapes)(
    'has the products of its formula, whatever other rows there are: %j',
    ({ kind, ...shape }) => {
      const { x, dy, formula, unrounded, make } = example(kind, shape);
      const w = make('bfloat16');
      const all = productsBothWays(w, x, dy, 'graph');
      const [inputs, outputs] = w.shape;
      for (const n of rowCounts) {
        const [fromX, fromDy] = [(most - n) * inputs, (most - n) * outputs];
        const [y, dx, value, grad] = productsBothWays(w, x.slice(fromX), dy.slice(fromDy), 'graph');
        expectSums(y, formula[0], `x W of ${n} rows`);
        expectSums(dx, formula[1], `dy W^T of ${n} rows`);
        expectBits(value, y);
        expectBits(grad, dx);
        expectBits(y, all[0].subarray(fromDy), `x W of ${n} rows`);
        expectBits(dx, all[1].subarray(fromX), `dy W^T of ${n} rows`);
      }
      unrounded.forEach(({ value }, i) => expectTold(value, formula[i]));
    },
  );
});

/** Rows of a width with a number at one place, zeros elsewhere: a row for each number, the place goes through all. */
function alone(numbers: Float32Array, width: number): Float32Array {
  const rows = new Float32Array(numbers.length * width);
  numbers.forEach((x, i) => (rows[i * width + (i % width)] = x));
  return rows;
}

const columnOf = (values: Float32Array, width: number, column: number): Float32Array =>
  values.filter((_, i) => i % width === column);

/** A share of `shapes` for modes that cost more. */
const few = [
  shapeOf('bfloat16', 1, 1),
  shapeOf('bfloat16', 7, 66, 2),
  shapeOf('bfloat16', 33, 17),
  shapeOf('bfloat16', 33, 2102, 2),
  shapeOf('nf4', 64, 17),
  shapeOf('nf4', 192, 66, 2),
];

describe.each(modes)('mode %s', (mode) => {
  it.each(few)('has the products of the formula, and others in float32: %j', ({ kind, ...shape }) => {
    const { x, dy, formula, unrounded, make } = example(kind, shape);
    const [half, full] = [make('bfloat16'), make('float32')];
    for (const n of mode === 'xla' ? [most] : [7, most]) {
      const [a, b] = [x.slice(-n * shape.inputs), dy.slice(-n * shape.outputs)];
      productsBothWays(half, a, b, mode).forEach((sum, i) =>
        expectSums(sum, formula[i % 2], `${i} of ${n} rows`),
      );
      productsBothWays(full, a, b, mode).forEach((sum, i) => {
        expectSums(sum, unrounded[i % 2], `${i} of ${n} rows in float32`);
        expectTold(sum, formula[i % 2]);
      });
    }
  });

  it.each([
    { inputs: 1, outputs: 1, parts: 1 },
    { inputs: 7, outputs: 34, parts: 2 },
    { inputs: 34, outputs: 7, parts: 1 },
  ])('rounds what is multiplied as R does, ties, infinities and NaN: %j', (shape) => {
    const { inputs, outputs } = shape;
    const w = matrixOf('bfloat16', new Float32Array(inputs * outputs).fill(1), shape, 'bfloat16');
    // Each number stands at every place.
    const numbers = floatsOf(Array.from({ length: 35 }, () => [...bitsOf(edges)]).flat());
    const [y, dx, value, grad] = productsBothWays(w, alone(numbers, inputs), alone(numbers, outputs), mode);
    for (const sum of [y, value]) expectRounded(columnOf(sum, outputs, outputs - 1), numbers);
    for (const sum of [dx, grad]) expectRounded(columnOf(sum, inputs, inputs - 1), numbers);
  });

  it('rounds a matrix in NF4 where it is multiplied only', () => {
    const shape = { inputs: 64, outputs: 34, parts: 2 };
    const values = normals('nf4', 64 * 34);
    const w = matrixOf('nf4', values, shape, 'bfloat16');
    const rows = dequantizeNf4(quantizeNf4(values, [34, 64]));
    const expected = transposed(rows.map(rounded), 64);
    expect(expected).not.toEqual(transposed(rows, 64));
    const unit = (size: number) =>
      Float32Array.from({ length: size ** 2 }, (_, i) => +(i % (size + 1) === 0));
    const fn = (a: Tensor, b: Tensor): Tensor[] => [multiply(a, w), multiplyTransposed(b, w)];
    const [y, dx] = callOnce(fn, [tf.tensor(unit(64), [64, 64]), tf.tensor(unit(34), [34, 34])], mode);
    expectRounded(y, transposed(rows, 64));
    expectRounded(transposed(dx, 64), transposed(rows, 64));
    const [wide] = callOnce((one) => [widened(w, one)], [tf.tensor1d([1])], mode);
    // XLA may contract what makes a scale into an fma.
    transposed(rows, 64).forEach((v, i) =>
      expect(Math.abs(wide[i] - v)).toBeLessThanOrEqual(1e-6 * Math.abs(v)),
    );
  });

  it('leaves other rows alone when one is NaN', () => {
    const shape = { inputs: 34, outputs: 34, parts: 2 };
    const { x, dy, make } = example('bfloat16', shape);
    const w = make('bfloat16');
    const [badX, badDy] = [x.slice(), dy.slice()].map((v) => v.fill(NaN, 5 * 34, 6 * 34));
    const expected = productsBothWays(w, x, dy, mode);
    productsBothWays(w, badX, badDy, mode).forEach((actual, i) =>
      expect(actual).toEqual(expected[i].slice().fill(NaN, 5 * 34, 6 * 34)),
    );
  });

  it('takes columns as they are', () => {
    const { make } = example('bfloat16', { inputs: 33, outputs: 17, parts: 1 });
    const all = (w: PanelMatrix): Float32Array[] =>
      callOnce((ids) => [columns(w, ids)], [tf.tensor1d([16, 0, 7], 'int32')], mode);
    expectBits(all(make('bfloat16'))[0], all(make('float32'))[0]);
  });

  it('keeps no tensor, however often it is called', () => {
    const { x, dy, make } = example('nf4', { inputs: 64, outputs: 17, parts: 1 });
    const w = make('bfloat16');
    const args = [tf.tensor2d(x, [most, 64]), tf.tensor2d(dy, [most, 17])];
    const run = compile('all', (a, b) => [product(a, w), multiplyTransposed(b, w)], { mode });
    tf.dispose(run(...args));
    const before = count();
    for (let i = 0; i < 20; i++) tf.dispose(run(...args));
    expect(count()).toEqual(before);
    tf.dispose(args);
    run.dispose();
  });
});

// ---- kernels ----

/** Prints the bits of products by the build, of numbers that both sides have as bits. */
const script = `
  const { PanelMatrix, multiply, multiplyTransposed } = require(${JSON.stringify(resolve('dist/model/matrix.js'))});
  const { compile } = require(${JSON.stringify(resolve('dist/runtime/compile.js'))});
  const { tf } = require(${JSON.stringify(resolve('dist/runtime/tf.js'))});
  const floats = (bits) => new Float32Array(Uint32Array.from(bits).buffer);
  const tasks = JSON.parse(require('fs').readFileSync(process.argv[2], 'utf8'));
  const results = tasks.map(({ kind, inputs, outputs, parts, rows, x, dy }) => {
    const options = { parts, precision: 'bfloat16' };
    const upper = (begin, end) => Uint16Array.from(rows.slice(begin * inputs, end * inputs), (b) => b >>> 16);
    const w =
      kind === 'nf4'
        ? PanelMatrix.quantized([{ rows: outputs, read: () => floats(rows) }], inputs, options)
        : PanelMatrix.bfloat16([{ rows: outputs, read: upper }], inputs, options);
    const run = compile('fn', (a, b) => [multiply(a, w), multiplyTransposed(b, w)], { mode: 'graph' });
    return [1, 31, x.length / inputs].map((n) => {
      const of = (bits, width) => tf.tensor(floats(bits.slice(-n * width)), [n, width]);
      return run(of(x, inputs), of(dy, outputs)).map((y) => [...new Uint32Array(y.dataSync().slice().buffer)]);
    });
  });
  console.log(JSON.stringify(results));
`;

describe('GRPOLAB_KERNELS', () => {
  const shapesOfAll = [few[2], shapeOf('bfloat16', 7, 2102, 2), few[4], few[5]];
  const ones = { inputs: 7, outputs: 34, parts: 2, kind: 'bfloat16' as Kind };
  const numbers = floatsOf(Array.from({ length: 5 }, () => [...bitsOf(edges)]).flat());

  it.each(['', 'v4', 'v3', 'plain'])('"%s" gives the products of the formula', (kernels) => {
    const examples = shapesOfAll.map(({ kind, ...shape }) => ({ kind, shape, ...example(kind, shape) }));
    const list = (values: Float32Array): number[] => [...bitsOf(values)];
    const tasks = examples.map(({ kind, shape, given, x, dy }) => ({
      ...{ ...shape, kind },
      ...{ rows: list(given), x: list(x), dy: list(dy) },
    }));
    const edge = {
      rows: list(new Float32Array(7 * 34).fill(1)),
      x: list(alone(numbers, 7)),
      dy: list(alone(numbers, 34)),
    };
    const file = temporaryFile('tasks.json', JSON.stringify([...tasks, { ...ones, ...edge }]));
    const printed = printedWith(kernels, [temporaryFile('products.cjs', script), file]);
    const results = (printed as number[][][][]).map((runs) => runs.map((run) => run.map(floatsOf)));
    examples.forEach(({ formula, kind }, i) => {
      for (const [y, dx] of results[i]) {
        expectSums(y, formula[0], `x W, ${kind}`);
        expectSums(dx, formula[1], `dy W^T, ${kind}`);
      }
    });
    const [y, dx] = results[4][2];
    expectRounded(columnOf(y, 34, 33), numbers);
    expectRounded(columnOf(dx, 7, 6), numbers);
  });
});
