import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericError, ShapeError } from '../runtime/errors';
import {
  dequantizedAbsmax,
  dequantizeNf4,
  dequantizeNf4Blocks,
  dynamicMap,
  NF4_ABSMAX_BLOCK,
  NF4_BLOCK,
  nf4Codes,
  quantizeAbsmax,
  quantizeNf4,
  quantizeNf4Blocks,
} from './nf4';

/** Zero in place of what float32 holds with few bits, or not at all: no bound that is relative holds there. */
const withoutTiny = (value: number) => (Math.abs(value) < 1e-30 ? 0 : value);

/** Blocks of values of any size, with zeros among them. */
const weight = fc.oneof(
  { weight: 8, arbitrary: fc.double({ min: -0.1, max: 0.1, noNaN: true }).map(withoutTiny) },
  { weight: 1, arbitrary: fc.constantFrom(0, -0, 1e-30, -1e-20, 7, -1e30) },
);
const block = fc.array(weight, { minLength: NF4_BLOCK, maxLength: NF4_BLOCK });
const blocks = fc.array(block, { minLength: 1, maxLength: 4 }).map((list) => Float32Array.from(list.flat()));

/** Half the widest gap between neighbours, which is the one above -1. */
const HALF_GAP = Math.max(...nf4Codes.subarray(1).map((code, i) => code - nf4Codes[i])) / 2;

/** The nearest code found by trying all, the lower one of two as near. */
function nearest(codes: Float32Array, value: number): number {
  const distances = Array.from(codes, (code) => Math.abs(code - value));
  return distances.indexOf(Math.min(...distances));
}

describe('NF4 without double quantisation', () => {
  it('changes nothing when values that were read back are quantised again', () => {
    fc.assert(
      fc.property(blocks, (values) => {
        const once = quantizeNf4Blocks(values);
        expect(quantizeNf4Blocks(dequantizeNf4Blocks(once.nibbles, once.absmax))).toEqual(once);
      }),
    );
  });

  it('is off by half the widest gap of the codes times the absmax at most, and exact at the absmax', () => {
    fc.assert(
      fc.property(blocks, (values) => {
        const { nibbles, absmax } = quantizeNf4Blocks(values);
        dequantizeNf4Blocks(nibbles, absmax).forEach((value, i) => {
          const size = absmax[Math.floor(i / NF4_BLOCK)];
          expect(Math.abs(value - values[i])).toBeLessThanOrEqual(HALF_GAP * size * (1 + 1e-6));
          if (Math.abs(values[i]) === size) expect(value).toBe(size === 0 ? 0 : values[i]);
        });
      }),
    );
  });

  it('takes the nearest code', () => {
    const values = Float32Array.from({ length: 4096 }, (_, i) => i / 2048 - 1);
    const spread = new Float32Array(NF4_BLOCK);
    spread[1] = 1;
    for (const value of values) {
      spread[0] = value;
      expect(quantizeNf4Blocks(spread).nibbles[0] >> 4).toBe(nearest(nf4Codes, value));
    }
  });

  it('has the first value of a pair in the high half of a byte', () => {
    const values = new Float32Array(NF4_BLOCK);
    values.set([1, -1, 0, 1]);
    expect([...quantizeNf4Blocks(values).nibbles.subarray(0, 3)]).toEqual([0xf0, 0x7f, 0x77]);
  });

  it('gives zeros for a block of zeros, and 0 for -0', () => {
    const zeros = new Float32Array(2 * NF4_BLOCK).fill(-0, 3, 9);
    zeros[NF4_BLOCK] = 0.5;
    zeros[NF4_BLOCK + 1] = -0;
    const { nibbles, absmax } = quantizeNf4Blocks(zeros);
    expect([...absmax]).toEqual([0, 0.5]);
    const read = dequantizeNf4Blocks(nibbles, absmax);
    expect(read).toEqual(Float32Array.from(zeros, (value) => value + 0));
    expect(read.some((value) => Object.is(value, -0))).toBe(false);
  });
});

