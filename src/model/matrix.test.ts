/** Products with matrices in bfloat16 against sums in double precision, in every mode and at every edge of the panels. */
import { resolve } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { temporaryFile } from '../../test/cli';
import { callOnce, expectBits, printedWith, productsBothWays } from '../../test/products';
import { bitsOf } from '../../test/rounding';
import { compile } from '../runtime/compile';
import type { ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { binding, tf } from '../runtime/tf';
import { PanelMatrix, columns, multiply, multiplyTransposed, product, widened } from './matrix';

const count = (): [number, number] => [tf.memory().numTensors, binding.getNumOfTensors()];
const open: PanelMatrix[] = [];
const atStart = count();
afterEach(() => open.splice(0).forEach((w) => w.dispose()));
afterAll(() => expect(count()).toEqual(atStart));

/** Of the bits of matrices [rows, inputs], below one another. */
function fromRows(values: readonly Uint16Array[], inputs: number, parts?: number): PanelMatrix {
  const sources = values.map((bits) => ({
    rows: bits.length / inputs,
    read: (begin: number, end: number) => bits.slice(begin * inputs, end * inputs),
  }));
  return PanelMatrix.bfloat16(sources, inputs, { parts });
}

const modes: ExecutionMode[] = ['graph', 'eager', 'xla'];

/**
 * Errors as shares of sum |x w|, which rounding is relative to. Five times the largest, 3e-7; the unit of float32 is 6e-8.
 */
const tolerance = 1.5e-6;

function normals(name: string, length: number): Float32Array {
  const random = new Random(1, 'matrix test', name);
  return Float32Array.from({ length }, () => random.normal());
}

/** The upper halves of float32 numbers. */
const halves = (values: Float32Array): Uint16Array =>
  Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);

/** The float32 numbers whose upper halves are given, as bits. */
const wideBits = (bits: ArrayLike<number>): Uint32Array => Uint32Array.from(bits, (half) => half * 65_536);

interface Shape {
  inputs: number;
  outputs: number;
  parts: number;
}

/** A matrix of given bits [outputs, inputs], as some arrays one below another. */
function matrixOf(bits: Uint16Array, { inputs, outputs, parts }: Shape, pieces = 1): PanelMatrix {
  const ends = Array.from({ length: pieces + 1 }, (_, i) => inputs * Math.floor((outputs * i) / pieces));
  const values = ends.slice(1).map((end, i) => bits.slice(ends[i], end));
  const w = fromRows(values, inputs, parts);
  open.push(w);
  expect(w.shape).toEqual([inputs, outputs]);
  expect(w.panels.shape).toEqual([parts * Math.ceil(outputs / parts / 16), inputs, 8]);
  values.forEach((array) => array.fill(0x7fc0)); // a matrix is a copy
  return w;
}

type Values = ArrayLike<number>;

/** Sums a[r, k] b[c, k] in double precision, and sums of their sizes. */
function sums(a: Float32Array, b: Float32Array, k: number): { value: Float64Array; size: Float64Array } {
  const others = b.length / k;
  const [value, size] = [a, b].map(() => new Float64Array((a.length / k) * others));
  for (let at = 0; at < value.length; at++) {
    const [i, j] = [Math.floor(at / others) * k, (at % others) * k];
    let sum = 0;
    let total = 0;
    for (let e = 0; e < k; e++) {
      const term = a[i + e] * b[j + e];
      sum += term;
      total += Math.abs(term);
    }
    value[at] = sum;
    size[at] = total;
  }
  return { value, size };
}

/** [rows, width] -> [width, rows] */
function transpose<T extends Float32Array | Uint16Array>(values: T, width: number): T {
  const [result, rows] = [values.slice() as T, values.length / width];
  for (let r = 0; r < rows; r++) for (let c = 0; c < width; c++) result[c * rows + r] = values[r * width + c];
  return result;
}

let worst = 0;
afterAll(() => expect(worst).toBeGreaterThan(1e-9));

function expectSums(actual: Values, expected: ReturnType<typeof sums>, name: string): void {
  const from = expected.value.length - actual.length;
  let most = 0;
  for (let i = 0; i < actual.length; i++) {
    const error = Math.abs(actual[i] - expected.value[from + i]) / expected.size[from + i];
    if (!(error <= most)) most = error;
  }
  worst = Math.max(worst, most);
  expect(most, name).toBeLessThan(tolerance);
}

const rowCounts = [1, 7, 16, 17, 31, 32, 33, 40];
const most = Math.max(...rowCounts);

