/** Where a model's replies come from: a model with or without an adapter, one behind a server, or a file of replies. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { readModelConfig } from '../model/config';
import { resolveModel } from '../model/hub';
import type { DownloadProgress } from '../model/hub';
import { loadTokenizerOf } from '../model/tokenizer';
import { LocalPolicy } from '../policy/local';
import { ConfigError, DataError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { parseYaml } from '../runtime/yaml';
import { chatEndpointSchema, refuseSecrets } from '../rewards/chat-request';
import { policyAnswerer, repliesSha256, servedAnswerer } from './answerers';
import type { AnswerOptions, Shot } from './answerers';
import { readModelReplies } from './model-replies';
import type { ModelReplies, ReadRepliesOptions, TweetReference, TweetReplies } from './model-replies';
import { writeReplies } from './write-replies';
import type { TweetToAnswer, WriteRepliesOptions } from './write-replies';

const seed = z.int().min(0).optional().describe('of the run; several runs of one model are aggregated');

const localSchema = z.strictObject({
  model: z.string().min(1).describe('directory of a Hugging Face model, or a hub id'),
  adapter: z.string().min(1).optional().describe('PEFT directory'),
  shots: z.int().min(0).default(0).describe('examples that the prompt shows before the tweet'),
  seed,
});

const servedSchema = chatEndpointSchema
  .omit({ temperature: true, top_p: true, max_tokens: true, seed: true })
  .extend({
    cache_directory: z.string().min(1).default('.cache/replies').describe('where answers are kept'),
    shots: localSchema.shape.shots,
    seed,
  });

const fileSchema = z.strictObject({
  replies: z.string().min(1).describe('JSONL with tweet_id, tweet, generations'),
  seed,
});

/** One that names no file may have misspelt the key: both know the keys of either. */
const sourceSchema = z.union([localSchema, fileSchema]);

/** A model's name and where its replies come from: a file, a model here, or one behind a server. */
export type ModelSource = (
  z.output<typeof fileSchema> | z.output<typeof localSchema> | z.output<typeof servedSchema>
) & { name: string };

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
 * Models of a YAML file: `models: { NAME: { model, adapter, shots, seed } | { base_url, model, api_key_env } | { replies } }`;
 * of a model with several runs a list. @throws ConfigError naming the key
 */
export function parseModelSources(yaml: string, where: string): ModelSource[] {
  const fileOf = z.strictObject({ models: z.record(z.string().min(1), z.unknown()) });
  return modelSources(parseStrict(fileOf, parseYaml(yaml, where), where).models, where);
}

/** Models by name, each as in a YAML file. @throws ConfigError naming the key */
export function modelSources(models: Readonly<Record<string, unknown>>, where: string): ModelSource[] {
  const empty = Object.keys(models).find((name) => Array.isArray(models[name]) && models[name].length === 0);
  if (empty !== undefined)
    throw new ConfigError(`${where}: models.${empty} is []; expected at least one run.`);
  return Object.entries(models).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map((one: unknown, i): ModelSource => {
      const place = `${where}: models.${name}${Array.isArray(value) ? `[${i}]` : ''}`;
      const keys = typeof one === 'object' && one !== null ? Object.keys(one) : [];
      refuseSecrets(one, place);
      if (keys.includes('base_url')) return { ...parseStrict(servedSchema, one, place), name };
      return { ...parseStrict(keys.includes('replies') ? fileSchema : sourceSchema, one, place), name };
    }),
  );
}

