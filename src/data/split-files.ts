import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { AtomicFile, ensureDirectory, strictJson } from '../runtime/files';
import type { ReadJsonlOptions } from './jsonl';
import { JsonlWriter } from './jsonl-writer';
import type { TweetRecord } from './records';
import { readRecords } from './records';
import type { Part, PhaseSplit, SplitOptions } from './split';
import { splitPhases } from './split';

/** Names of the files of a split, as the trainers look for them. */
export const SPLIT_FILES = {
  phase1: 'train_phase1_sft.jsonl',
  phase2: 'train_phase2_grpo.jsonl',
  test: 'test_data.jsonl',
  statistics: 'phase_split_statistics.json',
} as const;

export interface WrittenSplit {
  /** paths by what they hold; `test` only when there is a test set */
  files: { phase1: string; phase2: string; statistics: string; test?: string };
  /** what a user should know, those of the statistics included */
  notices: string[];
}

/**
 * Writes the parts as JSONL and the statistics as JSON into a directory, which is made where missing. All files are
 * written before the first gets its name, so a full disk leaves an older split as it was.
 *
 * @throws DataError  when the directory or a file cannot be written
 */
export async function writeSplit(split: PhaseSplit<TweetRecord>, directory: string): Promise<WrittenSplit> {
  await ensureDirectory(directory);
  const files: WrittenSplit['files'] = {
    phase1: join(directory, SPLIT_FILES.phase1),
    phase2: join(directory, SPLIT_FILES.phase2),
    statistics: join(directory, SPLIT_FILES.statistics),
  };
  const testPath = join(directory, SPLIT_FILES.test);
  const notices = [...split.statistics.notices];
  if (split.test.length > 0) files.test = testPath;
  else if (existsSync(testPath)) {
    notices.push(
      `${testPath} is of an earlier split and may share tweets with this one: remove it, or split a test set`,
    );
  }
  const parts: Part[] = split.test.length > 0 ? ['phase1', 'phase2', 'test'] : ['phase1', 'phase2'];
  const pending: { commit(): Promise<void>; abort(): Promise<void> }[] = [];
  try {
    for (const part of parts) {
      const writer = await JsonlWriter.open(files[part] as string);
      pending.push(writer);
      for (const record of split[part]) await writer.write(record);
      await writer.flush();
    }
    const statistics = await AtomicFile.open(files.statistics);
    pending.push(statistics);
    await statistics.write(`${strictJson(split.statistics, 2)}\n`);
    for (const file of pending) await file.commit();
  } catch (error) {
    for (const file of pending) await file.abort();
    throw error;
  }
  return { files, notices };
}

export interface FileSplit extends WrittenSplit {
  split: PhaseSplit<TweetRecord>;
  /** lines set aside with `skipInvalid`, and where they are */
  rejected: { count: number; path: string };
}

/**
 * Reads records, splits them and writes the parts. Nothing is written when a line is bad (without `skipInvalid`), a
 * share is out of range or a part would be empty. Whether the phases are alike is in `split.statistics.validation`.
 *
 * @param input  a JSONL file, `.jsonl.gz`, or `-` for standard input
 * @throws ConfigError, DataError
 */
export async function splitFile(
  input: string,
  outputDirectory: string,
  options: SplitOptions & ReadJsonlOptions = {},
): Promise<FileSplit> {
  const reader = readRecords(input, options);
  const records: TweetRecord[] = [];
  for await (const { value } of reader) records.push(value);
  const split = splitPhases(records, options);
  const written = await writeSplit(split, outputDirectory);
  return { ...written, split, rejected: { count: reader.rejected, path: reader.rejectedPath } };
}
