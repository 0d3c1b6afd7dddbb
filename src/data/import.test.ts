import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ConfigError, DataError } from '../runtime/errors';
import { importCsv, importTwcs } from './import';
import { threadsOf } from './import-threads';
import type { TwcsRecord, TwcsTweet } from './import-twcs';
import { TwcsTweets, twitterSeconds } from './import-twcs';
import { readRecords } from './records';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'grpolab-import-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const at = (name: string): string => join(directory, name);

function file(name: string, content: string): string {
  writeFileSync(at(name), content);
  return at(name);
}

function lines<T>(path: string): T[] {
  const bytes = readFileSync(path);
  const text = (path.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as T);
}

const CSV = 'tweet_id,tweet,reply,reply_likes\n1,Tea?,"Yes, ""green""",3\n2,Tea?,No,\n';
const TWCS_HEADER = 'tweet_id,author_id,inbound,created_at,text,response_tweet_id,in_response_to_tweet_id\n';
const date = (minute: number) => `Tue Oct 31 22:${String(minute).padStart(2, '0')}:47 +0000 2017`;

/** Rows of [id, author, minute, text, answers]. */
function twcs(rows: readonly (readonly [string, string, number, string, string])[]): string {
  const cells = rows.map(
    ([id, author, minute, text, answers]) => `${id},${author},True,${date(minute)},"${text}",,${answers}\n`,
  );
  return TWCS_HEADER + cells.join('');
}

describe('importCsv', () => {
  it.each(['out.jsonl', 'out.jsonl.gz'])('writes records that readRecords reads, to %s', async (name) => {
    const result = await importCsv(file('a.csv', CSV), at(name));
    expect(result).toMatchObject({ output: at(name), records: 2, rejected: { count: 0 }, notices: [] });
    const records = [];
    for await (const { value } of readRecords(at(name))) records.push(value);
    expect(records.map(({ tweet_id, reply, reply_likes }) => [tweet_id, reply, reply_likes])).toEqual([
      ['1', 'Yes, "green"', 3],
      ['2', 'No', 0],
    ]);
  });

  it('leaves an existing output as it was, and nothing else, when a row is bad', async () => {
    const [input, output] = [file('a.csv', `${CSV}3,x,,1\n`), file('out.jsonl', 'old')];
    await expect(importCsv(input, output)).rejects.toThrow(/a\.csv:4: reply is ""; expected a text/);
    expect(readFileSync(output, 'utf8')).toBe('old');
    expect(readdirSync(directory).sort()).toEqual(['a.csv', 'out.jsonl']);
  });

  it('sets bad rows aside and counts them', async () => {
    const result = await importCsv(file('a.csv', `${CSV}3,x,y,many\n`), at('out.jsonl'), {
      skipInvalid: true,
    });
    expect(result.rejected).toEqual({ count: 1, path: at('a.rejected.jsonl') });
    expect(lines(at('a.rejected.jsonl'))).toEqual([
      {
        ...{ file: at('a.csv'), line: 4, text: '3,x,y,many' },
        reason: 'reply_likes is "many"; expected an integer >= 0',
      },
    ]);
    expect(lines(at('out.jsonl'))).toHaveLength(2);
  });

  it.each([
    ['', /is empty/],
    ['tweet_id,tweet,reply\n', /has a header but no rows; expected at least one/],
    ['tweet_id,tweet,reply\n1,,\n', /has no valid row; all 1 were set aside in/],
  ])('refuses %j, which has no record, and writes none', async (content, message) => {
    const run = importCsv(file('a.csv', content), at('out.jsonl'), { skipInvalid: true });
    await expect(run).rejects.toThrow(message);
    expect(existsSync(at('out.jsonl'))).toBe(false);
  });

  it('refuses an output that is the input, its rejected rows, or not JSONL', async () => {
    const input = file('a.jsonl', CSV);
    symlinkSync(input, at('link.jsonl'));
    for (const name of ['a.jsonl', 'link.jsonl', 'a.jsonl.rejected.jsonl', 'out.csv', 'out', '-'])
      await expect(importCsv(input, at(name)), name).rejects.toThrow(ConfigError);
    expect(readFileSync(input, 'utf8')).toBe(CSV);
  });

  it('tells how many bytes it has read, of how many', async () => {
    const seen: unknown[] = [];
    const onProgress = (...args: unknown[]) => void seen.push(args);
    await importCsv(file('a.csv', CSV), at('out.jsonl'), { onProgress });
    expect(seen.at(-1)).toEqual(['read', CSV.length, CSV.length]);
    await importCsv('-', at('out.jsonl'), { onProgress, stdin: Readable.from([Buffer.from(CSV)]) });
    expect(seen.at(-1)).toEqual(['read', CSV.length, undefined]);
  });

  it('stops when it is aborted and leaves nothing behind', async () => {
    const abort = new AbortController();
    const onProgress = () => abort.abort(new Error('stopped'));
    const run = importCsv(file('a.csv', CSV), at('out.jsonl'), { onProgress, signal: abort.signal });
    await expect(run).rejects.toThrow('stopped');
    expect(readdirSync(directory)).toEqual(['a.csv']);
  });
});

