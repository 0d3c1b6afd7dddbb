/** `grpolab split`: the two training phases, with statistics and a chart. */
import { splitFile } from '../data/split-files';
import type { FileSplit } from '../data/split-files';
import type { PartStatistics } from '../data/split-statistics';
import { exportFigures } from '../figures/export';
import { makeFigure } from '../figures/draw';
import { summariseSplit } from '../figures/split-summary';
import { strictJson } from '../runtime/files';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { LineWriter, notify } from './io';

const CHART = 'phase_split_distributions';

/** Draws the chart beside the data. @returns its files */
async function drawChart(result: FileSplit, directory: string, io: Io): Promise<readonly string[]> {
  const { distributions, statistics } = result.split;
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

function summary({ split, files }: FileSplit): string[] {
  const { statistics } = split;
  const { validation } = statistics;
  const verdict = validation.passed ? 'passed' : `FAILED: ${validation.failures.join('; ')}`;
  const [engagement, length] = [validation.engagement, validation.reply_length].map((test) =>
    test.p_value.toPrecision(3),
  );
  return [
    partLine(`phase 1 (SFT), ${files.phase1}`, statistics.phase1),
    partLine(`phase 2 (GRPO), ${files.phase2}`, statistics.phase2),
    ...(statistics.test === undefined ? [] : [partLine(`test, ${files.test}`, statistics.test)]),
    `quartile shares differ by at most ${validation.max_proportion_difference.toFixed(4)} (allowed ${validation.tolerance.toFixed(4)})`,
    `Kolmogorov-Smirnov p: engagement ${engagement}, reply length ${length}`,
    ...validation.warnings.map((warning) => `warning: ${warning}`),
    `validation ${verdict}`,
  ];
}

/** @returns 0, or 1 when the phases are not alike */
export async function split(args: Arguments, io: Io): Promise<number> {
  const directory = args.required('output-dir');
  const result = await splitFile(args.required('input'), directory, {
    ratio: args.number('ratio', { above: 0, below: 1 }),
    testFraction: args.number('test-fraction', { min: 0, below: 1 }),
    seed: args.integer('seed', { min: 0 }),
    skipInvalid: args.flag('skip-invalid'),
    stdin: io.stdin,
  });
  const { rejected, notices, files } = result;
  if (rejected.count > 0) notify(io, `${rejected.count} bad lines set aside in ${rejected.path}`);
  for (const notice of notices) notify(io, `notice: ${notice}`);
  const chart = await drawChart(result, directory, io);
  const output = new LineWriter(io.stdout);
  const { statistics } = result.split;
  if (args.flag('json')) await output.line(strictJson({ files, chart, rejected, statistics }));
  else for (const line of summary(result)) await output.line(line);
  await output.flush();
  return statistics.validation.passed ? 0 : 1;
}
