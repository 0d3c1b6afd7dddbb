/** Choosing a reward by name or by a YAML file. */

import { readFile } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { parse } from 'yaml';
import { z } from 'zod';
import { ConfigError, messageOf } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { cachedEmbedder } from './embeddings';
import type { Embedder } from './embeddings';
import { heuristicReward } from './heuristic';
import { heuristicSchema } from './heuristic-options';
import { lexicalEmbedder } from './lexical';
import { minilmEmbedder } from './minilm';
import type { Reward } from './reward';
import { loadAfinn } from './sentiment';

/** Schema of the embedding: the lexical one, or a sentence encoder in a local folder. */
export const embeddingSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('lexical') }),
    z.strictObject({
      kind: z.literal('minilm'),
      directory: z.string().min(1).describe("folder of all-MiniLM-L6-v2, from the YAML file's own folder"),
    }),
  ])
  .prefault({ kind: 'lexical' });

/** Schema of a reward's YAML file. */
export const rewardSchema = z.strictObject({
  type: z.literal('heuristic').default('heuristic'),
  name: z.string().min(1).optional().describe("shown in reports; default: the file's name"),
  embedding: embeddingSchema,
  ...heuristicSchema.shape,
});

/** The embedding that a configuration asks for, with a cache. `base` is where a relative folder starts. */
export async function openEmbedder(config: z.output<typeof embeddingSchema>, base = '.'): Promise<Embedder> {
  switch (config.kind) {
    case 'lexical':
      return cachedEmbedder(lexicalEmbedder());
    case 'minilm':
      return cachedEmbedder(await minilmEmbedder(resolve(base, config.directory)));
  }
}

async function readYaml(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new ConfigError(
      `reward "${path}": cannot be read (${messageOf(error)}); expected "heuristic" or a YAML file. Check the name.`,
    );
  }
  try {
    return parse(text) ?? {}; // an empty file asks for the defaults
  } catch (error) {
    throw new ConfigError(`${path}: not YAML: ${messageOf(error).split('\n')[0]}`);
  }
}

/**
 * The reward of the command line's `--reward`.
 *
 * @param nameOrPath  `heuristic` for the study's values, or a YAML file of `rewardSchema`
 * @throws ConfigError  when the file is missing, is not YAML, has an unknown key or a value out of range
 */
export async function loadReward(nameOrPath: string): Promise<Reward> {
  const builtIn = nameOrPath === 'heuristic';
  const value = builtIn ? { name: nameOrPath } : await readYaml(nameOrPath);
  const { weights, guards, length, diversity, punctuation, engagement, ...config } = parseStrict(
    rewardSchema,
    value,
    nameOrPath,
  );
  return heuristicReward({
    embedder: await openEmbedder(config.embedding, builtIn ? '.' : dirname(nameOrPath)),
    lexicon: await loadAfinn(),
    options: { weights, guards, length, diversity, punctuation, engagement },
    name: config.name ?? basename(nameOrPath).replace(/\.ya?ml$/i, ''),
  });
}
