import { isUtf8 } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { addAbortSignal, pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { DataError, messageOf } from '../runtime/errors';
import { errorCode, readFailure } from '../runtime/files';
import { hintOfLineEnds, parseJsonLine } from './json-line';
import { JsonlWriter } from './jsonl-writer';

/** How a JSONL file is read: what becomes of bad lines, limits, progress. */
export interface ReadJsonlOptions {
  /** Sets bad lines aside in `rejectedPath` with the reason, and goes on. Default: the first bad line throws. */
  skipInvalid?: boolean;
  /** Default: `train.rejected.jsonl` beside `train.jsonl`; `stdin.rejected.jsonl` here for standard input. */
  rejectedPath?: string;
  /** Longest line, default 16 MiB: the bound of the reader's memory. */
  maxLineBytes?: number;
  /** What `-` reads, default the process's standard input. */
  stdin?: Readable;
  /** Gets the source's bytes, piece by piece, before they are decompressed: for progress, a checksum, a copy. */
  onBytes?: (piece: Buffer) => void | Promise<void>;
  /** When it is aborted, reading stops at once and throws its reason. */
  signal?: AbortSignal;
}

/** A line of a JSONL file with its number. */
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
const CSV_REMEDY = 'Turn CSV into records with grpolab import.';
const NEWLINE = 0x0a;
/** Bytes read at a time. */
const PIECE_BYTES = 2 ** 18;

/** A line as it stands in the source, without its newline. */
export interface RawLine {
  /** from 1 */
  line: number;
  bytes: Buffer;
  /** longer than `maxLineBytes`: only the beginning is there */
  tooLong: boolean;
}

async function* watched(
  source: AsyncIterable<Buffer | string>,
  onBytes: NonNullable<ReadJsonlOptions['onBytes']>,
): AsyncGenerator<Buffer> {
  for await (const data of source) {
    const piece = typeof data === 'string' ? Buffer.from(data) : data;
    await onBytes(piece);
    yield piece;
  }
}

function openInput(path: string, { stdin = process.stdin, onBytes, signal }: ReadJsonlOptions): Readable {
  const source = path === '-' ? stdin : createReadStream(path, { highWaterMark: PIECE_BYTES });
  if (signal !== undefined) addAbortSignal(signal, source);
  const input =
    onBytes === undefined ? source : Readable.from(watched(source, onBytes), { objectMode: false });
  if (path === '-' || !path.endsWith('.gz')) return input;
  // The callback is there because pipeline wants one: the error also reaches whoever reads the last stream.
  return pipeline(input, createGunzip({ chunkSize: PIECE_BYTES }), () => {});
}

/** Lines of a byte stream, together those that end in one piece of it. */
async function* splitLines(
  input: AsyncIterable<Buffer | string>,
  maxLineBytes: number,
): AsyncGenerator<RawLine[]> {
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
  const bytes = () => (parts.length === 1 ? parts[0] : Buffer.concat(parts));
  for await (const data of input) {
    const chunk = typeof data === 'string' ? Buffer.from(data) : data;
    const lines: RawLine[] = [];
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      take(chunk.subarray(start, end));
      lines.push({ line: line++, bytes: bytes(), tooLong });
      [parts, size, tooLong, start] = [[], 0, false, end + 1];
    }
    if (start < chunk.length) take(chunk.subarray(start));
    if (lines.length > 0) yield lines;
  }
  if (size > 0) yield [{ line, bytes: bytes(), tooLong }];
}

function sourceName(path: string): string {
  return path === '-' ? 'stdin' : path;
}

/** Where the bad lines of a JSONL source go, unless another place is given. */
export function rejectedPathOf(path: string): string {
  return `${sourceName(path).replace(/(\.jsonl?)?(\.gz)?$/, '')}.rejected.jsonl`;
}

/**
 * The lines of a file, a `.gz` file, or `-` for standard input, blank ones too, as bytes and unchecked: many at a time,
 * since a million single steps of an asynchronous loop cost seconds.
 *
 * @throws DataError  while iterating, when the source cannot be read
 */
export async function* readLines(path: string, options: ReadJsonlOptions = {}): AsyncGenerator<RawLine[]> {
  try {
    yield* splitLines(openInput(path, options), options.maxLineBytes ?? MAX_LINE_BYTES);
  } catch (error) {
    options.signal?.throwIfAborted();
    const code = errorCode(error);
    if (code === '') throw error;
    const name = sourceName(path);
    if (code.startsWith('Z_')) {
      throw new DataError(
        `${name}: is not a whole gzip file (${messageOf(error)}). Compress or copy it again.`,
      );
    }
    throw new DataError(`${name}: ${readFailure(error)}.`);
  }
}

/** The file of rejected lines of a reader, made when there is one. */
export class SetAside {
  private writer: JsonlWriter | undefined;

  constructor(private readonly reader: { readonly name: string; readonly rejectedPath: string }) {}

  async write({ line, bytes, tooLong }: RawLine, reason: string): Promise<void> {
    const whole = bytes.toString('utf8').replace(/\r$/, '');
    const text = tooLong ? whole.slice(0, 1000) : whole;
    const rejected: RejectedLine = { file: this.reader.name, line, reason, text };
    if (!tooLong && !isUtf8(bytes)) rejected.base64 = bytes.toString('base64');
    this.writer ??= await JsonlWriter.open(this.reader.rejectedPath);
    await this.writer.write(rejected);
  }

  /** @param complete  false after an error or a break: what was set aside is not the whole list, and is not kept */
  async finish(complete: boolean): Promise<void> {
    if (complete) await this.writer?.commit();
    else await this.writer?.abort();
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
    this.name = sourceName(path);
    this.rejectedPath = options.rejectedPath ?? rejectedPathOf(path);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<JsonlLine<T>, void, undefined> {
    const setAside = new SetAside(this);
    let complete = false;
    try {
      for await (const lines of readLines(this.path, this.options)) {
        for (const raw of lines) {
          const result = this.parseLine(raw);
          if (result === undefined) continue;
          if ('value' in result) {
            yield { line: raw.line, value: result.value };
            continue;
          }
          if (!this.options.skipInvalid) {
            const remedy = /\.[ct]sv(\.gz)?$/i.test(this.name) ? CSV_REMEDY : REMEDY;
            throw new DataError(`${this.name}:${raw.line}: ${result.reason}. ${remedy}`);
          }
          await setAside.write(raw, result.reason);
          this.rejected++;
        }
      }
      complete = true;
    } finally {
      await setAside.finish(complete);
    }
  }

  private get maxLineBytes(): number {
    return this.options.maxLineBytes ?? MAX_LINE_BYTES;
  }

  /** The line's value, the reason why it has none, or undefined for a blank line. */
  private parseLine({ line, bytes, tooLong }: RawLine): { value: T } | { reason: string } | undefined {
    if (tooLong) {
      const hint = hintOfLineEnds(bytes.toString('latin1'));
      return {
        reason: `the line is longer than ${this.maxLineBytes} bytes; expected one record a line${hint}`,
      };
    }
    if (!isUtf8(bytes)) {
      const utf16 = line === 1 && (bytes[0] === 0xff || bytes[0] === 0xfe);
      return { reason: `the line is not UTF-8${utf16 ? ' but looks like UTF-16' : ''}; expected UTF-8` };
    }
    const whole = bytes.toString('utf8');
    const text = line === 1 ? whole.replace(/^\uFEFF/, '') : whole;
    if (text.trim() === '') return undefined;
    try {
      return { value: this.parse(parseJsonLine(text)) };
    } catch (error) {
      if (error instanceof DataError) return { reason: error.message };
      throw error;
    }
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
