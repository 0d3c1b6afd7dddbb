/** `grpolab evaluate`: models side by side on the same tweets. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { ReadJsonlOptions } from '../data/jsonl';
import { engagementOf, readRecords } from '../data/records';
import type { TweetRecord } from '../data/records';
import { isWorldText, worldQuality } from '../data/world-law';
import {
  openModelReplies,
  parseModelSource,
  parseModelSources,
  parseReplySource,
  repliesFile,
} from '../eval/model-sources';
import type { ModelSource } from '../eval/model-sources';
import { referencesOf } from '../eval/model-replies';
import type { ModelReplies } from '../eval/model-replies';
import { evaluationMarkdown } from '../eval/report';
import { evaluateModels } from '../eval/suite';
import { writeEvaluation } from '../eval/write-evaluation';
import type { Shot } from '../eval/write-replies';
import { readAdapterConfig } from '../model/peft';
import { embeddingNamed, loadReward } from '../rewards/config';
import { ConfigError, DataError, messageOf } from '../runtime/errors';
import { strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import { TOKENIZERS } from '../metrics/tokenizers';
import type { TokenizerName } from '../metrics/tokenizers';
import type { Arguments } from './arguments';
import { UsageError } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter, notify } from './io';
import { noticeRejected } from './lines';
import { withDownloadBar } from './open-model';

/** The models that the arguments name, in their order. @throws UsageError when there is none */
function sourcesOf(args: Arguments): ModelSource[] {
  const lora = (name: string): ModelSource[] => {
    const adapter = args.text(`${name}-lora`);
    if (adapter === undefined) return [];
    const { base_model_name_or_path: base } = readAdapterConfig(adapter);
    const model = args.text('model') ?? base;
    if (model === null)
      throw new ConfigError(`${adapter}: its adapter_config.json names no base model. Name it: --model DIR.`);
    return [{ name, adapter, model, shots: 0 }];
  };
  const config = args.text('config');
  const sources = [
    ...(config === undefined ? [] : parseModelSources(readConfig(config), config)),
    ...args.list('replies').map(parseReplySource),
    ...args.list('models').map(parseModelSource),
    ...lora('baseline'),
    ...lora('grpo'),
  ];
  if (sources.length === 0)
    throw new UsageError('no model was named: use --replies, --models, --config or --grpo-lora', 'evaluate');
  requireOwnFiles(sources);
  return sources;
}

/** @throws ConfigError  when the replies of two models would be written to one file, before any are */
function requireOwnFiles(sources: readonly ModelSource[]): void {
  const byFile = new Map<string, ModelSource>();
  for (const source of sources.filter((one) => !('replies' in one))) {
    const file = repliesFile('', source);
    const other = byFile.get(file);
    if (other !== undefined && other.name === source.name)
      throw new ConfigError(`two models are called ${source.name}; expected different names, or seeds.`);
    if (other !== undefined)
      throw new ConfigError(
        `the replies of ${other.name} and of ${source.name} would both be written to ${file}; expected names that differ in letters or digits.`,
      );
    byFile.set(file, source);
  }
}

function readConfig(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new ConfigError(
      `${file}: cannot be read (${messageOf(error).split('\n')[0]}); expected a YAML file.`,
    );
  }
}

/** `1,5,10`. @throws UsageError  also when a model that is to write --n replies could not be asked for so many */
function sizesOf(args: Arguments, sources: readonly ModelSource[]): number[] {
  const text = args.required('k');
  const sizes = text.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : NaN));
  if (sizes.every((size) => Number.isSafeInteger(size) && size > 0)) {
    const n = args.integer('n', { min: 1 });
    const large = sizes.find((size) => size > n);
    if (large === undefined || sources.every((source) => 'replies' in source)) return sizes;
    throw new UsageError(
      `--k asks for ${large} of --n ${n} replies; generate more, or ask for smaller k`,
      'evaluate',
    );
  }
  throw new UsageError(`--k is "${text}"; expected integers >= 1, such as 1,5,10`, 'evaluate');
}

function tokenizerOf(args: Arguments): TokenizerName {
  const name = args.required('tokenizer');
  if (Object.hasOwn(TOKENIZERS, name)) return name as TokenizerName;
  throw new UsageError(
    `--tokenizer is "${name}"; expected ${Object.keys(TOKENIZERS).join(', ')}`,
    'evaluate',
  );
}

const readingOf = (args: Arguments, io: Io): ReadJsonlOptions => ({
  ...{ stdin: io.stdin, skipInvalid: args.flag('skip-invalid'), signal: io.signal },
});

async function recordsOf(args: Arguments, name: string, io: Io): Promise<TweetRecord[]> {
  const file = args.text(name);
  if (file === undefined) return [];
  const records: TweetRecord[] = [];
  const reader = readRecords(file, readingOf(args, io));
  for await (const { value } of reader) records.push(value);
  noticeRejected(reader, io);
  if (records.length === 0) throw new DataError(`${file}: has no record; expected at least one.`);
  return records;
}

