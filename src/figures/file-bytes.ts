/** Small changes to the bytes of finished images, so that they carry their resolution and depend on nothing but the figure. */
import { crc32 } from 'node:zlib';
import { GrpolabError } from '../runtime/errors';

const PNG_SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
/** Signature, then the first chunk: IHDR with 13 bytes between length, type and checksum. */
const END_OF_IHDR = 8 + 12 + 13;
const INCHES_PER_METRE = 1 / 0.0254;

/**
 * The PNG with a `pHYs` chunk, so that programs place it at its printed size; a browser's screenshot has none.
 * @throws GrpolabError  when the bytes are not a PNG
 * Source: PNG specification (ISO/IEC 15948) 11.3.5.3.
 */
export function withResolution(png: Uint8Array, dotsPerInch: number): Buffer {
  const bytes = Buffer.from(png);
  const head = bytes.subarray(0, END_OF_IHDR);
  if (!head.subarray(0, 8).equals(PNG_SIGNATURE) || head.toString('latin1', 12, 16) !== 'IHDR') {
    throw new GrpolabError(
      'The browser gave something that is not a PNG image. Try another browser (GRPOLAB_CHROME).',
    );
  }
  const dotsPerMetre = Math.round(dotsPerInch * INCHES_PER_METRE);
  const chunk = Buffer.alloc(4 + 4 + 9 + 4);
  chunk.writeUInt32BE(9, 0);
  chunk.write('pHYs', 4, 'latin1');
  chunk.writeUInt32BE(dotsPerMetre, 8);
  chunk.writeUInt32BE(dotsPerMetre, 12);
  chunk.writeUInt8(1, 16);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, 17)), 17);
  return Buffer.concat([head, chunk, bytes.subarray(END_OF_IHDR)]);
}

/**
 * The PDF with its creation and modification dates set to the start of 2000: same length, so every offset in the
 * file stays right, and two exports of one figure are the same bytes.
 */
export function withoutDates(pdf: Uint8Array): Buffer {
  const text = Buffer.from(pdf).toString('latin1');
  const blanked = text.replace(/\/(CreationDate|ModDate) \(D:\d{14}/g, '/$1 (D:20000101000000');
  return Buffer.from(blanked, 'latin1');
}
