import { isUtf8 } from 'node:buffer';
import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { DataError, messageOf } from '../runtime/errors';
import { errorCode, readFailure } from '../runtime/files';
import { JsonlWriter } from './jsonl-writer';

export interface ReadJsonlOptions {
  /** Sets bad lines aside in `rejectedPath` with the reason, and goes on. Default: the first bad line throws. */
  skipInvalid?: boolean;
  /** Default: `train.rejected.jsonl` beside `train.jsonl`; `stdin.rejected.jsonl` here for standard input. */
  rejectedPath?: string;
  /** Longest line, default 16 MiB: the bound of the reader's memory. */
  maxLineBytes?: number;
  /** What `-` reads, default the process's standard input. */
  stdin?: Readable;
}

export interface JsonlLine<T> {
  /** from 1, blank lines counted */
  line: number;
  value: T;
}

/** A line that was set aside, as it stands in the file of rejected lines. */
export interface RejectedLine {
  file: string;
  line: number;
  reason: string;
  /** The line; its first 1,000 characters where it is too long. */
  text: string;
  /** The bytes of a line that is not UTF-8, since `text` cannot hold them. */
  base64?: string;
}

const MAX_LINE_BYTES = 16 * 2 ** 20;
const REMEDY = 'Fix the line, or set such lines aside with skipInvalid (--skip-invalid).';
const NEWLINE = 0x0a;

interface RawLine {
  line: number;
  bytes: Buffer;
  tooLong: boolean;
}

function openInput(path: string, stdin: Readable): Readable {
  if (path === '-') return stdin;
  const file = createReadStream(path, { highWaterMark: 2 ** 18 });
  if (!path.endsWith('.gz')) return file;
  // The callback is there because pipeline wants one: the error also reaches whoever reads the last stream.
  return pipeline(file, createGunzip(), () => {});
}

/** Lines of a byte stream without their newline; of a line that is too long only its beginning is kept. */
async function* splitLines(
  input: AsyncIterable<Buffer | string>,
  maxLineBytes: number,
): AsyncGenerator<RawLine> {
  let line = 1;
  let parts: Buffer[] = [];
  let size = 0;
  let tooLong = false;
  const take = (piece: Buffer) => {
    if (size + piece.length <= maxLineBytes) parts.push(piece);
    else if (!tooLong) parts.push(piece.subarray(0, maxLineBytes - size));
    tooLong ||= size + piece.length > maxLineBytes;
    size += piece.length;
  };
  for await (const data of input) {
    const chunk = typeof data === 'string' ? Buffer.from(data) : data;
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      take(chunk.subarray(start, end));
      yield { line: line++, bytes: Buffer.concat(parts), tooLong };
      [parts, size, tooLong, start] = [[], 0, false, end + 1];
    }
    if (start < chunk.length) take(chunk.subarray(start));
  }
  if (size > 0) yield { line, bytes: Buffer.concat(parts), tooLong };
}

const LARGE_ID = /"((?:\w+_)?id)"\s*:\s*(\d{16,})(?=\s*[,}])/g;

/**
 * JSON.parse, but for ids of 16 digits and more written as numbers: they become strings, digit by digit, where a
 * number would round them and make two tweets one. (A quote inside a string is escaped, so texts cannot match.)
 */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text.replace(LARGE_ID, '"$1":"$2"'));
  } catch (error) {
    const reason = messageOf(error).replace(/\s+/g, ' ');
    throw new DataError(`not JSON (${reason}); expected one JSON object a line`);
  }
}

/**
 * The values of a JSONL source, read as a stream in constant memory: `for await (const { line, value } of reader)`.
 * Blank lines, CRLF and a byte-order mark are skipped. It can be read once.
 */
export class JsonlReader<T> implements AsyncIterable<JsonlLine<T>> {
  /** How messages name the source: its path, or `stdin`. */
  readonly name: string;
  /** Where rejected lines go. */
  readonly rejectedPath: string;
  /** Lines set aside so far; final when the iteration has ended. */
  rejected = 0;

