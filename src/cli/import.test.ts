import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import { Interrupted } from './io';

const CSV = 'tweet_id,tweet,reply,reply_likes\n1,Tea?,Yes,3\n2,Tea?,No,4\n';
const TWCS =
  'tweet_id,author_id,inbound,created_at,text,response_tweet_id,in_response_to_tweet_id\n' +
  '1,7,True,Tue Oct 31 22:10:47 +0000 2017,Where is it?,2,\n' +
  '2,Shop,False,Tue Oct 31 22:11:47 +0000 2017,On its way,,1\n' +
  '3,7,True,Tue Oct 31 22:12:47 +0000 2017,Thanks,,2\n';

const out = () => join(temporaryDirectory(), 'records.jsonl');

describe('grpolab import', () => {
  it('writes the records of a CSV from standard input and says how many', async () => {
    const output = out();
    const { code, stdout, stderr } = await runCli(
      ['import', '--from', 'csv', '--input', '-', '--output', output],
      CSV,
    );
    expect([code, stdout, stderr]).toEqual([0, `2 records in ${output}\n`, '']);
    expect(parseLines<{ reply: string }>(readFileSync(output, 'utf8')).map(({ reply }) => reply)).toEqual([
      ...['Yes', 'No'],
    ]);
  });

  it('prints the counts of a TWCS file, and once that it has no likes', async () => {
    const argv = ['import', '--from', 'twcs', '--input', temporaryFile('twcs.csv', TWCS), '--output', out()];
    const { code, stdout, stderr } = await runCli(argv);
    expect(code).toBe(0);
    expect(stdout).toContain('3 rows: 0 with an id that an earlier row has');
    expect(stdout).toContain('2 answers; left out: 0 to a tweet');
    expect(stderr.match(/no likes/g)).toHaveLength(1);
    const first = await runCli([...argv, '--first-turn', '--json']);
    expect(JSON.parse(first.stdout)).toMatchObject({ from: 'twcs', rows: 3, records: 1, later_turns: 1 });
  });

  it('prints one JSON object for a CSV', async () => {
    const [input, output] = [temporaryFile('a.csv', `${CSV}3,x,y,12k\n`), out()];
    const argv = ['import', '--from', 'csv', '--input', input, '--output', output, '--json'];
    const { code, stdout, stderr } = await runCli([...argv, '--skip-invalid']);
    expect(code).toBe(0);
    const path = input.replace('a.csv', 'a.rejected.jsonl');
    expect(JSON.parse(stdout)).toEqual({
      ...{ from: 'csv', input, output, records: 2, rejected: { count: 1, path }, notices: [] },
    });
    expect(stderr).toBe(`1 bad rows set aside in ${path}\n`);
  });

  it('exits with 2, one line and no output when a row is bad', async () => {
    const [input, output] = [temporaryFile('a.csv', `${CSV}3,x,y,12k\n`), out()];
    const { code, stdout, stderr } = await runCli([
      'import',
      '--from',
      'csv',
      '--input',
      input,
      '--output',
      output,
    ]);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toBe(
      `grpolab: ${input}:4: reply_likes is "12k"; expected an integer >= 0. ` +
        'Fix the row, or set such rows aside with skipInvalid (--skip-invalid).\n',
    );
    expect(existsSync(output)).toBe(false);
  });

  it.each([
    [['--from', 'xml'], '--from is "xml"; expected csv, twcs'],
    [['--from', 'csv', '--first-turn'], '--first-turn is for --from twcs'],
  ])('refuses %j', async (argv, message) => {
    const { code, stderr } = await runCli(['import', ...argv, '--input', '-', '--output', out()], CSV);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });

  it('stops at Ctrl-C with 130 and leaves nothing behind', async () => {
    const output = out();
    const argv = ['import', '--from', 'twcs', '--input', '-', '--output', output];
    const { code } = await runCli(argv, TWCS, AbortSignal.abort(new Interrupted()));
    expect([code, existsSync(output)]).toEqual([130, false]);
  });
});
