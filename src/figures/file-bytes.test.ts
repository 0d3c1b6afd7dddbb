import { crc32, deflateSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { GrpolabError } from '../runtime/errors';
import { withoutDates, withResolution } from './file-bytes';

function chunk(type: string, content: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), content]);
  const [length, checksum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(content.length);
  checksum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, checksum]);
}

/** One grey pixel. */
const PNG = Buffer.concat([
  Buffer.from('89504e470d0a1a0a', 'hex'),
  chunk('IHDR', Buffer.from('00000001000000010800000000', 'hex')),
  chunk('IDAT', deflateSync(Buffer.from([0, 128]))),
  chunk('IEND', Buffer.alloc(0)),
]);

describe('file bytes', () => {
  it('states 300 dpi as 11811 dots a metre right behind the header of a PNG', () => {
    const result = withResolution(PNG, 300);
    const density = Buffer.from('00002e2300002e2301', 'hex');
    expect(result.subarray(33, 33 + 21)).toEqual(chunk('pHYs', density));
    expect(Buffer.concat([result.subarray(0, 33), result.subarray(54)])).toEqual(PNG);
  });

  it('refuses bytes that are not a PNG', () => {
    expect(() => withResolution(Buffer.from('GIF89a'), 300)).toThrow(GrpolabError);
  });

  it('blanks both dates of a PDF without moving a byte', () => {
    const pdf = Buffer.from(
      "%PDF\n/CreationDate (D:20261123130743+00'00')\n/ModDate (D:20261123130743+00'00')\xff",
      'latin1',
    );
    const blanked = withoutDates(pdf);
    expect(blanked).toHaveLength(pdf.length);
    expect(blanked.toString('latin1')).toBe(
      "%PDF\n/CreationDate (D:20000101000000+00'00')\n/ModDate (D:20000101000000+00'00')\xff",
    );
  });
});
