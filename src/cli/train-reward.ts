/** `grpolab train-reward`: a reward learned from the likes of replies. */
import { existsSync, readdirSync, rmdirSync, statSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { readRecords } from '../data/records';
import type { TweetRecord } from '../data/records';
import { learnReward } from '../eval/learn-reward';
import type { LearnedRewardReport } from '../eval/learn-reward';
import type { Agreement, RewardAgreement } from '../eval/reward-agreement';
import type { Estimate } from '../metrics/ranking';
import { embeddingNamed } from '../rewards/config';
import { heuristicReward } from '../rewards/heuristic';
import { saveLearned } from '../rewards/learned';
import type { RewardObjective } from '../rewards/learned-targets';
import type { LearnedProgress } from '../rewards/learned-training';
import { loadAfinn } from '../rewards/sentiment';
import { sharpReward } from '../rewards/sharp';
import { ConfigError } from '../runtime/errors';
import { ensureDirectory, strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter, notify } from './io';
import { noticeRejected } from './lines';
import { withDownloadBar } from './open-model';

function requireEmpty(directory: string): void {
  if (!existsSync(directory)) return;
  if (!statSync(directory).isDirectory()) {
    throw new ConfigError(
      `${directory}: is a file; expected a new directory for the reward. Choose another.`,
    );
  }
  if (readdirSync(directory).length === 0) return;
  throw new ConfigError(
    `${directory}: is not empty; expected a new directory for the reward. Choose another.`,
  );
}

async function readAll(args: Arguments, io: Io): Promise<TweetRecord[]> {
  const reader = readRecords(args.required('data'), {
    skipInvalid: args.flag('skip-invalid'),
    stdin: io.stdin,
    signal: io.signal,
  });
  const records: TweetRecord[] = [];
  for await (const { value } of reader) records.push(value);
  noticeRejected(reader, io);
  return records;
}

function estimate(value: Estimate | null): string {
  if (value === null) return 'does not exist here';
  const [low, high] = value.interval.map((bound) => bound.toFixed(3));
  return `${value.value.toFixed(3)} [${low}, ${high}]`;
}

/** The lines of one truth: what was compared, then a row for each reward. */
function rows(
  title: string,
  agreement: Record<string, RewardAgreement>,
  pick: (each: RewardAgreement) => Agreement | undefined,
): string[] {
  const lines = Object.entries(agreement).flatMap(([name, each]) => {
    const found = pick(each);
    if (found === undefined) return [];
    const cells = [found.pair_accuracy, found.spearman_within_tweet, found.spearman].map(estimate);
    return [`  ${name.padEnd(10)} ${cells.map((cell) => cell.padEnd(22)).join(' ')}`.trimEnd()];
  });
  if (lines.length === 0) return [];
  const heads = ['pairs in order', 'Spearman in a tweet', 'Spearman overall'];
  return [`${title.padEnd(12)} ${heads.map((head) => head.padEnd(22)).join(' ')}`.trimEnd(), ...lines];
}

function summary({ history, agreement, model }: LearnedRewardReport, directory: string): string[] {
  const [{ n_tweets: tweets, n_replies: replies }] = Object.values(agreement);
  return [
    `learned reward in ${resolve(directory)}: ${history.steps} steps, pass ${history.best} of ${history.epochs.length} kept, embedding ${model.description.embedding.name}`,
    `judged on ${replies} replies to ${tweets} held-out tweets (in brackets: 95 % bootstrap over tweets)`,
    ...rows('likes', agreement, ({ likes }) => likes),
    ...rows('true worth', agreement, ({ worth }) => worth),
  ];
}

/** A bar for each part of the work. */
class PhaseProgress {
  private bar: Progress | undefined;
  private phase = '';

  constructor(
    private readonly args: Arguments,
    private readonly io: Io,
  ) {}

  update({ phase, done, total, note }: LearnedProgress): void {
    if (this.bar === undefined || phase !== this.phase) {
      this.bar?.close();
      const unit = phase === 'judging' ? 'replies' : 'tweets';
      const quiet = this.args.flag('quiet');
      this.bar = new Progress({ label: `train-reward: ${phase}`, unit, stream: this.io.stderr, quiet });
      this.phase = phase;
    }
    this.bar.total = total;
    this.bar.update(done, note);
  }

  close(): void {
    this.bar?.close();
  }
}

/** Trains and saves. A new directory is made before the work, and taken away again when that fails. */
async function learnInto(
  directory: string,
  work: () => Promise<LearnedRewardReport>,
): Promise<LearnedRewardReport> {
  const isNew = !existsSync(directory);
  await ensureDirectory(directory);
  try {
    const report = await work();
    await saveLearned(directory, report.model);
    return report;
  } catch (error) {
    if (isNew && readdirSync(directory).length === 0) rmdirSync(directory);
    throw error;
  }
}

async function printReport(
  report: LearnedRewardReport,
  directory: string,
  args: Arguments,
  io: Io,
): Promise<void> {
  const output = new LineWriter(io.stdout);
  const { agreement, history } = report;
  if (args.flag('json')) await output.line(strictJson({ directory, history, agreement }));
  else for (const line of summary(report, directory)) await output.line(line);
  await output.flush();
}

export async function trainReward(args: Arguments, io: Io): Promise<number> {
  const directory = args.required('output');
  const data = args.required('data');
  const objective = args.choice('objective', ['rank', 'regression']) as RewardObjective;
  const options = {
    objective,
    data: data === '-' ? data : basename(data),
    testFraction: args.number('test-fraction', { above: 0, max: 0.5 }),
    epochs: args.integer('epochs', { min: 1 }),
    learningRate: args.number('learning-rate', { above: 0 }),
    seed: args.integer('seed', { min: 0 }),
  };
  requireEmpty(directory);
  const embedder = await withDownloadBar(args, io, (onDownload) =>
    embeddingNamed(args.required('embedding'), onDownload),
  );
  // On the same embedding, so that only the rewards differ.
  const parts = { embedder, lexicon: await loadAfinn() };
  const compareWith = [heuristicReward(parts), sharpReward(parts)];
  const progress = new PhaseProgress(args, io);
  const hooks = { signal: io.signal, onProgress: (each: LearnedProgress) => progress.update(each) };
  try {
    const records = await readAll(args, io);
    const report = await learnInto(directory, () =>
      learnReward(records, embedder, { ...options, compareWith }, hooks),
    );
    progress.close();
    await printReport(report, directory, args, io);
  } catch (error) {
    checkInterrupt(io);
    throw error;
  } finally {
    progress.close();
  }
  if (embedder.degraded !== undefined) notify(io, `degraded: ${embedder.degraded}`);
  notify(
    io,
    `use it: grpolab reward --reward ${directory} --input F, or reward: ${directory} in a configuration`,
  );
  return 0;
}
