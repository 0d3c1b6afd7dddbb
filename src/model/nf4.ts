/**
 * 4-bit weights: NormalFloat (NF4) in blocks of 64 with double quantisation, in the layout of bitsandbytes.
 *
 * A weight w of block b becomes the code nearest to w / absmax[b]; absmax = max |w| over the block. Double
 * quantisation stores absmax - mean(absmax) in 8 bits, with one float32 for each 256 blocks, so a weight costs
 * 4 + 8/64 + 32/(64 · 256) = 4.127 bits. All arithmetic is float32, each operation rounded once.
 * Source: QLoRA, arXiv 2305.14314 §3; the 8-bit map: arXiv 1511.04561.
 */
import { NumericError, ShapeError } from '../runtime/errors';

const fround = Math.fround;

/** Weights that share an absmax. They run along the flattened, row-major matrix. */
export const NF4_BLOCK = 64;
/** Blocks whose absmax codes share a scale. */
export const NF4_ABSMAX_BLOCK = 256;

/** Below this an absmax is not divided by: the reciprocal of a smaller one could be infinite. */
const SMALLEST_DIVISOR = fround(1e-38);

/** A matrix in NF4 whose absmaxes are quantised too. */
export interface Nf4Matrix {
  /** two codes a byte, the first in the high nibble: [out · in / 2] */
  nibbles: Uint8Array;
  /** indices into `dynamicMap`, one a block of 64: [out · in / 64] */
  absmaxCodes: Uint8Array;
  /** one for each 256 blocks, the last of which may be fewer */
  absmaxScales: Float32Array;
  /** mean of the absmaxes, subtracted before they are quantised */
  offset: number;
}

/**
 * The 16 values of NF4, ascending: quantiles of the normal distribution, scaled to [-1, 1], so that each code is
 * about as frequent among normal weights. Seven below zero, zero itself, eight above.
 */
export const nf4Codes = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
  ...[-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0],
  ...[0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
);

/**
 * The 256 values of the signed 8-bit map, ascending: 0, 1, and for each decade e = 0..6 the ±2^e values
 * 10^(e - 6) · (midpoint of the k-th of 2^e equal parts of [0.1, 1]). A fraction gains a bit as the exponent grows.
 */
export const dynamicMap = createDynamicMap();

function createDynamicMap(): Float32Array {
  const start = fround(0.1);
  const values = [0, 1];
  for (let e = 0; e < 7; e++) {
    const parts = 2 ** e;
    const step = fround(fround(1 - start) / parts);
    // From the nearer end, product and sum rounded once: the bits that torch.linspace has on a CPU with FMA.
    const bound = (k: number) => (2 * k < parts ? fround(start + step * k) : fround(1 - step * (parts - k)));
    for (let k = 0; k < parts; k++) {
      const middle = fround(fround(bound(k) + bound(k + 1)) / 2);
      const value = fround(fround(10 ** (e - 6)) * middle);
      values.push(value, -value);
    }
  }
  return new Float32Array(values).sort();
}

/** Halfway between neighbours. A value on a midpoint takes the lower code. */
function midpointsOf(codes: Float32Array): Float32Array {
  return codes.subarray(1).map((code, i) => fround(codes[i] + code) / 2);
}

/** A 16th that nothing exceeds saves the search the question whether there is a next code. */
const nf4Midpoints = Float32Array.of(...midpointsOf(nf4Codes), Infinity);
const mapMidpoints = midpointsOf(dynamicMap);

/** [-1, 1] in bins of 1/32, with the code of each bin's lower end: no bin holds two midpoints. */
const BINS_PER_UNIT = 32;
const binCodes = Uint8Array.from(
  { length: 2 * BINS_PER_UNIT + 1 },
  (_, bin) => midpointsOf(nf4Codes).filter((midpoint) => midpoint < bin / BINS_PER_UNIT - 1).length,
);

/** The nearest code of a value in [-1, 1] (or a rounding beyond it): one look-up, one comparison. */
function nearestNf4(scaled: number): number {
  const code = binCodes[((scaled + 1) * BINS_PER_UNIT) | 0];
  return scaled > nf4Midpoints[code] ? code + 1 : code;
}

