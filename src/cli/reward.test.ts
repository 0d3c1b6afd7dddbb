import { describe, expect, it } from 'vitest';
import { jsonLines, parseLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import { dataOf, startJudge } from '../../test/judge-server';

const pairs = Array.from({ length: 200 }, (_, i) => ({ tweet: 'Rain again', reply: `Boat number ${i}` }));

function judgeFile(baseUrl: string, settings = ''): string {
  const cache = temporaryDirectory();
  const text = `type: judge\nbase_url: ${baseUrl}\nmodel: m\napi_key_env: none\ncache_directory: ${cache}\n${settings}`;
  return temporaryFile('judge.yaml', text);
}

const grades = (n: number): string =>
  JSON.stringify({ engagement: n, relevance: n, creativity: n, naturalness: n });

describe('grpolab reward with a judge', () => {
  it('exits with 1 when the judge gives no answer: nothing is wrong with what was given', async () => {
    const judge = await startJudge(() => ({ status: 500 }));
    const argv = ['reward', '--input', '-', '--reward', judgeFile(judge.baseUrl, 'max_retries: 0\n')];
    const { code, stdout, stderr } = await runCli(argv, jsonLines(pairs.slice(0, 1)));
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toContain('no answer after one request');
    expect(stderr).not.toContain('--debug');
  });

  it('exits with 2 when the judge refuses the settings', async () => {
    const judge = await startJudge(() => ({ status: 404, body: '{}' }));
    const argv = ['reward', '--input', '-', '--reward', judgeFile(judge.baseUrl)];
    const { code, stderr } = await runCli(argv, jsonLines(pairs.slice(0, 1)));
    expect(code).toBe(2);
    expect(stderr).toContain('Check base_url');
  });

  it('asks as many questions at once as the concurrency allows, and keeps the order', async () => {
    const judge = await startJudge((request) => ({
      content: grades((Number(dataOf(request).reply.split(' ')[2]) % 10) + 1),
      delaySeconds: 0.3,
    }));
    const argv = [
      'reward',
      '--input',
      '-',
      '--json',
      '--reward',
      judgeFile(judge.baseUrl, 'concurrency: 100\n'),
    ];
    const { code, stdout } = await runCli(argv, jsonLines(pairs));
    expect(code).toBe(0);
    const totals = parseLines<{ total: number }>(stdout).map(({ total }) => total);
    totals.forEach((total, i) => expect(total).toBeCloseTo((i % 10) / 9, 12));
    expect(totals).toHaveLength(200);
    expect(judge.mostAtOnce).toBeGreaterThan(64);
  });

  it('never shows a key that stands in a damaged file', async () => {
    const file = temporaryFile('judge.yaml', 'type: judge\napi_key: !secret sk-test-0123456789\n');
    const { code, stderr } = await runCli(['reward', '--input', '-', '--reward', file], jsonLines(pairs));
    expect(code).toBe(2);
    expect(stderr).not.toContain('sk-test');
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  });
});
