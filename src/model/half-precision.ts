/**
 * Conversions between float32 and the two 16-bit floats of checkpoints. All round to nearest, ties to even,
 * as IEEE 754 and torch do.
 */

const floats = new Float32Array(1);
const bits = new Uint32Array(floats.buffer);

/** Nearest bfloat16 of a float32, as its 16 bits. NaN stays NaN, values above the largest one become infinite. */
export function toBfloat16(value: number): number {
  floats[0] = value;
  const b = bits[0];
  // A NaN whose set bits all lie in the lower half would round to an infinity: keep it quiet instead.
  if ((b & 0x7fffffff) > 0x7f800000) return (b >>> 16) | 0x40;
  return ((b + 0x7fff + ((b >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The float16 with these 16 bits as a number; exact. */
export function fromFloat16(half: number): number {
  const exponent = (half >>> 10) & 31;
  if (exponent > 0 && exponent < 31) {
    // Normal: move the exponent from bias 15 to 127.
    bits[0] = ((half & 0x8000) << 16) | (((half & 0x7fff) << 13) + (112 << 23));
    return floats[0];
  }
  const sign = half & 0x8000 ? -1 : 1;
  const fraction = half & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * fraction * 2 ** -24;
}

/** Nearest float16 of a float32, as its 16 bits. NaN stays NaN, from 65520 on the result is infinite. */
export function toFloat16(value: number): number {
  floats[0] = value;
  const b = bits[0];
  const sign = (b >>> 16) & 0x8000;
  const magnitude = b & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above
  if (magnitude >= 0x38800000) {
    // Normal: move the exponent from bias 127 to 15 and round the 13 lost bits.
    return sign | ((magnitude + 0xfff + ((magnitude >>> 13) & 1) - (112 << 23)) >>> 13);
  }
  return sign | roundHalfEven(Math.abs(floats[0]) * 2 ** 24); // subnormal: a multiple of 2^-24
}

function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}