/** The nearest code of the 8-bit map: the number of midpoints below the value. */
function nearestInMap(scaled: number): number {
  let low = 0;
  let high = mapMidpoints.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (scaled > mapMidpoints[middle]) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** max |value| of a block; NaN if one of them is. */
function absmaxOf(values: Float32Array, start: number, end: number): number {
  let absmax = 0;
  for (let i = start; i < end; i++) absmax = Math.max(absmax, Math.abs(values[i]));
  return absmax;
}

/** What a block is multiplied by. 1 / absmax is rounded first, as there: a division could give the next code. */
function reciprocal(absmax: number): number {
  return fround(1 / Math.max(absmax, SMALLEST_DIVISOR));
}

/**
 * NF4 codes and the float32 absmax of each block: quantisation without the double one. A block of zeros gets
 * absmax 0 and the code of 0.
 *
 * @param values  row-major [out, in]
 * @throws ShapeError  when the number of values is no multiple of 64
 * @throws NumericError  for a value that is not finite
 */
export function quantizeNf4Blocks(values: Float32Array): { nibbles: Uint8Array; absmax: Float32Array } {
  const blocks = values.length / NF4_BLOCK;
  if (!Number.isInteger(blocks)) {
    throw new ShapeError(`${values.length} values to quantise; expected a multiple of ${NF4_BLOCK}`);
  }
  const nibbles = new Uint8Array(values.length / 2);
  const absmax = new Float32Array(blocks);
  for (let block = 0; block < blocks; block++) {
    const start = block * NF4_BLOCK;
    const end = start + NF4_BLOCK;
    absmax[block] = absmaxOf(values, start, end);
    if (!Number.isFinite(absmax[block])) {
      throw new NumericError(
        `a weight among values ${start} to ${end - 1} is NaN or infinite; expected finite weights to quantise`,
      );
    }
    const inverse = reciprocal(absmax[block]);
    for (let i = start; i < end; i += 2) {
      const high = nearestNf4(fround(values[i] * inverse));
      nibbles[i >> 1] = (high << 4) | nearestNf4(fround(values[i + 1] * inverse));
    }
  }
  return { nibbles, absmax };
}

/** The weights of NF4 codes: code · absmax of the block, rounded once to float32. */
export function dequantizeNf4Blocks(nibbles: Uint8Array, absmax: Float32Array): Float32Array {
  const bytes = NF4_BLOCK / 2;
  if (nibbles.length !== absmax.length * bytes) {
    throw new ShapeError(
      `${nibbles.length} bytes of NF4 codes have ${absmax.length} absmaxes; expected one for each ${bytes} bytes`,
    );
  }
  const values = new Float32Array(nibbles.length * 2);
  for (let block = 0; block < absmax.length; block++) {
    const scale = absmax[block];
    for (let i = block * bytes; i < (block + 1) * bytes; i++) {
      values[2 * i] = nf4Codes[nibbles[i] >> 4] * scale;
      values[2 * i + 1] = nf4Codes[nibbles[i] & 15] * scale;
    }
  }
  return values;
}

/** Mean of the absmaxes, summed in float64: the same on every machine, a float32 sum is off by an ulp or two. */
function meanOf(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return values.length === 0 ? 0 : fround(sum / values.length);
}

/**
 * The absmaxes in 8 bits: the nearest value of `dynamicMap` to (absmax - offset) / scale, where scale is the
 * largest |absmax - offset| of 256 blocks.
 *
 * @param offset  a float32; the mean of the absmaxes unless given
 */
export function quantizeAbsmax(absmax: Float32Array, offset = meanOf(absmax)): Omit<Nf4Matrix, 'nibbles'> {
  const centred = absmax.map((value) => value - offset);
  const absmaxCodes = new Uint8Array(absmax.length);
  const absmaxScales = new Float32Array(Math.ceil(absmax.length / NF4_ABSMAX_BLOCK));
  for (let group = 0; group < absmaxScales.length; group++) {
    const start = group * NF4_ABSMAX_BLOCK;
    const end = Math.min(start + NF4_ABSMAX_BLOCK, absmax.length);
    absmaxScales[group] = absmaxOf(centred, start, end);
    const inverse = reciprocal(absmaxScales[group]);
    for (let i = start; i < end; i++) absmaxCodes[i] = nearestInMap(fround(centred[i] * inverse));
  }
  return { absmaxCodes, absmaxScales, offset };
}

/**
 * The float32 absmax of each block after double quantisation: map[code] · scale, rounded, + offset, rounded.
 *
 * One far below the mean of a group whose largest is far above it can come out negative, as in bitsandbytes: its
 * error is up to half a step of the map, times the scale.
 *
 * @returns  [out · in / 64]
 */
export function dequantizedAbsmax(quantized: Omit<Nf4Matrix, 'nibbles'>): Float32Array {
  const { absmaxCodes, absmaxScales, offset } = quantized;
  if (absmaxScales.length !== Math.ceil(absmaxCodes.length / NF4_ABSMAX_BLOCK)) {
    throw new ShapeError(
      `${absmaxCodes.length} absmax codes have ${absmaxScales.length} scales; expected one for each ` +
        `${NF4_ABSMAX_BLOCK} codes`,
    );
  }
  const absmax = new Float32Array(absmaxCodes.length);
  for (let i = 0; i < absmax.length; i++) {
    const centred = fround(dynamicMap[absmaxCodes[i]] * absmaxScales[Math.floor(i / NF4_ABSMAX_BLOCK)]);
    absmax[i] = centred + offset;
  }
  return absmax;
}

/**
 * A matrix in NF4 with double quantisation.
 *
 * @param values  row-major [out, in]
 * @throws ShapeError  when `in` is no multiple of 64, or there are not out · in values
 * @throws NumericError  for a value that is not finite
 */
export function quantizeNf4(values: Float32Array, shape: readonly [out: number, inputs: number]): Nf4Matrix {
  const [out, inputs] = shape;
  if (values.length !== out * inputs) {
    throw new ShapeError(
      `${values.length} values of a matrix of shape [${shape.join()}]; expected ${out * inputs}`,
    );
  }
  if (inputs % NF4_BLOCK !== 0) {
    throw new ShapeError(
      `a matrix of shape [${shape.join()}] to quantise in NF4; expected rows of a multiple of ${NF4_BLOCK} values`,
    );
  }
  const { nibbles, absmax } = quantizeNf4Blocks(values);
  return { nibbles, ...quantizeAbsmax(absmax) };
}

/** The float32 weights of an NF4 matrix, row-major [out, in]. */
export function dequantizeNf4(matrix: Nf4Matrix): Float32Array {
  return dequantizeNf4Blocks(matrix.nibbles, dequantizedAbsmax(matrix));
}