function example(shape: Shape, pieces = 1) {
  const { inputs, outputs } = shape;
  const bits = halves(normals('w', inputs * outputs));
  const rows = new Float32Array(wideBits(bits).buffer); // [outputs, inputs]
  const [x, dy] = [normals('x', most * inputs), normals('dy', most * outputs)];
  const forward = sums(x, rows, inputs);
  const backward = sums(dy, transpose(rows, inputs), outputs);
  return { bits, rows, x, dy, forward, backward, w: matrixOf(bits, shape, pieces) };
}

/** Columns in parts, in so many arrays. A gradient is summed over 64 panels, 1024 columns of a part, at a time. */
const outputsOf = [
  { outputs: 1, parts: 1, pieces: 1 },
  { outputs: 15, parts: 1, pieces: 3 },
  { outputs: 16, parts: 1, pieces: 1 },
  { outputs: 17, parts: 1, pieces: 2 },
  { outputs: 88, parts: 2, pieces: 2 },
  { outputs: 96, parts: 3, pieces: 1 },
  { outputs: 1100, parts: 2, pieces: 2 },
];
const longOutputs = [
  { outputs: 1024, parts: 1, pieces: 1 },
  { outputs: 2100, parts: 1, pieces: 3 },
  { outputs: 2100, parts: 2, pieces: 1 },
];
const shapes = [2, 5, 8, 40, 72, 1030].flatMap((inputs) =>
  [...outputsOf, ...(inputs === 40 ? longOutputs : [])].map((outputs) => ({ inputs, ...outputs })),
);

describe('a matrix', () => {
  it.each(shapes)(
    'has the products of its formula, whatever other rows there are: %j',
    ({ pieces, ...shape }) => {
      const { w, x, dy, forward, backward, rows } = example(shape, pieces);
      const { inputs, outputs } = shape;
      const all = productsBothWays(w, x, dy, 'graph');
      for (const n of rowCounts) {
        const from = most - n;
        const [y, dx, value, grad] = productsBothWays(
          w,
          x.slice(from * inputs),
          dy.slice(from * outputs),
          'graph',
        );
        expectSums(y, forward, `x W of ${n} rows`);
        expectSums(dx, backward, `dy W^T of ${n} rows`);
        expectBits(value, y);
        expectBits(grad, dx);
        // The sums run in one order: the same bits, at any place and beside any rows.
        expectBits(y, all[0].subarray(from * outputs), `x W of ${n} rows`);
        expectBits(dx, all[1].subarray(from * inputs), `dy W^T of ${n} rows`);
      }
      const wide = tf.tidy(() => widened(w).dataSync() as Float32Array);
      expectBits(wide, transpose(rows, inputs));
    },
  );
});

