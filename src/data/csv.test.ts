import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DataError } from '../runtime/errors';
import type { CsvReader } from './csv';
import { idCell, readCsv, readCsvRecords } from './csv';
import { delimiterOf } from './import-rows';
import type { ReadJsonlOptions, RejectedLine } from './jsonl';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'grpolab-csv-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function file(name: string, content: string | Uint8Array): string {
  writeFileSync(join(directory, name), content);
  return join(directory, name);
}

async function collect<T>(reader: CsvReader<T>): Promise<{ line: number; value: T }[]> {
  const rows = [];
  for await (const row of reader) rows.push(row);
  return rows;
}

/** Rows as objects of texts, whatever their columns. */
async function texts(content: string | Uint8Array, options?: ReadJsonlOptions) {
  const layout = { required: [], optional: [], parse: (cells: Readonly<Record<string, string>>) => cells };
  return collect(readCsv(file('a.csv', content), layout, options));
}

const records = (content: string, options?: ReadJsonlOptions) =>
  collect(readCsvRecords(file('a.csv', content), options));

const HEADER = 'tweet_id,tweet,reply,reply_likes\n';

describe('readCsv', () => {
  it('keeps line ends and delimiters inside quotes, halves doubled quotes, and names the first line of a row', async () => {
    expect(await texts('\uFEFFa,b\r\n"1\r\n2\n3","x, ""y"""\r\n\n  \r\n4,\n"",5')).toEqual([
      { line: 2, value: { a: '1\r\n2\n3', b: 'x, "y"' } },
      { line: 7, value: { a: '4', b: '' } },
      { line: 8, value: { a: '', b: '5' } },
    ]);
  });

  it('gives back every text that was quoted, however the bytes are cut', async () => {
    const awkward = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom('"', '""', ',', '\r\n', '\n', '\r', ';\t', '🎉', 'שלום "עולם"', ' a ', '\0', '\uFEFF'),
    );
    const cell = fc.array(awkward, { maxLength: 4 }).map((parts) => parts.join(''));
    const table = fc.array(fc.tuple(cell, cell, cell), { minLength: 1, maxLength: 12 });
    const style = fc.record({
      delimiter: fc.constantFrom(',', ';', '\t'),
      end: fc.constantFrom('\n', '\r\n'),
      cut: fc.integer({ min: 1, max: 40 }),
      all: fc.boolean(),
    });
    const layout = {
      required: ['a'],
      optional: [],
      parse: (cells: Readonly<Record<string, string>>) => cells,
    };
    await fc.assert(
      fc.asyncProperty(table, style, async (rows, { delimiter, end, cut, all }) => {
        const quoted = (text: string) =>
          all || /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
        // A row of a few blanks would be a blank line: the first cell has a letter.
        const values = rows.map(([a, b, c]) => ({ a: `x${a}`, b, c }));
        const lines = [['a', 'b', 'c'], ...values.map(({ a, b, c }) => [a, b, c])];
        const csv = lines.map((cells) => cells.map(quoted).join(delimiter)).join(end);
        const bytes = Buffer.from(csv);
        const pieces = Array.from({ length: Math.ceil(bytes.length / cut) }, (_, i) =>
          bytes.subarray(i * cut, (i + 1) * cut),
        );
        const read = await collect(readCsv('-', layout, { stdin: Readable.from(pieces) }));
        expect(read.map(({ value }) => value)).toEqual(values);
      }),
      { numRuns: 300 },
    );
  });

  it.each([
    ['a,b;c,d', ','],
    ['a\tb\tc,d', '\t'],
    ['a;"b,c,d,e"', ';'],
    ['alone', ','],
  ])('finds the delimiter of %j in the header', (header, delimiter) => {
    expect(delimiterOf(header)).toBe(delimiter);
  });

  it('names a column without a name by its position, as a data frame writes its index', async () => {
    const [{ value }] = await texts(',a\n0,x');
    expect(value).toEqual({ column_1: '0', a: 'x' });
  });

  it.each([
    ['a,b\n1', /a\.csv:2: the row has 1 cells; expected 2/],
    ['a,b\n1,2\n3,4,5', /a\.csv:3: the row has 3 cells; expected 2/],
    ['a,b\n"x"y,2', /a\.csv:2: the row has text after the closing quote/],
    ['a,b\nx "y",2', /a\.csv:2: the row has a quote inside a cell/],
    ['a,a\n1,2', /the header has the column a twice/],
    ['a,"b"c\n1,2', /a\.csv:1: the header: the row has text after/],
    ['a,b\r1,2\r3,4', /lines end in CR alone/],
    ['', /a\.csv: is empty; expected a header line/],
    ['\n \r\n', /a\.csv: is empty/],
    [Buffer.from('a,b\n1,2', 'utf16le'), /is not a CSV file in UTF-8/],
    [Buffer.from([0x50, 0x4b, 0x03, 0x04, 0x80, 0x0a]), /is not a CSV file in UTF-8/],
    [gzipSync('a,b\n1,2'), /is not a CSV file in UTF-8.* must end in \.gz/],
  ])('refuses %j with one clear line', async (content, message) => {
    await expect(texts(content)).rejects.toThrow(message);
    await expect(texts(content)).rejects.toBeInstanceOf(DataError);
  });

  it('refuses a quote that is never closed with the line that opens it, skipped or not', async () => {
    const content = `a,b\n1,2\n"3,4\n${'5,6\n'.repeat(20)}`;
    await expect(texts(content)).rejects.toThrow(/a\.csv:3: a quote opens a cell that is not closed before/);
    await expect(texts(content, { skipInvalid: true })).rejects.toThrow(/a\.csv:3/);
    await expect(texts(content, { maxLineBytes: 30 })).rejects.toThrow(/a\.csv:3: the row is longer than 30/);
    expect(existsSync(join(directory, 'a.rejected.jsonl'))).toBe(false);
  });

  it('reads a cell of 100 kB and more', async () => {
    const long = 'quoted "word"\n'.repeat(30_000);
    const [{ value }, after] = await texts(`a,b\n1,"${long.replaceAll('"', '""')}"\n2,3`);
    expect(value.b).toBe(long);
    expect(after).toEqual({ line: 30_003, value: { a: '2', b: '3' } });
  });

  it('sets bad rows aside as they stand, without losing their neighbours', async () => {
    const good = (count: number) => '1,2\n'.repeat(count);
    const bad = Buffer.concat([Buffer.from('caf'), Buffer.from([0xe9]), Buffer.from(',x\r\n')]);
    const content = Buffer.concat([
      ...[Buffer.from(`a,b\n${good(50)}`), bad, Buffer.from(`${good(50)}"o\nk","k"k"\n3\n${good(9)}`)],
    ]);
    const rows = await texts(content, { skipInvalid: true });
    expect(rows).toHaveLength(109);
    const rejected = readFileSync(join(directory, 'a.rejected.jsonl'), 'utf8').trim().split('\n');
    const lines = rejected.map((line) => JSON.parse(line) as RejectedLine);
    expect(lines.map(({ line, reason }) => [line, reason])).toEqual([
      [52, 'the row is not UTF-8; expected UTF-8'],
      [103, expect.stringContaining('text after the closing quote') as string],
      [105, 'the row has 1 cells; expected 2, one for each column'],
    ]);
    expect(lines.map(({ text }) => text)).toEqual(['caf\uFFFD,x', '"o\nk","k"k"', '3']);
    expect(Buffer.from(lines[0].base64 as string, 'base64').subarray(0, 4)).toEqual(bad.subarray(0, 4));
    expect(lines[0].file).toBe(join(directory, 'a.csv'));
  });
});

