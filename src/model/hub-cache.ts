/**
 * The cache of the Hugging Face libraries: of each repository the contents of files by their checksums (`blobs`), the
 * files of each commit as links to them (`snapshots`), and the commit of each branch (`refs`). Ours is `listings`: what
 * a commit consists of, by which a snapshot is known to be whole without the hub.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { rename, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { getRepoFolderName } from '@huggingface/hub';
import { z } from 'zod';
import { atomicWriteFile, ensureDirectory, errorCode, writeError } from '../runtime/files';

export const hubFile = z.object({
  path: z.string(),
  size: z.int().min(0),
  /** SHA-256 of a large file (64 digits), git's SHA-1 of a small one (40 digits). */
  checksum: z.string().regex(/^([0-9a-f]{40}|[0-9a-f]{64})$/),
});

/** A file of a commit. */
export type HubFile = z.output<typeof hubFile>;

export const COMMIT = /^[0-9a-f]{40}$/;

/** File systems without symbolic links. */
const NO_LINKS = new Set(['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EINVAL']);

/** What makes a model, where no listing says it. A snapshot has to have those of them that are asked for. */
const ESSENTIAL = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'onnx/model.onnx'];
const WEIGHTS = 'model.safetensors';
const WEIGHTS_INDEX = 'model.safetensors.index.json';

const weightsIndex = z.object({ weight_map: z.record(z.string(), z.string()) });

function parseIfAny<T>(file: string, schema: z.ZodType<T>): T | undefined {
  try {
    return schema.safeParse(JSON.parse(readFileSync(file, 'utf8'))).data;
  } catch {
    return undefined; // not there, or not JSON: as good as not there
  }
}

/** A path or name that stays below the directory it is joined to. */
export function isInside(path: string): boolean {
  return path !== '' && !path.startsWith('/') && !/\\|\0/.test(path) && !path.split('/').includes('..');
}

/** A snapshot in the cache. */
export interface CachedSnapshot {
  sha: string;
  directory: string;
  /** What it lacks of the files that were asked for. */
  missing: string[];
  /** Whether the branch was at this commit when the hub was last asked. */
  isCurrent: boolean;
  /** Whether a listing says what it consists of. */
  isListed: boolean;
}

/** One model in the cache. */
export class CachedModel {
  readonly directory: string;

  constructor(cacheDir: string, name: string) {
    this.directory = join(cacheDir, getRepoFolderName({ type: 'model', name }));
  }

  snapshot(sha: string): string {
    return join(this.directory, 'snapshots', sha);
  }

  blob(file: HubFile): string {
    return join(this.directory, 'blobs', file.checksum);
  }

  listing(sha: string): HubFile[] | undefined {
    return parseIfAny(join(this.directory, 'listings', `${sha}.json`), z.array(hubFile));
  }

  async saveListing(sha: string, files: readonly HubFile[]): Promise<void> {
    await this.write(join(this.directory, 'listings', `${sha}.json`), JSON.stringify(files));
  }

  async saveRef(revision: string, sha: string): Promise<void> {
    if (COMMIT.test(revision) || this.ref(revision) === sha) return;
    await this.write(join(this.directory, 'refs', revision), sha);
  }

  private async write(file: string, text: string): Promise<void> {
    await ensureDirectory(dirname(file));
    await atomicWriteFile(file, text);
  }

  private ref(revision: string): string | undefined {
    const file = join(this.directory, 'refs', revision);
    return existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined;
  }

  /** Whether a file is in place, link or not. Only whole files get their names; the size tells of a crash or a full disk. */
  has(sha: string, { path, size }: HubFile): boolean {
    const status = statSync(join(this.snapshot(sha), path), { throwIfNoEntry: false });
    return status?.isFile() === true && status.size === size;
  }

  hasBlob(file: HubFile): boolean {
    return statSync(this.blob(file), { throwIfNoEntry: false })?.size === file.size;
  }

  /** Puts the content of a file into a snapshot, as a link as Python's library does it. */
  async link(sha: string, file: HubFile): Promise<void> {
    const place = join(this.snapshot(sha), file.path);
    await ensureDirectory(dirname(place));
    const temporary = `${place}.${randomBytes(6).toString('hex')}.link`;
    try {
      await symlink(relative(dirname(place), this.blob(file)), temporary);
      await rename(temporary, place);
    } catch (error) {
      if (!NO_LINKS.has(errorCode(error))) throw writeError(place, error);
      await rename(this.blob(file), place);
    }
  }

  /** The snapshot of a commit, if there is one. */
  cached(sha: string, files: RegExp): Omit<CachedSnapshot, 'isCurrent'> | undefined {
    const directory = this.snapshot(sha);
    if (!existsSync(directory)) return undefined;
    const listing = this.listing(sha);
    if (listing === undefined)
      return { sha, directory, missing: this.missingUnlisted(directory, files), isListed: false };
    const wanted = listing.filter(({ path }) => files.test(path));
    const missing = wanted.filter((file) => !this.has(sha, file)).map(({ path }) => path);
    return { sha, directory, missing, isListed: true };
  }

  /** What a snapshot lacks that another program downloaded. */
  private missingUnlisted(directory: string, files: RegExp): string[] {
    const isThere = (path: string): boolean => existsSync(join(directory, path));
    const expected = ESSENTIAL.filter((path) => files.test(path));
    if (files.test(WEIGHTS) && !isThere(WEIGHTS)) {
      const index = parseIfAny(join(directory, WEIGHTS_INDEX), weightsIndex);
      expected.push(...new Set(index === undefined ? [WEIGHTS] : Object.values(index.weight_map)));
    }
    // Files of a kind that nothing is known of: they may be all there or not.
    if (expected.length === 0) return [`a listing of ${files.source}`];
    return expected.filter((path) => !isThere(path));
  }

  /**
   * The snapshots of a revision, best first: the one that the branch is known to be at, then the others, newest first,
   * but those of other branches.
   */
  snapshots(revision: string, files: RegExp): CachedSnapshot[] {
    const current = COMMIT.test(revision) ? revision : this.ref(revision);
    const others = COMMIT.test(revision) || revision !== 'main' ? [] : this.unnamed(current);
    return [...(current === undefined ? [] : [current]), ...others].flatMap((sha) => {
      const found = COMMIT.test(sha) ? this.cached(sha, files) : undefined;
      return found === undefined ? [] : [{ ...found, isCurrent: sha === current }];
    });
  }

  /** The commits that no branch is at, newest first. */
  private unnamed(current: string | undefined): string[] {
    const [snapshots, refs] = [join(this.directory, 'snapshots'), join(this.directory, 'refs')];
    if (!existsSync(snapshots)) return [];
    const names = existsSync(refs) ? readdirSync(refs, { recursive: true, encoding: 'utf8' }) : [];
    const isFile = (name: string): boolean => statSync(join(refs, name)).isFile();
    const named = new Set([current, ...names.filter(isFile).map((name) => this.ref(name))]);
    const age = (sha: string): number => statSync(join(snapshots, sha)).mtimeMs;
    return readdirSync(snapshots)
      .filter((sha) => !named.has(sha))
      .sort((a, b) => age(b) - age(a));
  }
}
