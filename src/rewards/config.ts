/** Opening a reward: by name, by a YAML file, by settings, or by the directory of a learned one. */

import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import type { DownloadProgress } from '../model/hub';
import { CheckpointError } from '../runtime/errors';
import type { ChatEndpointOptions } from './chat-endpoint';
import { compositeReward } from './composite';
import type { WeightedReward } from './composite';
import { cachedEmbedder } from './embeddings';
import type { Embedder } from './embeddings';
import { heuristicReward } from './heuristic';
import { judgeReward, judgeSchema } from './judge';
import type { LearnedDescription } from './learned';
import { lexicalEmbedder } from './lexical';
import { minilmEmbedder } from './minilm';
import { locateReward, readRewardSettings } from './named-reward';
import type { Reward } from './reward';
import { loadAfinn } from './sentiment';
import { effectiveSettings } from './settings';
import type { CompositeSettings, EmbeddingConfig, HeuristicSettings, RewardSettings } from './settings';
import { sharpReward } from './sharp';

export { embeddingSchema } from './settings';

/** Is told how far a download is. */
export type OnDownload = (progress: DownloadProgress) => void;

/** What a reward gets from whoever loads it. */
export interface RewardContext extends Pick<ChatEndpointOptions, 'signal' | 'onNotice'> {
  /** shown in reports, where the file gives none; default: that of the file */
  name?: string;
  /** told of the download of an embedding */
  onDownload?: OnDownload;
}

/** Where settings come from: a folder for relative paths, and the reward's name if they give none. */
interface Source {
  base: string;
  name: string;
  context: RewardContext;
  /** the files that lead here, the first one first */
  trail: readonly string[];
}

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

async function openHeuristic(settings: HeuristicSettings, { base, name, context }: Source): Promise<Reward> {
  const lexicon = await loadAfinn();
  const embedder = await openEmbedder(settings.embedding, base, context.onDownload);
  const parts = { embedder, lexicon, name: settings.name ?? name };
  if (settings.preset === 'sharp') {
    const { weights, guards } = settings;
    return sharpReward({ ...parts, options: { weights, guards } });
  }
  const { weights, guards, length, diversity, punctuation, engagement } = settings;
  const options = { weights, guards, length, diversity, punctuation, engagement };
  return heuristicReward({ ...parts, options });
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

async function openComposite({ parts, name }: CompositeSettings, source: Source): Promise<Reward> {
  const { base, context, trail } = source;
  const opened: Record<string, WeightedReward> = {};
  for (const [part, { weight, reward }] of Object.entries(parts)) {
    opened[part] = {
      weight,
      reward:
        typeof reward === 'string'
          ? await openNamed(reward, base, { ...context, name: part }, trail)
          : await openReward(reward, { ...source, name: part }),
    };
  }
  return compositeReward(opened, name ?? source.name);
}

async function openReward(settings: RewardSettings, source: Source): Promise<Reward> {
  const { base, context } = source;
  switch (settings.type) {
    case 'heuristic':
      return openHeuristic(settings, source);
    case 'learned': {
      const { directory, embedding, name = source.name } = settings;
      return openLearned(resolve(base, directory), embedding, { base, name, context });
    }
    case 'composite':
      return openComposite(settings, source);
    case 'judge': // by the schema that drops type and name
      return judgeReward(z.object(judgeSchema.shape).parse(settings), settings.name ?? source.name, context);
  }
}

/** @param base  where a relative path starts; '' leaves it as it is. @param trail  the files that ask for it */
async function openNamed(
  nameOrPath: string,
  base: string,
  context: RewardContext,
  trail: readonly string[],
): Promise<Reward> {
  const named = locateReward(nameOrPath, base);
  const name = context.name ?? named.name;
  switch (named.kind) {
    case 'preset':
      return openReward(effectiveSettings({ preset: named.preset }), { base: '.', name, context, trail });
    case 'directory':
      return openLearned(named.path, undefined, { base: '.', name, context });
    case 'file': {
      const read = await readRewardSettings(named.path, nameOrPath, trail);
      return openReward(read.settings, { base: dirname(named.path), name, context, trail: read.trail });
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

/** Where settings that stand in no file come from. */
export interface SettingsContext extends RewardContext {
  /** folder in which relative paths of the settings start; default: the working directory */
  base?: string;
}

/** What a reward is called where nobody gave it a name. */
function nameOfKind(settings: RewardSettings): string {
  if (settings.type !== 'heuristic') return settings.type;
  return settings.preset === 'sharp' ? 'sharp' : 'heuristic';
}

/**
 * The reward of settings as a YAML file would hold them: what `loadReward` gives for such a file, scores and errors
 * alike. Settings that are changed afterwards do not change the reward. `writeRewardFile` makes the file.
 *
 * @param settings  for example `{ preset: 'sharp', guards: { min_length: 5 } }`; `rewardDefaults` has all there are
 * @throws ConfigError  when there is an unknown key or a value out of range, or a file that they name is bad
 */
export async function rewardFromSettings(settings: object, context: SettingsContext = {}): Promise<Reward> {
  const effective = effectiveSettings(settings, context.name ?? 'settings');
  const name = context.name ?? nameOfKind(effective);
  return openReward(effective, { base: context.base ?? '.', name, context, trail: [] });
}
