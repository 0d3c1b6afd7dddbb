/** Writing the settings of a reward as a YAML file that training reads. */

import { existsSync, realpathSync } from 'node:fs';
import { dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { stringify } from 'yaml';
import { ConfigError } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory } from '../runtime/files';
import { parseYaml } from '../runtime/yaml';
import { isRewardName, locateReward, readRewardSettings, requireLearned } from './named-reward';
import { effectiveSettings } from './settings';
import type { CompositeSettings, EmbeddingConfig, RewardSettings } from './settings';

const HEAD = `# A reward, written by writeRewardFile with all of its settings, defaults too.
# Use it by this file's path: \`reward: PATH\` in an experiment, \`grpolab reward --reward PATH\`, or loadReward(PATH).
# Folders and files that it names start at its own folder.
`;

/** From the folder where the settings' paths start to the folder of the file. */
interface Move {
  from: string;
  to: string;
}

/** The same place, as seen from the new folder. Never a bare word, which could be the name of a reward. */
function movedPath(path: string, { from, to }: Move): string {
  if (isAbsolute(path) || resolve(from) === resolve(to)) return path;
  const way = relative(resolve(to), resolve(from, path)).replaceAll(sep, '/');
  return isAbsolute(way) || way.startsWith('.') ? way : `./${way}`;
}

function movedEmbedding(embedding: EmbeddingConfig, move: Move): EmbeddingConfig {
  if (embedding.kind === 'lexical') return embedding;
  const { model } = embedding;
  if (existsSync(resolve(move.from, model))) return { ...embedding, model: movedPath(model, move) };
  if (existsSync(resolve(move.to, model))) {
    throw new ConfigError(
      `embedding: ${model} is no folder from ${resolve(move.from)}, so a hub id, but it is one from ${resolve(move.to)}, where the file would be. ` +
        'Write the file to another folder, or give the folder of the model.',
    );
  }
  return embedding;
}

function movedComposite(settings: CompositeSettings, move: Move): CompositeSettings {
  const parts = Object.entries(settings.parts).map(([part, { weight, reward }]) => {
    if (typeof reward !== 'string') return [part, { weight, reward: movedSettings(reward, move) }] as const;
    return [part, { weight, reward: isRewardName(reward) ? reward : movedPath(reward, move) }] as const;
  });
  return { ...settings, parts: Object.fromEntries(parts) };
}

/** The settings with the same folders and files, as seen from the new folder. */
function movedSettings(settings: RewardSettings, move: Move): RewardSettings {
  switch (settings.type) {
    case 'heuristic':
      return { ...settings, embedding: movedEmbedding(settings.embedding, move) };
    case 'learned': {
      const { embedding, ...rest } = settings;
      const directory = movedPath(settings.directory, move);
      const own = embedding === undefined ? {} : { embedding: movedEmbedding(embedding, move) };
      return { ...rest, directory, ...own };
    }
    case 'composite':
      return movedComposite(settings, move);
    case 'judge': // its cache is relative to the working directory, wherever the file stands
      return settings;
  }
}

/**
 * Follows what the settings name, without opening a model.
 * @param trail  the files that lead here
 * @throws ConfigError  for a file or directory that is not there or is bad, and for files that lead back to themselves
 */
async function checkReferences(
  settings: RewardSettings,
  base: string,
  trail: readonly string[],
): Promise<void> {
  if (settings.type === 'learned') requireLearned(resolve(base, settings.directory));
  if (settings.type !== 'composite') return;
  for (const { reward } of Object.values(settings.parts)) {
    if (typeof reward !== 'string') {
      await checkReferences(reward, base, trail);
      continue;
    }
    const named = locateReward(reward, base);
    if (named.kind !== 'file') continue;
    const read = await readRewardSettings(named.path, reward, trail);
    await checkReferences(read.settings, dirname(named.path), read.trail);
  }
}

/** The file's text. @throws ConfigError  when YAML would not give the settings back as they are */
function rewardYaml(settings: RewardSettings, path: string): string {
  const text = HEAD + stringify(settings, { aliasDuplicateObjects: false, lineWidth: 0 });
  if (isDeepStrictEqual(effectiveSettings(parseYaml(text, path), path), settings)) return text;
  throw new ConfigError(
    `${path}: the settings hold a text that YAML does not give back as it is. Remove unusual characters.`,
  );
}

/**
 * Writes settings as a YAML file: `loadReward(path)` then gives a reward with the scores of `rewardFromSettings`, to the
 * last bit. The file has every default, so that it keeps its meaning. A crash leaves the old file or the new one, whole.
 *
 * Relative folders and files of the settings start at `base`, and in the file at the file's own folder: they are
 * rewritten to name the same places. The folder of a learned reward, and whatever a composite names, must be there.
 *
 * @param path     ends in .yaml or .yml; its folder is made where it is not there
 * @param options  `base`: as for `rewardFromSettings`, default the working directory
 * @returns        the text of the file
 * @throws ConfigError  as `rewardFromSettings` does, before anything is written; a key never gets into a file
 * @throws DataError    when the file cannot be written
 */
export async function writeRewardFile(
  path: string,
  settings: object,
  { base = '.' }: { base?: string } = {},
): Promise<string> {
  if (!/\.ya?ml$/i.test(path)) {
    throw new ConfigError(`${path}: expected a file name that ends in .yaml. Rename it.`);
  }
  const effective = effectiveSettings(settings, path);
  await checkReferences(effective, base, existsSync(path) ? [realpathSync(path)] : []);
  const text = rewardYaml(movedSettings(effective, { from: base, to: dirname(path) }), path);
  await ensureDirectory(dirname(path));
  await atomicWriteFile(path, text);
  return text;
}
