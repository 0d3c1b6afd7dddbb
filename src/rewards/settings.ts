/** The settings of rewards, as a YAML file or a notebook holds them: their schemas, and their defaults. */

import { z } from 'zod';
import { ConfigError } from '../runtime/errors';
import { nearest, parseStrict } from '../runtime/strict';
import { refuseSecrets } from './chat-request';
import { requireMixture } from './composite';
import { heuristicSchema } from './heuristic-options';
import { judgeSchema } from './judge';
import { MINILM } from './minilm';
import { sharpSchema } from './sharp';

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

/** What turns texts into vectors: word weights, or MiniLM. */
export type EmbeddingConfig = z.output<typeof embeddingSchema>;

const common = {
  name: z.string().min(1).optional().describe("shown in reports; default: the file's name"),
};

/** The heuristic reward: the study's rules, or the sharper ones, each with its own settings. */
const studyFileSchema = z.strictObject({
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

const judgeFileSchema = z.strictObject({ type: z.literal('judge'), ...common, ...judgeSchema.shape });

/** Settings of the heuristic reward by its presets, every default filled in. */
export interface PresetSettings {
  study: z.output<typeof studyFileSchema>;
  sharp: z.output<typeof sharpFileSchema>;
}

/** Settings of the heuristic reward under one of its presets. */
export type HeuristicSettings = PresetSettings[keyof PresetSettings];
/** Settings of a learned reward: where it is. */
export type LearnedSettings = z.output<typeof learnedFileSchema>;
/** Settings of a language model as a judge. */
export type JudgeSettings = z.output<typeof judgeFileSchema>;

/** Settings of a weighted sum of rewards. */
export interface CompositeSettings {
  type: 'composite';
  name?: string;
  /** `reward`: a name, a YAML file, a directory, or the settings themselves */
  parts: Record<string, { weight: number; reward: string | RewardSettings }>;
}

/** The settings of one reward, every default filled in. */
export type RewardSettings = HeuristicSettings | LearnedSettings | CompositeSettings | JudgeSettings;

/** Names that `loadReward` knows. */
export const REWARD_NAMES = ['heuristic', 'sharp'] as const;

const TYPES = ['heuristic', 'learned', 'composite', 'judge'] as const;
const PRESETS = ['study', 'sharp'] as const;

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

function parseHeuristic(value: unknown, where: string): HeuristicSettings {
  return choice(value, 'preset', PRESETS, where) === 'sharp'
    ? parseStrict(sharpFileSchema, value, where)
    : parseStrict(studyFileSchema, value, where);
}

function parseComposite(value: unknown, where: string, within: readonly unknown[]): CompositeSettings {
  const composite = parseStrict(compositeFileSchema, value, where);
  requireMixture(composite.parts, where);
  const parts = Object.entries(composite.parts).map(([part, { weight, reward }]) => {
    const inner =
      typeof reward === 'string' ? reward : parseSettings(reward, `${where}: parts.${part}`, within);
    return [part, { weight, reward: inner }] as const;
  });
  return { ...composite, parts: Object.fromEntries(parts) };
}

/** A key whose value is undefined is one that is not given: YAML has no such value. */
function withoutUndefined<T extends object>(settings: T): T {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)) as T;
}

/** @param within  the parts of composites that lead here, as they were given */
function parseSettings(value: unknown, where: string, within: readonly unknown[]): RewardSettings {
  return withoutUndefined(parseByType(value, where, within));
}

function parseByType(value: unknown, where: string, within: readonly unknown[]): RewardSettings {
  switch (choice(value, 'type', TYPES, where)) {
    case 'heuristic':
      return parseHeuristic(value, where);
    case 'learned':
      return parseStrict(learnedFileSchema, value, where);
    case 'composite': {
      const { parts } = value as { parts?: unknown };
      if (within.includes(parts)) {
        throw new ConfigError(`${where}: a reward cannot be a part of itself. Remove one of these parts.`);
      }
      return parseComposite(value, where, [...within, parts]);
    }
    case 'judge':
      refuseSecrets(value, where);
      return parseStrict(judgeFileSchema, value, where);
  }
}

/**
 * Settings of a reward with every default filled in, those of a composite's parts too: what a reward of these settings
 * goes by. The parts that a composite names by a file stay names. The argument is not changed.
 *
 * @param settings  as a YAML file would hold them, for example `{ preset: 'sharp', guards: { min_length: 5 } }`
 * @param where     what an error message starts with
 * @throws ConfigError  for an unknown key, a value out of range, weights that do not sum to 1, or a key of an endpoint
 */
export function effectiveSettings(settings: unknown, where = 'settings'): RewardSettings {
  return parseSettings(settings, where, []);
}

/**
 * All settings of a preset of the heuristic reward at their defaults, to be edited: a new object each time.
 *
 * @param preset  `study`, the study's rules, or `sharp`
 * @throws ConfigError  for another name
 */
export function rewardDefaults<P extends keyof PresetSettings>(preset: P): PresetSettings[P] {
  return parseHeuristic({ preset }, 'rewardDefaults') as PresetSettings[P];
}

/** One setting of the heuristic reward. */
export interface SettingRow {
  /** its path in the YAML file, e.g. `weights.relevance` */
  setting: string;
  /** A list as one text, parted by commas. */
  value: string | number;
  /** null for one that only another embedding has */
  default: string | number | null;
  changed: boolean;
  /** what it does, with its unit; '' where the name says it */
  meaning: string;
}

/** Everything that is not an object, by its dotted path. */
function leaves(value: unknown, path = ''): [string, string | number][] {
  if (Array.isArray(value)) return [[path, value.join(', ')]];
  if (typeof value !== 'object' || value === null) return [[path, value as string | number]];
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, path === '' ? key : `${path}.${key}`));
}

/** The description of the field at a path of a schema. */
function meaningOf(schema: z.ZodType, path: readonly string[]): string {
  const { shape, innerType } = schema.def as { shape?: Record<string, z.ZodType>; innerType?: z.ZodType };
  if (path.length === 0) return schema.description ?? '';
  if (shape !== undefined) return path[0] in shape ? meaningOf(shape[path[0]], path.slice(1)) : '';
  return innerType === undefined ? '' : meaningOf(innerType, path);
}

/**
 * A row a setting of the heuristic reward: its value, its default, and what it means. In the order of the file, without
 * `type`, `preset` and `name`.
 *
 * @param settings  as a YAML file would hold them
 * @throws ConfigError  as `effectiveSettings` does, and for another type of reward
 */
export function settingsTable(settings: unknown, where = 'settings'): SettingRow[] {
  const effective = effectiveSettings(settings, where);
  if (effective.type !== 'heuristic') {
    throw new ConfigError(
      `${where}: type is "${effective.type}"; expected heuristic, whose settings are a table.`,
    );
  }
  const { preset } = effective;
  const defaults = new Map(leaves(rewardDefaults(preset)));
  const schema = preset === 'sharp' ? sharpFileSchema : studyFileSchema;
  return leaves(effective)
    .filter(([setting]) => !['type', 'preset', 'name'].includes(setting))
    .map(([setting, value]) => {
      const standard = defaults.get(setting) ?? null;
      const meaning = meaningOf(schema, setting.split('.'));
      return { setting, value, default: standard, changed: value !== standard, meaning };
    });
}
