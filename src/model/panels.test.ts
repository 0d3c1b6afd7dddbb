/** NF4 matrices as the binding reads them, against what bitsandbytes gives and against `dequantizeNf4`. */
import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { compile } from '../runtime/compile';
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import { multiply, multiplyTransposed, PanelMatrix, widened } from './matrix';
import { dequantizeNf4, quantizeNf4 } from './nf4';

function quantized(values: readonly Float32Array[], inputs: number, parts = 1): PanelMatrix {
  const sources = values.map((one) => ({ rows: one.length / inputs, read: () => one }));
  return PanelMatrix.quantized(sources, inputs, { parts });
}

/** Both ways of each product with the unit matrix, and the graph that widens: all are W, [inputs, outputs]. */
function everyWay(w: PanelMatrix): Record<string, Float32Array> {
  const [inputs, outputs] = w.shape;
  const run = (fn: (x: Tensor) => Tensor, size: number, mode: 'graph' | 'eager'): Float32Array =>
    tf.tidy(() => {
      const compiled = compile('product', (x) => [fn(x)], { mode });
      const [result] = compiled(tf.eye(size));
      const values = (result.shape[0] === inputs ? result : tf.transpose(result)).dataSync() as Float32Array;
      compiled.dispose();
      return values;
    });
  const value = tf.tidy(() => widened(w).dataSync() as Float32Array);
  return {
    widened: value,
    'op of x W': run((x) => multiply(x, w), inputs, 'graph'),
    'op of dy W^T': run((dy) => tf.transpose(multiplyTransposed(dy, w)), outputs, 'graph'),
    'graph of x W': run((x) => multiply(x, w), inputs, 'eager'),
  };
}

/** [outputs, inputs] -> [inputs, outputs] */
const transposed = (values: Float32Array, inputs: number): Float32Array =>
  Float32Array.from(values, (_, i) => {
    const outputs = values.length / inputs;
    return values[(i % outputs) * inputs + Math.floor(i / outputs)];
  });

/** -0 and 0 are the same weight: a product with the unit matrix adds zeros. */
function expectSame(found: Record<string, Float32Array>, expected: Float32Array): void {
  for (const [way, values] of Object.entries(found)) {
    const wrong = values.findIndex((value, i) => value !== expected[i]);
    expect(`${way}: first difference at ${wrong}`).toBe(`${way}: first difference at -1`);
    expect(values.length).toBe(expected.length);
  }
}

function draws(length: number, name: string): Float32Array {
  const random = new Random(1, 'panels', name);
  // Blocks of very different sizes, so that scales of scales matter.
  return Float32Array.from({ length }, (_, i) => random.normal() * 0.02 * (1 + ((i >> 6) % 7) ** 2));
}

describe('a matrix in NF4', () => {
  const golden = readGolden<{
    matrices: { name: string; shape: [number, number]; values: string; double: { dequantised: string } }[];
  }>('nf4.json');
  const floats = (text: string): Float32Array =>
    new Float32Array(new Uint8Array(Buffer.from(text, 'base64')).buffer);

  it.each(golden.matrices)(
    "has the weights of bitsandbytes' ($name)",
    ({ shape: [, inputs], values, double }) => {
      const w = quantized([floats(values)], inputs);
      const expected = transposed(floats(double.dequantised), inputs);
      // Its mean of the scales is summed in float32: an ulp of ours, of which each scale may have one.
      const largest = Math.max(...expected.map(Math.abs));
      for (const found of Object.values(everyWay(w)))
        found.forEach((value, i) =>
          expect(Math.abs(value - expected[i])).toBeLessThanOrEqual(2e-7 * largest),
        );
      w.dispose();
    },
  );

  it.each([
    { inputs: 64, widths: [1], parts: 1 },
    { inputs: 64, widths: [17, 17], parts: 2 },
    { inputs: 128, widths: [20, 12, 7], parts: 1 },
    { inputs: 3072, widths: [50], parts: 1 },
    { inputs: 1024, widths: [40, 40], parts: 2 },
    { inputs: 192, widths: [600, 600], parts: 2 },
    { inputs: 16_384, widths: [1], parts: 1 },
  ])(
    'has the weights of its matrices, each quantised by itself, to the bit ($inputs inputs, $widths, $parts parts)',
    ({ inputs, widths, parts }) => {
      const values = widths.map((width, i) => draws(width * inputs, `${inputs} ${i}`));
      const w = quantized(values, inputs, parts);
      const rows = widths.flatMap((width, i) => [...dequantizeNf4(quantizeNf4(values[i], [width, inputs]))]);
      expectSame(everyWay(w), transposed(Float32Array.from(rows), inputs));
      w.dispose();
    },
  );

  it.each([32, 96, 16_448])('is refused for %i inputs', (inputs) => {
    const make = (): PanelMatrix => quantized([new Float32Array(inputs)], inputs);
    expect(make).toThrow(`${inputs} inputs in NF4; expected a multiple of 64, at most 16384`);
  });
});
