import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { jsonLines, parseLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import type { SplitStatistics } from '../data/split-statistics';
import { Interrupted } from './io';
import { PassBars } from './split';

beforeEach(() => {
  vi.stubEnv('GRPOLAB_CHROME', '/nowhere/chrome');
});
afterEach(() => vi.unstubAllEnvs());

const row = (i: number, more: object = {}) => ({
  tweet_id: `t${i}`,
  tweet: `tweet ${i}`,
  tweet_likes: 10,
  reply: `reply ${'word '.repeat(i % 9)}${i}`,
  reply_likes: (i * 7) % 23,
  ...more,
});
const rows = (count: number, more: (i: number) => object = () => ({})) =>
  Array.from({ length: count }, (_, i) => row(i, more(i)));

async function refused(input: string, message: RegExp, options: string[] = []): Promise<void> {
  const directory = join(temporaryDirectory(), 'out');
  const file = temporaryFile('in.jsonl', input);
  const argv = ['split', '--input', file, '--output-dir', directory, ...options];
  const { code, stdout, stderr } = await runCli(argv);
  expect([code, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(/^grpolab: [^\n]{10,}\n$/);
  expect(stderr).toMatch(message);
  expect(existsSync(directory)).toBe(false);
}

interface Accepted {
  statistics: SplitStatistics;
  stderr: string;
  phase1: { reply: string }[];
  phase2: { reply: string }[];
}

async function accepted(input: string): Promise<Accepted> {
  const directory = temporaryDirectory();
  const file = temporaryFile('in.jsonl', input);
  const { code, stdout, stderr } = await runCli([
    'split',
    '--input',
    file,
    '--output-dir',
    directory,
    '--json',
  ]);
  expect(code).toBe(0);
  const part = (name: string) => parseLines<{ reply: string }>(readFileSync(join(directory, name), 'utf8'));
  const { statistics } = JSON.parse(stdout) as { statistics: SplitStatistics };
  const [phase1, phase2] = [part('train_phase1_sft.jsonl'), part('train_phase2_grpo.jsonl')];
  return { statistics, stderr, phase1, phase2 };
}

describe('grpolab split of odd data', () => {
  it('takes all likes 0, and quartiles with ties everywhere', async () => {
    const none = await accepted(jsonLines(rows(40, () => ({ reply_likes: 0, tweet_likes: 0 }))));
    expect(none.statistics.notices).toEqual([expect.stringContaining('same engagement (0): one stratum')]);
    expect([none.phase1.length, none.phase2.length]).toEqual([20, 20]);
    // Three quarters are 0: all boundaries but the largest value fall together.
    const ties = await accepted(jsonLines(rows(80, (i) => ({ reply_likes: i % 4 === 0 ? 5 : 0 }))));
    expect(ties.statistics.quartile_boundaries).toEqual([0, 0, 0.125]);
    expect(ties.statistics.strata.map(({ replies }) => replies)).toEqual([60, 0, 0, 20]);
    expect(ties.statistics.strata.map(({ parts }) => parts.phase1)).toEqual([30, 0, 0, 10]);
  });

  it('takes emoji alone, right-to-left text and replies of 100 kB', async () => {
    const texts = ['🎉🎉🎉', 'שלום לכולם', 'مرحبا بالجميع', `long ${'ש'.repeat(50_000)}`];
    const { statistics, phase1, phase2 } = await accepted(
      jsonLines(rows(40, (i) => ({ reply: texts[i % 4], reply_likes: 1 }))),
    );
    expect(new Set([...phase1, ...phase2].map(({ reply }) => reply))).toEqual(new Set(texts));
    const { phase1: first, phase2: second } = statistics;
    expect([Math.min(first.reply_length.min, second.reply_length.min)]).toEqual([3]);
    expect([Math.max(first.reply_length.max, second.reply_length.max)]).toEqual([50_005]);
  });

  it('takes a byte-order mark, mixed line ends and blank lines, and writes plain lines', async () => {
    const lines = rows(30).map((each) => JSON.stringify(each));
    const input = `\uFEFF${lines.map((line, i) => line + ['\n', '\r\n', '  \r\n', '\n\r\n'][i % 4]).join('')}`;
    const odd = await accepted(input.trimEnd());
    const plain = await accepted(`${lines.join('\n')}\n`);
    expect([odd.phase1, odd.phase2]).toEqual([plain.phase1, plain.phase2]);
    expect(odd.statistics).toEqual(plain.statistics);
  });

  it('names repeated ids and texts on standard error and in the statistics', async () => {
    const input = rows(40, (i) => ({ reply_id: `r${i % 39}`, tweet: i > 37 ? 'same' : `tweet ${i}` }));
    const { statistics, stderr } = await accepted(jsonLines([...input, row(3, { tweet: 'other' })]));
    expect(statistics.notices).toHaveLength(3);
    expect(stderr).toContain('1 tweet_id has several tweet texts (first: line 41, tweet_id t3)');
    expect(stderr).toContain('2 tweet_ids share their tweet text with another tweet_id.');
    expect(stderr).toContain('1 reply has the reply_id of an earlier one.');
  });

  it('takes ids that differ in white space for one tweet', async () => {
    const input = rows(40, (i) => ({
      tweet_id: `${i % 2 === 0 ? ' ' : ''}t${i >> 1}`,
      tweet: `tweet ${i >> 1}`,
    }));
    const { statistics } = await accepted(jsonLines(input));
    expect(statistics.phase1.tweets + statistics.phase2.tweets).toBe(20);
    expect(statistics.notices).toEqual([]);
  });

  it('splits two tweets of three records', async () => {
    const records = [row(1, { reply_likes: 1 }), row(2, { reply_likes: 1 }), row(2, { reply_likes: 1 })];
    const { phase1, phase2 } = await accepted(jsonLines(records));
    expect([phase1.length, phase2.length]).toEqual([1, 2]);
  });

  it('says in the summary that no tweet is in two parts, and how alike replies and tweets are', async () => {
    const argv = ['split', '--input', '-', '--output-dir', temporaryDirectory()];
    const { stdout } = await runCli(argv, jsonLines(rows(40)));
    expect(stdout).toContain('tweets in more than one part: 0\n');
    const p = String.raw`([\d.]+) \(by tweet ([\d.]+)\)`;
    const found = new RegExp(`Kolmogorov-Smirnov p: engagement ${p}, reply length ${p}\n`).exec(stdout);
    expect(found?.slice(1)).toEqual([found?.[1], found?.[1], found?.[3], found?.[3]]);
  });
});

describe('grpolab split refuses', () => {
  it.each([
    ['an empty file', '', /in\.jsonl: has no valid record; expected at least 2 tweets/],
    ['blank lines alone', '\n \r\n\n', /has no valid record/],
    [
      'one tweet',
      jsonLines(rows(30, () => ({ tweet_id: 'one' }))),
      /phase1 would be empty: 30 replies to 1 tweets/,
    ],
    [
      'three records of unlike engagement',
      jsonLines(rows(3)),
      /phase1 would be empty: 3 replies to 3 tweets/,
    ],
    [
      'NaN likes',
      `${jsonLines(rows(9))}${JSON.stringify(row(9)).replace(/"reply_likes":\d+/, '"reply_likes":NaN')}`,
      /in\.jsonl:10: not JSON/,
    ],
    [
      'likes that are a text',
      jsonLines([row(0, { reply_likes: 'NaN' })]),
      /in\.jsonl:1: reply_likes is "NaN"; expected an integer >= 0/,
    ],
    [
      'likes without end',
      jsonLines([row(0)]).replace(/"reply_likes":\d+/, '"reply_likes":1e999'),
      /in\.jsonl:1: reply_likes is/,
    ],
    [
      'negative likes',
      jsonLines([row(0, { reply_likes: -1 })]),
      /reply_likes is -1; expected an integer >= 0/,
    ],
    [
      'a blank id',
      jsonLines([row(0, { tweet_id: ' ' })]),
      /in\.jsonl:1: tweet_id is " "; expected a string that is not blank/,
    ],
    [
      'a blank reply',
      jsonLines([row(0, { reply: ' \t' })]),
      /reply is " \\t"; expected a text that is not blank/,
    ],
  ])('%s', async (_, input, message) => {
    await refused(input, message);
  });

  it.each([
    ['--ratio', '0'],
    ['--ratio', '1'],
    ['--split-ratio', '1'],
    ['--test-fraction', '-0.1'],
    ['--test-fraction', '1'],
  ])('%s %s', async (option, value) => {
    await refused(jsonLines(rows(40)), new RegExp(`${value.replace('.', '\\.')}"; expected`), [
      `${option}=${value}`,
    ]);
  });

  it('a directory, or nothing, as its input', async () => {
    const directory = temporaryDirectory();
    const run = (input: string) =>
      runCli(['split', '--input', input, '--output-dir', join(directory, 'out')]);
    const [isDirectory, isMissing] = [await run(directory), await run(join(directory, 'none.jsonl'))];
    expect([isDirectory.code, isMissing.code]).toEqual([2, 2]);
    expect(isDirectory.stderr).toContain('is a directory; expected a file. Check the path.\n');
    expect(isMissing.stderr).toContain('none.jsonl: no such file. Check the path.\n');
    expect(readdirSync(directory)).toEqual([]);
  });

  it('a file as its output directory, before it reads anything', async () => {
    const file = temporaryFile('out', 'mine');
    const input = temporaryFile('in.jsonl', 'this is not JSON\n');
    for (const output of [file, join(file, 'deeper')]) {
      const { code, stderr } = await runCli(['split', '--input', input, '--output-dir', output]);
      expect(code).toBe(2);
      if (output === file) expect(stderr).toContain('cannot be made a directory: a file stands there.');
    }
    const good = temporaryFile('good.jsonl', jsonLines(rows(40)));
    const { code, stderr } = await runCli(['split', '--input', good, '--output-dir', join(file, 'deeper')]);
    expect([code, stderr.split('\n')]).toEqual([2, [expect.stringContaining('a file stands there'), '']]);
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });
});

describe('grpolab split, interrupted', () => {
  it('ends with 130 and leaves the files of an earlier split', async () => {
    const directory = temporaryDirectory();
    const input = temporaryFile('in.jsonl', jsonLines(rows(40)));
    const argv = ['split', '--input', input, '--output-dir', directory];
    await runCli(argv);
    const before = readdirSync(directory).map((name) => readFileSync(join(directory, name), 'utf8'));
    const interrupt = new AbortController();
    interrupt.abort(new Interrupted());
    const { code, stderr } = await runCli([...argv, '--seed', '3'], '', interrupt.signal);
    expect([code, stderr]).toEqual([130, 'grpolab: interrupted\n']);
    expect(readdirSync(directory).map((name) => readFileSync(join(directory, name), 'utf8'))).toEqual(before);
  });

  it('leaves no copy of standard input behind', async () => {
    const directory = temporaryDirectory();
    mkdirSync(join(directory, 'out'));
    writeFileSync(join(directory, 'out', 'mine.txt'), 'mine');
    const interrupt = new AbortController();
    interrupt.abort(new Interrupted());
    const argv = ['split', '--input', '-', '--output-dir', join(directory, 'out')];
    expect((await runCli(argv, jsonLines(rows(40)), interrupt.signal)).code).toBe(130);
    expect(readdirSync(join(directory, 'out'))).toEqual(['mine.txt']);
  });
});

describe('PassBars', () => {
  function bars(quiet: boolean) {
    const stream = Object.assign(new PassThrough(), { isTTY: true, columns: 100 });
    const clock = { ms: 0 };
    const shown = () => String((stream.read() as Buffer | null) ?? '');
    return { bars: new PassBars({ stream, quiet, now: () => clock.ms }), clock, shown };
  }

  it('show nothing of a pass that takes less than two seconds', () => {
    const { bars: quick, clock, shown } = bars(false);
    quick.update('read', 10, 100);
    clock.ms = 1999;
    quick.update('read', 100, 100);
    quick.update('write', 50, 100);
    clock.ms = 3000;
    quick.update('write', 100, 100);
    quick.finish();
    quick.close();
    expect(shown()).toBe('');
  });

  it('show each longer pass with its share of the bytes, and end it', () => {
    const { bars: slow, clock, shown } = bars(false);
    slow.update('read', 0, 2048);
    clock.ms = 2000;
    slow.update('read', 1024, 2048);
    expect(shown()).toMatch(/split, read {2}50% \[=+ +\] 1\.0 KiB\/2\.0 KiB 512 B\/s ETA 0:02/);
    clock.ms = 4000;
    slow.update('read', 2048, 2048);
    slow.update('write', 0, 2048);
    expect(shown()).toMatch(/split, read: 2\.0 KiB\/2\.0 KiB in 0:04\S*\n$/);
    clock.ms = 7000;
    slow.update('write', 2048, 2048);
    slow.close();
    expect(shown()).toMatch(/split, write 100%.*\n$/);
  });

  it('show nothing when they are to be quiet', () => {
    const { bars: quiet, clock, shown } = bars(true);
    quiet.update('read', 0, undefined);
    clock.ms = 60_000;
    quiet.update('read', 1024, undefined);
    quiet.finish();
    quiet.close();
    expect(shown()).toBe('');
  });
});
