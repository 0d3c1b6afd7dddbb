/** Where a model's replies come from: a model with or without an adapter, one behind a server, or a file of replies. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { MATMUL_PRECISIONS, matmulProblem, readModelConfig, WEIGHT_DTYPES } from '../model/config';
import { resolveModel } from '../model/hub';
import type { DownloadProgress } from '../model/hub';
import type { OnLoad } from '../model/load';
import { loadTokenizerOf } from '../model/tokenizer';
import { LocalPolicy } from '../policy/local';
import { readAdapterConfig } from '../model/peft';
import { ConfigError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { parseYaml } from '../runtime/yaml';
import { chatEndpointSchema, refuseSecrets } from '../rewards/chat-request';
import { policyAnswerer, repliesSha256, servedAnswerer } from './answerers';
import type { AnswerOptions, Shot } from './answerers';
import { readModelReplies } from './model-replies';
import type { ModelReplies, ReadRepliesOptions, TweetReference, TweetReplies } from './model-replies';
import { NAMED, requireWritable, writeReplies } from './write-replies';
import type { Answerer, TweetToAnswer, WriteRepliesOptions } from './write-replies';

const seed = z.int().min(0).optional().describe('of the run; several runs of one model are aggregated');

const localSchema = z
  .strictObject({
    model: z.string().min(1).describe('directory of a Hugging Face model, or a hub id'),
    adapter: z.string().min(1).optional().describe('PEFT directory'),
    dtype: z.enum(WEIGHT_DTYPES).optional().describe('of the base weights in memory; default: float32'),
    matmul_precision: z
      .enum(MATMUL_PRECISIONS)
      .optional()
      .describe('of products with base weights in bfloat16 or nf4; default: float32'),
    shots: z.int().min(0).default(0).describe('examples that the prompt shows before the tweet'),
    seed,
  })
  .superRefine(({ dtype = 'float32', matmul_precision: precision = 'float32' }, context) => {
    const problem = matmulProblem(dtype, precision);
    if (problem === null) return;
    const message = `is ${precision}, but dtype is ${dtype}; ${problem}`;
    context.addIssue({ code: 'custom', path: ['matmul_precision'], message });
  });

const servedSchema = chatEndpointSchema
  .omit({ temperature: true, top_p: true, max_tokens: true, seed: true })
  .extend({
    cache_directory: z.string().min(1).default('.cache/replies').describe('where answers are kept'),
    log_probs: z.boolean().default(false).describe('ask for the log-probabilities of sampled replies'),
    shots: localSchema.shape.shots,
    seed,
  });

const fileSchema = z.strictObject({
  replies: z.string().min(1).describe('JSONL with tweet_id, tweet, generations'),
  seed,
});

/** One that names no file or server may have misspelt the key: this one knows the keys of all. */
const sourceSchema = z.union([localSchema, fileSchema, servedSchema]);

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

