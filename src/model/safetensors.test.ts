import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CheckpointError, DataError, NumericError, ShapeError } from '../runtime/errors';
import { openSafetensors } from './safetensors';
import { writeSafetensors } from './safetensors-writer';

let dir: string;
beforeAll(() => (dir = mkdtempSync(join(tmpdir(), 'safetensors-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A file made by hand: header text (padded as told) and data. */
function makeFile(header: unknown, data: Uint8Array, length?: bigint): string {
  const json = Buffer.isBuffer(header)
    ? header
    : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  const path = join(dir, 'made.safetensors');
  writeFileSync(path, Buffer.concat([prefix, json, data]));
  return path;
}

const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

function using<T>(path: string, use: (file: ReturnType<typeof openSafetensors>) => T): T {
  const file = openSafetensors(path);
  try {
    return use(file);
  } finally {
    file.close();
  }
}

describe('reading', () => {
  it('converts each type of number', () => {
    const parts: [string, string, ArrayBufferView, number[]][] = [
      ['f64', 'F64', new Float64Array([1.5, -(2 ** -40)]), [1.5, -(2 ** -40)]],
      ['f32', 'F32', new Float32Array([0.1]), [Math.fround(0.1)]],
      ['f16', 'F16', new Uint16Array([0x3c00, 0x8001]), [1, -(2 ** -24)]],
      ['bf16', 'BF16', new Uint16Array([0x3f80, 0xc040]), [1, -3]],
      ['i32', 'I32', new Int32Array([-7, 2 ** 30]), [-7, 2 ** 30]],
      ['i16', 'I16', new Int16Array([-300]), [-300]],
      ['u16', 'U16', new Uint16Array([65535]), [65535]],
      ['i8', 'I8', new Int8Array([-1]), [-1]],
      ['u8', 'U8', new Uint8Array([255]), [255]],
      ['bool', 'BOOL', new Uint8Array([1, 0]), [1, 0]],
    ];
    let offset = 0;
    const header: Record<string, unknown> = { __metadata__: { made: 'by hand' } };
    for (const [name, dtype, data, values] of parts) {
      const data_offsets = [offset, (offset += data.byteLength)];
      header[name] = { dtype, shape: [values.length], data_offsets };
    }
    const path = makeFile(header, Buffer.concat(parts.map(([, , data]) => bytesOf(data))));
    using(path, (file) => {
      expect(file.metadata).toEqual({ made: 'by hand' });
      for (const [name, dtype, data, values] of parts) {
        const float = dtype.includes('F');
        expect(Array.from(float ? file.read(name) : file.readIntegers(name)), name).toEqual(values);
        expect(file.readBytes(name)).toEqual(bytesOf(data));
        expect(() => (float ? file.readIntegers(name) : file.read(name))).toThrow(CheckpointError);
      }
      expect(() => file.read('none')).toThrow(/there is no tensor "none"/);
    });
  });

  it('reads scalars and empty tensors, and an empty file', () => {
    const header = {
      scalar: { dtype: 'F32', shape: [], data_offsets: [0, 4] },
      empty: { dtype: 'F32', shape: [3, 0], data_offsets: [4, 4] },
    };
    using(makeFile(header, bytesOf(new Float32Array([2.5]))), (file) => {
      expect(Array.from(file.read('scalar'))).toEqual([2.5]);
      expect(file.read('empty')).toHaveLength(0);
    });
    using(makeFile({}, new Uint8Array()), (file) => expect(file.tensors.size).toBe(0));
  });

  it('reads tensors larger than one piece', async () => {
    const values = Float32Array.from({ length: 9_000_001 }, (_, i) => (i % 251) - 125);
    const path = join(dir, 'large.safetensors');
    await writeSafetensors(path, new Map([['x', { shape: [values.length], data: values }]]), {
      dtype: 'BF16',
    });
    using(path, (file) => expect(Buffer.compare(bytesOf(file.read('x')), bytesOf(values))).toBe(0));
    rmSync(path);
  });
});

describe('a damaged file', () => {
  const good = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };
  const cases: [string, unknown, number, RegExp, bigint?][] = [
    [
      'is shorter than its header says',
      good,
      8,
      /header of at most \d+ bytes, found a length of 4000/,
      4000n,
    ],
    ['has an absurd header length', good, 8, /found a length of 18446744073709551615/, 2n ** 64n - 1n],
    ['is not JSON', '{"a": ', 8, /expected a JSON header/],
    ['is JSON but no object', '[1]', 8, /expected a JSON object as header, found \[1\]/],
    ['is not UTF-8', Buffer.from([0x22, 0xff, 0x22]), 8, /expected a JSON header.*(encod|UTF|utf)/],
    [
      'holds a name twice',
      `{"a":${JSON.stringify(good)},"\\u0061":${JSON.stringify(good)}}`,
      8,
      /"a" stands twice/,
    ],
    [
      'is nested too deeply',
      `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":${'['.repeat(200)}${']'.repeat(200)}}}`,
      8,
      /nested deeper than 100 levels/,
    ],
    ['is nested deeper than a stack', `{"a":${'['.repeat(1e5)}${']'.repeat(1e5)}}`, 8, /nested deeper/],
    ['has a long text for a shape', { a: { ...good, shape: 'x'.repeat(1e5) } }, 8, /found "x{79}\. The/],
    ['has metadata that are not strings', { __metadata__: { a: 1 } }, 0, /__metadata__/],
    ['has a tensor that is no object', { a: 3 }, 0, /tensor "a": expected an object, found 3/],
    [
      'has an unknown type',
      { a: { ...good, dtype: 'F31' } },
      8,
      /tensor "a": expected a dtype of F64.*found "F31"/,
    ],
    [
      'has a negative size',
      { a: { ...good, shape: [-2] } },
      8,
      /expected a shape of integers >= 0, found \[-2\]/,
    ],
    ['has a fractional size', { a: { ...good, shape: [0.5] } }, 8, /found \[0.5\]/],
    ['has no shape', { a: { dtype: 'F32', data_offsets: [0, 8] } }, 8, /found nothing/],
    ['has offsets the wrong way', { a: { ...good, data_offsets: [8, 0] } }, 8, /found \[8,0\]/],
    ['has negative offsets', { a: { ...good, data_offsets: [-8, 0] } }, 8, /found \[-8,0\]/],
    ['ends before its data', { a: good }, 6, /tensor "a": expected data up to byte 8, found only 6 bytes/],
    [
      'has sizes that disagree',
      { a: { ...good, shape: [3] } },
      8,
      /expected 12 bytes for F32 \[3\], found 8/,
    ],
    [
      'has overlapping tensors',
      { a: good, b: { ...good, data_offsets: [4, 12] } },
      12,
      /"a" and "b" overlap/,
    ],
    ['has a gap', { a: good, b: { ...good, data_offsets: [12, 20] } }, 20, /4 bytes before tensor "b"/],
    ['has bytes left over', { a: good }, 11, /3 bytes at the end belong to no tensor/],
  ];
  it.each(cases)('that %s is refused in one line', (_title, header, dataBytes, message, length) => {
    const path = makeFile(header, new Uint8Array(dataBytes), length);
    const open = () => openSafetensors(path).close();
    expect(open).toThrow(CheckpointError);
    expect(open).toThrow(message);
    expect(open).toThrow(path);
    expect(open).not.toThrow(/\n/);
  });

  it('never opens when any byte range of a good one is cut off', () => {
    const path = makeFile({ a: good }, new Uint8Array(8));
    const whole = readFileSync(path);
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(path, whole.subarray(0, length));
      expect(() => openSafetensors(path), String(length)).toThrow(CheckpointError);
    }
  });

  it('or a missing one, or a directory, is named', () => {
    expect(() => openSafetensors(join(dir, 'nowhere'))).toThrow(/nowhere: cannot be opened/);
    expect(() => openSafetensors(dir)).toThrow(CheckpointError);
  });
});

describe('writing', () => {
  const shape = fc.array(fc.nat({ max: 4 }), { maxLength: 3 });
  const tensor = shape.chain((sizes) => {
    const count = sizes.reduce((a, b) => a * b, 1);
    const values = fc.array(fc.float({ noNaN: true }), { minLength: count, maxLength: count });
    return values.map((data) => ({ shape: sizes, data: Float32Array.from(data) }));
  });

  it('is undone by reading, whatever the names and shapes', async () => {
    const name = fc.string({ minLength: 1 }).filter((text) => text !== '__metadata__');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(name, tensor)),
        fc.dictionary(fc.string(), fc.string()),
        async (list, metadata) => {
          const tensors = new Map(list);
          const path = join(dir, 'property.safetensors');
          await writeSafetensors(path, tensors, { metadata });
          using(path, (file) => {
            expect(new Set(file.tensors.keys())).toEqual(new Set(tensors.keys()));
            expect({ ...file.metadata }).toEqual({ ...metadata });
            for (const [key, { shape: sizes, data }] of tensors) {
              expect(file.info(key).shape).toEqual(sizes);
              expect(file.read(key)).toEqual(data);
            }
            for (const { offset } of file.tensors.values()) expect(offset % 4).toBe(0);
          });
        },
      ),
      { numRuns: 60, seed: 1 },
    );
  });

  it('gives the same bytes whatever the order of insertion, and makes late values once', async () => {
    let made = 0;
    const late = () => (made++, new Float32Array([3]));
    const entries: [string, { shape: number[]; data: Float32Array | (() => Float32Array) }][] = [
      ['b', { shape: [1], data: late }],
      ['a', { shape: [2], data: new Float32Array([1, 2]) }],
    ];
    const paths = ['first', 'second'].map((name) => join(dir, name));
    await writeSafetensors(paths[0], new Map(entries));
    await writeSafetensors(paths[1], new Map(entries.slice().reverse()));
    expect(readFileSync(paths[0])).toEqual(readFileSync(paths[1]));
    expect(made).toBe(2);
    expect(readFileSync(paths[0]).readBigUInt64LE() % 8n).toBe(0n);
  });

  it('leaves the old file and no other when it fails', async () => {
    const home = mkdtempSync(join(dir, 'home-'));
    const path = join(home, 'weights');
    writeFileSync(path, 'old');
    const huge = new Map([['x', { shape: [1], data: new Float32Array([1e6]) }]]);
    await expect(writeSafetensors(path, huge, { dtype: 'F16' })).rejects.toThrow(NumericError);
    const short = new Map([['x', { shape: [2], data: new Float32Array(1) }]]);
    await expect(writeSafetensors(path, short)).rejects.toThrow(ShapeError);
    const data = (): Float32Array => {
      throw new CheckpointError('source');
    };
    const broken = new Map([['x', { shape: [1], data }]]);
    await expect(writeSafetensors(path, broken)).rejects.toThrow('source');
    await expect(writeSafetensors(join(home, 'no', 'where'), new Map())).rejects.toThrow(DataError);
    expect(readdirSync(home)).toEqual(['weights']);
    expect(readFileSync(path, 'utf8')).toBe('old');
  });
});
