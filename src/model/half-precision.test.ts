import { describe, expect, it } from 'vitest';
import { fromFloat16, toBfloat16, toFloat16 } from './half-precision';

const bitsOf = (value: number) => new Uint32Array(new Float32Array([value]).buffer)[0];
const floatOf = (bits: number) => new Float32Array(new Uint32Array([bits]).buffer)[0];

describe('float16', () => {
  it('knows the values that IEEE 754 names', () => {
    expect([0x0001, 0x03ff, 0x0400, 0x3555, 0x3c00, 0x7bff, 0xc000].map(fromFloat16)).toEqual([
      2 ** -24,
      2 ** -14 * (1023 / 1024),
      2 ** -14,
      0.333251953125,
      1,
      65504,
      -2,
    ]);
  });

  it('survives a round trip for each of its 65,536 values', () => {
    for (let half = 0; half < 65536; half++) {
      const value = fromFloat16(half);
      if (Number.isNaN(value)) expect(fromFloat16(toFloat16(value))).toBeNaN();
      else if (toFloat16(value) !== half) expect(toFloat16(value)).toBe(half);
    }
  });

  it('rounds each midpoint to the even neighbour and a hair beyond it to the nearer one', () => {
    for (let half = 0; half < 0x7bff; half++) {
      const middle = (fromFloat16(half) + fromFloat16(half + 1)) / 2;
      const even = half % 2 === 0 ? half : half + 1;
      const results = [-1, 0, 1].map((step) => toFloat16(floatOf(bitsOf(middle) + step)));
      if (String(results) !== String([half, even, half + 1])) expect(results).toEqual([half, even, half + 1]);
    }
  });

  it('becomes infinite from 65520 on and keeps signs and NaN', () => {
    expect([65519, 65520, Infinity, -Infinity, -0].map(toFloat16)).toEqual([
      0x7bff, 0x7c00, 0x7c00, 0xfc00, 0x8000,
    ]);
    expect(fromFloat16(toFloat16(NaN))).toBeNaN();
  });
});

describe('bfloat16', () => {
  it('rounds each midpoint to the even neighbour and a hair beyond it to the nearer one', () => {
    for (let half = 0; half < 0x7f7f; half++) {
      const middle = half * 65536 + 32768;
      const even = half % 2 === 0 ? half : half + 1;
      const results = [-1, 0, 1].map((step) => toBfloat16(floatOf(middle + step)));
      if (String(results) !== String([half, even, half + 1])) expect(results).toEqual([half, even, half + 1]);
    }
  });

  it('keeps signs, infinities and NaN', () => {
    expect([-0, Infinity, -Infinity, -1.5].map(toBfloat16)).toEqual([0x8000, 0x7f80, 0xff80, 0xbfc0]);
    expect(toBfloat16(floatOf(0x7f800001)) & 0x7fff).toBeGreaterThan(0x7f80);
  });
});