describe('the map of absmax codes', () => {
  it('ascends through 256 different values, which are symmetric but for 1', () => {
    expect(new Set(dynamicMap).size).toBe(256);
    dynamicMap.forEach((value, i) => i > 0 && expect(value).toBeGreaterThan(dynamicMap[i - 1]));
    expect(dynamicMap[127]).toBe(0);
    expect(dynamicMap[255]).toBe(1);
    for (let i = 0; i < 127; i++) expect(dynamicMap[i]).toBe(-dynamicMap[254 - i]);
  });

  it('gives the nearest of its values, for any absmaxes', () => {
    const size = fc.double({ min: 0, max: 10, noNaN: true }).map(withoutTiny);
    const sizes = fc.array(size, { minLength: 1, maxLength: 300 });
    fc.assert(
      fc.property(sizes, (list) => {
        const absmax = Float32Array.from(list);
        const quantized = quantizeAbsmax(absmax);
        const { absmaxCodes, absmaxScales, offset } = quantized;
        expect(absmaxScales.length).toBe(Math.ceil(list.length / NF4_ABSMAX_BLOCK));
        dequantizedAbsmax(quantized).forEach((value, i) => {
          const scale = absmaxScales[Math.floor(i / NF4_ABSMAX_BLOCK)];
          const scaled = scale === 0 ? 0 : (absmax[i] - offset) / scale;
          const best = Math.min(...dynamicMap.map((code) => Math.abs(code - scaled)));
          expect(Math.abs(dynamicMap[absmaxCodes[i]] - scaled)).toBeLessThanOrEqual(best + 1e-6);
          expect(Math.abs(value - absmax[i])).toBeLessThanOrEqual((best + 1e-6) * scale + 1e-6 * offset);
        });
      }),
      { numRuns: 30 },
    );
  });
});

describe('NF4 with double quantisation', () => {
  it('is nibbles and quantised absmaxes, and reads back as their product', () => {
    fc.assert(
      fc.property(blocks, (values) => {
        const matrix = quantizeNf4(values, [values.length / NF4_BLOCK, NF4_BLOCK]);
        const { nibbles, absmax } = quantizeNf4Blocks(values);
        expect(matrix).toEqual({ nibbles, ...quantizeAbsmax(absmax) });
        expect(dequantizeNf4(matrix)).toEqual(dequantizeNf4Blocks(nibbles, dequantizedAbsmax(matrix)));
      }),
    );
  });

  it('gives zeros for a block of zeros, though its absmax is no longer zero', () => {
    const values = new Float32Array(2 * NF4_BLOCK).fill(0.3, NF4_BLOCK);
    const matrix = quantizeNf4(values, [2, NF4_BLOCK]);
    expect(dequantizedAbsmax(matrix)[0]).not.toBe(0);
    expect(dequantizeNf4(matrix).subarray(0, NF4_BLOCK)).toEqual(new Float32Array(NF4_BLOCK));
    const zeros = quantizeNf4(new Float32Array(NF4_BLOCK), [1, NF4_BLOCK]);
    expect(dequantizeNf4(zeros)).toEqual(new Float32Array(NF4_BLOCK));
  });

  it('takes a matrix without rows', () => {
    const matrix = quantizeNf4(new Float32Array(0), [0, NF4_BLOCK]);
    expect(matrix.offset).toBe(0);
    expect(dequantizeNf4(matrix).length).toBe(0);
  });

  it('may give a far smaller block a negative absmax, as bitsandbytes does', () => {
    // 7 blocks of absmax 0 and one of 1: offset 1/8, scale 7/8, -1/7 has no code of its own.
    const quantized = quantizeAbsmax(Float32Array.of(0, 0, 0, 0, 0, 0, 0, 1));
    const [smallest] = dequantizedAbsmax(quantized);
    expect(smallest).toBe(Math.fround(Math.fround(dynamicMap[nearest(dynamicMap, -1 / 7)] * 0.875) + 0.125));
    expect(smallest).toBeLessThan(0);
  });
});

describe('what cannot be quantised', () => {
  it('is refused by its shape', () => {
    const refuses = (run: () => unknown, message: RegExp) => {
      expect(run).toThrow(ShapeError);
      expect(run).toThrow(message);
    };
    refuses(
      () => quantizeNf4(new Float32Array(192), [2, 96]),
      /shape \[2,96\].*rows of a multiple of 64 values/,
    );
    refuses(() => quantizeNf4(new Float32Array(64), [2, 64]), /64 values of .*\[2,64\]; expected 128/);
    refuses(
      () => quantizeNf4Blocks(new Float32Array(65)),
      /65 values to quantise; expected a multiple of 64/,
    );
    refuses(() => dequantizeNf4Blocks(new Uint8Array(33), new Float32Array(1)), /33 bytes .* 1 absmaxes/);
    const absmaxCodes = new Uint8Array(257);
    const absmaxScales = new Float32Array(1);
    refuses(
      () => dequantizedAbsmax({ absmaxCodes, absmaxScales, offset: 0 }),
      /257 absmax codes have 1 scales/,
    );
  });

  it.each([NaN, Infinity, -Infinity])('is refused for a weight of %d', (bad) => {
    const values = new Float32Array(192);
    values[70] = bad;
    expect(() => quantizeNf4(values, [3, 64])).toThrow(NumericError);
    expect(() => quantizeNf4(values, [3, 64])).toThrow(/among values 64 to 127 is NaN or infinite/);
  });
});
