import { existsSync, readFileSync } from 'node:fs';
import { mkdir, open, realpath, rename, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { DataError, messageOf, NumericError } from './errors';
import type { GrpolabError } from './errors';

/** The `ENOENT`, `ENOSPC`, ... of a file-system error; '' of anything else. */
export function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}

const WRITE_REMEDIES: Record<string, string> = {
  ENOSPC: 'the disk is full. Free space, or choose another directory',
  EFBIG:
    'the file is larger than the system allows (ulimit -f). Raise the limit, or choose another directory',
  EDQUOT: 'the disk quota is used up. Free space, or choose another directory',
  EACCES: 'permission denied. Choose a directory that you may write to',
  EROFS: 'the file system is read-only. Choose another directory',
  ENOENT: 'its directory does not exist. Create it first',
  ENOTDIR: 'a part of its path is a file. Choose another directory',
};

/** A refusal of the disk as the one line that a user needs; any other error as it is. */
export function writeError(path: string, error: unknown): Error {
  const code = errorCode(error);
  if (code === '' || code.startsWith('ERR_'))
    return error instanceof Error ? error : new Error(String(error));
  return new DataError(`${path}: cannot be written: ${WRITE_REMEDIES[code] ?? messageOf(error)}.`);
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The file that a path names, symbolic links followed. Refuses what a rename would destroy: devices, directories. */
async function regularTarget(path: string): Promise<string> {
  const target = await realpath(path).catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return path;
    throw error;
  });
  const status = await stat(target).catch(() => undefined);
  if (status !== undefined && !status.isFile()) {
    throw new DataError(
      `${path}: is not a regular file; expected a file name to write to. Choose another name.`,
    );
  }
  return target;
}

let temporaryCount = 0;

/**
 * A file being written under a temporary name beside its place. Nothing is seen under the real name until `commit`,
 * which makes the bytes durable (fsync), renames, and makes the rename durable; `abort` leaves what was there.
 */
export class AtomicFile {
  private constructor(
    private readonly path: string,
    private readonly target: string,
    private readonly temporary: string,
    private readonly handle: FileHandle,
  ) {}

  /** @throws DataError when the place cannot be written to. */
  static async open(path: string): Promise<AtomicFile> {
    try {
      const target = await regularTarget(path);
      const name = `.${basename(target)}.${process.pid}-${temporaryCount++}.tmp`;
      const temporary = join(dirname(target), name);
      return new AtomicFile(path, target, temporary, await open(temporary, 'w'));
    } catch (error) {
      throw writeError(path, error);
    }
  }

  /** Appends. @throws DataError when the disk refuses; the temporary file is then gone. */
  async write(data: string | Uint8Array): Promise<void> {
    try {
      await this.handle.writeFile(data);
    } catch (error) {
      await this.abort();
      throw writeError(this.path, error);
    }
  }

  async commit(): Promise<void> {
    try {
      await this.handle.sync();
      await this.handle.close();
      await rename(this.temporary, this.target);
      await syncDirectory(dirname(this.target));
    } catch (error) {
      await this.abort();
      throw writeError(this.path, error);
    }
  }

  /** Gives up: the temporary file is removed. Without effect after `commit`. */
  async abort(): Promise<void> {
    await this.handle.close();
    await rm(this.temporary, { force: true });
  }
}

/**
 * Writes a whole file so that a crash at any moment leaves either the old bytes or the new ones.
 *
 * @throws DataError  naming the file and the remedy, when it cannot be written
 */
export async function atomicWriteFile(path: string, data: string | Uint8Array): Promise<void> {
  const file = await AtomicFile.open(path);
  await file.write(data);
  await file.commit();
}

/** As mkdir's `recursive`, which in Node 20 never ends where the system makes nothing, such as /proc/x. */
async function makeDirectories(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return;
    if (code !== 'ENOENT' || existsSync(dirname(path))) throw error;
    await makeDirectories(dirname(path));
    await makeDirectories(path);
  }
}

/** Makes a directory and its parents. @throws DataError when a file stands in the way or it may not be made. */
export async function ensureDirectory(path: string): Promise<void> {
  try {
    await makeDirectories(path);
  } catch (error) {
    const code = errorCode(error);
    const reason = code === 'EEXIST' || code === 'ENOTDIR' ? 'a file stands there' : messageOf(error);
    throw new DataError(`${path}: cannot be made a directory: ${reason}. Choose another directory.`);
  }
}

/** What a reader failed with, as the one line that a user needs, without the path. */
export function readFailure(error: unknown): string {
  const code = errorCode(error);
  if (code === 'ENOENT') return 'no such file. Check the path';
  if (code === 'EISDIR') return 'is a directory; expected a file. Check the path';
  if (code === 'EACCES') return 'permission denied. Make the file readable';
  return `cannot be read (${messageOf(error)})`;
}

/**
 * A JSON file's value, unchecked.
 *
 * @param Kind  the error to throw, e.g. CheckpointError for a file of a model directory
 * @throws Kind  `file: ...` when it is missing, is not JSON, or is cut short
 */
export function readJsonFile(path: string, Kind: new (message: string) => GrpolabError = DataError): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new Kind(`${path}: ${readFailure(error)}.`);
  }
  try {
    return JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (error) {
    const reason = text.trim() === '' ? 'the file is empty' : messageOf(error).replace(/\s+/g, ' ');
    throw new Kind(`${path}: is not JSON (${reason}). Restore or download the file again.`);
  }
}

/**
 * JSON in full precision. `JSON.stringify` turns NaN and infinities into `null` without a word; here they are an error.
 *
 * @throws NumericError  naming the key of a number that is not finite
 */
export function strictJson(value: unknown, indent?: number): string {
  const text = JSON.stringify(
    value,
    (key, item: unknown) => {
      if (typeof item === 'number' && !Number.isFinite(item)) {
        throw new NumericError(
          `${key || 'value'} is ${item}; expected a finite number, or null with a reason.`,
        );
      }
      return item;
    },
    indent,
  ) as string | undefined;
  if (text === undefined) throw new NumericError(`a ${typeof value} has no JSON form; expected data.`);
  return text;
}
