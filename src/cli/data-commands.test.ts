import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { jsonLines, parseLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import { loadReward } from '../rewards/config';

const records = Array.from({ length: 60 }, (_, i) => ({
  tweet_id: `t${Math.floor(i / 2)}`,
  tweet: `Tweet number ${Math.floor(i / 2)} about tea`,
  tweet_likes: 10 + i,
  reply: `Reply ${i}: ${'more words '.repeat(1 + (i % 7))}`,
  reply_likes: (i * 7) % 23,
}));

describe('grpolab split', () => {
  afterEach(() => vi.unstubAllEnvs());

  it('writes the phases, the statistics and the chart, and says what it did', async () => {
    const directory = join(temporaryDirectory(), 'out');
    const input = temporaryFile('records.jsonl', jsonLines(records));
    const argv = ['split', '--input', input, '--output-dir', directory, '--test-fraction', '0.1'];
    const { code, stdout } = await runCli(argv);
    expect(code).toBe(0);
    expect(stdout).toContain('validation passed');
    const files = readdirSync(directory).sort();
    const chart = ['json', 'png', 'svg'].map((kind) => `phase_split_distributions.${kind}`);
    expect(files).toEqual(
      [
        ...[...chart, 'phase_split_statistics.json', 'test_data.jsonl'],
        ...['train_phase1_sft.jsonl', 'train_phase2_grpo.jsonl'],
      ].sort(),
    );
    const rows = files
      .filter((file) => file.endsWith('.jsonl'))
      .flatMap((file) => parseLines<{ reply: string }>(readFileSync(join(directory, file), 'utf8')));
    expect(rows.map(({ reply }) => reply).sort()).toEqual(records.map(({ reply }) => reply).sort());
  });

  it('writes the data of the chart and says what to install where there is no browser', async () => {
    vi.stubEnv('GRPOLAB_CHROME', '/nowhere/chrome');
    const directory = temporaryDirectory();
    const { code, stderr } = await runCli(
      ['split', '--input', '-', '--output-dir', directory],
      jsonLines(records),
    );
    expect(code).toBe(0);
    expect(stderr).toContain('Install Chrome or Chromium');
    expect(readdirSync(directory)).toContain('phase_split_distributions.json');
    expect(readdirSync(directory)).not.toContain('phase_split_distributions.png');
  });

  it('prints one JSON document, the same for standard input and for both names of the ratio', async () => {
    vi.stubEnv('GRPOLAB_CHROME', '/nowhere/chrome');
    const run = async (argv: string[], input: string) => {
      const directory = temporaryDirectory();
      const common = ['--output-dir', directory, '--seed', '7', '--json'];
      const { code, stdout } = await runCli(['split', ...argv, ...common], input);
      expect(code).toBe(0);
      return (JSON.parse(stdout) as { statistics: { ratio: number; phase1: { count: number } } }).statistics;
    };
    const file = temporaryFile('records.jsonl', jsonLines(records));
    const fromFile = await run(['--input', file, '--ratio', '0.25'], '');
    const fromStdin = await run(['--input', '-', '--split-ratio', '0.25'], jsonLines(records));
    expect(fromStdin).toEqual(fromFile);
    expect(fromFile.ratio).toBe(0.25);
    expect(fromFile.phase1.count).toBeLessThan(20);
  });

  it('exits with 1 when the phases are not alike', async () => {
    vi.stubEnv('GRPOLAB_CHROME', '/nowhere/chrome');
    // One tweet has half of all replies, and the longest: it makes the phase that it falls into different.
    const heavy = records.map((record, i) =>
      i < 30 ? { ...record, tweet_id: 'one', reply: `${'long '.repeat(50)}${i}`, reply_likes: 500 } : record,
    );
    const argv = ['split', '--input', '-', '--output-dir', temporaryDirectory()];
    const { code, stdout } = await runCli(argv, jsonLines(heavy));
    expect(stdout).toContain('validation FAILED');
    expect(code).toBe(1);
  });

  it('writes nothing when a line is bad, and sets it aside when told to', async () => {
    vi.stubEnv('GRPOLAB_CHROME', '/nowhere/chrome');
    const directory = join(temporaryDirectory(), 'out');
    const input = temporaryFile('bad.jsonl', `${jsonLines(records)}{"tweet_id": "x"\n`);
    const argv = ['split', '--input', input, '--output-dir', directory];
    const refused = await runCli(argv);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain('bad.jsonl:61: not JSON');
    expect(existsSync(directory)).toBe(false);
    const accepted = await runCli([...argv, '--skip-invalid', '--json']);
    expect(accepted.code).toBe(0);
    expect(accepted.stderr).toContain('1 bad lines set aside');
    expect(parseLines(readFileSync(input.replace('.jsonl', '.rejected.jsonl'), 'utf8'))).toHaveLength(1);
  });

  it.each([
    ['--ratio', '1'],
    ['--ratio', 'half'],
    ['--test-fraction', '1'],
    ['--seed', '1.5'],
  ])('refuses %s %s', async (option, value) => {
    const argv = ['split', '--input', '-', '--output-dir', temporaryDirectory(), option, value];
    const { code, stderr } = await runCli(argv, jsonLines(records));
    expect(code).toBe(2);
    expect(stderr).toContain(`${option} is "${value}"; expected`);
  });
});

describe('grpolab reward', () => {
  const pairs = [
    { tweet: 'I love tea', reply: 'So do I! Which one is your favourite, green or black?' },
    { prompt: 'I love tea', completion: 'ok' },
  ];

  it('prints the scores of the reward in input order', async () => {
    const { code, stdout, stderr } = await runCli(['reward', '--input', '-', '--json'], jsonLines(pairs));
    expect([code, stderr]).toEqual([0, '']);
    const reward = await loadReward('heuristic');
    const expected = await reward.scoreBatch([
      { tweet: pairs[0].tweet as string, reply: pairs[0].reply as string },
      { tweet: 'I love tea', reply: 'ok' },
    ]);
    expect(parseLines(stdout)).toEqual(expected.map((each) => ({ ...each, degraded: reward.degraded })));
  });

  it('adds a summary on standard error, the degraded parts named, without --json', async () => {
    const { stdout, stderr } = await runCli(['reward', '--input', '-'], jsonLines(pairs));
    expect(parseLines(stdout)).toHaveLength(2);
    expect(stderr).toContain('2 replies; means: total ');
    expect(stderr.match(/degraded: relevance/g)).toHaveLength(1);
  });

  it('takes a reward from a YAML file', async () => {
    const file = temporaryFile('only-length.yaml', 'weights: { length: 0.35, relevance: 0.1 }\n');
    const argv = ['reward', '--input', '-', '--json', '--reward', file];
    const custom = await runCli(argv, jsonLines(pairs));
    const standard = await runCli(argv.slice(0, 4), jsonLines(pairs));
    expect(custom.code).toBe(0);
    expect(custom.stdout).not.toBe(standard.stdout);
  });

  it.each([
    [{ tweet: 'a' }, 'reply (or completion) is missing'],
    [{ reply: 'a' }, 'tweet (or prompt) is missing'],
    [{ tweet: 1, reply: 'a' }, 'tweet is 1; expected a text'],
    [['tweet'], 'the line is ["tweet"]'],
  ])('refuses the line %j', async (line, message) => {
    const { code, stdout, stderr } = await runCli(['reward', '--input', '-'], jsonLines([line]));
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain('stdin:1: ');
    expect(stderr).toContain(message);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  });
});
