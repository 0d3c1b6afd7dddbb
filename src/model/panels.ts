/** The layout of matrices as panels of 16 columns that is not made by the binding: that of NF4 (native/nf4.h). */
import { ConfigError } from '../runtime/errors';
import type { Nf4Matrix } from './nf4';
import { NF4_ABSMAX_BLOCK, NF4_BLOCK, quantizeNf4 } from './nf4';

/** Columns of a panel. */
export const PANEL_WIDTH = 16;

/** A matrix [rows, inputs] of a file, row-major. */
export interface FloatRows {
  rows: number;
  read: () => Float32Array;
}

/** The records of panels, one after the other. */
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
 * @throws ConfigError  for inputs that are no multiple of 64, or so many that the blocks of a column lie in three groups
 */
export function nf4Panels(
  sources: readonly FloatRows[],
  inputs: number,
  outputs: number,
  parts: number,
): { words: Int32Array; panels: number } {
  const most = NF4_BLOCK * NF4_ABSMAX_BLOCK;
  if (inputs % NF4_BLOCK !== 0 || inputs > most)
    throw new ConfigError(
      `nf4 needs projections whose inputs are a multiple of ${NF4_BLOCK} and at most ${most}, this model has one of ${inputs}: ` +
        'use bfloat16',
    );
  const width = outputs / parts;
  const each = Math.ceil(width / PANEL_WIDTH);
  const size = 2 * inputs + inputs / 16 + 4 * PANEL_WIDTH;
  const words = new Int32Array(parts * each * size);
  const records = { words, floats: new Float32Array(words.buffer), size, inputs };
  let output = 0;
  for (const { rows, read } of sources) {
    const quantized = quantizeNf4(read(), [rows, inputs]);
    for (let row = 0; row < rows; row++, output++) {
      const inPart = output % width;
      const panel = Math.floor(output / width) * each + Math.floor(inPart / PANEL_WIDTH);
      writeColumn(records, quantized, row, { panel, column: inPart % PANEL_WIDTH });
    }
  }
  return { words, panels: parts * each };
}
