/** Choosing a reward by name, by a YAML file, or by the directory of a learned one. */

import { existsSync, realpathSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { z } from 'zod';
import type { DownloadProgress } from '../model/hub';
import { CheckpointError, ConfigError } from '../runtime/errors';
import { readFailure } from '../runtime/files';
import { nearest, parseStrict } from '../runtime/strict';
import { parseYaml } from '../runtime/yaml';
import { compositeReward } from './composite';
import type { WeightedReward } from './composite';
import { cachedEmbedder } from './embeddings';
import type { Embedder } from './embeddings';
import { heuristicReward } from './heuristic';
import { heuristicSchema } from './heuristic-options';
import type { ChatEndpointOptions } from './chat-endpoint';
import { refuseSecrets } from './chat-request';
import { judgeReward, judgeSchema } from './judge';
import { lexicalEmbedder } from './lexical';
import { MINILM, minilmEmbedder } from './minilm';
import type { LearnedDescription } from './learned';
import type { Reward } from './reward';
import { loadAfinn } from './sentiment';
import { sharpReward, sharpSchema } from './sharp';

/** Schema of the embedding: the lexical one, or a sentence encoder. */
export const embeddingSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('lexical') }),
  z.strictObject({
    kind: z.literal('minilm'),
    model: z
      .string()
      .min(1)
      .default(MINILM)
      .describe("directory of all-MiniLM-L6-v2, from the YAML file's own folder, or a hub id"),
  }),
]);

type EmbeddingConfig = z.output<typeof embeddingSchema>;
type OnDownload = (progress: DownloadProgress) => void;

const common = {
  name: z.string().min(1).optional().describe("shown in reports; default: the file's name"),
};

/** The heuristic reward: the study's rules, or the sharper ones, each with its own settings. */
const heuristicFileSchema = z.strictObject({
  type: z.literal('heuristic').default('heuristic'),
  preset: z.literal('study').default('study'),
  ...common,
  embedding: embeddingSchema.prefault({ kind: 'lexical' }),
  ...heuristicSchema.shape,
});
const sharpFileSchema = z.strictObject({
  type: z.literal('heuristic').default('heuristic'),
  preset: z.literal('sharp'),
  ...common,
  embedding: embeddingSchema.prefault({ kind: 'lexical' }),
  ...sharpSchema.shape,
});

const learnedFileSchema = z.strictObject({
  type: z.literal('learned'),
  ...common,
  directory: z.string().min(1).describe("what train-reward wrote, from the YAML file's own folder"),
  embedding: embeddingSchema.optional().describe('default: the one that it was trained on'),
});

const compositeFileSchema = z.strictObject({
  type: z.literal('composite'),
  ...common,
  parts: z
    .record(
      z.string().min(1),
      z.strictObject({
        weight: z.number().min(0).max(1).describe('all weights sum to 1'),
        reward: z
          .union([z.string().min(1), z.record(z.string(), z.unknown())])
          .describe('a name, a YAML file or directory from here, or the settings themselves'),
      }),
    )
    .describe('rewards by the names that the breakdown shows'),
});

/** Without its `type`. */
const judgeFileSchema = z.strictObject({ ...common, ...judgeSchema.shape });

/** What a reward gets from whoever loads it. */
export interface RewardContext extends Pick<ChatEndpointOptions, 'signal' | 'onNotice'> {
  /** shown in reports, where the file gives none; default: that of the file */
  name?: string;
  /** told of the download of an embedding */
  onDownload?: OnDownload;
}

/** Where settings come from: a folder for relative paths, how messages name them, and the reward's name if they give none. */
interface Source {
  base: string;
  where: string;
  name: string;
  context: RewardContext;
  /** the files that lead here, the first one first */
  trail: readonly string[];
}

/** Names that `loadReward` knows. */
export const REWARD_NAMES = ['heuristic', 'sharp'] as const;

const isRewardName = (text: string): boolean => (REWARD_NAMES as readonly string[]).includes(text);

const TYPES = ['heuristic', 'learned', 'composite', 'judge'] as const;
const PRESETS = ['study', 'sharp'] as const;

