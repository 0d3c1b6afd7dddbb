import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { jsonLines, parseLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import { worldRecords } from '../data/world';

const records = [...worldRecords(3, 'sample', 120)];

interface Output {
  history: { steps: number; epochs: unknown[] };
  agreement: Record<string, { n_tweets: number; likes: Likes; worth?: Likes }>;
}
interface Likes {
  pair_accuracy: { value: number; interval: [number, number] };
}

describe('grpolab train-reward', () => {
  it('writes a reward that ranks held-out replies, and that the reward command takes', async () => {
    const input = temporaryFile('records.jsonl', jsonLines(records));
    const output = join(temporaryDirectory(), 'reward');
    const argv = [
      'train-reward',
      '--data',
      input,
      '--output',
      output,
      '--epochs',
      '4',
      '--learning-rate',
      '5e-4',
    ];
    const { code, stdout, stderr } = await runCli([...argv, '--json']);
    expect(stderr).toContain('degraded: ');
    expect(code).toBe(0);
    const [{ agreement, history }] = parseLines<Output>(stdout);
    expect(history.epochs.length).toBeLessThanOrEqual(4);
    expect(Object.keys(agreement)).toEqual(['learned', 'heuristic', 'sharp']);
    expect(agreement.learned.n_tweets).toBe(24);
    expect(agreement.learned.likes.pair_accuracy.value).toBeGreaterThan(0.6);
    expect(agreement.learned.worth?.pair_accuracy.value).toBeGreaterThan(0.6);
    const saved = JSON.parse(readFileSync(join(output, 'reward.json'), 'utf8')) as Record<string, unknown>;
    expect(saved.evaluation).toEqual(agreement.learned);
    expect(saved.data).toEqual({
      file: 'records.jsonl',
      records: records.length,
      test_fraction: 0.2,
      seed: 42,
    });
    const pairs = jsonLines(records.slice(0, 3).map(({ tweet, reply }) => ({ tweet, reply })));
    const scored = await runCli(['reward', '--reward', output, '--input', '-', '--json'], pairs);
    expect(scored.code).toBe(0);
    expect(parseLines(scored.stdout)).toHaveLength(3);
  });

  it('prints the table, without the true worth for texts that are not of the embedded world', async () => {
    const foreign = records.map((record) => ({ ...record, reply: `${record.reply} zyzzyva` }));
    const output = join(temporaryDirectory(), 'reward');
    const argv = [
      'train-reward',
      '--data',
      '-',
      '--output',
      output,
      '--epochs',
      '1',
      '--objective',
      'regression',
    ];
    const { code, stdout } = await runCli(argv, jsonLines(foreign));
    expect(code).toBe(0);
    expect(stdout).toContain('judged on');
    expect(stdout).toMatch(
      /likes +pairs in order +Spearman in a tweet +Spearman overall\n +learned +0\.\d{3} \[/,
    );
    expect(stdout).not.toContain('true worth');
  });

  it.each([
    [['--objective', 'likes'], 2, /--objective is "likes"; expected rank, regression/],
    [['--test-fraction', '0'], 2, /--test-fraction/],
    [['--embedding', '/nowhere/minilm'], 2, /expected a model directory or a hub id/],
  ])('refuses %j', async (extra, expected, message) => {
    const output = join(temporaryDirectory(), 'reward');
    const argv = ['train-reward', '--data', '-', '--output', output, ...extra];
    const { code, stderr } = await runCli(argv, jsonLines(records));
    expect(code).toBe(expected);
    expect(stderr).toMatch(message);
    expect(existsSync(output)).toBe(false);
  });

  it('refuses an output that cannot be a directory before it reads or trains anything', async () => {
    const file = temporaryFile('one.jsonl', 'keep me');
    const onFile = await runCli(['train-reward', '--data', '-', '--output', file], jsonLines(records));
    expect([onFile.code, onFile.stderr]).toEqual([2, expect.stringContaining('is a file')]);
    const argv = ['train-reward', '--data', '-', '--output', join(file, 'x'), '--epochs', '1000000'];
    const below = await runCli(argv, jsonLines(records));
    expect([below.code, below.stderr]).toEqual([2, expect.stringContaining('cannot be made a directory')]);
    expect(readFileSync(file, 'utf8')).toBe('keep me');
  });

  it('exits with 1 and leaves no directory behind when the loss is not finite', async () => {
    const output = join(temporaryDirectory(), 'reward');
    const argv = [
      'train-reward',
      '--data',
      '-',
      '--output',
      output,
      '--learning-rate',
      '1e30',
      '--epochs',
      '1',
    ];
    const { code, stderr } = await runCli(argv, jsonLines(records));
    expect([code, stderr]).toEqual([1, expect.stringContaining('use a smaller learning rate')]);
    expect(existsSync(output)).toBe(false);
  });

  it('refuses a directory that holds something, and data with too little to learn from', async () => {
    const full = join(temporaryDirectory(), 'full');
    mkdirSync(full);
    writeFileSync(join(full, 'notes.txt'), 'keep me');
    const refused = await runCli(['train-reward', '--data', '-', '--output', full], jsonLines(records));
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('is not empty')]);
    const output = join(temporaryDirectory(), 'reward');
    const few = await runCli(
      ['train-reward', '--data', '-', '--output', output],
      jsonLines(records.slice(0, 5)),
    );
    expect([few.code, few.stderr]).toEqual([2, expect.stringContaining('expected at least 10 tweets')]);
    const single = records.filter((r, i) => i === 0 || records[i - 1].tweet_id !== r.tweet_id);
    const none = await runCli(['train-reward', '--data', '-', '--output', output], jsonLines(single));
    expect([none.code, none.stderr]).toEqual([2, expect.stringContaining('use the objective "regression"')]);
    expect(existsSync(output)).toBe(false);
  });
});
