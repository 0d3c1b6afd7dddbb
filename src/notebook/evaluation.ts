/** Evaluation in a notebook: models side by side under progress bars, and its tables below a cell. */
import path from 'node:path';
import { allRecords } from '../data/records';
import type { TweetRecord } from '../data/records';
import { checksFor, EVALUATION_DEFAULTS, evaluateOn, openAllReplies } from '../eval/evaluate-sources';
import type { ModelReplies } from '../eval/model-replies';
import { modelSources } from '../eval/model-sources';
import { comparisonTable, legend, metricRows, metricTable, reasonsOf } from '../eval/report';
import type { EvaluateOptions, Evaluation } from '../eval/suite';
import { writeEvaluation } from '../eval/write-evaluation';
import { embeddingNamed, loadReward } from '../rewards/config';
import type { Reward } from '../rewards/reward';
import { ConfigError } from '../runtime/errors';
import { showMarkdown } from './figures';
import { withProgress } from './progress';
import { showTable } from './tables';

/** What `evaluate` compares, and how it draws. */
export interface NotebookEvaluateOptions extends Pick<EvaluateOptions, 'k' | 'resamples' | 'tokenizer'> {
  /** As `models` of the command's configuration: NAME: { model, adapter, shots, seed }, a list of them, or { replies }. */
  models: Record<string, unknown>;
  /** Records: tweets to reply to, and the replies of people as references. */
  testData: string;
  /** Only so many of its tweets. */
  maxTweets?: number;
  /** Records of which few-shot prompts show the best. */
  examples?: string;
  /** Sampled replies a tweet beside a greedy one; default 10. */
  n?: number;
  /** Default 0.7. */
  temperature?: number;
  /** Default 0.9. */
  topP?: number;
  /** Default 100. */
  maxNewTokens?: number;
  /** Default 42. */
  seed?: number;
  /** As in `grpolab evaluate`; default the heuristic one. */
  reward?: string;
  /** Directory of a learned reward, for the engagement. */
  learned?: string;
  /** Default the lexical one. */
  embedding?: string;
  /** That a reply needs to pass, for Pass@k; default 0.6, and none where a truth is asked for. */
  minReward?: number;
  /** The truth that a reply needs to pass, on tweets of the embedded world; of several the first is the check. */
  minWorldQuality?: number | readonly number[];
  /** Directory of the replies and reports. */
  output: string;
  /** Put new replies in the place of those that are there (a server's answers are kept elsewhere); default: go on with them. */
  again?: boolean;
}

/** Every model's replies under one bar. Interrupted, they are kept, and the cell goes on when it is run again. */
async function repliesOf(
  options: NotebookEvaluateOptions,
  test: readonly TweetRecord[],
): Promise<ModelReplies[]> {
  const { n, temperature, topP, maxNewTokens, seed, output, again } = { ...EVALUATION_DEFAULTS, ...options };
  const sources = modelSources(options.models, 'models');
  const directory = path.join(output, 'replies');
  const large = (options.k ?? []).find((size) => size > n);
  if (large !== undefined)
    throw new ConfigError(
      `k is ${large}, but n is ${n}; expected at most as many. Raise n, or ask for less.`,
    );
  const examples = options.examples === undefined ? [] : await allRecords(options.examples);
  const begun: string[] = [];
  return withProgress({ label: 'replies', unit: 'tweets' }, (progress, signal) =>
    openAllReplies(sources, test, {
      ...{ generations: n, temperature, topP, maxNewTokens, seed, directory, examples, signal },
      ...{ maxTweets: options.maxTweets, resume: true, again },
      onNotice: (line) => process.stderr.write(`${line}\n`),
      onProgress: (label, done, total) => {
        if (!begun.includes(label)) begun.push(label);
        progress.total = sources.length * total;
        progress.update((begun.length - 1) * total + done, label);
      },
    }),
  );
}

/**
 * `grpolab evaluate` in a cell: replies of all models to the same tweets, metrics with intervals, tests between every two;
 * writes the command's five reports.
 * @throws as `evaluation.openAllReplies` and `evaluation.evaluateModels`; ConfigError outside a notebook
 */
export async function evaluate(options: NotebookEvaluateOptions): Promise<Evaluation> {
  const test = await allRecords(options.testData);
  const checks = checksFor(test, options);
  const embedder = await embeddingNamed(options.embedding ?? 'lexical');
  const rewards: Reward[] = [];
  const { k, resamples, tokenizer, seed = EVALUATION_DEFAULTS.seed } = options;
  try {
    for (const name of [
      options.reward ?? 'heuristic',
      ...(options.learned === undefined ? [] : [options.learned]),
    ])
      rewards.push(await loadReward(name));
    const models = await repliesOf(options, test);
    const [reward, learned] = rewards;
    const evaluation = await withProgress({ label: 'score', unit: 'runs' }, (progress, signal) =>
      evaluateOn(test, models, {
        ...{ reward, learned, embedder, k, resamples, tokenizer, seed, signal, ...checks },
        onProgress: (done, total, note) => {
          progress.total = total;
          progress.update(done, note);
        },
      }),
    );
    await writeEvaluation(evaluation, options.output);
    return evaluation;
  } finally {
    for (const reward of rewards) reward.dispose?.();
  }
}

/** A table of cells, the head first, such as `study.expectationTable` gives; null shows nothing. */
export function showCells(table: readonly (readonly string[])[] | null, caption?: string): void {
  const [head, ...lines] = table ?? [];
  if (head === undefined) return;
  const rows = lines.map((cells) => Object.fromEntries(head.map((name, i) => [name, cells[i]])));
  showTable(rows, { caption, limit: rows.length, wrap: false });
}

/** Models side by side: a line a metric, with intervals, the winner, and how to read it. */
export function showEvaluation(evaluation: Evaluation): void {
  showCells(metricTable(evaluation));
  const reasons = reasonsOf(metricRows(evaluation)).map((reason) => `A dash: ${reason}.`);
  showMarkdown([...legend(evaluation), ...reasons].map((line) => `- ${line}`).join('\n'));
}

/** Tests between every two models. @param metric  only of this one, such as `world_quality` or `pass@10` */
export function showComparisons(evaluation: Evaluation, metric?: string): void {
  if (evaluation.comparisons.length === 0)
    throw new ConfigError(
      'there is no comparison; expected an evaluation of two models on two tweets at least.',
    );
  const comparisons = evaluation.comparisons.filter((one) => metric === undefined || one.metric === metric);
  if (comparisons.length === 0) {
    const known = [...new Set(evaluation.comparisons.map((one) => one.metric))];
    throw new ConfigError(`no comparison of "${metric}"; expected one of ${known.join(', ')}.`);
  }
  showCells(comparisonTable({ ...evaluation, comparisons }));
}

/** The first reply of each model to each of the first tweets. */
export function showReplies({ samples }: Evaluation, tweets = 10): void {
  const rows = samples.slice(0, tweets).map(({ tweet, replies }) => {
    const first = Object.entries(replies).map(([name, [one]]) => [name, one.text]);
    return { tweet, ...Object.fromEntries(first) } as Record<string, string>;
  });
  showTable(rows);
}