describe('importTwcs', () => {
  const rows = [
    ['3', 'Shop', 5, 'Which one?', '2.0'],
    ['1', '115712', 0, 'Where is my order?', ''],
    ['4', '115712', 9, 'The blue one', '3'],
    ['2', 'Shop', 2, 'Hello, we look', '1'],
    ['6', 'Shop', 9, 'Hi', '99'],
  ] as const;

  it('makes a record of each answer whose tweet is in the file, before or after it', async () => {
    const result = await importTwcs(file('a.csv', twcs(rows)), at('out.jsonl'));
    const records = lines<TwcsRecord>(at('out.jsonl'));
    expect(records[2]).toEqual({
      ...{ tweet_id: '1', tweet: 'Where is my order?', tweet_author: '115712' },
      ...{ tweet_created_at: '2017-10-31T22:00:47Z', reply_id: '2', reply: 'Hello, we look' },
      ...{ reply_author: 'Shop', reply_created_at: '2017-10-31T22:02:47Z', reply_time_diff_seconds: 120 },
      ...{ thread_id: '1', turn: 1 },
    });
    const places = records.map(({ tweet_id, reply_id, thread_id, turn }) => [
      ...[tweet_id, reply_id, thread_id, turn],
    ]);
    expect(places).toEqual([
      ['2', '3', '1', 2],
      ['3', '4', '1', 3],
      ['1', '2', '1', 1],
    ]);
    expect(result.counts).toEqual({
      ...{ rows: 5, duplicate_ids: 0, blank_texts: 0, answers: 4, records: 3, answered_not_in_file: 1 },
      ...{ answers_with_blank_text: 0, answers_in_a_circle: 0, later_turns: 0 },
    });
    expect(result.notices).toEqual([expect.stringContaining('this format has no likes')]);
  });

  it('writes lines that are records', async () => {
    await importTwcs(file('a.csv', twcs(rows)), at('out.jsonl.gz'));
    const likes = [];
    for await (const { value } of readRecords(at('out.jsonl.gz'))) likes.push(value.reply_likes);
    expect(likes).toEqual([0, 0, 0]);
  });

  it('keeps only answers to first tweets when asked to', async () => {
    const result = await importTwcs(file('a.csv', twcs(rows)), at('out.jsonl'), { firstTurn: true });
    expect(lines<TwcsRecord>(at('out.jsonl')).map(({ reply_id }) => reply_id)).toEqual(['2']);
    expect(result.counts).toMatchObject({ records: 1, later_turns: 2 });
  });

  it('counts blank texts and duplicate ids, of which the first row stays', async () => {
    const content = twcs([
      ...[['1', 'a', 0, 'first', ''] as const, ['1', 'b', 0, 'second', ''] as const],
      ...[['2', 'a', 1, ' \n ', '1'] as const, ['3', 'b', 2, 'to a blank', '2'] as const],
      ['4', 'b', 2, 'to the first', '1'],
    ]);
    const { counts } = await importTwcs(file('a.csv', content), at('out.jsonl'));
    expect(counts).toMatchObject({ rows: 5, duplicate_ids: 1, blank_texts: 1, answers: 3, records: 1 });
    expect(counts.answers_with_blank_text).toBe(2);
    expect(lines<TwcsRecord>(at('out.jsonl'))[0].tweet).toBe('first');
  });

  it('leaves out what the file does not say', async () => {
    const content = `${TWCS_HEADER}1,,True,,Hello,2,\n2,Shop,False,${date(1)},Hi,,1\n`;
    await importTwcs(file('a.csv', content), at('out.jsonl'));
    expect(lines(at('out.jsonl'))).toEqual([
      {
        ...{ tweet_id: '1', tweet: 'Hello', reply_id: '2', reply: 'Hi', reply_author: 'Shop' },
        ...{ reply_created_at: '2017-10-31T22:01:47Z', thread_id: '1', turn: 1 },
      },
    ]);
  });

  it('refuses a file in which no row answers another, with what it has', async () => {
    const content = twcs([['1', 'a', 0, 'x', '7']]);
    const run = importTwcs(file('a.csv', content), at('out.jsonl'));
    await expect(run).rejects.toThrow(
      /has 1 rows, but none makes a record: 1 answer a tweet, 1 of them one that is/,
    );
    await expect(importTwcs(file('b.csv', TWCS_HEADER), at('out.jsonl'))).rejects.toThrow(/no rows/);
    expect(existsSync(at('out.jsonl'))).toBe(false);
  });

  it.each([
    [`,a,True,${date(1)},x,,`, 'tweet_id is ""; expected an id'],
    [`1,a,True,${date(1)},x,,1.19E+17`, 'in_response_to_tweet_id is "1.19E+17"; expected an id with all'],
    [
      '1,a,True,yesterday,x,,',
      'created_at is "yesterday"; expected a date like Tue Oct 31 22:10:47 +0000 2017',
    ],
  ])('refuses the row %s', async (row, message) => {
    const run = importTwcs(file('a.csv', `${TWCS_HEADER}${row}\n`), at('out.jsonl'));
    await expect(run).rejects.toThrow(`a.csv:2: ${message}`);
  });
});

