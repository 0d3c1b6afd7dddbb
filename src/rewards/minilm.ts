/** all-MiniLM-L6-v2, or any sentence encoder in the same files, through transformers.js. */

import { createHash } from 'node:crypto';
import { createReadStream, existsSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pipeline as flow } from 'node:stream/promises';
import { resolveModel } from '../model/hub';
import type { DownloadProgress, HubOptions } from '../model/hub';
import { CheckpointError, ConfigError, messageOf } from '../runtime/errors';
import type { Embedder } from './embeddings';

/** The sentence encoder of the study, in ONNX form, on the hub. */
export const MINILM = 'Xenova/all-MiniLM-L6-v2';

const WEIGHTS = join('onnx', 'model.onnx');
const FILES = ['config.json', 'tokenizer.json', 'tokenizer_config.json', WEIGHTS];
const HUB_FILES = /^(config|tokenizer|tokenizer_config|special_tokens_map)\.json$|^onnx\/model\.onnx$/;

/** Cosine above which two texts are near-duplicates: the study's. Other encoders may want another. */
const DUPLICATE_COSINE = 0.9;

/**
 * Cosine of a tweet with a reply: of 500 real pairs, half of the own ones lie between 0.36 and 0.56, half of the foreign
 * ones between 0.08 and 0.25.
 */
const COSINE_RANGE = [0.1, 0.45] as const;

/** transformers.js would say of a missing file only that something was undefined. */
function checkFolder(directory: string): void {
  const missing = FILES.filter((file) => !existsSync(join(directory, file)));
  if (missing.length === 0) return;
  throw new ConfigError(
    `embedding: ${directory} has no ${missing.join(', ')}; expected a sentence encoder in ONNX form ` +
      `(${FILES.join(', ')}). Give the folder of all-MiniLM-L6-v2, or use the lexical embedding.`,
  );
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await flow(createReadStream(file), hash);
  return hash.digest('hex');
}

async function openPipeline(directory: string): Promise<(text: string) => Promise<Float32Array>> {
  const { pipeline } = await import('@xenova/transformers');
  // An absolute path is read as it is; with `local_files_only` nothing is asked of the network.
  const where = { dtype: 'fp32', device: 'cpu', local_files_only: true } as const;
  const extract = await pipeline('feature-extraction', directory, where);
  return async (text) => {
    const tensor = await extract(text, { pooling: 'mean', normalize: true }); // [1, D]
    return Float32Array.from(tensor.data as Float32Array);
  };
}

/**
 * The sentence embedding: mean of the token states, scaled to length 1. Texts are embedded one a call, because a
 * text's vector differs in the last bits with the padding that its batch needs.
 *
 * @param model  local folder with `onnx/model.onnx` in f32 and the tokenizer's files, or a hub id, whose files are
 *               downloaded into the hub's cache once
 * @throws ConfigError      when a file is missing
 * @throws CheckpointError  when they cannot be had or loaded
 * Source: Reimers & Gurevych, "Sentence-BERT", arXiv 1908.10084.
 */
export async function minilmEmbedder(
  model: string = MINILM,
  onDownload?: (progress: DownloadProgress) => void,
  hub: HubOptions = {},
): Promise<Embedder> {
  const isFolder = statSync(model, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const folder = resolve(await resolveModel(model, onDownload, { files: HUB_FILES, ...hub }));
  checkFolder(folder);
  try {
    const embed = await openPipeline(folder);
    const fingerprint = await sha256(join(folder, WEIGHTS));
    return {
      name: 'minilm',
      source: isFolder
        ? { kind: 'directory', model: folder, fingerprint }
        : { kind: 'hub', model, fingerprint },
      duplicateCosine: DUPLICATE_COSINE,
      cosineRange: COSINE_RANGE,
      embed,
    };
  } catch (error) {
    throw new CheckpointError(
      `${folder}: cannot be loaded as a sentence encoder: ${messageOf(error).split('\n')[0]}. Download it again.`,
    );
  }
}
