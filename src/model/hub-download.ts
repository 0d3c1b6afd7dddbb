/** One file from the hub: goes on where an earlier try stopped, and gets its name once its checksum is right. */
import { createHash } from 'node:crypto';
import type { Hash } from 'node:crypto';
import { constants, createReadStream, statSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { ensureDirectory, writeError } from '../runtime/files';
import type { HubFile } from './hub-cache';
import { dropped, HubFailure } from './hub-http';
import type { HubAnswer, HubClient } from './hub-http';
import { withLock } from './hub-lock';

/** The hash by which the hub knows a file: SHA-256 of large ones; git's of small ones, SHA-1 with the length in front. */
function newHash({ checksum, size }: HubFile): Hash {
  if (checksum.length === 64) return createHash('sha256');
  return createHash('sha1').update(`blob ${size}\0`);
}

/** The beginning of a file, kept beside its place until it is whole. */
class PartialFile {
  private hash: Hash;

  private constructor(
    readonly path: string,
    private readonly file: HubFile,
    private readonly handle: FileHandle,
    public loaded: number,
  ) {
    this.hash = newHash(file);
  }

  /** @param onLoaded  told of the bytes that are there already */
  static async open(path: string, file: HubFile): Promise<PartialFile> {
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT).catch((error: unknown) => {
      throw writeError(path, error);
    });
    const { size } = await handle.stat();
    const partial = new PartialFile(path, file, handle, size);
    if (size > file.size) await partial.restart();
    else if (size > 0)
      for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 }))
        partial.hash.update(chunk as Buffer);
    return partial;
  }

  async append(chunk: Uint8Array): Promise<void> {
    try {
      for (let written = 0; written < chunk.length;) {
        const { bytesWritten } = await this.handle.write(chunk, written, null, this.loaded + written);
        written += bytesWritten;
      }
    } catch (error) {
      throw writeError(this.path, error);
    }
    this.hash.update(chunk);
    this.loaded += chunk.length;
  }

  async restart(): Promise<void> {
    await this.handle.truncate(0);
    this.loaded = 0;
    this.hash = newHash(this.file);
  }

  /** Makes the bytes durable before the name says that they are right. */
  async finish(place: string): Promise<void> {
    const actual = this.hash.digest('hex');
    if (this.loaded !== this.file.size || actual !== this.file.checksum) {
      await rm(this.path, { force: true });
      const kind = this.file.checksum.length === 64 ? 'SHA-256' : 'git SHA-1';
      throw new HubFailure(
        `${this.file.path}: expected ${this.file.size} bytes with ${kind} ${this.file.checksum}, received ` +
          `${this.loaded > this.file.size ? 'more' : `others (${actual})`}; they are removed. Run again to download the file anew`,
        'refused',
      );
    }
    await this.handle.sync();
    await rename(this.path, place);
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

function startOf({ status, headers }: HubAnswer): number {
  return status === 206 ? Number(/^bytes (\d+)-/.exec(headers.get('content-range') ?? '')?.[1]) : 0;
}

/** One request for what is missing. */
async function fetchRest(
  client: HubClient,
  url: string,
  { size }: HubFile,
  partial: PartialFile,
  onLoaded: (bytes: number) => void,
): Promise<void> {
  const range = partial.loaded > 0 ? { range: `bytes=${partial.loaded}-` } : undefined;
  const answer = await client.ask(url, range);
  const start = startOf(answer);
  try {
    // A server that knows no ranges sends the file from its beginning.
    if (start !== partial.loaded) await partial.restart();
    if (start !== partial.loaded)
      throw new HubFailure('the server sent another part than was asked for', 'interrupted');
    for await (const chunk of answer.body) {
      await partial.append(chunk);
      onLoaded(Math.min(partial.loaded, size));
      if (partial.loaded > size) return;
    }
  } finally {
    answer.close();
  }
  if (partial.loaded < size) throw dropped(partial.loaded, size);
}

async function fetchAll(
  client: HubClient,
  url: string,
  file: HubFile,
  partial: PartialFile,
  onLoaded: (bytes: number) => void,
): Promise<void> {
  const retries = client.retries(file.path);
  let most = partial.loaded;
  while (partial.loaded < file.size) {
    try {
      await fetchRest(client, url, file, partial, onLoaded);
    } catch (error) {
      if (error instanceof HubFailure && error.status === 416) await partial.restart();
      // A server that starts over each time and always breaks off at the same place makes no progress.
      if (partial.loaded > most) retries.progress();
      most = Math.max(most, partial.loaded);
      await retries.wait(error);
    }
  }
}

export interface BlobDownload {
  url: string;
  file: HubFile;
  /** Where it is to stand. */
  place: string;
  /** Whether another process has made it in the meantime. */
  isThere: () => boolean;
  /** Told how many bytes of it are there, those of an earlier try or another process included. */
  onLoaded: (bytes: number) => void;
}

/**
 * Downloads a file. What an interrupted try got stays under `PLACE.partial`, for the next one of whatever process; of
 * two processes the second waits for the first.
 *
 * @throws HubFailure  when the hub does not give it, or other bytes
 * @throws DataError   when the disk refuses
 */
export async function downloadBlob(
  client: HubClient,
  { url, file, place, isThere, onLoaded }: BlobDownload,
): Promise<void> {
  await ensureDirectory(dirname(place));
  const path = `${place}.partial`;
  const sizeNow = (): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  const work = async (): Promise<void> => {
    if (isThere()) return;
    const partial = await PartialFile.open(path, file);
    try {
      onLoaded(partial.loaded);
      await fetchAll(client, url, file, partial, onLoaded);
      await partial.finish(place);
    } finally {
      await partial.close();
    }
  };
  await withLock(path, work, {
    signal: client.options.signal,
    onWait: () => onLoaded(Math.min(sizeNow(), file.size)),
  });
}
