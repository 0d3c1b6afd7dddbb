import { createWriteStream, existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { downloadFile, getHFHubCachePath, getRepoFolderName, listFiles, modelInfo } from '@huggingface/hub';
import { CheckpointError, messageOf } from '../runtime/errors';

/** How far a download is. */
export interface DownloadProgress {
  file: string;
  /** Bytes of all files together, those already there included. */
  loadedBytes: number;
  totalBytes: number;
}

export interface HubOptions {
  /** Branch, tag or commit. Default main. */
  revision?: string;
  /** Default `HF_ENDPOINT`, else the public hub. */
  hubUrl?: string;
  /** Default the cache of the Hugging Face libraries: `HF_HUB_CACHE`, `HF_HOME`, else ~/.cache/huggingface/hub. */
  cacheDir?: string;
  /** Files to download, by their paths in the repository. Default: configuration, tokenizer, safetensors weights. */
  files?: RegExp;
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
 * cache once per commit. A token for gated models is taken from `HF_TOKEN`.
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
    return await downloadModel(nameOrDir, onProgress, options);
  } catch (error) {
    throw new CheckpointError(
      `${nameOrDir}: there is no such directory, and the download from the hub failed (${reasonOf(error)}). ` +
        'Check the name and the network, or give the directory of a model that you have.',
    );
  }
}

async function downloadModel(
  name: string,
  onProgress: (progress: DownloadProgress) => void,
  {
    revision = 'main',
    hubUrl = process.env.HF_ENDPOINT,
    cacheDir = getHFHubCachePath(),
    files = WANTED,
  }: HubOptions,
): Promise<string> {
  const repo = { type: 'model' as const, name };
  const access = { hubUrl, accessToken: process.env.HF_TOKEN };
  const { sha } = await modelInfo({ name, revision, additionalFields: ['sha'], ...access });
  const snapshot = join(cacheDir, getRepoFolderName(repo), 'snapshots', basename(sha));
  const wanted = [];
  for await (const entry of listFiles({ repo, revision: sha, recursive: true, ...access })) {
    if (entry.type === 'file' && files.test(entry.path)) wanted.push(entry);
  }
  const totalBytes = wanted.reduce((sum, { size }) => sum + size, 0);
  let loadedBytes = 0;
  for (const { path: file, size } of wanted) {
    const target = join(snapshot, file);
    if (existsSync(target)) {
      loadedBytes += size;
      onProgress({ file, loadedBytes, totalBytes });
      continue;
    }
    const blob = await downloadFile({ repo, path: file, revision: sha, ...access });
    if (!blob) throw new Error(`${file} is listed but cannot be had`);
    await saveBlob(blob, size, target, (bytes) => {
      loadedBytes += bytes;
      onProgress({ file, loadedBytes, totalBytes });
    });
  }
  return snapshot;
}

/** Streams a download into its place; a file that stands there under its real name is complete. */
async function saveBlob(
  blob: Blob,
  size: number,
  target: string,
  onBytes: (count: number) => void,
): Promise<void> {
  mkdirSync(dirname(target), { recursive: true });
  const partial = `${target}.${process.pid}.incomplete`;
  let received = 0;
  const count = new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      received += chunk.length;
      onBytes(chunk.length);
      done(null, chunk);
    },
  });
  try {
    await pipeline(Readable.fromWeb(blob.stream() as ReadableStream), count, createWriteStream(partial));
    if (received !== size) throw new Error(`${target}: expected ${size} bytes, received ${received}`);
    renameSync(partial, target);
  } finally {
    rmSync(partial, { force: true });
  }
}

/** `fetch failed` alone says nothing: its cause does. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause ? `: ${messageOf(error.cause)}` : '';
  return messageOf(error) + cause;
}