/** The tweets of the test data, the first of each id. */
function tweetsOf(records: readonly TweetRecord[], limit: number): { tweet_id: string; tweet: string }[] {
  const tweets = new Map<string, { tweet_id: string; tweet: string }>();
  for (const { tweet_id, tweet } of records)
    if (!tweets.has(tweet_id)) tweets.set(tweet_id, { tweet_id, tweet });
  return [...tweets.values()].slice(0, limit);
}

/** Replies that did well, the best first, one a tweet: what a few-shot prompt shows. */
function examplesOf(records: readonly TweetRecord[]): Shot[] {
  const seen = new Set<string>();
  return [...records]
    .sort((a, b) => engagementOf(b) - engagementOf(a))
    .filter(({ tweet_id: id }) => !seen.has(id) && seen.add(id))
    .map(({ tweet, reply }) => ({ tweet, reply }));
}

/** Every model's replies, read or generated, each with a progress bar. */
async function openAll(
  sources: readonly ModelSource[],
  tweets: readonly { tweet_id: string; tweet: string }[],
  args: Arguments,
  io: Io,
): Promise<ModelReplies[]> {
  const examples = examplesOf(await recordsOf(args, 'examples', io));
  const models: ModelReplies[] = [];
  for (const source of sources) {
    checkInterrupt(io);
    if (!('replies' in source) && tweets.length === 0)
      throw new UsageError(`--test-data is missing: ${source.name} needs tweets to reply to`, 'evaluate');
    const progress = new Progress({
      label: `${source.name}${source.seed === undefined ? '' : `, seed ${source.seed}`}`,
      ...{ unit: 'tweets', total: tweets.length, stream: io.stderr },
      quiet: args.flag('quiet') || 'replies' in source,
    });
    try {
      const replies = await withDownloadBar(args, io, (onDownload) =>
        openModelReplies(source, tweets, {
          generations: args.integer('n', { min: 1 }),
          temperature: args.number('temperature', { above: 0 }),
          topP: args.number('top-p', { above: 0, max: 1 }),
          maxNewTokens: args.integer('max-new-tokens', { min: 1 }),
          seed: args.integer('seed', { min: 0 }),
          directory: path.join(args.required('output'), 'replies'),
          reading: { ...readingOf(args, io), onRead: (reader) => noticeRejected(reader, io) },
          ...{ examples, resume: args.flag('resume'), signal: io.signal, onDownload },
          onProgress: (done) => progress.update(done),
        }),
      );
      models.push(replies);
      if (!('replies' in source)) progress.finish();
    } finally {
      progress.close();
    }
  }
  return models;
}

/** @returns 0; results on standard output, files in --output */
export async function evaluate(args: Arguments, io: Io): Promise<number> {
  const sources = sourcesOf(args);
  const [k, tokenizer] = [sizesOf(args, sources), tokenizerOf(args)];
  const context = { signal: io.signal, onNotice: (line: string) => notify(io, line) };
  const [reward, learned, embedder] = await withDownloadBar(args, io, async (onDownload) => [
    await loadReward(args.required('reward'), { ...context, onDownload }),
    args.given('learned')
      ? await loadReward(args.required('learned'), { ...context, onDownload })
      : undefined,
    await embeddingNamed(args.required('embedding'), onDownload),
  ]);
  const records = await recordsOf(args, 'test-data', io);
  const tweets = tweetsOf(
    records,
    args.given('max-tweets') ? args.integer('max-tweets', { min: 1 }) : Infinity,
  );
  const models = await openAll(sources, tweets, args, io);
  checkInterrupt(io);
  const isWorld = models[0].tweets.every(({ tweet }) => isWorldText(tweet));
  const progress = new Progress({
    label: 'score',
    unit: 'runs',
    stream: io.stderr,
    quiet: args.flag('quiet'),
  });
  try {
    const evaluation = await evaluateModels(models, {
      ...{
        reward,
        learned,
        embedder,
        k,
        tokenizer,
        signal: io.signal,
        seed: args.integer('seed', { min: 0 }),
      },
      references: records.length === 0 ? undefined : referencesOf(records),
      examiner: isWorld ? (tweet, reply) => worldQuality(tweet, reply).total : undefined,
      onProgress: (done, total, note) => {
        progress.total = total;
        progress.update(done, note);
      },
    });
    progress.finish('');
    const files = await writeEvaluation(evaluation, args.required('output'));
    const writer = new LineWriter(io.stdout);
    await writer.line(args.flag('json') ? strictJson(evaluation) : evaluationMarkdown(evaluation));
    await writer.flush();
    notify(io, `written: ${files.join(', ')}`);
    return 0;
  } finally {
    progress.close();
    reward.dispose?.();
    learned?.dispose?.();
  }
}
