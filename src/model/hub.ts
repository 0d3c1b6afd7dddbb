import { statSync } from 'node:fs';
import { getHFHubCachePath, HUB_URL, listFiles, modelInfo } from '@huggingface/hub';
import { CheckpointError, GrpolabError, messageOf } from '../runtime/errors';
import { CachedModel, COMMIT, hubFile, isInside } from './hub-cache';
import type { CachedSnapshot, HubFile } from './hub-cache';
import { downloadBlob } from './hub-download';
import { HubClient, HubFailure } from './hub-http';
import { offlineVariable, readToken } from './hub-token';

/** How far a download is. */
export interface DownloadProgress {
  file: string;
  /** Bytes of all files together, those already there included. */
  loadedBytes: number;
  totalBytes: number;
}

/** What is downloaded from a hub, from which, and to where. */
export interface HubOptions {
  /** Branch, tag or commit. Default main. */
  revision?: string;
  /** Default `HF_ENDPOINT`, else the public hub. */
  hubUrl?: string;
  /** Default the cache of the Hugging Face libraries: `HF_HUB_CACHE`, `HF_HOME`, else ~/.cache/huggingface/hub. */
  cacheDir?: string;
  /** Files to download, by their paths in the repository. Default: configuration, tokenizer, safetensors weights. */
  files?: RegExp;
  /** Ends the download; what is there of it is kept for the next one. */
  signal?: AbortSignal;
  /** Told of trouble that is overcome. Default: a line on standard error. */
  onNotice?: (line: string) => void;
  /** Seconds without a byte after which a connection counts as dropped. Default 60. */
  stallSeconds?: number;
  /** Wait before the first new try after a dropped connection, doubled with each one after it. Default 1. */
  retryWaitSeconds?: number;
}

const HUB_ID = /^[\w-][\w.-]*\/[\w-][\w.-]*$/;

/** Configuration, tokenizer and safetensors weights at the top of a repository; nothing that could run. */
const WANTED =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map)\.json$|^chat_template\.jinja$|^[\w.-]+\.safetensors(\.index\.json)?$/;

/** All of it but the weights: what a model that runs elsewhere needs here. */
export const WITHOUT_WEIGHTS =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map)\.json$|^chat_template\.jinja$/;

/**
 * The directory of a model that is given as a directory or as a hub id `owner/name`, which is downloaded into the
 * cache once per commit. An interrupted download goes on where it stopped, and every file is checked against the hub's
 * checksum. A token for gated models is taken from `HF_TOKEN`. With `HF_HUB_OFFLINE=1`, or where the hub cannot be
 * reached, the newest whole snapshot of the cache is used.
 *
 * @throws CheckpointError  when there is no such directory, or the hub cannot be reached or has no such model
 */
export async function resolveModel(
  nameOrDir: string,
  onProgress: (progress: DownloadProgress) => void = () => {},
  options: HubOptions = {},
): Promise<string> {
  if (statSync(nameOrDir, { throwIfNoEntry: false })?.isDirectory()) return nameOrDir;
  if (!HUB_ID.test(nameOrDir)) {
    throw new CheckpointError(
      `${nameOrDir}: expected a model directory or a hub id "owner/name", found neither`,
    );
  }
  try {
    return await findSnapshot(nameOrDir, onProgress, options);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (error instanceof GrpolabError) throw error;
    const remedy =
      error instanceof HubFailure && error.kind === 'refused' ? '' : ' Check the network and run again, or';
    throw new CheckpointError(
      `${nameOrDir}: there is no such directory, and the download from the hub failed: ${messageOf(error)}.` +
        `${remedy || ' Or'} give the directory of a model that you have.`,
    );
  }
}

type Notify = (line: string) => void;

/** Everything about one model that is to be found. */
interface Search {
  name: string;
  revision: string;
  files: RegExp;
  cache: CachedModel;
  cacheDir: string;
  notify: Notify;
}

async function findSnapshot(
  name: string,
  onProgress: (progress: DownloadProgress) => void,
  options: HubOptions,
): Promise<string> {
  const { revision = 'main', cacheDir = getHFHubCachePath(), files = WANTED } = options;
  const notify = options.onNotice ?? ((line: string) => void process.stderr.write(`${line}\n`));
  if (!isInside(revision)) throw new HubFailure(`"${revision}" is not a revision`, 'refused');
  const cache = new CachedModel(cacheDir, name);
  const search = { name, revision, files, cache, cacheDir, notify };
  const offline = offlineVariable();
  if (offline !== undefined) return useOffline(search, offline);
  // What a commit consists of does not change.
  const [pinned] = COMMIT.test(revision) ? cache.snapshots(revision, files) : [];
  if (pinned?.isListed && pinned.missing.length === 0) return pinned.directory;
  const client = new HubClient({
    ...{ name, revision, token: readToken(), signal: options.signal, onNotice: notify },
    url: options.hubUrl ?? (process.env.HF_ENDPOINT || HUB_URL),
    stallSeconds: options.stallSeconds ?? 60,
    retryWaitSeconds: options.retryWaitSeconds ?? 1,
  });
  let commit: Commit;
  try {
    commit = await askCommit(client, cache);
  } catch (error) {
    if (!(error instanceof HubFailure) || error.kind === 'refused') throw error;
    return useUnreachable(search, error);
  }
  await downloadCommit(client, search, commit, onProgress);
  return cache.snapshot(commit.sha);
}

