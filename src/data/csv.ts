import { DataError } from '../runtime/errors';
import { editDistance, nearest } from '../runtime/strict';
import type { CsvRow } from './import-rows';
import { readCsvRows } from './import-rows';
import type { JsonlLine, ReadJsonlOptions } from './jsonl';
import { SetAside } from './jsonl';
import type { TweetRecord } from './records';
import { parseRecord } from './records';

/** Cells of a row by the name of their column. */
export type Cells = Readonly<Record<string, string>>;

/** What a CSV file must be to give values. */
export interface CsvLayout<T> {
  required: readonly string[];
  /** other columns that mean something */
  optional: readonly string[];
  /** the value of a row; throws DataError (without the place) when it is bad */
  parse: (cells: Cells) => T;
}

const REMEDY = 'Fix the row, or set such rows aside with skipInvalid (--skip-invalid).';

/** At most this many characters of a header are shown. */
const SHOWN = 200;

/** A column that has a name almost like one that is not there: likely misspelt, and silently without effect. */
function misspelt(names: readonly string[], absent: readonly string[]): string[] {
  return names.flatMap((name) => {
    const plain = name.toLowerCase().replace(/[\s-]/g, '_');
    const meant = absent.find((known) => editDistance(plain, known) <= 2);
    return meant === undefined ? [] : [`column ${JSON.stringify(name)} is kept as text; was ${meant} meant?`];
  });
}

/**
 * The values of a CSV source, read as a stream in constant memory: `for await (const { line, value } of reader)`, the
 * line being the first of the row. A column without a name is called `column_N`, N from 1. It can be read once.
 */
export class CsvReader<T> implements AsyncIterable<JsonlLine<T>> {
  /** How messages name the source: its path, or `stdin`. */
  readonly name: string;
  /** Where rejected rows go. */
  readonly rejectedPath: string;
  /** Rows set aside so far; final when the iteration has ended. */
  rejected = 0;
  /** What a user should know about the columns; there when the first value is. */
  readonly notices: string[] = [];

  constructor(
    private readonly path: string,
    private readonly layout: CsvLayout<T>,
    private readonly options: ReadJsonlOptions,
  ) {
    this.name = path === '-' ? 'stdin' : path;
    this.rejectedPath =
      options.rejectedPath ?? `${this.name.replace(/(\.(csv|tsv|txt))?(\.gz)?$/i, '')}.rejected.jsonl`;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<JsonlLine<T>, void, undefined> {
    const setAside = new SetAside(this);
    let columns: string[] | undefined;
    let complete = false;
    try {
      for await (const rows of readCsvRows(this.path, this.name, this.options)) {
        for (const row of rows) {
          if (columns === undefined) {
            columns = this.readHeader(row);
            continue;
          }
          const result = this.parseRow(row, columns);
          if ('value' in result) {
            yield { line: row.line, value: result.value };
            continue;
          }
          if (!this.options.skipInvalid)
            throw new DataError(`${this.name}:${row.line}: ${result.reason}. ${REMEDY}`);
          await setAside.write({ line: row.line, bytes: row.bytes, tooLong: false }, result.reason);
          this.rejected++;
        }
      }
      if (columns === undefined) {
        throw new DataError(
          `${this.name}: is empty; expected a header line with ${this.layout.required.join(', ')}.`,
        );
      }
      complete = true;
    } finally {
      await setAside.finish(complete);
    }
  }

  /** The names of the columns. @throws DataError  when one is there twice, or a required one is missing */
  private readHeader(row: CsvRow): string[] {
    const place = `${this.name}:${row.line}: the header`;
    if ('reason' in row) throw new DataError(`${place}: ${row.reason}. Fix the header.`);
    const names = row.cells.map((cell, i) => cell.trim() || `column_${i + 1}`);
    if (names.some((name) => name.includes('\r')))
      throw new DataError(`${place} has a carriage return: do lines end in CR alone? Convert them to LF.`);
    const { required, optional } = this.layout;
    const unknown = names.filter((name) => ![...required, ...optional].includes(name));
    const missing = required.filter((name) => !names.includes(name));
    if (missing.length > 0) {
      const lacks = missing.map((name) => {
        const guess = nearest(name, unknown);
        return guess === undefined ? name : `${name} (nearest: ${JSON.stringify(guess).slice(0, SHOWN)})`;
      });
      const found = names.join(', ');
      const shown = found.length <= SHOWN ? found : `${found.slice(0, SHOWN)}...`;
      throw new DataError(`${place} has no column ${lacks.join(', ')}; found ${shown}. Rename the columns.`);
    }
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined)
      throw new DataError(`${place} has the column ${twice} twice; expected it once. Rename one.`);
    const absent = optional.filter((name) => !names.includes(name));
    this.notices.push(...misspelt(unknown, absent));
    return names;
  }

