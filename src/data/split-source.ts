/** The input of the splitter: read once for the index, a second time for the lines. */
import { createHash } from 'node:crypto';
import { open, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { DataError, messageOf } from '../runtime/errors';
import { ensureDirectory, readFailure } from '../runtime/files';
import type { RawLine, ReadJsonlOptions } from './jsonl';
import { readLines } from './jsonl';
import { readRecords } from './records';
import type { SplitIndex } from './split-index';
import { SplitIndexBuilder } from './split-index';

/** The passes over the input: one that reads all records, one that copies their lines. */
export type SplitPass = 'read' | 'write';

export interface SourceOptions extends Omit<ReadJsonlOptions, 'onBytes'> {
  /** Gets the bytes of the input that a pass is through; the total is not known of standard input while it is read. */
  onProgress?: (pass: SplitPass, bytes: number, total: number | undefined) => void;
}

/** White space of JSON: space, tab, carriage return. */
const isBlank = (byte: number): boolean => byte === 0x20 || byte === 0x09 || byte === 0x0d;

/** The JSON value of a line: without white space around it, and without a byte-order mark on the first line. */
function trimmed({ line, bytes }: RawLine): Buffer {
  let start = line === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
  let end = bytes.length;
  while (start < end && isBlank(bytes[start])) start++;
  while (start < end && isBlank(bytes[end - 1])) end--;
  return bytes.subarray(start, end);
}

/** Bytes of a regular file; undefined of what can be read only once (standard input, a pipe). */
async function sizeOf(input: string): Promise<number | undefined> {
  if (input === '-') return undefined;
  try {
    const status = await stat(input);
    return status.isFile() || status.isDirectory() ? status.size : undefined;
  } catch (error) {
    throw new DataError(`${input}: ${readFailure(error)}.`);
  }
}

/** A copy of what can be read only once, beside the output: the second pass reads it. */
class Spool {
  private constructor(
    readonly path: string,
    private readonly handle: FileHandle,
  ) {}

  static async open(input: string, directory: string): Promise<Spool> {
    await ensureDirectory(directory);
    const path = join(directory, `.input.${process.pid}.tmp${input.endsWith('.gz') ? '.gz' : ''}`);
    try {
      return new Spool(path, await open(path, 'w'));
    } catch (error) {
      throw new DataError(`${path}: cannot be written (${messageOf(error)}). Choose another directory.`);
    }
  }

  async write(piece: Buffer): Promise<void> {
    try {
      await this.handle.writeFile(piece);
    } catch (error) {
      throw new DataError(
        `${this.path}: cannot be written (${messageOf(error)}). Free space, or give a file instead of a stream.`,
      );
    }
  }

  async remove(): Promise<void> {
    await this.handle.close();
    await rm(this.path, { force: true });
  }
}

/**
 * The input of a split, read twice: once for the index, once to copy its lines. What can be read only once is copied
 * to a temporary file meanwhile, until `close`.
 */
export class SplitSource {
  private readonly digests: Partial<Record<SplitPass, string>> = {};

  private constructor(
    private readonly input: string,
    private readonly options: SourceOptions,
    private size: number | undefined,
    private readonly spool: Spool | undefined,
  ) {}

  static async open(input: string, directory: string, options: SourceOptions): Promise<SplitSource> {
    const size = await sizeOf(input);
    return new SplitSource(
      input,
      options,
      size,
      size === undefined ? await Spool.open(input, directory) : undefined,
    );
  }

  /** What to read in a pass, and a function that ends it. */
  private pass(pass: SplitPass): { path: string; options: ReadJsonlOptions; end: () => void } {
    const hash = createHash('sha256');
    let bytes = 0;
    const onBytes = async (piece: Buffer) => {
      hash.update(piece);
      bytes += piece.length;
      this.options.onProgress?.(pass, bytes, this.size);
      if (pass === 'read') await this.spool?.write(piece);
    };
    const end = () => {
      this.digests[pass] = hash.digest('hex');
      this.size = bytes;
    };
    const path = pass === 'write' && this.spool !== undefined ? this.spool.path : this.input;
    return { path, options: { ...this.options, onBytes }, end };
  }

  /** Reads and checks every record. @throws DataError  when a line is bad, or there is none */
  async index(): Promise<{ index: SplitIndex; rejected: { count: number; path: string } }> {
    const { path, options, end } = this.pass('read');
    const reader = readRecords(path, options);
    const builder = new SplitIndexBuilder();
    for await (const { value, line } of reader) builder.add(value, line);
    end();
    const index = builder.finish();
    if (index.engagement.length === 0) {
      const { name, rejected, rejectedPath } = reader;
      const why =
        rejected === 0
          ? 'expected at least 2 tweets with replies'
          : `all ${rejected} lines were set aside in ${rejectedPath}`;
      throw new DataError(`${name}: has no valid record; ${why}.`);
    }
    return { index, rejected: { count: reader.rejected, path: reader.rejectedPath } };
  }

  /**
   * The lines of an index, in pieces, each with its row.
   * @throws DataError  at the end, when the input is not what it was in the first pass
   */
  async *lines(index: SplitIndex): AsyncGenerator<{ row: number; bytes: Buffer }[]> {
    const { path, options, end } = this.pass('write');
    let row = 0;
    for await (const lines of readLines(path, options)) {
      const rows = [];
      for (const line of lines) {
        // A line that is not the next row's is blank, or was set aside.
        if (line.line === index.line[row]) rows.push({ row: row++, bytes: trimmed(line) });
      }
      yield rows;
    }
    end();
    options.signal?.throwIfAborted();
    if (this.digests.read === this.digests.write) return;
    throw new DataError(
      `${this.input}: changed while it was split; nothing was written. Split it when no program writes to it.`,
    );
  }

  async close(): Promise<void> {
    await this.spool?.remove();
  }
}
