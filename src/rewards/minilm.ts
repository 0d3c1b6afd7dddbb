/** all-MiniLM-L6-v2, or any sentence encoder in the same files, through transformers.js. */

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { CheckpointError, ConfigError, messageOf } from '../runtime/errors';
import type { Embedder } from './embeddings';

const FILES = ['config.json', 'tokenizer.json', 'tokenizer_config.json', join('onnx', 'model.onnx')];

/** transformers.js would say of a missing file only that something was undefined. */
function checkFolder(directory: string): void {
  const missing = FILES.filter((file) => !existsSync(join(directory, file)));
  if (missing.length === 0) return;
  throw new ConfigError(
    `embedding.directory: ${directory} has no ${missing.join(', ')}; expected a sentence encoder in ONNX form ` +
      `(${FILES.join(', ')}). Give the folder of all-MiniLM-L6-v2, or use the lexical embedding.`,
  );
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
 * @param directory  local folder with `onnx/model.onnx` in f32 and the tokenizer's files
 * @throws ConfigError      when a file is missing
 * @throws CheckpointError  when they cannot be loaded
 * Source: Reimers & Gurevych, "Sentence-BERT", arXiv 1908.10084.
 */
export async function minilmEmbedder(directory: string): Promise<Embedder> {
  const folder = resolve(directory);
  checkFolder(folder);
  try {
    const embed = await openPipeline(folder);
    return { name: 'minilm', embed };
  } catch (error) {
    throw new CheckpointError(
      `${folder}: cannot be loaded as a sentence encoder: ${messageOf(error).split('\n')[0]}. Download it again.`,
    );
  }
}