  private parseRow(row: CsvRow, columns: readonly string[]): { value: T } | { reason: string } {
    if ('reason' in row) return { reason: row.reason };
    const { cells } = row;
    if (cells.length !== columns.length)
      return { reason: `the row has ${cells.length} cells; expected ${columns.length}, one for each column` };
    try {
      return { value: this.layout.parse(Object.fromEntries(columns.map((name, i) => [name, cells[i]]))) };
    } catch (error) {
      if (error instanceof DataError) return { reason: error.message };
      throw error;
    }
  }
}

/**
 * Reads CSV from a file, a `.gz` file, or `-` for standard input: quoted as in RFC 4180, separated by comma, tab or
 * semicolon as the header shows, in UTF-8.
 *
 * @throws DataError  while iterating: `file:line: what came; what was expected. Remedy`
 */
export function readCsv<T>(path: string, layout: CsvLayout<T>, options: ReadJsonlOptions = {}): CsvReader<T> {
  return new CsvReader(path, layout, options);
}

/**
 * An id's digits. A library that holds ids as floating-point numbers writes `12.0`, which is 12 while a double still
 * has every digit; longer ids and those of spreadsheets (`1.19E+17`) have lost theirs, and two tweets may look like one.
 *
 * @returns the id without white space around it; '' of a blank cell
 * @throws DataError  when digits are lost
 */
export function idCell(name: string, text: string): string {
  const cell = text.trim();
  const float = /^(\d+)\.0+$/.exec(cell);
  if (float !== null && float[1].length <= 15) return float[1];
  if (float !== null || /^\d+(\.\d+)?[eE]\+?\d+$/.test(cell)) {
    throw new DataError(
      `${name} is "${cell}"; expected an id with all its digits, not a number that a program has rounded`,
    );
  }
  return cell;
}

/** The number that a cell spells in decimal, or the cell as it is, which the record's schema then refuses. */
function numberCell(cell: string): number | string {
  const value = /^[+-]?\d+(\.\d+)?([eE][+-]?\d+)?$/.test(cell) ? Number(cell) : NaN;
  return Math.abs(value) <= Number.MAX_SAFE_INTEGER ? value : cell;
}

const REQUIRED = ['tweet_id', 'tweet', 'reply'];
const TEXTS = ['tweet_author', 'tweet_created_at', 'reply_author', 'reply_created_at'];
const NUMBERS = [
  ...['tweet_likes', 'tweet_retweets', 'reply_author_followers', 'reply_likes', 'reply_retweets'],
  'reply_time_diff_seconds',
];

function parseCells(cells: Cells): TweetRecord {
  const record: Record<string, unknown> = { ...cells };
  for (const name of [...TEXTS, ...NUMBERS, 'reply_id']) if (cells[name] === '') delete record[name];
  for (const name of NUMBERS) if (name in record) record[name] = numberCell(cells[name]);
  for (const name of ['tweet_id', 'reply_id']) if (name in record) record[name] = idCell(name, cells[name]);
  return parseRecord(record);
}

/**
 * Reads records from a CSV file with the columns tweet_id, tweet and reply, and any others of `TweetRecord`: an empty
 * cell of those is a missing value, numbers must be numbers, ids stay texts. Columns that are not of a record are kept
 * as text.
 */
export function readCsvRecords(path: string, options: ReadJsonlOptions = {}): CsvReader<TweetRecord> {
  const optional = [...TEXTS, ...NUMBERS, 'reply_id'];
  return readCsv(path, { required: REQUIRED, optional, parse: parseCells }, options);
}
