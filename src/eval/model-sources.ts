/** Where a model's replies come from: a model with or without an adapter, or a file of replies. */
import path from 'node:path';
import { z } from 'zod';
import { readModelConfig } from '../model/config';
import { resolveModel } from '../model/hub';
import type { DownloadProgress } from '../model/hub';
import { loadTokenizerOf } from '../model/tokenizer';
import { LocalPolicy } from '../policy/local';
import { ConfigError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { parseYaml } from '../runtime/yaml';
import { readModelReplies } from './model-replies';
import type { ModelReplies, ReadRepliesOptions } from './model-replies';
import { writeReplies } from './write-replies';
import type { Shot, TweetToAnswer, WriteRepliesOptions } from './write-replies';

const seed = z.int().min(0).optional().describe('of the run; several runs of one model are aggregated');

const localSchema = z.strictObject({
  model: z.string().min(1).describe('directory of a Hugging Face model, or a hub id'),
  adapter: z.string().min(1).optional().describe('PEFT directory'),
  shots: z.int().min(0).default(0).describe('examples that the prompt shows before the tweet'),
  seed,
});

const fileSchema = z.strictObject({
  replies: z.string().min(1).describe('JSONL with tweet_id, tweet, generations'),
  seed,
});

/** One that names no file may have misspelt the key: both know the keys of either. */
const sourceSchema = z.union([localSchema, fileSchema]);

/** A model's name and where its replies come from. */
export type ModelSource = (z.output<typeof fileSchema> | z.output<typeof localSchema>) & { name: string };

/** `NAME=MODEL` or `NAME=MODEL+ADAPTER`. @throws ConfigError */
export function parseModelSource(text: string): ModelSource {
  const match = /^\s*([^=\s][^=]*)=([^+]+)(?:\+(.+))?$/.exec(text);
  if (match === null)
    throw new ConfigError(
      `--models ${text}: expected NAME=MODEL or NAME=MODEL+ADAPTER, such as grpo=data/model+runs/grpo.`,
    );
  const [, name, model, adapter] = match;
  return { name: name.trim(), model, adapter, shots: 0 };
}

/** `NAME=FILE`. @throws ConfigError */
export function parseReplySource(text: string): ModelSource {
  const at = text.indexOf('=');
  if (at < 1 || text.slice(0, at).trim() === '' || at === text.length - 1)
    throw new ConfigError(`--replies ${text}: expected NAME=FILE, such as grpo=replies.jsonl.`);
  return { name: text.slice(0, at).trim(), replies: text.slice(at + 1) };
}

/**
 * Models of a YAML file: `models: { NAME: { model, adapter, shots, seed } | { replies } }`; of a model with several runs a
 * list. @throws ConfigError naming the key
 */
export function parseModelSources(yaml: string, where: string): ModelSource[] {
  const fileOf = z.strictObject({ models: z.record(z.string().min(1), z.unknown()) });
  const { models } = parseStrict(fileOf, parseYaml(yaml, where), where);
  const empty = Object.keys(models).find((name) => Array.isArray(models[name]) && models[name].length === 0);
  if (empty !== undefined)
    throw new ConfigError(`${where}: models.${empty} is []; expected at least one run.`);
  return Object.entries(models).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map((one: unknown, i): ModelSource => {
      const place = `${where}: models.${name}${Array.isArray(value) ? `[${i}]` : ''}`;
      const isFile = typeof one === 'object' && one !== null && 'replies' in one;
      return {
        ...parseStrict(isFile ? fileSchema : sourceSchema, one, place),
        name,
      };
    }),
  );
}

export interface OpenRepliesOptions extends Omit<WriteRepliesOptions, 'shots'> {
  /** where replies that are generated are written, a file a run */
  directory: string;
  /** examples to choose the shots from, the best first */
  examples?: readonly Shot[];
  /** how to read replies that are on file */
  reading?: ReadRepliesOptions;
  onDownload?: (progress: DownloadProgress) => void;
}

/** The file of a run's replies: letters that any file system takes. */
export function repliesFile(
  directory: string,
  { name, seed: run }: Pick<ModelSource, 'name' | 'seed'>,
): string {
  const plain = name.replace(/[^\w.-]+/g, '_');
  return path.join(directory, `${plain}${run === undefined ? '' : `-seed_${run}`}.jsonl`);
}

function shotsOf(source: ModelSource, examples: readonly Shot[]): Shot[] {
  const wanted = 'shots' in source ? source.shots : 0;
  if (examples.length >= wanted) return examples.slice(0, wanted);
  throw new ConfigError(
    `${source.name}: shots is ${wanted}, but there are ${examples.length} examples; expected as many. Give records to take them from.`,
  );
}

/**
 * A model's replies to the tweets: read, or generated into a file (a `seed` of the source draws them).
 * @throws ConfigError, DataError, CheckpointError
 */
export async function openModelReplies(
  source: ModelSource,
  tweets: readonly TweetToAnswer[],
  options: OpenRepliesOptions,
): Promise<ModelReplies> {
  const { name } = source;
  const { directory, examples = [], reading, onDownload, ...writing } = options;
  if ('replies' in source) return readModelReplies(name, source.replies, { ...reading, seed: source.seed });
  const shots = shotsOf(source, examples);
  const modelDirectory = await resolveModel(source.model, onDownload);
  const config = readModelConfig(modelDirectory);
  const tokenizer = await loadTokenizerOf(modelDirectory, config);
  const policy = LocalPolicy.load({
    ...{ modelDirectory, adapterDirectory: source.adapter },
    stopTokenIds: [...new Set([...config.eosTokenIds, tokenizer.eosTokenId])],
  });
  try {
    const written = await writeReplies(policy, tokenizer, tweets, repliesFile(directory, source), {
      ...{ ...writing, shots, seed: source.seed ?? writing.seed },
    });
    return { name, seed: source.seed, tweets: written };
  } finally {
    policy.dispose();
  }
}
