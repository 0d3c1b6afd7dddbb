/** Foreign formats to records, from file to file. */
import { stat } from 'node:fs/promises';
import { DataError } from '../runtime/errors';
import type { CsvReader } from './csv';
import { readCsv, readCsvRecords } from './csv';
import type { TwcsCounts } from './import-twcs';
import { TWCS_LAYOUT, TwcsTweets } from './import-twcs';
import type { ReadJsonlOptions } from './jsonl';
import { JsonlWriter } from './jsonl-writer';
import { checkOutput } from './output-file';

/** How a CSV is imported: what becomes of its bad rows, and who is told how far it is. */
export interface ImportOptions extends Pick<
  ReadJsonlOptions,
  'skipInvalid' | 'rejectedPath' | 'stdin' | 'signal'
> {
  /** Gets the bytes read so far of `total` (unknown of standard input), then, of TWCS, the records written. */
  onProgress?: (phase: 'read' | 'write', done: number, total: number | undefined) => void;
}

/** What an import wrote, and what it set aside. */
export interface ImportResult {
  output: string;
  /** written */
  records: number;
  rejected: { count: number; path: string };
  /** what a user should know */
  notices: string[];
}

/** The reader's options, with progress in bytes. */
async function readOptions(input: string, options: ImportOptions): Promise<ReadJsonlOptions> {
  const { onProgress } = options;
  // A missing file is the reader's to report.
  const status = input === '-' ? undefined : await stat(input).catch(() => undefined);
  const total = status?.isFile() ? status.size : undefined;
  let done = 0;
  const onBytes = (piece: Buffer) => onProgress?.('read', (done += piece.length), total);
  const { skipInvalid, rejectedPath, stdin, signal } = options;
  return { skipInvalid, rejectedPath, stdin, signal, onBytes };
}

/** Writes records; the output is there only when all went well. @throws DataError  when there are none */
async function writeRecords(
  output: string,
  none: () => string,
  write: (writer: JsonlWriter) => Promise<void>,
): Promise<number> {
  const writer = await JsonlWriter.open(output);
  try {
    await write(writer);
    if (writer.count === 0) throw new DataError(none());
  } catch (error) {
    await writer.abort();
    throw error;
  }
  await writer.commit();
  return writer.count;
}

function noRows({ name, rejected, rejectedPath }: CsvReader<unknown>): string {
  return rejected === 0
    ? `${name}: has a header but no rows; expected at least one.`
    : `${name}: has no valid row; all ${rejected} were set aside in ${rejectedPath}.`;
}

/**
 * Records from a CSV file with the study's columns (see `readCsvRecords`), written as JSONL, in constant memory.
 *
 * @param input   CSV, `.gz`, or `-`
 * @param output  `.jsonl` or `.jsonl.gz`; untouched by an error
 * @throws ConfigError, DataError
 */
export async function importCsv(
  input: string,
  output: string,
  options: ImportOptions = {},
): Promise<ImportResult> {
  const reader = readCsvRecords(input, await readOptions(input, options));
  await checkOutput({ input, output, rejectedPath: reader.rejectedPath });
  const none = () => noRows(reader);
  const records = await writeRecords(output, none, async (writer) => {
    for await (const { value } of reader) await writer.write(value);
  });
  const rejected = { count: reader.rejected, path: reader.rejectedPath };
  return { output, records, rejected, notices: reader.notices };
}

/** An import of Customer Support on Twitter, with what became of its rows. */
export interface TwcsResult extends ImportResult {
  counts: TwcsCounts;
}

const NO_LIKES =
  'this format has no likes: the engagement of every record is 0, and the splitter makes one stratum of them';

/**
 * Records from a Customer Support on Twitter CSV: every row that answers another row of the file, wherever that stands,
 * with the extra fields `thread_id` and `turn`. All texts are held in memory.
 *
 * @param options.firstTurn  keeps only answers to a thread's first tweet
 * @throws ConfigError, DataError
 */
export async function importTwcs(
  input: string,
  output: string,
  options: ImportOptions & { firstTurn?: boolean } = {},
): Promise<TwcsResult> {
  const reader = readCsv(input, TWCS_LAYOUT, await readOptions(input, options));
  await checkOutput({ input, output, rejectedPath: reader.rejectedPath });
  const tweets = new TwcsTweets();
  const none = () =>
    tweets.counts.rows === 0
      ? noRows(reader)
      : `${reader.name}: has ${tweets.counts.rows} rows, but none makes a record: ${tweets.counts.answers} answer a tweet, ${tweets.counts.answered_not_in_file} of them one that is not in the file.`;
  const records = await writeRecords(output, none, async (writer) => {
    for await (const { value } of reader) tweets.add(value);
    for (const record of tweets.records(options.firstTurn ?? false)) {
      await writer.write(record);
      options.onProgress?.('write', writer.count, undefined);
    }
  });
  const rejected = { count: reader.rejected, path: reader.rejectedPath };
  return { output, records, rejected, notices: [...reader.notices, NO_LIKES], counts: tweets.counts };
}
