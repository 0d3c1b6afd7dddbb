import { describe, expect, it } from 'vitest';
import { compile } from '../runtime/compile';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import { adapterDropout, dropoutKeys } from './dropout';
import { LORA_TARGETS } from './peft';
import type { LoraModule } from './lora';

const key = { seed: 3, example: 'tweet 7', visit: 0 };
const channels = 96;

/** What dropout makes of ones, row by row. */
function dropOnes(keys: Int32Array, rate: number, layer = 0, module: LoraModule = 'q_proj'): Float32Array[] {
  return tf.tidy(() => {
    const dropout = adapterDropout(tf.tensor1d(keys, 'int32'), rate);
    const values = dropout(tf.ones([keys.length, channels]), layer, module).dataSync() as Float32Array;
    return Array.from(keys, (_, row) => values.slice(row * channels, (row + 1) * channels));
  });
}

/** Keys of many examples of ten tokens. */
function manyKeys(examples: number): Int32Array {
  return Int32Array.from(
    Array.from({ length: examples }, (_, i) => [...dropoutKeys({ ...key, example: `e${i}` }, 10)]).flat(),
  );
}

const share = (values: readonly boolean[]): number => values.filter(Boolean).length / values.length;
/** Five standard deviations of a share of n independent draws. */
const bound = (rate: number, n: number): number => 5 * Math.sqrt((rate * (1 - rate)) / n);

describe('the masks of dropout', () => {
  it.each([0.05, 0.3, 0.5])('drop the right share and keep the mean (rate %s)', (rate) => {
    const values = dropOnes(manyKeys(200), rate).flatMap((row) => [...row]);
    const kept = Math.fround(1 / (1 - rate));
    expect(values.every((value) => value === 0 || Math.abs(value - kept) < 1e-6)).toBe(true);
    expect(Math.abs(share(values.map((value) => value === 0)) - rate)).toBeLessThan(
      bound(rate, values.length),
    );
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    expect(Math.abs(mean - 1)).toBeLessThan(bound(rate, values.length) / (1 - rate));
  });

  it('drop the right share in every channel and of every token', () => {
    const rows = dropOnes(manyKeys(200), 0.3);
    for (let c = 0; c < channels; c++)
      expect(Math.abs(share(rows.map((row) => row[c] === 0)) - 0.3)).toBeLessThan(bound(0.3, rows.length));
    for (const row of rows) expect(Math.abs(share([...row].map((v) => v === 0)) - 0.3)).toBeLessThan(bound(0.3, channels)); // prettier-ignore
  });

  it('are independent between neighbouring channels, neighbouring tokens, layers and modules', () => {
    const [keys, rate] = [manyKeys(100), 0.5];
    const rows = dropOnes(keys, rate);
    const agreement = (pairs: [number, number][]): void =>
      expect(Math.abs(share(pairs.map(([a, b]) => a === b)) - 0.5)).toBeLessThan(bound(0.5, pairs.length));
    agreement(rows.flatMap((row) => [...row.slice(1)].map((v, c): [number, number] => [v, row[c]])));
    agreement(rows.slice(1).flatMap((row, r) => [...row].map((v, c): [number, number] => [v, rows[r][c]])));
    const others = [
      ...LORA_TARGETS.filter((module) => module !== 'q_proj').map((module) =>
        dropOnes(keys, rate, 0, module),
      ),
      dropOnes(keys, rate, 1),
      dropOnes(keys, rate, 2),
    ];
    for (const other of others)
      agreement(other.flatMap((row, r) => [...row].map((v, c): [number, number] => [v, rows[r][c]])));
  });

  it('of a token depend on its key alone, not on its place in the batch', () => {
    const keys = manyKeys(5);
    const rows = dropOnes(keys, 0.4);
    const order = new Random(1).shuffle(rows.map((_, i) => i)).slice(0, 20);
    const shuffled = dropOnes(
      Int32Array.from(order, (i) => keys[i]),
      0.4,
    );
    order.forEach((i, k) => expect(shuffled[k]).toEqual(rows[i]));
  });

  it('are the same compiled and op by op, and so is the gradient, which is the mask', () => {
    const keys = dropoutKeys(key, 6);
    const gradient = tf.tidy(() => {
      const dropout = adapterDropout(tf.tensor1d(keys, 'int32'), 0.4);
      return tf
        .grad((x) => tf.sum(dropout(x, 1, 'o_proj')))(tf.randomNormal([6, channels]))
        .dataSync();
    });
    expect([...gradient]).toEqual(dropOnes(keys, 0.4, 1, 'o_proj').flatMap((row) => [...row]));
    const compiled = compile('dropout', (x, k) => [adapterDropout(k, 0.4)(x, 1, 'o_proj')], {
      mode: 'graph',
    });
    const values = tf.tidy(() => compiled(tf.ones([6, channels]), tf.tensor1d(keys, 'int32'))[0].dataSync());
    compiled.dispose();
    expect([...values]).toEqual([...gradient]);
  });

  it('drop nothing at rate 0', () => {
    expect(dropOnes(dropoutKeys(key, 4), 0).every((row) => row.every((value) => value === 1))).toBe(true);
  });

  it('leave no tensors behind', () => {
    const before = tf.memory().numTensors;
    dropOnes(dropoutKeys(key, 4), 0.5);
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe('dropoutKeys', () => {
  it('are the same for a token whatever follows it', () => {
    expect([...dropoutKeys(key, 5)]).toEqual([...dropoutKeys(key, 40)].slice(0, 5));
  });

  it('differ by seed, example, visit and token', () => {
    const variants = [key, { ...key, seed: 4 }, { ...key, example: 'tweet 8' }, { ...key, visit: 1 }];
    const all = variants.flatMap((variant) => [...dropoutKeys(variant, 50)]);
    expect(new Set(all).size).toBe(200);
  });
});
