import { describe, expect, it, vi } from 'vitest';
import { compile, defaultMode } from './compile';
import type { ExecutionMode } from './compile';
import type { Tensor, Variable } from './tf';
import { backend, binding, intAttribute, tf, typeAttribute } from './tf';

const modes: ExecutionMode[] = ['eager', 'graph', 'xla'];

describe('compile', () => {
  it.each(modes)('gives the values and gradients of the plain function (%s)', (mode) => {
    const w = tf.variable(tf.tensor2d([0.5, -0.25, 1, 2, 0.125, -1], [3, 2]));
    const fn = (x: Tensor): Tensor[] => {
      const { value, grads } = tf.variableGrads(
        () => tf.matMul(x, w).tanh().square().mean(),
        [w as Variable],
      );
      return [value, grads[w.name]];
    };
    const x = tf.tensor2d([1, 2, 3, -1, 0.5, 0.25], [2, 3]);
    const expected = tf.tidy(() => fn(x));
    const compiled = compile('fn', fn, { mode });
    const got = compiled(x);
    for (const i of [0, 1]) {
      const [a, b] = [got[i].dataSync(), expected[i].dataSync()];
      for (let k = 0; k < a.length; k++) expect(Math.abs(a[k] - b[k])).toBeLessThan(1e-6);
    }
    tf.dispose([...got, ...expected, x]);
    compiled.dispose();
    w.dispose();
  });

  it('sees a variable as it is at the time of the call', () => {
    const v = tf.variable(tf.scalar(2));
    const twice = compile('twice', (x) => [tf.mul(x, v)], { mode: 'graph' });
    const x = tf.scalar(3);
    const first = twice(x)[0].dataSync()[0];
    v.assign(tf.scalar(5));
    expect([first, twice(x)[0].dataSync()[0]]).toEqual([6, 15]);
    expect(twice.signatures).toBe(1);
  });

  it('keeps the number of tensors and native handles flat over many calls', () => {
    const fn = compile('flat', (x) => [tf.add(x, 1), tf.softmax(x)], { mode: 'graph' });
    const x = tf.ones([4, 5]);
    tf.dispose(fn(x));
    const [before, handles] = [tf.memory().numTensors, binding.getNumOfTensors()];
    for (let i = 0; i < 50; i++) tf.dispose(fn(x));
    expect([tf.memory().numTensors, binding.getNumOfTensors()]).toEqual([before, handles]);
  });

  it('says so when a value is read inside, and works again afterwards', () => {
    const before = tf.memory().numTensors;
    const bad = compile('bad', (x) => [tf.scalar(tf.sum(x).dataSync()[0])], { mode: 'graph' });
    const x = tf.ones([3]);
    expect(() => bad(x)).toThrow(/bad: a tensor value was read inside a compiled function/);
    const good = compile('good', (y) => [tf.sum(y)], { mode: 'graph' });
    const result = good(x)[0];
    expect(result.dataSync()[0]).toBe(3);
    tf.dispose([x, result]);
    expect(tf.memory().numTensors).toBe(before);
  });

  it('names the op and the function when shapes do not fit', () => {
    const bad = compile('bad', (x, y) => [tf.matMul(x as never, y as never)], { mode: 'graph' });
    expect(() => bad(tf.ones([2, 3]), tf.ones([2, 3]))).toThrow(/^bad: /);
    const raw = compile('raw', (x) => [
      backend.executeSingleOutput(
        'GatherV2',
        [
          intAttribute('batch_dims', 0),
          typeAttribute('Tparams', binding.TF_FLOAT),
          typeAttribute('Tindices', binding.TF_INT32),
          typeAttribute('Taxis', binding.TF_INT32),
        ],
        [x, tf.tensor1d([0], 'int32'), tf.scalar(7, 'int32')],
      ),
    ]);
    expect(() => raw(tf.ones([2, 3]))).toThrow(/raw: GatherV2: /);
  });

  it.each(modes)('leaves an argument that the function returns to the caller (%s)', (mode) => {
    const same = compile('same', (x) => [x, tf.add(x, 1)], { mode });
    const x = tf.tensor1d([1, 2]);
    for (let call = 0; call < 2; call++) {
      const [a, b] = same(x);
      expect([...a.dataSync(), ...b.dataSync()]).toEqual([1, 2, 2, 3]);
      tf.dispose([a, b]);
      expect(x.isDisposed).toBe(false);
    }
    x.dispose();
  });

  it('frees the least recently used signature above the limit', () => {
    const fn = compile('lru', (x) => [tf.neg(x)], { mode: 'graph', maxSignatures: 2 });
    for (const n of [1, 2, 3, 1, 3]) {
      const [y] = fn(tf.ones([n]));
      expect(y.shape).toEqual([n]);
    }
    expect(fn.signatures).toBe(2);
  });
});

describe('retracing', () => {
  const sizes = (n: number): Tensor => tf.ones([n, 32]);

  it('leaves nothing behind: memory is flat over 1,000 traces with gradients', () => {
    const w = tf.variable(tf.ones([32, 32]));
    const options = { mode: 'graph', maxSignatures: 2, maxTracesInARow: Infinity } as const;
    const gradient = (x: Tensor): Tensor[] => {
      const loss = (): Tensor =>
        tf
          .matMul(x as never, w as never)
          .tanh()
          .square()
          .mean();
      const { value, grads } = tf.variableGrads(loss as never, [w as Variable]);
      return [value, grads[w.name]];
    };
    const fn = compile('retraced', gradient, options);
    const run = (times: number): void => {
      // Three shapes in turn and room for two: every call traces.
      for (let i = 0; i < times; i++) {
        const x = sizes(1 + (i % 3));
        tf.dispose([x, ...fn(x)]);
      }
    };
    run(300);
    const [tensors, handles, bytes] = [tf.memory().numTensors, binding.getNumOfTensors(), process.memoryUsage().rss]; // prettier-ignore
    run(999);
    expect([tf.memory().numTensors, binding.getNumOfTensors()]).toEqual([tensors, handles]);
    expect(process.memoryUsage().rss - bytes).toBeLessThan(48e6);
    fn.dispose();
    expect(fn.signatures).toBe(0);
    expect(tf.memory().numTensors).toBe(tensors);
    w.dispose();
  });

  it('without end is refused, and says what to do', () => {
    const fn = compile('stormy', (x) => [tf.neg(x)], { mode: 'graph', maxTracesInARow: 3 });
    for (const n of [1, 2, 2, 3, 4, 5]) tf.dispose(fn(sizes(n)));
    expect(() => fn(sizes(6))).toThrow(
      /stormy: each of its last 3 calls came with shapes of which it has no trace \(now: float32 6,32\).*pad the inputs/,
    );
    expect(fn(sizes(5))[0].shape).toEqual([5, 32]);
    tf.dispose(fn(sizes(7)));
  });
});

describe('GRPOLAB_COMPILE', () => {
  it.each([
    ['off', 'eager'],
    ['graph', 'graph'],
    ['xla', 'xla'],
    [undefined, 'graph'],
  ])('of %s is the mode %s', (value, mode) => {
    vi.stubEnv('GRPOLAB_COMPILE', value);
    expect(defaultMode()).toBe(mode);
    vi.unstubAllEnvs();
  });

  it('of anything else is refused', () => {
    vi.stubEnv('GRPOLAB_COMPILE', 'fast');
    expect(() => defaultMode()).toThrow('GRPOLAB_COMPILE is "fast"; expected off, graph or xla');
    vi.unstubAllEnvs();
  });
});
