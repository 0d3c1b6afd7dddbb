/** `grpolab evaluate`: models side by side on the same tweets. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { ReadJsonlOptions } from '../data/jsonl';
import { readRecords } from '../data/records';
import type { TweetRecord } from '../data/records';
import { checksFor, evaluateOn, openAllReplies, requireOwnFiles } from '../eval/evaluate-sources';
import type { Judge } from '../eval/judge-models';
import type { ModelReplies } from '../eval/model-replies';
import { parseModelSource, parseModelSources, parseReplySource } from '../eval/model-sources';
import type { ModelSource } from '../eval/model-sources';
import { evaluationMarkdown } from '../eval/report';
import { writeEvaluation } from '../eval/write-evaluation';
import { readAdapterConfig } from '../model/peft';
import { ChatEndpoint } from '../rewards/chat-endpoint';
import { embeddingNamed, loadReward } from '../rewards/config';
import { readRewardSettings } from '../rewards/named-reward';
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
import { loadBar, withDownloadBar } from './open-model';

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

/** Every model's replies, read or generated, each with a progress bar. */
async function openAll(
  sources: readonly ModelSource[],
  test: readonly TweetRecord[],
  args: Arguments,
  io: Io,
): Promise<ModelReplies[]> {
  const examples = await recordsOf(args, 'examples', io);
  const writer = sources.find((source) => !('replies' in source));
  if (writer !== undefined && test.length === 0)
    throw new UsageError(`--test-data is missing: ${writer.name} needs tweets to reply to`, 'evaluate');
  const bars = new Map<string, Progress>();
  const onProgress = (label: string, done: number, total: number, written: number): void => {
    const options = { unit: 'tweets', total, stream: io.stderr, quiet: args.flag('quiet') };
    const bar = bars.get(label) ?? new Progress({ label, initial: done - written, ...options });
    bars.set(label, bar);
    bar.update(done);
    if (done === total) bar.finish();
  };
  try {
    return await withDownloadBar(args, io, (onDownload) =>
      openAllReplies(sources, test, {
        generations: args.integer('n', { min: 1 }),
        temperature: args.number('temperature', { above: 0 }),
        topP: args.number('top-p', { above: 0, max: 1 }),
        maxNewTokens: args.integer('max-new-tokens', { min: 1 }),
        seed: args.integer('seed', { min: 0 }),
        maxTweets: args.given('max-tweets') ? args.integer('max-tweets', { min: 1 }) : undefined,
        directory: path.join(args.required('output'), 'replies'),
        reading: { ...readingOf(args, io), onRead: (reader) => noticeRejected(reader, io) },
        ...{ examples, resume: args.flag('resume'), signal: io.signal, onDownload, onProgress },
        onNotice: (line) => notify(io, line),
        onLoad: loadBar(args, io),
      }),
    );
  } finally {
    for (const bar of bars.values()) bar.close();
  }
}

/** The least reward and truth that the arguments ask for. */
function leastOf(args: Arguments): { minReward?: number; minWorldQuality?: number[] } {
  const text = args.text('min-world-quality');
  const truths = text?.split(',').map((part) => (part.trim() === '' ? NaN : Number(part)));
  const bad = truths?.find((truth) => !(truth >= 0 && truth <= 1));
  if (bad !== undefined)
    throw new UsageError(
      `--min-world-quality is "${text}"; expected numbers from 0 to 1, such as 0.8 or 0.8,0.9`,
      'evaluate',
    );
  return {
    minReward: args.given('min-reward') ? args.number('min-reward', { min: 0, max: 1 }) : undefined,
    minWorldQuality: truths,
  };
}

/** The judge of a YAML file, with a progress bar of its answers. @throws ConfigError when it is another reward */
async function judgeOf(
  args: Arguments,
  io: Io,
  sources: readonly ModelSource[],
  onBegin: () => void,
): Promise<Judge | undefined> {
  const file = args.text('judge');
  if (file === undefined) return undefined;
  if (!existsSync(file))
    throw new ConfigError(
      `--judge ${file}: no such file; expected a YAML file as configs/rewards/judge.yaml.`,
    );
  const { settings } = await readRewardSettings(file, file, []);
  if (settings.type !== 'judge')
    throw new ConfigError(
      `${file}: type is ${settings.type}; expected judge, as in configs/rewards/judge.yaml.`,
    );
  // One for every two models.
  let bar: Progress | undefined;
  const endpoint = new ChatEndpoint(settings, {
    ...{ signal: io.signal, onNotice: (line: string) => notify(io, line) },
    onProgress: (done, total) => {
      onBegin();
      bar ??= new Progress({
        label: 'judge',
        unit: 'pairs',
        total,
        stream: io.stderr,
        quiet: args.flag('quiet'),
      });
      bar.update(done);
      if (done < total) return;
      bar.finish();
      bar = undefined;
    },
  });
  if (new Set(sources.map(({ name }) => name)).size < 2)
    throw new UsageError('--judge compares models, and there is one; name another', 'evaluate');
  return { endpoint, name: settings.model, weights: settings.weights };
}

/** @returns 0; results on standard output, files in --output */
export async function evaluate(args: Arguments, io: Io): Promise<number> {
  const sources = sourcesOf(args);
  const [k, tokenizer, least] = [sizesOf(args, sources), tokenizerOf(args), leastOf(args)];
  const context = { signal: io.signal, onNotice: (line: string) => notify(io, line) };
  const score: { bar?: Progress } = {};
  const judge = await judgeOf(args, io, sources, () => {
    score.bar?.finish('');
    score.bar = undefined;
  });
  const [reward, learned, embedder] = await withDownloadBar(args, io, async (onDownload) => [
    await loadReward(args.required('reward'), { ...context, onDownload }),
    args.given('learned')
      ? await loadReward(args.required('learned'), { ...context, onDownload })
      : undefined,
    await embeddingNamed(args.required('embedding'), onDownload),
  ]);
  const test = await recordsOf(args, 'test-data', io);
  const checks = checksFor(test, least);
  const models = await openAll(sources, test, args, io);
  checkInterrupt(io);
  const progress = new Progress({
    ...{ label: 'score', unit: 'runs', stream: io.stderr, quiet: args.flag('quiet') },
  });
  score.bar = progress;
  try {
    const evaluation = await evaluateOn(test, models, {
      ...{ reward, learned, embedder, judge, k, tokenizer, signal: io.signal, ...checks },
      seed: args.integer('seed', { min: 0 }),
      beforeJudge: async (before) => void (await writeEvaluation(before, args.required('output'))),
      onProgress: (done, total, note) => {
        progress.total = total;
        progress.update(done, note);
      },
    });
    score.bar?.finish('');
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
