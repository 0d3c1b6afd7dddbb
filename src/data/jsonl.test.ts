import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { DataError, NumericError } from '../runtime/errors';
import type { JsonlReader, ReadJsonlOptions } from './jsonl';
import { readJsonl, readLines } from './jsonl';
import { JsonlWriter, writeJsonl } from './jsonl-writer';
import { readRecords } from './records';

const same = (value: unknown) => value;

async function collect<T>(reader: JsonlReader<T>): Promise<{ line: number; value: T }[]> {
  const lines = [];
  for await (const line of reader) lines.push(line);
  return lines;
}

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'grpolab-jsonl-'));
});

function file(name: string, content: string | Uint8Array): string {
  writeFileSync(join(directory, name), content);
  return join(directory, name);
}

async function read(content: string | Uint8Array, options?: ReadJsonlOptions) {
  return collect(readJsonl(file('a.jsonl', content), same, options));
}

describe('readJsonl', () => {
  it('skips a byte-order mark, blank lines and carriage returns, and counts physical lines', async () => {
    expect(await read('\uFEFF{"a":1}\r\n\r\n  \n{"a":2}\n3')).toEqual([
      { line: 1, value: { a: 1 } },
      { line: 4, value: { a: 2 } },
      { line: 5, value: 3 },
    ]);
    expect(await read('')).toEqual([]);
  });

  it('reads gzip by the ending of the name, several members too', async () => {
    const bytes = Buffer.concat([gzipSync('{"a":1}\n{"a"'), gzipSync(':2}\n')]);
    const lines = await collect(readJsonl(file('a.jsonl.gz', bytes), same));
    expect(lines.map(({ value }) => value)).toEqual([{ a: 1 }, { a: 2 }]);
  });

  it('reads standard input as -, cut anywhere, inside a character too', async () => {
    const bytes = Buffer.from('{"a":"é🎉"}\n{"a":2}\n');
    const stdin = Readable.from(Array.from(bytes, (byte) => Buffer.from([byte])));
    const lines = await collect(readJsonl('-', same, { stdin }));
    expect(lines.map(({ value }) => value)).toEqual([{ a: 'é🎉' }, { a: 2 }]);
    const bad = readJsonl('-', same, { stdin: Readable.from([Buffer.from('{}\n{')]) });
    await expect(collect(bad)).rejects.toThrow(/^stdin:2: not JSON/);
  });

  it('keeps every digit of a large id that is a number, and no digit of a text', async () => {
    const text = String.raw`{"tweet_id": 1234567890123456789, "tweet": "\"tweet_id\": 1234567890123456789,"}`;
    const [{ value }] = await read(text);
    expect(value).toEqual({ tweet_id: '1234567890123456789', tweet: '"tweet_id": 1234567890123456789,' });
  });

  it.each([
    [
      '{"user":1234567890123456789,"a":{"ids":[1234567890123456789, -1234567890123456789 ,1]}}',
      ['1234567890123456789', { ids: ['1234567890123456789', '-1234567890123456789', 1] }],
    ],
    ['{"safe":9007199254740991,"not":9007199254740992}', [9007199254740991, '9007199254740992']],
    ['{"a":0.1234567890123456789,"b":1234567890123456789.5}', [0.1234567890123456789, 1234567890123456789.5]],
    ['{"a":1234567890123456789e2,"b":1.5e-1234567890123456789}', [1234567890123456789e2, 0]],
    [
      String.raw`{"a\\":1234567890123456789,"b":"\\\": 1234567890123456789,"}`,
      ['1234567890123456789', '\\": 1234567890123456789,'],
    ],
  ])(
    'keeps the digits of integers that a double would round, and other numbers as they are: %s',
    async (text, expected) => {
      const [{ value }] = await read(text);
      expect(Object.values(value as object)).toEqual(expected);
    },
  );

  it('keeps the digits of any large integers between any texts', async () => {
    const digits = fc.bigInt({ min: 2n ** 53n, max: 10n ** 40n }).map(String);
    const texts = fc.oneof(
      fc.string(),
      fc.constantFrom('"', '\\', '\\"', ': 12345678901234567', '[12345678901234567,'),
    );
    const parts = fc.oneof(
      digits.map((value) => ({ value, bare: true })),
      texts.map((value) => ({ value, bare: false })),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(parts, { minLength: 1 }), async (list) => {
        const text = list.map(({ value, bare }) => (bare ? value : JSON.stringify(value))).join(', ');
        const [{ value }] = await read(`[${text}]`);
        expect(value).toEqual(list.map((part) => part.value));
      }),
      { numRuns: 300 },
    );
  });

  it('reads lines of 16 MB that are worst for large integers in little time', async () => {
    const fill = (unit: string) => unit.repeat(Math.floor((15 * 2 ** 20) / unit.length));
    const start = performance.now();
    for (const line of [
      `["${fill(String.raw`\" 1234567890123456 `)}"]`,
      `["${fill(String.raw`\\`)}", 12345678901234567]`,
      `["${fill('1')}", 12345678901234567]`,
      `[${fill('123456789012345678,')}1]`,
    ])
      expect(await read(line)).toHaveLength(1);
    // They take 1.3 s together; a quadratic search takes hours.
    expect(performance.now() - start).toBeLessThan(30_000);
  }, 60_000);

  it.each([
    [
      '{"a":1}\n{"b":{"c":[1,1e999]}}',
      /a\.jsonl:2: b\.c\.1 is Infinity, a number too large; expected a finite number\. Fix/,
    ],
    [`${'9'.repeat(400)}.5`, /a\.jsonl:1: the line is Infinity/],
    [
      `{"a":${'['.repeat(20_000)}${']'.repeat(20_000)}}`,
      /a\.jsonl:1: the line is nested deeper than 200 levels/,
    ],
    ['['.repeat(201) + ']'.repeat(201), /nested deeper than 200 levels/],
  ])('refuses the line of %s, which could be read but not written', async (content, message) => {
    await expect(read(content)).rejects.toThrow(message);
    await expect(read(content)).rejects.toThrow(DataError);
  });

  it('reads 200 levels, and sets deeper lines aside', async () => {
    const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
    const lines = await read(`${nested(200)}\n${nested(201)}\n${nested(3)}`, { skipInvalid: true });
    expect(lines.map(({ line }) => line)).toEqual([1, 3]);
  });

  it('asks for line feeds where lines end in a carriage return alone', async () => {
    const hint = /a\.jsonl:1: .*; do lines end in CR alone\? Convert them to LF\. /;
    await expect(read('{"a":1}\r{"a":2}\r')).rejects.toThrow(hint);
    await expect(read('{"a":1}\r{"a":2}\r', { maxLineBytes: 12 })).rejects.toThrow(hint);
    await expect(read('{"a":1}\r\n{"a":\r\n')).rejects.not.toThrow(hint);
    expect(await read('{"a":1}\r')).toHaveLength(1);
  });

  it('names file and line, what came, what was expected, and the remedy', async () => {
    const path = file(
      'train.jsonl',
      '{"tweet_id":1,"tweet":"a","reply":"b"}\n{"tweet_id":2,"tweet":"a","reply":"b","reply_likes":"12k"}',
    );
    await expect(collect(readRecords(path))).rejects.toThrow(
      new DataError(
        `${path}:2: reply_likes is "12k"; expected an integer >= 0. ` +
          'Fix the line, or set such lines aside with skipInvalid (--skip-invalid).',
      ),
    );
  });

  it.each([
    ['{"a": 12k}', /a\.jsonl:1: not JSON \(.*\); expected one JSON object a line\. Fix/],
    [Buffer.from([0x7b, 0xff, 0x7d]), /a\.jsonl:1: the line is not UTF-8; expected UTF-8\./],
    [Buffer.from('\uFEFF{"a":1}', 'utf16le'), /a\.jsonl:1: the line is not UTF-8 but looks like UTF-16/],
    [`{"a":"${'x'.repeat(100)}"}`, /a\.jsonl:1: the line is longer than 64 bytes/],
  ])('refuses %s', async (content, message) => {
    await expect(read(content, { maxLineBytes: 64 })).rejects.toThrow(message);
    await expect(read(content, { maxLineBytes: 64 })).rejects.toThrow(DataError);
  });

  it('says in one line that a file is missing, a directory, or a damaged gzip file', async () => {
    const missing = join(directory, 'none.jsonl');
    await expect(collect(readJsonl(missing, same))).rejects.toThrow(
      `${missing}: no such file. Check the path.`,
    );
    await expect(collect(readJsonl(`${missing}.gz`, same))).rejects.toThrow(/none\.jsonl\.gz: no such file/);
    await expect(collect(readJsonl(directory, same))).rejects.toThrow(/is a directory; expected a file/);
    const whole = gzipSync(Array.from({ length: 999 }, (_, i) => `{"a":${i}}\n`).join(''));
    const cut = file('cut.jsonl.gz', whole.subarray(0, whole.length / 2));
    await expect(collect(readJsonl(cut, same))).rejects.toThrow(/cut\.jsonl\.gz: is not a whole gzip file/);
    const plain = file('plain.jsonl.gz', '{"a":1}\n');
    await expect(collect(readJsonl(plain, same))).rejects.toThrow(/is not a whole gzip file/);
  });

  it('lets an error of the parser that is not about the data through as it is', async () => {
    const path = file('a.jsonl', '{}');
    const broken = () => {
      throw new TypeError('a bug');
    };
    await expect(collect(readJsonl(path, broken, { skipInvalid: true }))).rejects.toThrow(TypeError);
  });

  it('reads many lines without keeping them', async () => {
    const line = `{"a":"${'x'.repeat(1000)}"}\n`;
    const count = 200_000;
    async function* source() {
      for (let i = 0; i < count / 100; i++) yield Buffer.from(line.repeat(100));
    }
    let seen = 0;
    let [settled, peak] = [0, 0];
    for await (const { line: number } of readJsonl('-', same, { stdin: Readable.from(source()) })) {
      seen++;
      if (number % 5000 !== 0) continue;
      const { rss } = process.memoryUsage();
      // After the first tenth the heap has its working size.
      if (number === count / 10) settled = rss;
      peak = Math.max(peak, rss);
    }
    expect(seen).toBe(count);
    // 180 MB of text came after that.
    expect(peak - settled).toBeLessThan(90e6);
  });
});

describe('readLines', () => {
  it('gives the bytes of every line, blank and bad ones too, however the source is cut', async () => {
    const bytes = Buffer.from('\uFEFF{"a":1} \r\n\n\xffnonsense\nno newline', 'latin1');
    for (const size of [1, 5, 100]) {
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      );
      const lines = [];
      for await (const some of readLines('-', { stdin: Readable.from(pieces) })) lines.push(...some);
      expect(lines.map(({ line }) => line)).toEqual([1, 2, 3, 4]);
      expect(
        Buffer.concat(lines.flatMap((each) => [each.bytes, Buffer.from('\n')])).equals(
          Buffer.concat([bytes, Buffer.from('\n')]),
        ),
      ).toBe(true);
    }
  });

  it('shows every byte of the source as it stands in the file, before it is decompressed', async () => {
    const compressed = gzipSync('{"a":1}\n'.repeat(50_000));
    for (const [name, content] of [
      ['a.jsonl', Buffer.from('{"a":1}\n')],
      ['a.jsonl.gz', compressed],
    ] as const) {
      const pieces: Buffer[] = [];
      let count = 0;
      const onBytes = async (piece: Buffer) => void pieces.push(await Promise.resolve(piece));
      for await (const lines of readLines(file(name, content), { onBytes })) count += lines.length;
      expect(Buffer.concat(pieces).equals(content)).toBe(true);
      expect(count).toBe(name.endsWith('gz') ? 50_000 : 1);
    }
  });

  it('keeps the messages of a source that cannot be read while it shows the bytes', async () => {
    const onBytes = () => {};
    const missing = readJsonl(join(directory, 'none.jsonl.gz'), same, { onBytes });
    await expect(collect(missing)).rejects.toThrow(/none\.jsonl\.gz: no such file/);
    const cut = file('cut.jsonl.gz', gzipSync('{"a":1}\n'.repeat(99)).subarray(0, 30));
    await expect(collect(readJsonl(cut, same, { onBytes }))).rejects.toThrow(/is not a whole gzip file/);
  });

  it('stops with the reason of its signal, also while it waits for standard input', async () => {
    const controller = new AbortController();
    const stdin = new Readable({ read: () => {} });
    stdin.push('1\n');
    const reading = collect(readJsonl('-', same, { stdin, signal: controller.signal }));
    setTimeout(() => controller.abort(new Error('enough')), 20);
    await expect(reading).rejects.toThrow('enough');
    const path = file('a.jsonl.gz', gzipSync('1\n'));
    await expect(collect(readJsonl(path, same, { signal: controller.signal }))).rejects.toThrow('enough');
  });
});

describe('readJsonl with skipInvalid', () => {
  it('sets bad lines aside with their reason, counts them, and leaves the input alone', async () => {
    const content = Buffer.concat([
      Buffer.from('{"tweet_id":1,"tweet":"a","reply":"b"}\n{"tweet_id":2}\r\nnonsense\n'),
      Buffer.from([0x22, 0xff, 0x22, 0x0a]),
      Buffer.from(`"${'y'.repeat(3000)}"\n{"tweet_id":3,"tweet":"c","reply":"d"}`),
    ]);
    const path = file('train.jsonl', content);
    const reader = readRecords(path, { skipInvalid: true, maxLineBytes: 2000 });
    expect((await collect(reader)).map(({ value }) => value.tweet_id)).toEqual(['1', '3']);
    expect(reader.rejected).toBe(4);
    expect(reader.rejectedPath).toBe(join(directory, 'train.rejected.jsonl'));
    const rejected = readFileSync(reader.rejectedPath, 'utf8').trim().split('\n');
    expect(rejected.map((line) => JSON.parse(line) as unknown)).toMatchObject([
      { file: path, line: 2, reason: 'tweet is missing; expected a text', text: '{"tweet_id":2}' },
      { line: 3, reason: expect.stringContaining('not JSON') as string, text: 'nonsense' },
      { line: 4, base64: Buffer.from([0x22, 0xff, 0x22]).toString('base64') },
      { line: 5, reason: expect.stringContaining('longer than 2000 bytes') as string },
    ]);
    expect((JSON.parse(rejected[3]) as { text: string }).text).toHaveLength(1000);
    expect(readFileSync(path)).toEqual(content);
  });

  it('writes no file when no line is bad, or when the reading is left early', async () => {
    await read('{"a":1}\n', { skipInvalid: true });
    const reader = readJsonl(file('a.jsonl', 'bad\n1\n2\n'), same, { skipInvalid: true });
    for await (const { value } of reader) if (value === 1) break;
    expect(reader.rejected).toBe(1);
    expect(readdirSync(directory)).toEqual(['a.jsonl']);
  });
});

describe('JsonlWriter', () => {
  it('writes what the reader reads, plain and compressed', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.jsonValue({ noUnicodeString: false })),
        fc.boolean(),
        async (values, gz) => {
          const path = join(directory, gz ? 'a.jsonl.gz' : 'a.jsonl');
          expect(await writeJsonl(path, values)).toBe(values.length);
          const back = (await collect(readJsonl(path, same))).map(({ value }) => value);
          // Integers beyond 2^53 come back as their digits.
          const digits = (_: string, value: unknown) =>
            typeof value === 'number' && /^-?\d{16,}$/.test(String(value)) && !Number.isSafeInteger(value)
              ? String(value)
              : value;
          expect(back).toEqual(JSON.parse(JSON.stringify(values), digits));
        },
      ),
      { numRuns: 40 },
    );
  });

  it('writes more than its buffer holds', async () => {
    const values = Array.from({ length: 3000 }, (_, i) => ({ i, text: 'é'.repeat(200) }));
    for (const name of ['big.jsonl', 'big.jsonl.gz']) {
      const path = join(directory, name);
      await writeJsonl(path, values);
      expect((await collect(readJsonl(path, same))).map(({ value }) => value)).toEqual(values);
    }
  });

  it('leaves the old file and no other when a value fails or it is given up', async () => {
    const path = file('a.jsonl', 'old');
    await expect(writeJsonl(path, [{ a: 1 }, { a: NaN }])).rejects.toThrow(NumericError);
    const writer = await JsonlWriter.open(path);
    await writer.write({ a: 1 });
    await writer.abort();
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(directory)).toEqual(['a.jsonl']);
  });
});
