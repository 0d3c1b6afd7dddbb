/** What the tests of `grpolab evaluate` share: three tweets with records, a golden model, and how a refusal looks. */
import path from 'node:path';
import { expect } from 'vitest';
import type { CliResult } from './cli';
import { jsonLines, runCli, temporaryDirectory, temporaryFile } from './cli';

export const model = 'test/golden/tiny-qwen3/untied-f32';
export const adapter = 'test/golden/lora/adapter';

export const tweets = ['I love tea', 'Rain again', 'My cab is late'];
/** Two replies of people to each. */
export const records = tweets.flatMap((tweet, t) =>
  ['Good strong tea', 'Bring a boat'].map((reply, i) => ({
    ...{ tweet_id: `t${t}`, tweet, reply, reply_likes: 3 * t + i, tweet_likes: 10 },
  })),
);

export const newOutput = (): string => path.join(temporaryDirectory(), 'evaluation');
export const fileOf = (lines: readonly unknown[]): string => temporaryFile('lines.jsonl', jsonLines(lines));

/** Runs the command on words parted by spaces, or as they are given. */
export function evaluate(argv: string | readonly string[], input = ''): Promise<CliResult> {
  const words = typeof argv === 'string' ? argv.split(/\s+/).filter(Boolean) : argv;
  return runCli(['evaluate', ...words], input);
}

/** One clear line on standard error, nothing on standard output, exit code 2. */
export function expectRefused({ code, stdout, stderr }: CliResult, ...messages: (string | RegExp)[]): void {
  expect([code, stdout]).toEqual([2, '']);
  expect(stderr.split('\n').filter((line) => line.startsWith('grpolab: '))).toHaveLength(1);
  expect(stderr).toMatch(/(^|\n)grpolab: [^\n]{10,}\n$/);
  expect(stderr).not.toMatch(/ {4}at |run with --debug/);
  for (const message of messages) expect(stderr).toMatch(message);
}