describe('readCsvRecords', () => {
  it('makes numbers of numeric columns, missing values of empty cells, and keeps other columns as text', async () => {
    const header =
      'reply_likes;tweet_id;reply_id;tweet;reply;tweet_author;reply_time_diff_seconds;tweet_likes;note;rank';
    const row = '12.0;1234567890123456789;007;Tea?;Yes;;-1.5;;;3';
    const [{ value }] = await records(`${header}\n${row}`);
    expect(value).toEqual({
      ...{ tweet_id: '1234567890123456789', tweet: 'Tea?', tweet_likes: 0, tweet_retweets: 0 },
      ...{ reply_id: '007', reply: 'Yes', reply_likes: 12, reply_retweets: 0, reply_time_diff_seconds: -1.5 },
      ...{ note: '', rank: '3' },
    });
  });

  it('gives back records with awkward texts', async () => {
    const text = fc.string({ unit: 'binary', minLength: 1 }).filter((each) => /\S/u.test(each));
    const count = fc.nat();
    const record = fc.record({
      ...{ tweet_id: fc.bigInt({ min: 0n, max: 10n ** 19n }).map(String), tweet: text, tweet_author: text },
      ...{
        tweet_likes: count,
        tweet_retweets: count,
        tweet_created_at: text,
        reply_id: fc.uuid(),
        reply: text,
      },
      ...{ reply_author: text, reply_author_followers: count, reply_likes: count, reply_retweets: count },
      ...{ reply_created_at: text, reply_time_diff_seconds: fc.double({ min: -1e9, max: 1e9 }), note: text },
    });
    await fc.assert(
      fc.asyncProperty(fc.array(record, { minLength: 1, maxLength: 8 }), async (rows) => {
        const expected = rows.map((row) => ({
          ...row,
          // -0 is written "0" by everyone.
          reply_time_diff_seconds: row.reply_time_diff_seconds + 0,
        }));
        const cells = (values: readonly unknown[]) =>
          values.map((value) => `"${String(value).replaceAll('"', '""')}"`).join(',');
        const csv = [cells(Object.keys(rows[0])), ...expected.map((row) => cells(Object.values(row)))];
        const read = await collect(readCsvRecords('-', { stdin: Readable.from([csv.join('\r\n')]) }));
        expect(read.map(({ value }) => value)).toEqual(expected);
      }),
      { numRuns: 100 },
    );
  });

  it.each(['12k', 'NaN', '1.5', '-3', ' 7', '0x10', '1e999', '9007199254740993'])(
    'refuses %s likes and names the first line of the row',
    async (likes) => {
      const shown = ['1.5', '-3'].includes(likes) ? likes : `"${likes}"`;
      await expect(records(`${HEADER}1,a,b,0\n2,"a\nb",c,${likes}`)).rejects.toThrow(
        `a.csv:3: reply_likes is ${shown}; expected an integer >= 0. Fix the row, or set such rows aside with skipInvalid (--skip-invalid).`,
      );
    },
  );

  it('accepts counts as a floating-point library writes them', async () => {
    const rows = await records(`${HEADER}1,a,b,12.0\n2,a,b,1e3\n3,a,b,`);
    expect(rows.map(({ value }) => value.reply_likes)).toEqual([12, 1000, 0]);
  });

  it('takes white space around an id for no part of it, and refuses a blank id', async () => {
    const header = 'tweet_id,tweet,reply,reply_id\n';
    const [first, second] = await collect(readCsvRecords(file('a.csv', `${header}12,a,b,7\n" 12\t",a,b,\n`)));
    expect([first.value.tweet_id, second.value.tweet_id]).toEqual(['12', '12']);
    expect([idCell('id', ' 12.0 '), idCell('id', ' ')]).toEqual(['12', '']);
    for (const row of ['" ",a,b,7', '12,a,b," "']) {
      const read = collect(readCsvRecords(file('a.csv', `${header}${row}\n`)));
      await expect(read).rejects.toThrow(
        /a\.csv:2: (tweet|reply)_id is ""; expected a string that is not blank/,
      );
    }
  });

  it('refuses ids that a program has rounded, and takes short ones that were floats', async () => {
    expect(idCell('tweet_id', '119237.0')).toBe('119237');
    expect(idCell('tweet_id', '00012e')).toBe('00012e');
    for (const id of ['1.18602E+17', '9e+18', '1186021860218602112.0'])
      expect(() => idCell('tweet_id', id)).toThrow(`tweet_id is "${id}"; expected an id with all its digits`);
    await expect(records(`${HEADER}1.18602E+17,a,b,0`)).rejects.toThrow(/a\.csv:2: tweet_id is/);
  });

  it('names the missing columns, those that it found, and the nearest', async () => {
    await expect(records('tweet_id,Tweet,replies,extra\n1,a,b,c')).rejects.toThrow(
      'a.csv:1: the header has no column tweet (nearest: "Tweet"), reply (nearest: "replies"); found tweet_id, Tweet, replies, extra. Rename the columns.',
    );
  });

  it('says which column is likely misspelt, and nothing of other columns', async () => {
    const reader = readCsvRecords(
      file('a.csv', 'tweet_id,tweet,reply,Reply likes,tweet_like,lang\n1,a,b,2,3,en'),
    );
    await collect(reader);
    expect(reader.notices).toEqual([
      'column "Reply likes" is kept as text; was reply_likes meant?',
      'column "tweet_like" is kept as text; was tweet_likes meant?',
    ]);
  });

  it('names the file of rejected rows after a .csv, .tsv or .csv.gz', () => {
    const path = (name: string) => readCsvRecords(name).rejectedPath;
    expect(['a.csv', 'b/a.tsv', 'a.csv.gz', 'a.CSV', '-'].map(path)).toEqual(
      ['a', 'b/a', 'a', 'a', 'stdin'].map((name) => `${name}.rejected.jsonl`),
    );
  });

  it('reads gzip and says what is wrong with a missing or cut file', async () => {
    const bytes = gzipSync(`${HEADER}1,a,b,0\n`);
    expect(await collect(readCsvRecords(file('a.csv.gz', bytes)))).toHaveLength(1);
    const cut = readCsvRecords(file('b.csv.gz', bytes.subarray(0, 30)));
    await expect(collect(cut)).rejects.toThrow(/b\.csv\.gz: is not a whole gzip file/);
    await expect(collect(readCsvRecords(join(directory, 'no.csv')))).rejects.toThrow(/no such file/);
  });
});