describe.each(modes)('mode %s', (mode) => {
  it.each<Shape>([
    { inputs: 2, outputs: 1, parts: 1 },
    { inputs: 40, outputs: 88, parts: 2 },
    { inputs: 72, outputs: 17, parts: 1 },
    { inputs: 1030, outputs: 1100, parts: 2 },
  ])('has the products of the formula: %j', (shape) => {
    const { w, x, dy, forward, backward } = example(shape);
    for (const n of [7, most]) {
      const [y, dx, value, grad] = productsBothWays(
        w,
        x.slice(-n * shape.inputs),
        dy.slice(-n * shape.outputs),
        mode,
      );
      expectSums(y, forward, 'x W');
      expectSums(dx, backward, 'dy W^T');
      expectSums(value, forward, 'value of product');
      expectSums(grad, backward, 'gradient of product');
    }
  });

  it('widens all 65,536 values to the bits they stand for, odd sizes too', () => {
    const all = Uint16Array.from({ length: 65_536 }, (_, i) => (i * 40_503) % 65_536);
    for (const shape of [
      { inputs: 256, outputs: 256, parts: 1 },
      { inputs: 2, outputs: 32_768, parts: 2 },
      { inputs: 2048, outputs: 32, parts: 4 },
    ]) {
      const w = matrixOf(all, shape);
      const [wide, after] = callOnce((x) => [widened(w), widened(w, x)], [tf.tensor1d([-3, 1])], mode);
      const bits = wideBits(transpose(all, shape.inputs));
      for (const actual of [wide, after]) expectBits(actual, bits);
    }
  });

  it.each([1, 15, 16, 17, 100])('takes columns of %d as rows, in any order and repeated', (outputs) => {
    const inputs = 40;
    const bits = halves(normals('w', inputs * outputs));
    const w = matrixOf(bits, { inputs, outputs, parts: 1 });
    const ids = [
      outputs - 1,
      0,
      outputs >> 1,
      0,
      ...Array.from({ length: outputs }, (_, i) => (7 * i) % outputs),
    ];
    const [rows] = callOnce((list) => [columns(w, list)], [tf.tensor1d(ids, 'int32')], mode);
    const expected = ids.flatMap((id) => [...bits.slice(id * inputs, (id + 1) * inputs)]);
    expectBits(rows, wideBits(expected));
  });

  it('takes columns beside infinite ones and NaN as they are', () => {
    const [inputs, outputs] = [8, 20];
    const bits = halves(normals('w', inputs * outputs));
    bits.fill(0x7f80, 3 * inputs, 4 * inputs).fill(0x7fc0, 17 * inputs, 18 * inputs);
    const w = matrixOf(bits, { inputs, outputs, parts: 1 });
    const ids = Array.from({ length: outputs }, (_, i) => i);
    const [rows] = callOnce((list) => [columns(w, list)], [tf.tensor1d(ids, 'int32')], mode);
    expectBits(rows, wideBits(bits));
  });

  it.each([0, 5, 39])('leaves other rows alone when row %d is NaN', (row) => {
    const shape = { inputs: 40, outputs: 88, parts: 2 };
    const { w, x, dy } = example(shape);
    const expected = productsBothWays(w, x, dy, mode);
    const [badX, badDy] = [x.slice(), dy.slice()];
    badX.fill(NaN, row * 40, (row + 1) * 40);
    badDy.fill(NaN, row * 88, (row + 1) * 88);
    productsBothWays(w, badX, badDy, mode).forEach((actual, i) => {
      const width = i % 2 === 0 ? 88 : 40;
      const good = expected[i].slice().fill(NaN, row * width, (row + 1) * width);
      const name = ['x W', 'dy W^T', 'value', 'gradient'][i];
      // Where there is a NaN its bits may be any.
      expectBits(actual.map((v) => (Number.isNaN(v) ? NaN : v)), good, name); // prettier-ignore
    });
  });

  it('lets infinite weights reach only what they are summed into', () => {
    const shape = { inputs: 8, outputs: 34, parts: 2 };
    const [x, dy] = [new Float32Array(3 * 8).fill(1), new Float32Array(3 * 34).fill(1)];
    const bits = new Uint16Array(8 * 34).fill(0x3f80);
    bits[16 * 8 + 5] = 0xff80; // of output 16, the last of the first part, and input 5
    const [y, dx] = productsBothWays(matrixOf(bits, shape), x, dy, mode);
    expect([...y]).toEqual(Array.from({ length: 3 * 34 }, (_, i) => (i % 34 === 16 ? -Infinity : 8)));
    expect([...dx]).toEqual(Array.from({ length: 3 * 8 }, (_, i) => (i % 8 === 5 ? -Infinity : 34)));
  });

  it('keeps no tensor, however often it is called', () => {
    const { w, x, dy } = example({ inputs: 40, outputs: 17, parts: 1 });
    const args = [tf.tensor2d(x, [most, 40]), tf.tensor2d(dy, [most, 17]), tf.tensor1d([3, 16], 'int32')];
    const run = compile('all', (a, b, ids) => [product(a, w), multiplyTransposed(b, w), columns(w, ids)], {
      mode,
    });
    tf.dispose(run(...args));
    const before = count();
    for (let i = 0; i < 20; i++) tf.dispose(run(...args));
    expect(count()).toEqual(before);
    tf.dispose(args);
    run.dispose();
  });
});

describe('what is refused', () => {
  const shape = { inputs: 8, outputs: 15, parts: 1 };
  const ones = (length: number): Uint16Array => new Uint16Array(length).fill(0x3f80);

  it.each([-1, 15, 16, 2 ** 31 - 1, -(2 ** 31)])('column %d of 15, in a compiled function', (id) => {
    const w = matrixOf(ones(8 * 15), shape);
    const run = compile('columns', (ids) => [columns(w, ids)], { mode: 'graph' });
    const [good, bad] = [tf.tensor1d([0, 14], 'int32'), tf.tensor1d([0, id], 'int32')];
    const refuse = (): void => expect(() => run(bad)).toThrow(`GrpolabColumns: ${id} is outside 0..14`);
    refuse();
    tf.dispose(run(good));
    const before = count();
    for (let i = 0; i < 3; i++) refuse();
    expect(count()).toEqual(before);
    const [again] = run(good);
    expect([...again.dataSync()]).toEqual(new Array(16).fill(1));
    tf.dispose([again, good, bad]);
    run.dispose();
  });

  it.each([
    ['multiply', multiply, 'GrpolabProduct:'],
    ['multiplyTransposed', multiplyTransposed, 'GrpolabProductGrad:'],
  ] as const)('rows of another length than the matrix has: %s', (_, op, message) => {
    const w = matrixOf(ones(8 * 15), shape);
    expect(() => callOnce((x) => [op(x, w)], [tf.ones([2, 9])], 'graph')).toThrow(
      `${message} the matrix does not fit`,
    );
  });

  it('parts that are not equal, and part of a row', () => {
    const before = count();
    const make = (length: number, inputs: number, parts?: number) => () =>
      fromRows([ones(length)], inputs, parts);
    expect(make(24, 8, 2)).toThrow('the parts are not equal');
    expect(make(20, 8)).toThrow('2.5 columns in 1 parts');
    expect(count()).toEqual(before);
  });
});