export interface OpenRepliesOptions
  extends Omit<AnswerOptions, 'shots'>, Pick<WriteRepliesOptions, 'resume' | 'onProgress'> {
  /** where replies that are generated are written, a file a run */
  directory: string;
  /** what people replied: its likelihood under each model is the model's perplexity */
  references?: ReadonlyMap<string, TweetReference>;
  /** of a server: what its client has to say */
  onNotice?: (line: string) => void;
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

const sha256 = (data: string | Buffer): string => createHash('sha256').update(data).digest('hex');

/** All that the replies of a run depend on beside their tweets: paths as they are named, an adapter by its bytes, too. */
function settingsOf(
  source: Exclude<ModelSource, { replies: string }>,
  shots: readonly Shot[],
  { generations, temperature, topP, maxNewTokens, seed: own }: OpenRepliesOptions,
): Record<string, unknown> {
  const drawn = { generations, temperature, top_p: topP, max_new_tokens: maxNewTokens };
  const common = { model: source.model, ...drawn, seed: source.seed ?? own, shots };
  if ('base_url' in source) return { base_url: source.base_url, ...common };
  const { adapter } = source;
  const weights = adapter === undefined ? null : path.join(adapter, 'adapter_model.safetensors');
  return {
    ...{ ...common, adapter: adapter ?? null },
    adapter_sha256: weights !== null && existsSync(weights) ? sha256(readFileSync(weights)) : null,
  };
}

/** @throws DataError  when a likelihood in the file is of other references than those that are known now */
function requireOwnReferences(
  written: readonly TweetReplies[],
  references: OpenRepliesOptions['references'],
  file: string,
): void {
  const other = written.find(({ tweet_id: id, reference }) => {
    const replies = references?.get(id)?.replies ?? [];
    return reference?.replies_sha256 !== (replies.length === 0 ? undefined : repliesSha256(replies));
  });
  if (other !== undefined)
    throw new DataError(
      `${file}: the perplexity of tweet ${other.tweet_id} is of other references than the test data have now. Remove the file, or choose another output directory.`,
    );
}

/** Replies of a model that is loaded for them. */
async function writeLocally(
  source: z.output<typeof localSchema> & { name: string },
  tweets: readonly TweetToAnswer[],
  answering: AnswerOptions,
  writing: WriteRepliesOptions,
  { directory, references, onDownload }: OpenRepliesOptions,
): Promise<TweetReplies[]> {
  const modelDirectory = await resolveModel(source.model, onDownload);
  const config = readModelConfig(modelDirectory);
  const tokenizer = await loadTokenizerOf(modelDirectory, config);
  const policy = LocalPolicy.load({
    ...{ modelDirectory, adapterDirectory: source.adapter },
    stopTokenIds: [...new Set([...config.eosTokenIds, tokenizer.eosTokenId])],
  });
  try {
    const answer = policyAnswerer(policy, tokenizer, { ...answering, references });
    const file = repliesFile(directory, source);
    const written = await writeReplies(answer, tweets, file, writing);
    requireOwnReferences(written, references, file);
    return written;
  } finally {
    policy.dispose();
  }
}

/**
 * A model's replies to the tweets: read, or generated into a file (a `seed` of the source draws them).
 * @throws ConfigError, DataError, CheckpointError
 * @throws JudgeError  when a server does not answer; what it answered is kept
 */
export async function openModelReplies(
  source: ModelSource,
  tweets: readonly TweetToAnswer[],
  options: OpenRepliesOptions,
): Promise<ModelReplies> {
  const { name } = source;
  if ('replies' in source)
    return readModelReplies(name, source.replies, { ...options.reading, seed: source.seed });
  const { generations, temperature, topP, maxNewTokens, resume, signal, onProgress, onNotice } = options;
  const shots = shotsOf(source, options.examples ?? []);
  const answering: AnswerOptions = {
    ...{ generations, temperature, topP, maxNewTokens, shots, signal },
    seed: source.seed ?? options.seed,
  };
  const settings = settingsOf(source, shots, options);
  const writing: WriteRepliesOptions = { generations, resume, settings, signal, onProgress };
  if (!('base_url' in source)) {
    const written = await writeLocally(source, tweets, answering, writing, options);
    return { name, seed: source.seed, tweets: written };
  }
  // Of the source without what is not the endpoint's; temperature, top-p, tokens and seed are the evaluation's.
  const config = z.object(chatEndpointSchema.shape).parse({ ...source, seed: null });
  const answer = servedAnswerer(config, answering, { signal, onNotice });
  const written = await writeReplies(answer, tweets, repliesFile(options.directory, source), writing);
  return { name, seed: source.seed, tweets: written };
}
