/** The output directory of a small test: what it is when training begins, and what is in it at the end. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { writeSplit } from '../data/split-files';
import type { WrittenSplit } from '../data/split-files';
import { exportFigures } from '../figures/export';
import { DataError } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory, readJsonFile, strictJson } from '../runtime/files';
import { Stopwatch } from '../train/loop';
import { chartFiles, chartsOf } from './charts';
import type { SmallTest } from './prepare';
import { criteriaOf, reportLines } from './report';
import type { Criterion } from './report';
import { resultJson } from './result';
import type { SmallTestResult } from './result';

const RESULT = 'result.json';
const REPORT = 'report.md';

/**
 * Makes the output directory a new run's: the results of an older one, which would not be those of the new adapters, are
 * removed, and the split is written to `split/`.
 * @throws DataError  when the directory or a file cannot be written
 */
export async function openOutput({
  settings: { output },
  split,
}: Pick<SmallTest, 'settings' | 'split'>): Promise<WrittenSplit> {
  await ensureDirectory(output);
  for (const name of [RESULT, REPORT, ...chartFiles()]) await rm(path.join(output, name), { force: true });
  return writeSplit(split, path.join(output, 'split'));
}

/** What a small test has written, and says. */
export interface WrittenSmallTest {
  /** With the time that the charts took, `figures`, among its seconds. */
  result: SmallTestResult;
  criteria: Criterion[];
  /** The lines of the report. */
  report: string[];
  files: { result: string; report: string; charts: string[] };
  /** What a user should know: why there are no images, or what is wrong with the browser. */
  notices: string[];
}

/**
 * Draws the charts and writes `result.json` and `report.md` beside them, into the test's output directory. Without a browser
 * the charts are JSON alone, and a notice says why.
 * @throws DataError     when a file cannot be written
 * @throws GrpolabError  when the browser ends while it draws
 */
export async function writeSmallTest(measured: SmallTestResult): Promise<WrittenSmallTest> {
  const { output } = measured.settings;
  const watch = new Stopwatch();
  const drawn = await watch.measure('figures', () => exportFigures(chartsOf(measured), output));
  const result = { ...measured, seconds: { ...measured.seconds, ...watch.seconds } };
  const criteria = criteriaOf(result);
  const charts = [...drawn.files];
  const report = reportLines(
    result,
    criteria,
    charts.map((file) => path.basename(file)),
  );
  const files = { result: path.join(output, RESULT), report: path.join(output, REPORT), charts };
  await atomicWriteFile(files.result, `${strictJson({ ...resultJson(result), criteria }, 2)}\n`);
  await atomicWriteFile(files.report, `${report.join('\n')}\n`);
  const notices = [...drawn.notices, ...(drawn.reason === undefined ? [] : [drawn.reason])];
  return { result, criteria, report, files, notices };
}

/**
 * The result that `writeSmallTest` left in a directory.
 * @throws DataError  when there is none
 */
export function readSmallTest(directory: string): SmallTestResult & { criteria: Criterion[] } {
  const file = path.join(directory, RESULT);
  if (!existsSync(file))
    throw new DataError(
      `${file}: there is no such result. Run the small test first: notebook 01, or \`npm run small-test\`.`,
    );
  return readJsonFile(file) as SmallTestResult & { criteria: Criterion[] };
}