describe('a matrix', () => {
  it('is made from any part of a buffer', () => {
    const bits = halves(normals('w', 1 + 8 * 15));
    const w = fromRows([bits.subarray(1)], 8);
    open.push(w);
    const wide = tf.tidy(() => widened(w).dataSync() as Float32Array);
    expectBits(wide, wideBits(transpose(bits.subarray(1), 8)));
  });

  it('keeps half the bytes of float32, and none after dispose', () => {
    const before = tf.memory().numBytes;
    const w = fromRows([new Uint16Array(64 * 32)], 64);
    expect(tf.memory().numBytes - before).toBe(2 * 64 * 32);
    w.dispose();
    expect(tf.memory().numBytes).toBe(before);
  });
});

// As they are kept on a GPU.
describe('panels as float32 of the same bits', () => {
  const [inputs, outputs] = [128, 40];
  const bits = Uint16Array.from({ length: inputs * outputs }, (_, i) => 0x3c00 + ((i * 40_503) % 512));
  const values = Float32Array.from({ length: inputs * outputs }, (_, i) => Math.sin(i));
  const ids = Int32Array.of(39, 0, 17);

  function expectSameBits(w: PanelMatrix, read: (matrix: PanelMatrix) => Tensor): void {
    const words = w.panels.dataSync<'int32'>();
    const asFloats = tf.tensor(new Float32Array(words.slice().buffer), w.panels.shape);
    open.push(w, new PanelMatrix(asFloats, w.shape, w));
    const [expected, actual] = open.slice(-2).map((matrix) => {
      const tensor = read(matrix);
      const result = bitsOf(tensor.dataSync<'float32'>());
      tensor.dispose();
      return result;
    });
    expect(new Set(expected).size).toBeGreaterThan(100);
    expect(actual).toEqual(expected);
  }

  it('are the same matrix in bfloat16', () => {
    expectSameBits(fromRows([bits], inputs, 2), (w) => widened(w));
    expectSameBits(fromRows([bits], inputs), (w) => tf.tidy(() => columns(w, tf.tensor1d(ids, 'int32'))));
  });

  it('are the same matrix in NF4', () => {
    const w = PanelMatrix.quantized([{ rows: outputs, read: () => values }], inputs, { parts: 2 });
    expectSameBits(w, (matrix) => widened(matrix));
  });
});

/** Prints products by the build, of numbers that both sides make. */
const script = `
  const { PanelMatrix, multiply, multiplyTransposed, columns } = require(${JSON.stringify(resolve('dist/model/matrix.js'))});
  const { compile } = require(${JSON.stringify(resolve('dist/runtime/compile.js'))});
  const { tf } = require(${JSON.stringify(resolve('dist/runtime/tf.js'))});
  const { bits, x, dy, inputs, outputs, parts } = JSON.parse(require('fs').readFileSync(process.argv[2], 'utf8'));
  const rows = { rows: outputs, read: (begin, end) => Uint16Array.from(bits.slice(begin * inputs, end * inputs)) };
  const w = PanelMatrix.bfloat16([rows], inputs, { parts });
  const run = compile('fn', (a, b) => [multiply(a, w), multiplyTransposed(b, w)], { mode: 'graph' });
  const results = [1, 31, 40].map((n) => {
    const args = [tf.tensor(x.slice(-n * inputs), [n, inputs]), tf.tensor(dy.slice(-n * outputs), [n, outputs])];
    return run(...args).map((tensor) => [...tensor.dataSync()]);
  });
  console.log(JSON.stringify(results));
`;

describe('GRPOLAB_KERNELS', () => {
  const shape = { inputs: 40, outputs: 1100, parts: 2 };

  it.each(['', 'v4', 'v3', 'plain'])('"%s" gives the products of the formula', (kernels) => {
    const { bits, x, dy, forward, backward } = example(shape);
    const task = JSON.stringify({ bits: [...bits], x: [...x], dy: [...dy], ...shape });
    const args = [temporaryFile('product.cjs', script), temporaryFile('task.json', task)];
    for (const [y, dx] of printedWith(kernels, args) as [number[], number[]][]) {
      expectSums(y, forward, 'x W');
      expectSums(dx, backward, 'dy W^T');
    }
  });
});
