import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { describe, expect, it, vi } from 'vitest';
import { copyModel, jsonLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import type { CliResult } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { Interrupted } from './io';
import { main } from './main';

// Without a browser the charts are JSON alone, and the tests do not draw.
vi.stubEnv('GRPOLAB_CHROME', '/nowhere');

const model = goldenPath('tiny-qwen3', 'tied-f32');

const record = (i: number, tweet = `My plant number ${i} wilted again.`) => ({
  tweet_id: `t${i}`,
  tweet,
  reply: i % 2 === 0 ? 'Did you water it this week?' : 'Oh no, that is sad.',
  reply_likes: i,
});
const many = (n: number) => Array.from({ length: n }, (_, i) => record(i));
const records = many(12);
const file = (values: readonly unknown[]): string => temporaryFile('data.jsonl', jsonLines(values));

interface ResultFile {
  n: Record<string, number>;
  before: { prompts: { id: string }[]; quality?: number };
  grpo: { steps: number; history: unknown[]; policy?: unknown };
  criteria: { name: string; passed: boolean; judged: boolean }[];
  seconds: Record<string, number>;
}

const resultIn = (output: string): ResultFile =>
  JSON.parse(readFileSync(join(output, 'result.json'), 'utf8')) as ResultFile;

function smallTest(output: string, ...options: string[]): Promise<CliResult> {
  return runCli(['small-test', '--model', model, '--output', output, '--quiet', ...options]);
}

describe('grpolab small-test', () => {
  it('runs to its end, and exits with 1 when the reward did not surely rise', async () => {
    const output = temporaryDirectory();
    writeFileSync(join(output, 'before_after.png'), 'of an older run');
    const { code, stdout, stderr } = await smallTest(output, '--data', file(records), '--grpo-steps', '1');
    expect(stderr).toMatch(/fewer than 2 other tweets follow the first 100 records/);
    expect(code).toBe(1);
    const result = resultIn(output);
    const failed = result.criteria.filter(({ passed }) => !passed).map(({ name }) => name);
    expect(failed).toContain('reward up on 3 held-out prompts');
    expect(result.n).toMatchObject({ training: 9, heldOut: 3, dropped: 0, tooLong: 0 });
    expect(result.grpo.steps).toBe(1);
    expect(result.grpo.policy).toBeUndefined();
    expect(Object.keys(result.seconds)).toEqual([
      ...['SFT warm start', 'evaluate before', 'GRPO', 'evaluate after', 'figures'],
    ]);
    const trained = ['phase1_sft', 'phase2_grpo']
      .map((name) => readFileSync(join(output, 'split', `train_${name}.jsonl`), 'utf8'))
      .join('');
    for (const { id } of result.before.prompts) expect(trained).not.toContain(`"${id}"`);
    for (const phase of ['sft', 'grpo'])
      expect(readdirSync(join(output, phase))).toContain('adapter_model.safetensors');
    const names = readdirSync(output);
    expect(names).toEqual(expect.arrayContaining(['training_curves.json', 'before_after.json', 'report.md']));
    expect(names).not.toContain('before_after.png');
    expect(readFileSync(join(output, 'report.md'), 'utf8')).toBe(stdout);
    // The data are not the world's: its law has nothing to say about them.
    expect(result.before.quality).toBeUndefined();
    expect(stdout).not.toMatch(/world quality/i);
  });

  it('with --short reports the reward, and exits with 0', async () => {
    const output = temporaryDirectory();
    const evaluation = file([records[3], ...[100, 101, 102, 103].map((i) => record(i))]);
    const options = ['--data', file(records), '--eval-data', evaluation, '--grpo-steps', '2', '--json'];
    const { code, stdout, stderr } = await smallTest(output, '--short', ...options);
    const result = JSON.parse(stdout) as ResultFile;
    expect(result.criteria.filter(({ passed }) => !passed)).toEqual([]);
    expect(code).toBe(0);
    expect(stderr).toContain('1 held-out records are left out: their tweets are in the training data');
    expect(result.criteria.filter(({ judged }) => !judged).map(({ name }) => name)).toEqual([
      'reward up on 4 held-out prompts',
    ]);
    expect(result.grpo.steps).toBe(2);
    expect(result.n.heldOut).toBe(4);
  });
});

/** Every file below a directory with a digest of its bytes. */
function snapshot(directory: string): Record<string, string> {
  const names = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((one) =>
    one.isFile(),
  );
  return Object.fromEntries(
    names
      .map(({ parentPath, name }) => join(parentPath, name))
      .sort()
      .map((name) => [name, createHash('sha256').update(readFileSync(name)).digest('hex')]),
  );
}

/** An output directory as an older run left it. */
function oldOutput(): string {
  const output = temporaryDirectory();
  for (const part of ['split', 'sft', 'grpo']) mkdirSync(join(output, part));
  for (const name of ['report.md', 'result.json', 'before_after.png', 'split/train_phase1_sft.jsonl'])
    writeFileSync(join(output, name), `old ${name}`);
  cpSync(goldenPath('lora', 'adapter'), join(output, 'sft'), { recursive: true });
  return output;
}

function damaged(change: (directory: string) => void): string {
  const directory = copyModel(model);
  change(directory);
  return directory;
}

const tooLong = record(50, 'word '.repeat(600));

describe('bad input of the small test', () => {
  it.each<[string, () => string[], RegExp]>([
    ['an unknown reward', () => ['--reward', '/nowhere.yaml'], /reward "\/nowhere.yaml": cannot be read/],
    ['a reward with an unknown key', () => ['--reward', temporaryFile('r.yaml', 'weihgts: {}')], /weihgts/],
    ['a model that is not there', () => ['--model', '/nowhere/model'], /model directory/],
    [
      'a model without a tokenizer',
      () => ['--model', damaged((at) => rmSync(join(at, 'tokenizer.json')))],
      /missing: tokenizer\.json/,
    ],
    [
      'a model cut short',
      () => ['--model', damaged((at) => truncateSync(join(at, 'model.safetensors'), 5000))],
      /model\.safetensors/,
    ],
    ['data that are not there', () => ['--data', '/nowhere.jsonl'], /nowhere\.jsonl: no such file/],
    [
      'a bad line',
      () => ['--data', file([...records, { tweet_id: 'x' }])],
      /data\.jsonl:13: tweet is missing/,
    ],
    ['a bad line to evaluate', () => ['--eval-data', file([{ tweet: 'x' }])], /data\.jsonl:1: tweet_id/],
    [
      'too few records',
      () => ['--data', file(records.slice(0, 3))],
      /2 records to train on; expected at least 4/,
    ],
    [
      'one tweet only',
      () => ['--data', file(records.map((one) => ({ ...one, tweet_id: 't' })))],
      /0 records/,
    ],
    ['held-out tweets of training', () => ['--eval-data', file(records)], /0 held-out tweets.*12 records/],
    ['one held-out tweet', () => ['--eval-data', file([record(90), record(90)])], /1 held-out tweets/],
    [
      'held-out tweets that are too long',
      () => ['--eval-data', file([tooLong, record(90)])],
      /1 held-out tweets.*1 tweets of \d+ tokens or more/,
    ],
    [
      'a training tweet that is too long',
      () => ['--data', file([...records, tooLong]), '--eval-data', file([record(90), record(91)])],
      /the prompt of tweet t50 has \d+ tokens; expected fewer than/,
    ],
    ['no GRPO steps', () => ['--grpo-steps', '0'], /--grpo-steps is "0"/],
    ['no learning rate', () => ['--learning-rate', '0'], /--learning-rate is "0"; expected a number above 0/],
    ['a seed that is none', () => ['--seed', 'x'], /--seed is "x"/],
  ])('%s is one line, and leaves an older output as it was', async (_name, options, message) => {
    const output = oldOutput();
    const before = snapshot(output);
    const given = options();
    const usual = given.includes('--data') ? [] : ['--data', file(records)];
    const arguments_ = given.includes('--model') ? given : ['--model', model, ...given];
    const result = await runCli(['small-test', '--output', output, ...usual, ...arguments_]);
    expect(result.stderr).toMatch(message);
    expect([result.code, result.stdout]).toEqual([2, '']);
    expect(result.stderr.trim().split('\n')).toHaveLength(1);
    expect(snapshot(output)).toEqual(before);
  });
});

/** Runs the small test as in a terminal, and presses Ctrl-C when its output first matches. */
async function interruptAt(pattern: RegExp, output: string, ...options: string[]): Promise<CliResult> {
  const abort = new AbortController();
  let text = '';
  const write = (chunk: Buffer, _encoding: string, done: () => void): void => {
    text += chunk.toString();
    if (pattern.test(text) && !abort.signal.aborted) abort.abort(new Interrupted());
    done();
  };
  const stderr = Object.assign(new Writable({ write }), { isTTY: true, columns: 200 });
  const stdout = new Writable({ write: (_chunk, _encoding, done) => done() });
  const argv = ['small-test', '--model', model, '--output', output, '--data', file(many(40)), ...options];
  const code = await main(argv, { stdin: Readable.from([]), stdout, stderr, signal: abort.signal });
  return { code, stdout: '', stderr: text };
}

describe('Ctrl-C in the small test', () => {
  it.each([
    ['during SFT', /SFT warm start .*1\/\d+ steps/, ['sft'], true],
    ['during the evaluation', /evaluate before /, ['sft'], false],
    ['during GRPO', /GRPO .*1\/40 steps/, ['sft', 'grpo'], true],
  ])('%s saves what is trained and exits with 130', async (_name, pattern, saved, early) => {
    const output = temporaryDirectory();
    const { code, stderr } = await interruptAt(pattern, output, '--grpo-steps', '40');
    expect(code).toBe(130);
    const directories = saved.map((name) => join(output, name));
    expect(stderr).toContain(`the adapters trained so far are in ${directories.join(' and ')}\n`);
    expect(stderr).toMatch(/grpolab: interrupted\n$/);
    expect(stderr).not.toMatch(/^\s+at /m);
    for (const directory of directories)
      expect(existsSync(join(directory, 'adapter_model.safetensors'))).toBe(true);
    const last = directories[directories.length - 1];
    const state = JSON.parse(readFileSync(join(last, 'trainer_state.json'), 'utf8')) as {
      interrupted: boolean;
    };
    expect(state.interrupted).toBe(early);
    expect(existsSync(join(output, 'report.md'))).toBe(false);
  });
});