/** A path from a YAML file's folder where there is one, else the text itself, a hub id. */
function fromFolder(model: string, base: string): string {
  const path = resolve(base, model);
  return existsSync(path) ? path : model;
}

/** The embedding that a configuration asks for, with a cache. `base` is where a relative folder starts. */
export async function openEmbedder(
  config: EmbeddingConfig,
  base = '.',
  onDownload?: OnDownload,
): Promise<Embedder> {
  switch (config.kind) {
    case 'lexical':
      return cachedEmbedder(lexicalEmbedder());
    case 'minilm':
      return cachedEmbedder(await minilmEmbedder(fromFolder(config.model, base), onDownload));
  }
}

/** The embedding of the command line: `lexical`, a directory, or a hub id. @throws ConfigError, CheckpointError */
export function embeddingNamed(name: string, onDownload?: OnDownload): Promise<Embedder> {
  const config =
    name === 'lexical' ? ({ kind: 'lexical' } as const) : ({ kind: 'minilm', model: name } as const);
  return openEmbedder(config, '.', onDownload);
}

/** @param name  the reward as it was asked for */
async function readYaml(path: string, name: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const hint = /^\w+$/.test(name) ? ` Did you mean "${nearest(name, REWARD_NAMES)}"?` : '';
    throw new ConfigError(
      `reward "${path}": cannot be read (${readFailure(error)}); expected ${REWARD_NAMES.map((each) => `"${each}"`).join(', ')}, a YAML file, or the directory of a learned reward.${hint}`,
    );
  }
  return parseYaml(text, path) ?? {}; // an empty file asks for the defaults
}

/** The value of a key that chooses between schemas. @throws ConfigError naming the nearest choice */
function choice<T extends string>(value: unknown, key: string, choices: readonly T[], where: string): T {
  const given = (value as Record<string, unknown> | null)?.[key];
  if (given === undefined) return choices[0];
  if (choices.includes(given as T)) return given as T;
  const hint =
    typeof given === 'string' ? `Did you mean "${nearest(given, choices)}"?` : 'Name one, or remove the key.';
  throw new ConfigError(
    `${where}: ${key} is ${JSON.stringify(given)}; expected ${choices.join(', ')}. ${hint}`,
  );
}

async function openHeuristic(value: unknown, source: Source): Promise<Reward> {
  const { base, where, name: fallback, context } = source;
  const lexicon = await loadAfinn();
  if (choice(value, 'preset', PRESETS, where) === 'sharp') {
    const { weights, guards, name, embedding } = parseStrict(sharpFileSchema, value, where);
    const embedder = await openEmbedder(embedding, base, context.onDownload);
    return sharpReward({ embedder, lexicon, options: { weights, guards }, name: name ?? fallback });
  }
  const parsed = parseStrict(heuristicFileSchema, value, where);
  const { weights, guards, length, diversity, punctuation, engagement, name, embedding } = parsed;
  return heuristicReward({
    embedder: await openEmbedder(embedding, base, context.onDownload),
    lexicon,
    options: { weights, guards, length, diversity, punctuation, engagement },
    name: name ?? fallback,
  });
}

/** A learned reward; TensorFlow is loaded only here. */
async function openLearned(
  directory: string,
  embedding: EmbeddingConfig | undefined,
  { base, name, context }: Pick<Source, 'base' | 'name' | 'context'>,
): Promise<Reward> {
  const { learnedReward, readLearned } = await import('./learned.js');
  const model = readLearned(directory);
  const embedder =
    embedding === undefined
      ? await openTrainedOn(model.description, directory, context.onDownload)
      : await openEmbedder(embedding, base, context.onDownload);
  return learnedReward(model, embedder, name);
}