describe('twitterSeconds', () => {
  it('reads the date with its offset', () => {
    expect(twitterSeconds('Tue Oct 31 22:10:47 +0000 2017')).toBe(Date.UTC(2017, 9, 31, 22, 10, 47) / 1000);
    expect(twitterSeconds('Wed Nov 01 00:10:47 +0200 2017')).toBe(Date.UTC(2017, 9, 31, 22, 10, 47) / 1000);
    expect(twitterSeconds('Tue Oct 31 17:40:47 -0430 2017')).toBe(Date.UTC(2017, 9, 31, 22, 10, 47) / 1000);
    expect(twitterSeconds('')).toBeNaN();
  });

  it.each([
    ...['Tue Nov 31 22:10:47 +0000 2017', 'Tue Foo 31 22:10:47 +0000 2017', '2017-10-31T22:10:47Z'],
    'Tue Oct 31 24:10:47 +0000 2017',
  ])('refuses %s', (cell) => {
    expect(() => twitterSeconds(cell)).toThrow(DataError);
  });
});

describe('threadsOf', () => {
  it('gives first row and turn of any forest, as walking up does', () => {
    const answered = fc
      .integer({ min: 1, max: 40 })
      .chain((count) =>
        fc.array(fc.integer({ min: -1, max: count - 1 }), { minLength: count, maxLength: count }),
      );
    fc.assert(
      fc.property(answered, (parents) => {
        const { first, turn } = threadsOf(parents);
        parents.forEach((_, row) => {
          const path = [row];
          for (let up = parents[row]; up !== -1 && !path.includes(up); up = parents[up]) path.push(up);
          const top = parents[path.at(-1) as number];
          // Walking up ends at a row that answers none, or runs into a circle: its smallest row is the first.
          const circle = top === -1 ? path.slice(-1) : path.slice(path.indexOf(top));
          const head = Math.min(...circle);
          expect([first[row], turn[row]]).toEqual([head, path.indexOf(head)]);
        });
      }),
      { numRuns: 500 },
    );
  });

  it('is linear: a chain of 200,000 answers, longest first', () => {
    const count = 200_000;
    const { first, turn } = threadsOf(
      Array.from({ length: count }, (_, row) => (row + 1 < count ? row + 1 : -1)),
    );
    expect([first[0], turn[0]]).toEqual([count - 1, count - 1]);
  });
});

describe('TwcsTweets', () => {
  it('accounts for every answer, circles and duplicates too', () => {
    const id = fc.integer({ min: 0, max: 12 }).map(String);
    const tweet: fc.Arbitrary<TwcsTweet> = fc.record({
      ...{ id, author: fc.string(), text: fc.constantFrom('a', 'b 🎉', ' '), createdSeconds: fc.nat() },
      answers: fc.oneof(fc.constant(''), id),
    });
    fc.assert(
      fc.property(fc.array(tweet, { maxLength: 30 }), fc.boolean(), (rows, firstTurn) => {
        const tweets = new TwcsTweets();
        for (const row of rows) tweets.add(row);
        const records = [...tweets.records(firstTurn)];
        const { counts } = tweets;
        const kept = rows.filter((row, i) => rows.findIndex((other) => other.id === row.id) === i);
        expect(counts.rows - counts.duplicate_ids).toBe(kept.length);
        expect(counts.records).toBe(records.length);
        expect(counts.answers).toBe(kept.filter(({ answers }) => answers !== '').length);
        const left =
          counts.answered_not_in_file + counts.answers_with_blank_text + counts.answers_in_a_circle;
        expect(counts.answers).toBe(records.length + left + counts.later_turns);
        for (const record of records) {
          const reply = kept.find((row) => row.id === record.reply_id);
          const answered = kept.find((row) => row.id === reply?.answers);
          expect([record.tweet_id, record.tweet]).toEqual([answered?.id, answered?.text]);
          expect([record.reply, record.reply_author ?? '']).toEqual([reply?.text, reply?.author]);
          expect(record.turn === 1).toBe(record.thread_id === record.tweet_id);
        }
      }),
      { numRuns: 300 },
    );
  });
});
