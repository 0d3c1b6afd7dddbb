/** A reward that is asked for by name: which preset, directory or YAML file that is, and what the file holds. */

import { existsSync, realpathSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { ConfigError } from '../runtime/errors';
import { readFailure } from '../runtime/files';
import { nearest } from '../runtime/strict';
import { parseYaml } from '../runtime/yaml';
import { effectiveSettings, REWARD_NAMES } from './settings';
import type { PresetSettings, RewardSettings } from './settings';

/** What a name stands for; `name` is what a report calls the reward. */
export type NamedReward =
  | { kind: 'preset'; name: string; preset: keyof PresetSettings }
  | { kind: 'directory' | 'file'; name: string; path: string };

export function isRewardName(text: string): boolean {
  return (REWARD_NAMES as readonly string[]).includes(text);
}

/** @throws ConfigError  unless the directory is one that train-reward wrote */
export function requireLearned(directory: string): void {
  if (existsSync(join(directory, 'reward.json'))) return;
  throw new ConfigError(
    `reward "${directory}": the directory has no reward.json; expected one that train-reward wrote. Check the path.`,
  );
}

/** @param base  where a relative path starts; '' leaves it as it is. @throws ConfigError for a foreign directory */
export function locateReward(nameOrPath: string, base: string): NamedReward {
  if (isRewardName(nameOrPath)) {
    return { kind: 'preset', name: nameOrPath, preset: nameOrPath === 'sharp' ? 'sharp' : 'study' };
  }
  const path = base === '' ? nameOrPath : resolve(base, nameOrPath);
  const name = basename(resolve(path)).replace(/\.ya?ml$/i, '');
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return { kind: 'file', name, path };
  requireLearned(path);
  return { kind: 'directory', name, path };
}

/** @param asked  the reward as it was asked for */
async function readYaml(path: string, asked: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const hint = /^\w+$/.test(asked) ? ` Did you mean "${nearest(asked, REWARD_NAMES)}"?` : '';
    throw new ConfigError(
      `reward "${path}": cannot be read (${readFailure(error)}); expected ${REWARD_NAMES.map((each) => `"${each}"`).join(', ')}, a YAML file, or the directory of a learned reward.${hint}`,
    );
  }
  return parseYaml(text, path) ?? {}; // an empty file asks for the defaults
}

/** @throws ConfigError  when a file stands in its own trail */
function extendTrail(trail: readonly string[], file: string): string[] {
  const extended = [...trail, file];
  if (!trail.includes(file)) return extended;
  const names = extended.map((each) => relative(dirname(extended[0]), each)).join(' -> ');
  throw new ConfigError(`${names}: a reward cannot be a part of itself. Remove one of these parts.`);
}

/**
 * The settings in a YAML file, and the trail with the file at its end.
 *
 * @param asked  the reward as it was asked for
 * @param trail  the files that lead here, the first one first
 * @throws ConfigError  when the file cannot be read, is not YAML, has bad settings, or stands in its own trail
 */
export async function readRewardSettings(
  path: string,
  asked: string,
  trail: readonly string[],
): Promise<{ settings: RewardSettings; trail: string[] }> {
  const value = await readYaml(path, asked);
  const extended = extendTrail(trail, realpathSync(path));
  return { settings: effectiveSettings(value, path), trail: extended };
}