/** The embedding that a learned reward names; `learnedReward` checks that it is still the same. */
async function openTrainedOn(
  { embedding: { name, source } }: LearnedDescription,
  directory: string,
  onDownload?: OnDownload,
): Promise<Embedder> {
  if (source === null) {
    throw new CheckpointError(
      `${directory}: trained on "${name}", an embedding of the caller; expected one of this library. Open it in code, by learnedReward.`,
    );
  }
  if (source.kind === 'lexical') return openEmbedder({ kind: 'lexical' });
  if (source.kind === 'directory' && !existsSync(source.model)) {
    throw new CheckpointError(
      `${directory}: the folder ${source.model} of its embedding is gone. Put it there again, or name another copy in a YAML file: ` +
        `{ type: learned, directory: ${directory}, embedding: { kind: minilm, model: FOLDER } }.`,
    );
  }
  return cachedEmbedder(await minilmEmbedder(source.model, onDownload));
}

async function openComposite(value: unknown, source: Source): Promise<Reward> {
  const { base, where, context, trail } = source;
  const { parts, name } = parseStrict(compositeFileSchema, value, where);
  const opened: Record<string, WeightedReward> = {};
  for (const [part, { weight, reward }] of Object.entries(parts)) {
    const partContext = { ...context, name: part };
    opened[part] = {
      weight,
      reward:
        typeof reward === 'string'
          ? await openNamed(reward, base, partContext, trail)
          : await openReward(reward, { ...source, where: `${where}: parts.${part}`, name: part }),
    };
  }
  return compositeReward(opened, name ?? source.name);
}

async function openReward(value: unknown, source: Source): Promise<Reward> {
  const { base, where, context } = source;
  switch (choice(value, 'type', TYPES, where)) {
    case 'heuristic':
      return openHeuristic(value, source);
    case 'learned': {
      const { directory, embedding, name } = parseStrict(learnedFileSchema, value, where);
      return openLearned(resolve(base, directory), embedding, { base, name: name ?? source.name, context });
    }
    case 'composite':
      return openComposite(value, source);
    case 'judge': {
      refuseSecrets(value, where);
      const keys = Object.entries(value as object).filter(([key]) => key !== 'type');
      const { name, ...settings } = parseStrict(judgeFileSchema, Object.fromEntries(keys), where);
      return judgeReward(settings, name ?? source.name, context);
    }
  }
}

/**
 * The reward of the command line's `--reward` and of a configuration's `reward`.
 *
 * @param nameOrPath  `heuristic` (the study's rules), `sharp` (the sharper ones), a YAML file whose `type` is heuristic,
 *                    learned, composite or judge, or a directory that `train-reward` wrote
 * @throws ConfigError  when the file is missing, is not YAML, has an unknown key or a value out of range
 */
export function loadReward(nameOrPath: string, context: RewardContext = {}): Promise<Reward> {
  return openNamed(nameOrPath, '', context, []);
}

/** @param base  where a relative path starts; '' leaves it as it is. @param trail  the files that ask for it */
async function openNamed(
  nameOrPath: string,
  base: string,
  context: RewardContext,
  trail: readonly string[],
): Promise<Reward> {
  if (isRewardName(nameOrPath)) {
    const preset = nameOrPath === 'sharp' ? 'sharp' : 'study';
    const name = context.name ?? nameOrPath;
    return openReward({ preset }, { base: '.', where: nameOrPath, name, context, trail });
  }
  const path = base === '' ? nameOrPath : resolve(base, nameOrPath);
  const name = context.name ?? basename(resolve(path)).replace(/\.ya?ml$/i, '');
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
    if (!existsSync(join(path, 'reward.json'))) {
      throw new ConfigError(
        `reward "${path}": the directory has no reward.json; expected one that train-reward wrote. Check the path.`,
      );
    }
    return openLearned(path, undefined, { base: '.', name, context });
  }
  const value = await readYaml(path, nameOrPath);
  return openReward(value, {
    base: dirname(path),
    where: path,
    name,
    context,
    trail: extendTrail(trail, realpathSync(path)),
  });
}

/** @throws ConfigError  when a file stands in its own trail */
function extendTrail(trail: readonly string[], file: string): string[] {
  const extended = [...trail, file];
  if (!trail.includes(file)) return extended;
  const names = extended.map((each) => relative(dirname(extended[0]), each)).join(' -> ');
  throw new ConfigError(`${names}: a reward cannot be a part of itself. Remove one of these parts.`);
}
