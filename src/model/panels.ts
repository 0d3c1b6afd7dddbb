/** Matrices in 16 or 4 bits as panels of 16 columns (native/matrix.h, native/nf4.h). */
import { ShapeError } from '../runtime/errors';
import type { Nf4Matrix } from './nf4';
import { NF4_ABSMAX_BLOCK, NF4_BLOCK, quantizeNf4 } from './nf4';

/** Columns of a panel. */
export const PANEL_WIDTH = 16;

/** Numbers of a matrix in bfloat16 that are read at a time. */
const PIECE_ELEMENTS = 1 << 23;

/** Rows of a matrix [rows, inputs] of a file, as the bits of bfloat16, row-major. */
export interface Bfloat16Rows {
  rows: number;
  read: (begin: number, end: number) => Uint16Array;
}

/** A matrix [rows, inputs] of a file, row-major. */
export interface FloatRows {
  rows: number;
  read: () => Float32Array;
}

/** Where a column of a matrix in equal parts stands: each part is padded to whole panels. */
function placeOf(column: number, outputs: number, parts: number): { panel: number; column: number } {
  const width = outputs / parts;
  const inPart = column % width;
  const panel =
    Math.floor(column / width) * Math.ceil(width / PANEL_WIDTH) + Math.floor(inPart / PANEL_WIDTH);
  return { panel, column: inPart % PANEL_WIDTH };
}

const panelsOf = (outputs: number, parts: number): number => parts * Math.ceil(outputs / parts / PANEL_WIDTH);

/**
 * Matrices [rows, inputs] of bfloat16, below one another: their transpose as panels, a pair of columns in each word.
 *
 * @param parts  the columns are so many equal parts, each padded to whole panels
 */
export function bfloat16Panels(
  sources: readonly Bfloat16Rows[],
  inputs: number,
  outputs: number,
  parts: number,
): { words: Int32Array; panels: number } {
  const panels = panelsOf(outputs, parts);
  const words = new Int32Array((panels * inputs * PANEL_WIDTH) / 2);
  const step = Math.ceil(PIECE_ELEMENTS / inputs);
  let output = 0;
  for (const { rows, read } of sources)
    for (let begin = 0; begin < rows; begin += step) {
      const bits = read(begin, Math.min(rows, begin + step));
      for (let at = 0; at < bits.length; at += inputs, output++) {
        const { panel, column } = placeOf(output, outputs, parts);
        const shift = 16 * (column & 1);
        let word = (panel * inputs * PANEL_WIDTH) / 2 + (column >> 1);
        for (let i = at; i < at + inputs; i++, word += PANEL_WIDTH / 2) words[word] |= bits[i] << shift;
      }
    }
  return { words, panels };
}

/** The records of NF4 panels, one after the other. */
interface Nf4Records {
  words: Int32Array;
  /** The same memory. */
  floats: Float32Array;
  /** Words of a record. */
  size: number;
  inputs: number;
}

/** Writes one column: row `row` of a quantised [outputs, inputs]. */
function writeColumn(
  { words, floats, size, inputs }: Nf4Records,
  quantized: Nf4Matrix,
  row: number,
  place: { panel: number; column: number },
): void {
  const { nibbles, absmaxCodes, absmaxScales, offset } = quantized;
  const { panel, column } = place;
  const blocks = inputs / NF4_BLOCK;
  let at = panel * size + (column >> 3);
  const shift = 4 * (column & 7);
  const first = (row * inputs) / 2;
  for (let i = first; i < first + inputs / 2; i++, at += 4) {
    words[at] |= (nibbles[i] >> 4) << shift;
    words[at + 2] |= (nibbles[i] & 15) << shift;
  }
  const codes = panel * size + 2 * inputs;
  for (let block = 0; block < blocks; block++)
    words[codes + 4 * block + (column >> 2)] |= absmaxCodes[row * blocks + block] << (8 * (column & 3));
  const group = Math.floor((row * blocks) / NF4_ABSMAX_BLOCK);
  const last = codes + 4 * blocks + column;
  words[last] = (group + 1) * NF4_ABSMAX_BLOCK - row * blocks;
  floats[last + PANEL_WIDTH] = absmaxScales[group];
  floats[last + 2 * PANEL_WIDTH] = absmaxScales[group + 1] ?? 0;
  floats[last + 3 * PANEL_WIDTH] = offset;
}

/**
 * Matrices [outputs, inputs], each quantised by itself, below one another: their transpose as panels.
 *
 * @param parts  the columns are so many equal parts, each padded to whole panels
 * @throws ShapeError  for inputs that are no multiple of 64, or so many that the blocks of a column lie in three groups
 */
export function nf4Panels(
  sources: readonly FloatRows[],
  inputs: number,
  outputs: number,
  parts: number,
): { words: Int32Array; panels: number } {
  const most = NF4_BLOCK * NF4_ABSMAX_BLOCK;
  if (inputs % NF4_BLOCK !== 0 || inputs > most)
    throw new ShapeError(`${inputs} inputs in NF4; expected a multiple of ${NF4_BLOCK}, at most ${most}`);
  const panels = panelsOf(outputs, parts);
  const size = 2 * inputs + inputs / 16 + 4 * PANEL_WIDTH;
  const words = new Int32Array(panels * size);
  const records = { words, floats: new Float32Array(words.buffer), size, inputs };
  let output = 0;
  for (const { rows, read } of sources) {
    const quantized = quantizeNf4(read(), [rows, inputs]);
    for (let row = 0; row < rows; row++, output++)
      writeColumn(records, quantized, row, placeOf(output, outputs, parts));
  }
  return { words, panels };
}
