import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { DataError } from '../runtime/errors';
import type { TweetRecord } from './records';
import { readRecords } from './records';
import { SPLIT_FILES, splitFile } from './split-files';
import type { SplitStatistics } from './split-statistics';

let directory: string;
let input: string;
let output: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'grpolab-split-'));
  input = join(directory, 'all.jsonl');
  output = join(directory, 'out', 'split');
  const line = (i: number) =>
    JSON.stringify({
      tweet_id: `t${i >> 1}`,
      tweet: 'rain',
      reply: `reply ${i}`,
      reply_likes: (i * i) % 37,
      source: i,
    });
  writeFileSync(input, Array.from({ length: 120 }, (_, i) => `${line(i)}\n`).join(''));
});

async function records(path: string): Promise<TweetRecord[]> {
  const result = [];
  for await (const { value } of readRecords(path)) result.push(value);
  return result;
}

describe('splitFile', () => {
  it('writes the phases and their statistics, with the fields it does not know', async () => {
    const { files, split } = await splitFile(input, output);
    expect(readdirSync(output).sort()).toEqual(
      [SPLIT_FILES.phase1, SPLIT_FILES.phase2, SPLIT_FILES.statistics].sort(),
    );
    const [phase1, phase2] = [await records(files.phase1), await records(files.phase2)];
    expect(phase1).toEqual(split.phase1);
    const sources = [...phase1, ...phase2].map(
      (record) => (record as TweetRecord & { source: number }).source,
    );
    expect(sources.sort((a, b) => a - b)).toEqual(Array.from({ length: 120 }, (_, i) => i));
    const statistics = JSON.parse(readFileSync(files.statistics, 'utf8')) as SplitStatistics;
    expect(statistics).toEqual(split.statistics);
    expect(statistics.phase1.count + statistics.phase2.count).toBe(120);
  });

  it('writes the test set when asked, and names a stale one when not', async () => {
    const { files } = await splitFile(input, output, { testFraction: 0.2 });
    const kept = await records(join(output, SPLIT_FILES.test));
    expect(kept.length).toBeGreaterThan(0);
    expect(files.test).toBe(join(output, SPLIT_FILES.test));
    const { notices, files: again } = await splitFile(input, output);
    expect(notices).toEqual([expect.stringMatching(/test_data\.jsonl is of an earlier split/)]);
    expect(again.test).toBeUndefined();
  });

  it('makes the same bytes from the same input and seed', async () => {
    const { files } = await splitFile(input, output, { seed: 7 });
    const first = Object.values(files).map((path) => readFileSync(path, 'utf8'));
    await splitFile(input, output, { seed: 7 });
    expect(Object.values(files).map((path) => readFileSync(path, 'utf8'))).toEqual(first);
  });

  it('touches nothing when a line is bad, and goes on without it when told', async () => {
    writeFileSync(input, '{"tweet_id": 3}\n', { flag: 'a' });
    await expect(splitFile(input, output)).rejects.toThrow(
      /all\.jsonl:121: tweet is missing; expected a text/,
    );
    expect(existsSync(join(directory, 'out'))).toBe(false);
    const { rejected, split } = await splitFile(input, output, { skipInvalid: true });
    expect(rejected).toEqual({ count: 1, path: join(directory, 'all.rejected.jsonl') });
    expect(split.phase1.length + split.phase2.length).toBe(120);
  });

  it('leaves an older split as it was when a file cannot be written', async () => {
    const { files } = await splitFile(input, output, { seed: 1 });
    const before = readFileSync(files.phase1, 'utf8');
    // A directory where the test set should go.
    mkdirSync(join(output, SPLIT_FILES.test));
    await expect(splitFile(input, output, { seed: 2, testFraction: 0.2 })).rejects.toThrow(DataError);
    expect(readFileSync(files.phase1, 'utf8')).toBe(before);
    expect(readdirSync(output).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});
