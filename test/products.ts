/** What the tests of products with matrices in fewer bits share: calls of compiled functions, and bits that are compared. */
import { spawnSync } from 'node:child_process';
import { expect } from 'vitest';
import { multiply, multiplyTransposed, product } from '../src/model/matrix';
import type { PanelMatrix } from '../src/model/matrix';
import { compile } from '../src/runtime/compile';
import type { ExecutionMode } from '../src/runtime/compile';
import type { Tensor } from '../src/runtime/tf';
import { tf } from '../src/runtime/tf';

type Values = Float32Array | Int32Array | Uint32Array | Uint8Array;

/** The same bits: NaN and signs of zeros too. */
export function expectBits(actual: Values, expected: Values, name = 'bits'): void {
  const [a, b] = [actual, expected].map(({ buffer, byteOffset, byteLength }) =>
    Buffer.from(buffer, byteOffset, byteLength),
  );
  expect([a.length, a.equals(b)], name).toEqual([b.length, true]);
}

/** Calls a function once, compiled; nothing that it takes changes. */
export function callOnce(
  fn: (...args: Tensor[]) => Tensor[],
  args: Tensor[],
  mode: ExecutionMode,
): Float32Array[] {
  const run = compile('fn', fn, { mode });
  try {
    const before = args.map((tensor) => tensor.dataSync().slice());
    const outputs = run(...args);
    const results = outputs.map((tensor) => tensor.dataSync().slice() as Float32Array);
    args.forEach((tensor, i) => expectBits(tensor.dataSync() as Float32Array, before[i] as Float32Array));
    tf.dispose(outputs);
    return results;
  } finally {
    tf.dispose(args);
    run.dispose();
  }
}

/** x W and dy W^T by `multiply` and `multiplyTransposed`, and as value and gradient of `product`. */
export function productsBothWays(
  w: PanelMatrix,
  x: Float32Array,
  dy: Float32Array,
  mode: ExecutionMode,
): Float32Array[] {
  const [inputs, outputs] = w.shape;
  const fn = (a: Tensor, b: Tensor): Tensor[] => {
    const { value, grad } = tf.valueAndGrad((input: Tensor) => product(input, w))(a, b);
    return [multiply(a, w), multiplyTransposed(b, w), value, grad];
  };
  const tensors = [tf.tensor(x, [x.length / inputs, inputs]), tf.tensor(dy, [dy.length / outputs, outputs])];
  return callOnce(fn, tensors, mode);
}

/** What a script prints as JSON in a process of its own, with the kernels of an instruction set ('': the best). */
export function printedWith(kernels: string, args: readonly string[]): unknown {
  const env = { ...process.env, GRPOLAB_COMPILE: 'graph', GRPOLAB_KERNELS: kernels };
  const options = { encoding: 'utf8', env, maxBuffer: 2 ** 26 } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, args, options);
  expect([status, stderr]).toEqual([0, '']);
  return JSON.parse(stdout);
}
