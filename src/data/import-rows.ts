/** Rows of a CSV file: which lines belong to a row, and its cells. */
import { isUtf8 } from 'node:buffer';
import { CsvError, parse } from 'csv-parse/sync';
import { DataError } from '../runtime/errors';
import type { RawLine, ReadJsonlOptions } from './jsonl';
import { readLines } from './jsonl';

interface RawRow {
  /** of its first line, from 1 */
  line: number;
  /** its lines as they stand in the file, without the last newline */
  bytes: Buffer;
}

/** A row with its cells, or with the reason why it has none. */
export type CsvRow = RawRow & ({ cells: string[] } | { reason: string });

const MAX_ROW_BYTES = 16 * 2 ** 20;
const [QUOTE, NUL, SPACE, CARRIAGE_RETURN] = [0x22, 0x00, 0x20, 0x0d];
const NEWLINE = Buffer.from('\n');
const BYTE_ORDER_MARK = Buffer.from('\uFEFF');
const DELIMITERS = [',', '\t', ';'];
const BAD_QUOTES: Record<string, string> = {
  CSV_INVALID_CLOSING_QUOTE: 'has text after the closing quote of a cell',
  INVALID_OPENING_QUOTE: 'has a quote inside a cell that does not begin with one',
};

/** The delimiter that the header has most often outside quotes: comma, tab or semicolon; comma where it has none. */
export function delimiterOf(header: string): string {
  const bare = header.replace(/"[^"]*"?/g, '');
  const counts = DELIMITERS.map((delimiter) => bare.split(delimiter).length - 1);
  return DELIMITERS[counts.indexOf(Math.max(...counts))];
}

/**
 * Whether a quoted cell is open at the end of a line, i.e. the row goes on in the next one. A quote opens a cell at its
 * beginning only; two in a row stand for one.
 *
 * @param open  whether one is open at the beginning
 */
function quotedAtEnd(line: Buffer, delimiter: number, open: boolean): boolean {
  for (let at = 0; ;) {
    if (open) {
      at = line.indexOf(QUOTE, at);
      if (at === -1) return true;
      open = line[at + 1] === QUOTE;
      at += open ? 2 : 1;
    } else if (line[at] === QUOTE) {
      open = true;
      at++;
    } else {
      at = line.indexOf(delimiter, at) + 1;
      if (at === 0) return false;
    }
  }
}

/** The cells of each row. Rows go through the parser together; a bad one is found by halving. */
function parseCells(rows: readonly RawRow[], delimiter: string): CsvRow[] {
  if (rows.length === 0) return [];
  const bytes = Buffer.concat(rows.flatMap((row) => [row.bytes, NEWLINE]));
  let reason = 'is not UTF-8; expected UTF-8';
  if (isUtf8(bytes)) {
    try {
      const parsed = parse(bytes, {
        delimiter,
        record_delimiter: ['\r\n', '\n'],
        relax_column_count: true,
      });
      return rows.map((row, i) => ({ ...row, cells: parsed[i] }));
    } catch (error) {
      if (!(error instanceof CsvError)) throw error;
      const what = BAD_QUOTES[error.code] ?? `cannot be parsed (${error.message})`;
      reason = `${what}; expected a cell with quotes to stand in quotes, each of its own doubled`;
    }
  }
  if (rows.length === 1) return [{ ...rows[0], reason: `the row ${reason}` }];
  const middle = rows.length >> 1;
  return [...parseCells(rows.slice(0, middle), delimiter), ...parseCells(rows.slice(middle), delimiter)];
}

const isBlank = (bytes: Buffer): boolean => bytes.every((byte) => byte === SPACE || byte === CARRIAGE_RETURN);

/** Joins lines to rows. The first line that is not blank is the header and decides on the delimiter. */
class RowJoiner {
  delimiter: string | undefined;
  private parts: Buffer[] = [];
  private size = 0;
  private firstLine = 0;

  constructor(
    private readonly name: string,
    private readonly maxBytes: number,
  ) {}

  /** @returns the row that ends with this line, if one does */
  add({ line, bytes: whole, tooLong }: RawLine): RawRow | undefined {
    const hasMark = line === 1 && whole.subarray(0, 3).equals(BYTE_ORDER_MARK);
    const bytes = hasMark ? whole.subarray(3) : whole;
    const begins = this.parts.length === 0;
    if (begins && isBlank(bytes)) return undefined;
    this.delimiter ??= this.readHeader(bytes, tooLong);
    if (begins) [this.firstLine, this.size] = [line, 0];
    this.parts.push(...(begins ? [] : [NEWLINE]), bytes);
    this.size += bytes.length + 1;
    if (tooLong || this.size > this.maxBytes) {
      const remedy = 'a cell whose quote is not closed? Close it: such a row cannot be set aside';
      throw this.error(`the row is longer than ${this.maxBytes} bytes; ${remedy}`);
    }
    if (quotedAtEnd(bytes, this.delimiter.charCodeAt(0), !begins)) return undefined;
    const row = { line: this.firstLine, bytes: begins ? bytes : Buffer.concat(this.parts) };
    this.parts = [];
    return row;
  }

  /** @throws DataError  when the last row has not ended */
  end(): void {
    if (this.parts.length === 0) return;
    throw this.error(
      'a quote opens a cell that is not closed before the end of the file. Close it, or double the quotes in the cell: such a row cannot be set aside',
    );
  }

  private error(problem: string): DataError {
    return new DataError(`${this.name}:${this.firstLine}: ${problem}.`);
  }

  private readHeader(bytes: Buffer, tooLong: boolean): string {
    if (tooLong || bytes.includes(NUL) || !isUtf8(bytes)) {
      throw new DataError(
        `${this.name}: is not a CSV file in UTF-8 (its first line is binary, UTF-16 or too long). Export it again; the name of a compressed file must end in .gz.`,
      );
    }
    return delimiterOf(bytes.toString('utf8'));
  }
}

/**
 * The rows of a CSV file, the header first, many at a time and in constant memory. The delimiter is found in the
 * header; line ends may be LF and CRLF mixed, also inside quotes, where they are kept; blank lines and a byte-order
 * mark are skipped. A bad row does not hide the next one.
 *
 * @param name  of the source, for messages
 * @throws DataError  while iterating: not a text file, or a quote that is never closed
 */
export async function* readCsvRows(
  path: string,
  name: string,
  options: ReadJsonlOptions = {},
): AsyncGenerator<CsvRow[]> {
  const maxLineBytes = options.maxLineBytes ?? MAX_ROW_BYTES;
  const joiner = new RowJoiner(name, maxLineBytes);
  for await (const lines of readLines(path, { ...options, maxLineBytes })) {
    const rows: RawRow[] = [];
    for (const line of lines) {
      const row = joiner.add(line);
      if (row !== undefined) rows.push(row);
    }
    if (rows.length > 0) yield parseCells(rows, joiner.delimiter as string);
  }
  joiner.end();
}