  constructor(
    private readonly path: string,
    private readonly parse: (value: unknown) => T,
    private readonly options: ReadJsonlOptions,
  ) {
    this.name = path === '-' ? 'stdin' : path;
    this.rejectedPath =
      options.rejectedPath ?? `${this.name.replace(/(\.jsonl?)?(\.gz)?$/, '')}.rejected.jsonl`;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<JsonlLine<T>, void, undefined> {
    let setAside: JsonlWriter | undefined;
    let complete = false;
    try {
      for await (const raw of this.rawLines()) {
        const result = this.parseLine(raw);
        if (result === undefined) continue;
        if ('value' in result) {
          yield { line: raw.line, value: result.value };
          continue;
        }
        if (!this.options.skipInvalid) {
          throw new DataError(`${this.name}:${raw.line}: ${result.reason}. ${REMEDY}`);
        }
        setAside ??= await JsonlWriter.open(this.rejectedPath);
        await setAside.write(this.rejectedLine(raw, result.reason));
        this.rejected++;
      }
      complete = true;
    } finally {
      // Left early, by an error or a break: what was set aside so far is not the whole list, so it is not written.
      if (complete) await setAside?.commit();
      else await setAside?.abort();
    }
  }

  private async *rawLines(): AsyncGenerator<RawLine> {
    const input = openInput(this.path, this.options.stdin ?? process.stdin);
    try {
      yield* splitLines(input, this.maxLineBytes);
    } catch (error) {
      const code = errorCode(error);
      if (code === '') throw error;
      if (code.startsWith('Z_')) {
        throw new DataError(
          `${this.name}: is not a whole gzip file (${messageOf(error)}). Compress or copy it again.`,
        );
      }
      throw new DataError(`${this.name}: ${readFailure(error)}.`);
    }
  }

  private get maxLineBytes(): number {
    return this.options.maxLineBytes ?? MAX_LINE_BYTES;
  }

  /** The line's value, the reason why it has none, or undefined for a blank line. */
  private parseLine({ line, bytes, tooLong }: RawLine): { value: T } | { reason: string } | undefined {
    if (tooLong)
      return { reason: `the line is longer than ${this.maxLineBytes} bytes; expected one record a line` };
    if (!isUtf8(bytes)) {
      const utf16 = line === 1 && (bytes[0] === 0xff || bytes[0] === 0xfe);
      return { reason: `the line is not UTF-8${utf16 ? ' but looks like UTF-16' : ''}; expected UTF-8` };
    }
    const whole = bytes.toString('utf8');
    const text = line === 1 ? whole.replace(/^\uFEFF/, '') : whole;
    if (text.trim() === '') return undefined;
    try {
      return { value: this.parse(parseJson(text)) };
    } catch (error) {
      if (error instanceof DataError) return { reason: error.message };
      throw error;
    }
  }

  private rejectedLine({ line, bytes, tooLong }: RawLine, reason: string): RejectedLine {
    const text = bytes.toString('utf8').replace(/\r$/, '');
    const rejected: RejectedLine = {
      file: this.name,
      line,
      reason,
      text: tooLong ? text.slice(0, 1000) : text,
    };
    if (!tooLong && !isUtf8(bytes)) rejected.base64 = bytes.toString('base64');
    return rejected;
  }
}

/**
 * Reads JSONL from a file, a `.gz` file, or `-` for standard input.
 *
 * @param parse  checks one parsed line and gives its value; throws DataError (without the place) when it is bad
 * @throws DataError  while iterating: `file:line: what came; what was expected. Remedy`
 */
export function readJsonl<T>(
  path: string,
  parse: (value: unknown) => T,
  options: ReadJsonlOptions = {},
): JsonlReader<T> {
  return new JsonlReader(path, parse, options);
}