/** How the replies of one model are read or written: draws, files, what the tweets are shown with. */
export interface OpenRepliesOptions
  extends Omit<AnswerOptions, 'shots'>, Pick<WriteRepliesOptions, 'resume' | 'again' | 'onProgress'> {
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
  /** told of how much of a local model has been read */
  onLoad?: OnLoad;
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

/** A digest of an adapter: of its configuration, which scales it, and of its weights. */
function adapterSha256(adapter: string): string {
  const hash = createHash('sha256');
  for (const file of ['adapter_config.json', 'adapter_model.safetensors'])
    hash.update(readFileSync(path.join(adapter, file)));
  return hash.digest('hex');
}

/** A digest of a model's configuration and of the names and sizes of its files: weights of gigabytes are not read for it. */
function modelSha256(directory: string): string {
  const files = readdirSync(directory).filter((file) => /\.(safetensors|json|jinja)$/.test(file));
  const sizes = files.sort().map((file) => [file, statSync(path.join(directory, file)).size]);
  const config = readFileSync(path.join(directory, 'config.json'), 'utf8');
  return createHash('sha256')
    .update(JSON.stringify([config, sizes]))
    .digest('hex');
}

type Local = z.output<typeof localSchema> & { name: string };
type Served = z.output<typeof servedSchema> & { name: string };

/** A run whose replies can be had: what could be refused was refused. */
export interface PreparedSource {
  open(): Promise<ModelReplies>;
}

/** What every run that is written needs. */
function planOf(source: Local | Served, tweets: readonly TweetToAnswer[], options: OpenRepliesOptions) {
  const { generations, temperature, topP, maxNewTokens, resume, again, signal, onProgress } = options;
  const shots = shotsOf(source, options.examples ?? []);
  const seed = source.seed ?? options.seed;
  const answering: AnswerOptions = { generations, temperature, topP, maxNewTokens, seed, shots, signal };
  const drawn = { generations, temperature, top_p: topP, max_new_tokens: maxNewTokens, seed, shots };
  const file = repliesFile(options.directory, source);
  const write = async (answerer: Answerer, writing: WriteRepliesOptions): Promise<ModelReplies> => ({
    ...{ name: source.name, seed: source.seed },
    tweets: await writeReplies(answerer, tweets, file, writing),
  });
  return { answering, drawn, file, write, writing: { generations, resume, again, signal, onProgress } };
}

/** A likelihood on file has to be of the references that the test data have now. */
function currentReferences(references: OpenRepliesOptions['references']) {
  return ({ tweet_id: id, reference }: TweetReplies): string | null => {
    const replies = references?.get(id)?.replies ?? [];
    const isCurrent =
      reference?.replies_sha256 === (replies.length === 0 ? undefined : repliesSha256(replies));
    return isCurrent
      ? null
      : `the perplexity of tweet ${id} is of other references than the test data have now`;
  };
}

async function prepareLocal(
  source: Local,
  tweets: readonly TweetToAnswer[],
  options: OpenRepliesOptions,
): Promise<PreparedSource> {
  const { references, onDownload, onLoad } = options;
  const { answering, drawn, file, write, writing } = planOf(source, tweets, options);
  const modelDirectory = await resolveModel(source.model, onDownload);
  const config = readModelConfig(modelDirectory);
  const { adapter, dtype = 'float32', matmul_precision: precision = 'float32' } = source;
  if (adapter !== undefined) readAdapterConfig(adapter);
  const settings = {
    ...drawn,
    model_sha256: modelSha256(modelDirectory),
    adapter_sha256: adapter === undefined ? null : adapterSha256(adapter),
    // Replies that were written before there were these settings are of float32.
    ...(dtype !== 'float32' && { dtype }),
    ...(precision !== 'float32' && { matmul_precision: precision }),
    [NAMED]: { model: source.model, adapter: adapter ?? null },
  };
  const own = { ...writing, settings, problemOf: currentReferences(references) };
  requireWritable(file, tweets, own);
  const open = async (): Promise<ModelReplies> => {
    const tokenizer = await loadTokenizerOf(modelDirectory, config);
    const policy = LocalPolicy.load({
      ...{ modelDirectory, adapterDirectory: adapter, dtype, matmulPrecision: precision, onLoad },
      stopTokenIds: [...new Set([...config.eosTokenIds, tokenizer.eosTokenId])],
    });
    try {
      return await write(policyAnswerer(policy, tokenizer, { ...answering, references }), own);
    } finally {
      policy.dispose();
    }
  };
  return { open };
}

function prepareServed(
  source: Served,
  tweets: readonly TweetToAnswer[],
  options: OpenRepliesOptions,
): PreparedSource {
  const { answering, drawn, file, write, writing } = planOf(source, tweets, options);
  // Of the source without what is not the endpoint's; temperature, top-p, tokens and seed are the evaluation's.
  const config = z.object(chatEndpointSchema.shape).parse({ ...source, seed: null });
  const { log_probs: logProbs } = source;
  const context = { signal: options.signal, onNotice: options.onNotice };
  const answerer = servedAnswerer(config, { ...answering, logProbs }, context);
  const { base_url, model, send_seed, send_top_p, extra_body } = config;
  const settings = { ...drawn, base_url, model, send_seed, send_top_p, extra_body };
  // Replies that were written before there was this setting are gone on with where it is off.
  const own = { ...writing, settings: { ...settings, ...(logProbs && { log_probs: logProbs }) } };
  requireWritable(file, tweets, own);
  return { open: () => write(answerer, own) };
}

/**
 * Makes ready to read or to write a model's replies, before any model is loaded: a key that is missing, a directory that is
 * not there, a file of other replies are refused here.
 * @throws ConfigError, DataError, CheckpointError
 */
export async function prepareReplies(
  source: ModelSource,
  tweets: readonly TweetToAnswer[],
  options: OpenRepliesOptions,
): Promise<PreparedSource> {
  if ('replies' in source) {
    const { name, seed: run } = source;
    const replies = await readModelReplies(name, source.replies, { ...options.reading, seed: run });
    return { open: () => Promise.resolve(replies) };
  }
  if (!('base_url' in source)) return prepareLocal(source, tweets, options);
  return prepareServed(source, tweets, options);
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
  return (await prepareReplies(source, tweets, options)).open();
}
