import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { AtomicFile, strictJson } from '../runtime/files';

const compress = promisify(gzip);

/** Characters gathered before they are written. */
const BUFFER_SIZE = 2 ** 18;

/**
 * Writes JSONL, compressed when the name ends in `.gz`, in constant memory and atomically: nothing is seen under the
 * name before `commit`, and `abort` leaves what was there.
 */
export class JsonlWriter {
  private lines: string[] = [];
  private size = 0;
  /** lines written */
  count = 0;

  private constructor(
    private readonly file: AtomicFile,
    private readonly compressed: boolean,
  ) {}

  static async open(path: string): Promise<JsonlWriter> {
    return new JsonlWriter(await AtomicFile.open(path), path.endsWith('.gz'));
  }

  /** @throws NumericError when a number in it is not finite; DataError when the disk refuses. */
  async write(value: unknown): Promise<void> {
    const line = `${strictJson(value)}\n`;
    this.lines.push(line);
    this.size += line.length;
    this.count++;
    if (this.size >= BUFFER_SIZE) await this.flush();
  }

  /** Hands what was gathered to the file. */
  async flush(): Promise<void> {
    // An empty .gz file needs one member, an empty one.
    if (this.size === 0 && this.count > 0) return;
    const text = this.lines.join('');
    [this.lines, this.size] = [[], 0];
    // One gzip member a buffer: members in a row are a valid gzip file (RFC 1952, 2.2), with no stream to drive.
    await this.file.write(this.compressed ? await compress(text) : text);
  }

  async commit(): Promise<void> {
    await this.flush();
    await this.file.commit();
  }

  async abort(): Promise<void> {
    await this.file.abort();
  }
}

/** Writes all values as JSONL, atomically. @returns the number of lines */
export async function writeJsonl(
  path: string,
  values: Iterable<unknown> | AsyncIterable<unknown>,
): Promise<number> {
  const writer = await JsonlWriter.open(path);
  try {
    for await (const value of values) await writer.write(value);
  } catch (error) {
    await writer.abort();
    throw error;
  }
  await writer.commit();
  return writer.count;
}
