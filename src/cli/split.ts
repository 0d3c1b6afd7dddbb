/** `grpolab split`: the two training phases, with statistics and a chart. */
import { splitFile } from '../data/split-files';
import type { FileSplit } from '../data/split-files';
import type { SplitPass } from '../data/split-source';
import type { PartStatistics } from '../data/split-statistics';
import { exportFigures } from '../figures/export';
import { makeFigure } from '../figures/draw';
import { summariseSplit } from '../figures/split-summary';
import { strictJson } from '../runtime/files';
import { formatBytes, Progress } from '../runtime/progress';
import type { ProgressOptions } from '../runtime/progress';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter, notify } from './io';

const CHART = 'phase_split_distributions';

/** Draws the chart beside the data. @returns its files */
export async function drawChart(result: FileSplit, directory: string, io: Io): Promise<readonly string[]> {
  const { distributions, statistics } = result;
  const values = (part: 'phase1' | 'phase2') => ({
    engagement: distributions[part].engagement,
    replyLength: distributions[part].reply_length,
  });
  const { engagement, reply_length: length } = statistics.validation;
  const summary = summariseSplit(
    { phase1: values('phase1'), phase2: values('phase2') },
    {
      engagement: { statistic: engagement.ks_statistic, pValue: engagement.p_value },
      replyLength: { statistic: length.ks_statistic, pValue: length.p_value },
    },
  );
  const figure = makeFigure(CHART, { kind: 'split-distributions', data: summary });
  const exported = await exportFigures([figure], directory, { formats: ['svg', 'png'] });
  for (const notice of [...exported.notices, exported.reason ?? '']) if (notice !== '') notify(io, notice);
  return exported.files;
}

function partLine(name: string, { count, tweets, engagement, reply_length }: PartStatistics): string {
  const shares = `engagement ${engagement.mean.toFixed(4)}, length ${reply_length.mean.toFixed(1)} (means)`;
  return `${name}: ${count} replies to ${tweets} tweets; ${shares}`;
}

function summary({ statistics, files }: FileSplit): string[] {
  const { validation } = statistics;
  const verdict = validation.passed ? 'passed' : `FAILED: ${validation.failures.join('; ')}`;
  const [engagement, length] = [validation.engagement, validation.reply_length].map(
    (test) => `${test.p_value.toPrecision(3)} (by tweet ${test.p_value_by_tweet.toPrecision(3)})`,
  );
  return [
    partLine(`phase 1 (SFT), ${files.phase1}`, statistics.phase1),
    partLine(`phase 2 (GRPO), ${files.phase2}`, statistics.phase2),
    ...(statistics.test === undefined ? [] : [partLine(`test, ${files.test}`, statistics.test)]),
    `quartile shares differ by at most ${validation.max_proportion_difference.toFixed(4)} (allowed ${validation.tolerance.toFixed(4)})`,
    `tweets in more than one part: ${validation.tweet_overlap}`,
    `Kolmogorov-Smirnov p: engagement ${engagement}, reply length ${length}`,
    ...validation.warnings.map((warning) => `warning: ${warning}`),
    `validation ${verdict}`,
  ];
}

const SHOWN_AFTER_MS = 2000;

/** A progress bar for each pass over the input that takes longer than two seconds. */
export class PassBars {
  private pass: SplitPass | undefined;
  private bar: Progress | undefined;
  private started = 0;
  private isShown = false;

  constructor(private readonly options: Pick<ProgressOptions, 'stream' | 'quiet' | 'now'>) {}

  update(pass: SplitPass, bytes: number, total: number | undefined): void {
    const now = this.options.now ?? Date.now;
    if (this.bar === undefined || pass !== this.pass) {
      this.finish();
      this.bar = new Progress({ ...this.options, label: `split, ${pass}`, total, format: formatBytes });
      [this.pass, this.started, this.isShown] = [pass, now(), false];
    }
    if (now() - this.started < SHOWN_AFTER_MS) return;
    this.bar.update(bytes);
    this.isShown = true;
  }

  /** Ends the bar of a pass that is through. */
  finish(): void {
    if (this.isShown) this.bar?.finish();
    this.isShown = false;
  }

  /** Ends the line of a pass that is not. */
  close(): void {
    this.bar?.close();
  }
}

async function splitInput(args: Arguments, io: Io): Promise<FileSplit> {
  const bars = new PassBars({ stream: io.stderr, quiet: args.flag('quiet') });
  try {
    const result = await splitFile(args.required('input'), args.required('output-dir'), {
      ratio: args.number('ratio', { above: 0, below: 1 }),
      testFraction: args.number('test-fraction', { min: 0, below: 1 }),
      seed: args.integer('seed', { min: 0 }),
      skipInvalid: args.flag('skip-invalid'),
      stdin: io.stdin,
      signal: io.signal,
      onProgress: (pass, bytes, total) => bars.update(pass, bytes, total),
    });
    bars.finish();
    return result;
  } finally {
    bars.close();
  }
}

/** @returns 0, or 1 when the phases are not alike */
export async function split(args: Arguments, io: Io): Promise<number> {
  const result = await splitInput(args, io);
  const { rejected, notices, files, statistics } = result;
  if (rejected.count > 0) notify(io, `${rejected.count} bad lines set aside in ${rejected.path}`);
  for (const notice of notices) notify(io, `notice: ${notice}`);
  checkInterrupt(io);
  const chart = await drawChart(result, args.required('output-dir'), io);
  const output = new LineWriter(io.stdout);
  if (args.flag('json')) await output.line(strictJson({ files, chart, rejected, statistics }));
  else for (const line of summary(result)) await output.line(line);
  await output.flush();
  return statistics.validation.passed ? 0 : 1;
}
