/**
 * Counter-based random numbers: a draw is a pure function of its coordinates (seed, stream, counters), so it is the
 * same whatever else was drawn before, in whatever batch, and after a resume.
 *
 * Source: Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 */

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High 32 bits of the 64-bit product of two unsigned 32-bit integers. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = aLow * bLow;
  const mid1 = aHigh * bLow + (low >>> 16);
  const mid2 = aLow * bHigh + (mid1 & 0xffff);
  return (aHigh * bHigh + Math.floor(mid1 / 65536) + Math.floor(mid2 / 65536)) >>> 0;
}

/**
 * Ten rounds of Philox on a counter of four and a key of two 32-bit words.
 * @returns four 32-bit words
 */
export function philox4x32(
  counter: readonly number[],
  key: readonly number[],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = [counter[0] >>> 0, counter[1] >>> 0, counter[2] >>> 0, counter[3] >>> 0];
  let [k0, k1] = [key[0] >>> 0, key[1] >>> 0];
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(M0, c0);
    const low0 = Math.imul(M0, c0) >>> 0;
    const high1 = mulHigh(M1, c2);
    const low1 = Math.imul(M1, c2) >>> 0;
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + W0) >>> 0;
    k1 = (k1 + W1) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** FNV-1a of a string's UTF-16 units: how a stream's name or a record's id becomes a counter. */
export function hashString(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return hash;
}

/** A coordinate of a draw: an integer >= 0, or a name. */
export type Coordinate = number | string;

/**
 * A seeded sequence of draws at one set of coordinates, e.g. `new Random(42, 'sample', exampleId, visit, generation)`.
 * Two sequences with different coordinates are independent.
 */
export class Random {
  private readonly key: [number, number];
  private readonly high: [number, number, number];
  private block: number[] = [];
  private index = 0;

  constructor(seed: number, ...coordinates: Coordinate[]) {
    let words: [number, number, number, number] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, 0, 0];
    coordinates.forEach((coordinate, position) => {
      const value = typeof coordinate === 'string' ? hashString(coordinate) : coordinate;
      const kind = typeof coordinate === 'string' ? 1 : 0;
      words = philox4x32(
        [words[2], words[3], position * 2 + kind, Math.floor(value / 2 ** 32) >>> 0],
        [(words[0] ^ (value >>> 0)) >>> 0, words[1]],
      );
    });
    this.key = [words[0], words[1]];
    this.high = [words[2], words[3], 0x67726f6c];
  }

  /** The 32-bit word number `position` of this sequence, without moving it. */
  private word(position: number): number {
    const block = Math.floor(position / 4);
    return philox4x32([block >>> 0, this.high[0], this.high[1], this.high[2]], this.key)[position % 4];
  }

  /** The uniform number in [0, 1) at a position of this sequence (32 bits), without moving it. */
  at(position: number): number {
    return this.word(position) / 2 ** 32;
  }

  private nextWord(): number {
    if (this.index % 4 === 0) {
      const block = this.index / 4;
      this.block = philox4x32([block >>> 0, this.high[0], this.high[1], this.high[2]], this.key);
    }
    return this.block[this.index++ % 4];
  }

  /** A uniform number in [0, 1), 32 bits. */
  uniform(): number {
    return this.nextWord() / 2 ** 32;
  }

  /** An integer in 0..n-1, each equally likely. @throws RangeError  without one to draw from */
  integer(n: number): number {
    if (!(n >= 1 && n <= 2 ** 32)) throw new RangeError(`an integer below ${n} was asked for`);
    const limit = 2 ** 32 - (2 ** 32 % n);
    for (;;) {
      const word = this.nextWord();
      if (word < limit) return word % n;
    }
  }

  /** A standard normal number (Box and Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** One of the items, each equally likely. */
  pick<T>(items: readonly T[]): T {
    return items[this.integer(items.length)];
  }

  /** A shuffled copy (Fisher and Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const result = items.slice();
    for (let i = result.length - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      [result[i], result[j]] = [result[j], result[i]];
    }
    return result;
  }
}
