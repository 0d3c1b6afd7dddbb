import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { DataError } from '../runtime/errors';
import { AtomicFile, ensureDirectory, strictJson } from '../runtime/files';
import { JsonlWriter } from './jsonl-writer';
import { sameFile } from './output-file';
import type { TweetRecord } from './records';
import type { Assignment, Part, PhaseSplit, SplitDescription, SplitOptions } from './split';
import { assignParts, describeSplit, splitOptions } from './split';
import type { SplitIndex } from './split-index';
import type { SourceOptions } from './split-source';
import { SplitSource } from './split-source';
import type { SplitStatistics } from './split-statistics';

/** Names of the files of a split, as the trainers look for them. */
export const SPLIT_FILES = {
  phase1: 'train_phase1_sft.jsonl',
  phase2: 'train_phase2_grpo.jsonl',
  test: 'test_data.jsonl',
  statistics: 'phase_split_statistics.json',
} as const;

/** The files of a split. */
export interface WrittenSplit {
  /** paths by what they hold; `test` only when there is a test set */
  files: { phase1: string; phase2: string; statistics: string; test?: string };
  /** what a user should know, those of the statistics included */
  notices: string[];
}

interface PartFile {
  commit(): Promise<void>;
  abort(): Promise<void>;
}

/** Writes parts and statistics; no file gets its name before all are written. */
async function writeFiles<F extends PartFile>(
  directory: string,
  statistics: SplitStatistics,
  openPart: (path: string) => Promise<F>,
  fill: (files: ReadonlyMap<Part, F>) => Promise<void>,
): Promise<WrittenSplit> {
  await ensureDirectory(directory);
  const files: WrittenSplit['files'] = {
    phase1: join(directory, SPLIT_FILES.phase1),
    phase2: join(directory, SPLIT_FILES.phase2),
    statistics: join(directory, SPLIT_FILES.statistics),
  };
  const testPath = join(directory, SPLIT_FILES.test);
  const notices = [...statistics.notices];
  if (statistics.test !== undefined) files.test = testPath;
  else if (existsSync(testPath)) {
    notices.push(
      `${testPath} is of an earlier split and may share tweets with this one: remove it, or split a test set`,
    );
  }
  const parts = new Map<Part, F>();
  const pending: PartFile[] = [];
  try {
    for (const part of ['phase1', 'phase2', 'test'] as const) {
      const path = files[part];
      if (path === undefined) continue;
      const file = await openPart(path);
      pending.push(file);
      parts.set(part, file);
    }
    await fill(parts);
    const json = await AtomicFile.open(files.statistics);
    pending.push(json);
    await json.write(`${strictJson(statistics, 2)}\n`);
    for (const file of pending) await file.commit();
  } catch (error) {
    for (const file of pending) await file.abort();
    throw error;
  }
  return { files, notices };
}

/**
 * Writes the parts as JSONL and the statistics as JSON into a directory, which is made where missing. All files are
 * written before the first gets its name, so a full disk leaves an older split as it was.
 *
 * @throws DataError  when the directory or a file cannot be written
 */
export async function writeSplit(split: PhaseSplit<TweetRecord>, directory: string): Promise<WrittenSplit> {
  return writeFiles(
    directory,
    split.statistics,
    (path) => JsonlWriter.open(path),
    async (files) => {
      for (const [part, file] of files) {
        for (const record of split[part]) await file.write(record);
        await file.flush();
      }
    },
  );
}

const NEWLINE = Buffer.from('\n');
/** Bytes of lines gathered before they are written. */
const BUFFER_BYTES = 2 ** 20;

/** A file of lines that are copied as they are. */
class LineFile implements PartFile {
  private pieces: Buffer[] = [];
  private size = 0;

  private constructor(private readonly file: AtomicFile) {}

  static async open(path: string): Promise<LineFile> {
    return new LineFile(await AtomicFile.open(path));
  }

  add(line: Buffer): void {
    this.pieces.push(line, NEWLINE);
    this.size += line.length + 1;
  }

  /** Hands what was gathered to the file, when it is at least so many bytes. */
  async flush(least = 0): Promise<void> {
    if (this.size < least) return;
    const bytes = Buffer.concat(this.pieces);
    [this.pieces, this.size] = [[], 0];
    await this.file.write(bytes);
  }

  async commit(): Promise<void> {
    await this.flush();
    await this.file.commit();
  }

  async abort(): Promise<void> {
    await this.file.abort();
  }
}

async function copyLines(
  source: SplitSource,
  index: SplitIndex,
  parts: readonly Part[],
  files: ReadonlyMap<Part, LineFile>,
): Promise<void> {
  for await (const lines of source.lines(index)) {
    for (const { row, bytes } of lines) files.get(parts[row])?.add(bytes);
    for (const file of files.values()) await file.flush(BUFFER_BYTES);
  }
}

/** How a file is split: the shares of its parts, what becomes of its bad lines, progress. */
export interface SplitFileOptions extends SplitOptions, SourceOptions {}

export interface FileSplit extends WrittenSplit, SplitDescription {
  /** lines set aside with `skipInvalid`, and where they are */
  rejected: { count: number; path: string };
}

/** @throws DataError  when the input is one of the files that would be written */
async function refuseOverwriting(input: string, directory: string): Promise<void> {
  // A pipe (/dev/fd/63, /dev/stdin) is no file that could be overwritten, and has no real path.
  if (input === '-' || !(await stat(input).catch(() => undefined))?.isFile()) return;
  for (const name of Object.values(SPLIT_FILES)) {
    if (await sameFile(input, join(directory, name))) {
      throw new DataError(
        `${input}: would be overwritten by its own split. Choose another output directory.`,
      );
    }
  }
}

/** Lets Ctrl-C in between two pieces of long work. @throws the signal's reason */
async function breathe(signal: AbortSignal | undefined): Promise<void> {
  await setImmediate();
  signal?.throwIfAborted();
}

/**
 * Splits a file of records: the parts are those of `splitPhases`, and hold the lines of the input as they are, without
 * white space around them. One pass reads and checks the records and keeps an index of numbers, a second one copies the
 * lines; standard input and pipes are copied to a temporary file in the output directory meanwhile. Nothing is written
 * when a line is bad (without `skipInvalid`), a share is out of range, a part would be empty, or the input changes.
 * Whether the phases are alike is in `statistics.validation`.
 *
 * @param input  a JSONL file, `.jsonl.gz`, or `-` for standard input
 * @throws ConfigError, DataError, and the reason of `signal` when it is aborted
 */
export async function splitFile(
  input: string,
  outputDirectory: string,
  options: SplitFileOptions = {},
): Promise<FileSplit> {
  splitOptions(options);
  await refuseOverwriting(input, outputDirectory);
  // A file where the directory should be is better known before the long reading.
  if (existsSync(outputDirectory)) await ensureDirectory(outputDirectory);
  const source = await SplitSource.open(input, outputDirectory, options);
  try {
    const { index, rejected } = await source.index();
    await breathe(options.signal);
    const assignment: Assignment = assignParts(index, options);
    await breathe(options.signal);
    const description = describeSplit(index, assignment, options);
    await breathe(options.signal);
    const written = await writeFiles(
      outputDirectory,
      description.statistics,
      (path) => LineFile.open(path),
      (files) => copyLines(source, index, assignment.parts, files),
    );
    return { ...written, ...description, rejected };
  } finally {
    await source.close();
  }
}
