import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
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

interface GoldenMatrix {
  name: string;
  shape: [number, number];
  values: string;
  nibbles: string;
  absmax: string;
  dequantised: string;
  double: {
    absmax_codes: string;
    absmax_scales: string;
    offset: string;
    absmax: string;
    dequantised: string;
  };
}

const golden = readGolden<{
  blocksize: number;
  absmax_blocksize: number;
  codes: number[];
  dynamic_map: string;
  matrices: GoldenMatrix[];
  absmax: {
    values: string;
    offset: string;
    codes: string;
    codes_native: string;
    scales: string;
    dequantised: string;
  };
  map_ties: { values: string; codes: string };
}>('nf4.json');

const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'));
const floatsOf = (base64: string) => new Float32Array(bytesOf(base64).buffer);
/** The bits: these tell -0 from 0, and an error by one from none. */
const bits = (values: Float32Array) => new Int32Array(values.slice().buffer);
const ulpsApart = (a: number, b: number) => {
  const [x, y] = bits(Float32Array.of(a, b));
  return Math.abs(x - y);
};

describe('the tables of bitsandbytes', () => {
  it('are the same: sizes of blocks, the 16 codes and the 256 values for absmaxes, to the bit', () => {
    expect([NF4_BLOCK, NF4_ABSMAX_BLOCK]).toEqual([golden.blocksize, golden.absmax_blocksize]);
    expect(bits(nf4Codes)).toEqual(bits(Float32Array.from(golden.codes)));
    expect(bits(dynamicMap)).toEqual(bits(floatsOf(golden.dynamic_map)));
  });
});

describe.each(golden.matrices)('the matrix "$name" of bitsandbytes', (matrix) => {
  const values = floatsOf(matrix.values);
  const { double } = matrix;
  const [offset] = floatsOf(double.offset);
  const stored = {
    nibbles: bytesOf(matrix.nibbles),
    absmaxCodes: bytesOf(double.absmax_codes),
    absmaxScales: floatsOf(double.absmax_scales),
    offset,
  };

  it('has the same nibbles and absmaxes', () => {
    const { nibbles, absmax } = quantizeNf4Blocks(values);
    expect(nibbles).toEqual(stored.nibbles);
    expect(bits(absmax)).toEqual(bits(floatsOf(matrix.absmax)));
  });

  it('has the same weights to the bit when read back, without double quantisation and with it', () => {
    const plain = dequantizeNf4Blocks(stored.nibbles, floatsOf(matrix.absmax));
    expect(bits(plain)).toEqual(bits(floatsOf(matrix.dequantised)));
    expect(bits(dequantizedAbsmax(stored))).toEqual(bits(floatsOf(double.absmax)));
    expect(bits(dequantizeNf4(stored))).toEqual(bits(floatsOf(double.dequantised)));
  });

  it('has the same absmax codes and scales to the bit, given the same offset', () => {
    const { absmaxCodes, absmaxScales } = quantizeAbsmax(floatsOf(matrix.absmax), offset);
    expect(absmaxCodes).toEqual(stored.absmaxCodes);
    expect(bits(absmaxScales)).toEqual(bits(stored.absmaxScales));
  });

  // torch sums float32 in an order that depends on the machine, we in float64: the mean may differ in its last bit.
  it('has the same offset to an ulp, and so the same codes', () => {
    const own = quantizeNf4(values, matrix.shape);
    expect(ulpsApart(own.offset, offset)).toBeLessThanOrEqual(1);
    expect(own.nibbles).toEqual(stored.nibbles);
    expect(own.absmaxCodes).toEqual(stored.absmaxCodes);
  });
});

describe('absmaxes over more than one scale', () => {
  const { absmax } = golden;
  const values = floatsOf(absmax.values);
  const [offset] = floatsOf(absmax.offset);
  const codes = bytesOf(absmax.codes);

  it('have the same codes, scales and values to the bit, the last group shorter than the others', () => {
    expect(values.length % NF4_ABSMAX_BLOCK).toBeGreaterThan(0);
    const own = quantizeAbsmax(values, offset);
    expect(own.absmaxCodes).toEqual(codes);
    expect(bits(own.absmaxScales)).toEqual(bits(floatsOf(absmax.scales)));
    expect(bits(dequantizedAbsmax(own))).toEqual(bits(floatsOf(absmax.dequantised)));
    expect(ulpsApart(quantizeAbsmax(values).offset, offset)).toBeLessThanOrEqual(1);
  });

  it('take the lower code on each midpoint', () => {
    const { absmaxCodes, absmaxScales } = quantizeAbsmax(floatsOf(golden.map_ties.values), 0);
    expect([...absmaxScales]).toEqual([1]);
    expect(absmaxCodes).toEqual(bytesOf(golden.map_ties.codes));
  });

  // The native CPU library looks the code up in a table of 65,536 bins: nearest but for values by a midpoint.
  it('are as near to the absmaxes as those of the native library, whose codes differ by midpoints only', () => {
    const scales = floatsOf(absmax.scales);
    const bin = 2 / 65535;
    bytesOf(absmax.codes_native).forEach((native, i) => {
      const scaled = (values[i] - offset) / scales[Math.floor(i / NF4_ABSMAX_BLOCK)];
      const distance = (code: number) => Math.abs(dynamicMap[code] - scaled);
      expect(distance(native)).toBeGreaterThanOrEqual(distance(codes[i]) - 1e-7);
      expect(distance(native) - distance(codes[i])).toBeLessThanOrEqual(bin);
    });
  });
});