function wholeSnapshot({ cache, revision, files }: Search): CachedSnapshot | undefined {
  return cache.snapshots(revision, files).find(({ missing }) => missing.length === 0);
}

/** What is not quite sure about a snapshot from the cache. */
function reservations({ isCurrent, isListed }: CachedSnapshot): string {
  const doubts = [
    ...(isCurrent ? [] : ['newer ones are not whole, or not known']),
    ...(isListed ? [] : ['another program downloaded it: that it is whole is judged by its main files']),
  ];
  return doubts.length === 0 ? '' : ` (${doubts.join('; ')})`;
}

function useOffline(search: Search, variable: string): string {
  const found = wholeSnapshot(search);
  if (found === undefined)
    throw new CheckpointError(
      `${search.name}: there is no such directory, ${variable} forbids the network, and ${lackOf(search)}. ` +
        `Unset ${variable} to download it, or give the directory of a model that you have.`,
    );
  const doubts = reservations(found);
  if (doubts !== '')
    search.notify(`${search.name}: offline, using commit ${found.sha.slice(0, 12)} of the cache${doubts}`);
  return found.directory;
}

/** Why the cache is of no use. */
function lackOf({ cache, cacheDir, revision, files }: Search): string {
  const [best] = cache.snapshots(revision, files);
  if (best === undefined) return `the cache ${cacheDir} has nothing of it`;
  const [few, more] = [best.missing.slice(0, 3).join(', '), best.missing.length - 3];
  return `the cache ${best.directory} lacks ${few}${more > 0 ? ` and ${more} more` : ''}`;
}

function useUnreachable(search: Search, error: HubFailure): string {
  const found = wholeSnapshot(search);
  if (found === undefined) throw new HubFailure(`${error.message}; ${lackOf(search)}`, error.kind);
  search.notify(
    `${search.name}: the hub cannot be reached (${error.message}); using commit ${found.sha.slice(0, 12)} of the cache` +
      reservations(found),
  );
  return found.directory;
}

interface Commit {
  sha: string;
  files: HubFile[];
  /** The cache has its listing already. */
  isKnown: boolean;
}

async function askCommit(client: HubClient, cache: CachedModel): Promise<Commit> {
  const { name, revision, url: hubUrl } = client.options;
  const access = { hubUrl: hubUrl.replace(/\/+$/, ''), fetch: client.fetchListing };
  const { sha } = await modelInfo({ name, revision, additionalFields: ['sha'], ...access });
  if (!COMMIT.test(sha)) throw new HubFailure(`what answers at ${hubUrl} is not a hub`, 'unreachable');
  const known = cache.listing(sha);
  if (known !== undefined) return { sha, files: known, isKnown: true };
  const files: HubFile[] = [];
  for await (const entry of listFiles({
    repo: { type: 'model', name },
    revision: sha,
    recursive: true,
    ...access,
  })) {
    if (entry.type !== 'file' || !isInside(entry.path)) continue;
    const { path, size } = entry;
    const file = hubFile.safeParse({ path, size, checksum: entry.lfs?.oid ?? entry.oid });
    if (!file.success) throw new HubFailure(`the hub lists ${path} without size or checksum`, 'refused');
    files.push(file.data);
  }
  return { sha, files, isKnown: false };
}

async function downloadCommit(
  client: HubClient,
  { cache, files, revision }: Search,
  { sha, files: all, isKnown }: Commit,
  onProgress: (progress: DownloadProgress) => void,
): Promise<void> {
  const wanted = all.filter(({ path }) => files.test(path));
  if (wanted.length === 0) throw new HubFailure('the model has none of the files that are needed', 'refused');
  const missing = wanted.filter((file) => !cache.has(sha, file));
  await keepRecord(missing.length === 0, async () => {
    // Before the first file: a snapshot is whole when it has what its listing says.
    if (!isKnown) await cache.saveListing(sha, all);
  });
  const totalBytes = wanted.reduce((sum, { size }) => sum + size, 0);
  let doneBytes = 0;
  for (const file of wanted) {
    const { path, size } = file;
    const onLoaded = (bytes: number): void =>
      onProgress({ file: path, loadedBytes: doneBytes + bytes, totalBytes });
    if (missing.includes(file)) {
      const isThere = (): boolean => cache.has(sha, file) || cache.hasBlob(file);
      const place = cache.blob(file);
      if (!isThere())
        await downloadBlob(client, { url: client.fileUrl(sha, path), file, place, isThere, onLoaded });
      if (!cache.has(sha, file)) await cache.link(sha, file);
    }
    onLoaded(size);
    doneBytes += size;
  }
  await keepRecord(missing.length === 0, () => cache.saveRef(revision, sha));
}

/** A cache that is whole may be one that nobody here may write to; then it is used as it is. */
async function keepRecord(isOptional: boolean, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    if (!isOptional) throw error;
  }
}
