import { existsSync, readdirSync, readFileSync, watch, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it, vi } from 'vitest';
import { jsonLines, parseLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import { JsonlWriter } from '../data/jsonl-writer';
import { Interrupted } from './io';
import { main } from './main';

interface Line {
  reply: string;
  reply_likes: number;
  source?: string;
}

const records = [
  {
    tweet_id: '1',
    tweet: '#BigNews about tea!!!',
    reply: 'Which tea do you drink in the morning?',
    reply_likes: 2,
  },
  {
    tweet_id: '1',
    tweet: '#BigNews about tea!!!',
    reply: 'Which tea do you drink in the mornings?',
    reply_likes: 9,
  },
  { tweet_id: '2', tweet: 'My cat', reply: 'Cats know  best', source: 'mine' },
  { tweet_id: '3', tweet: 'Your cat', reply: 'Cats know best', reply_likes: 1 },
  { tweet_id: '4', tweet: 'Rain', reply: 'Take an umbrella to the match', reply_likes: 3 },
];

/** Runs `clean` on these records, and reads what it wrote. */
async function cleanWith(argv: string[], input = jsonLines(records)) {
  const output = join(temporaryDirectory(), 'out.jsonl');
  const result = await runCli(['clean', '--input', '-', '--output', output, ...argv], input);
  const lines = existsSync(output) ? parseLines<Line>(readFileSync(output, 'utf8')) : [];
  return { ...result, output, lines, replies: lines.map(({ reply }) => reply) };
}

describe('grpolab clean', () => {
  it('writes the best of like replies, best first, and says what each rule did', async () => {
    const { code, stdout, stderr, output, replies } = await cleanWith([]);
    expect([code, stderr]).toEqual([0, '']);
    expect(replies).toEqual([
      ...['Which tea do you drink in the mornings?', 'Take an umbrella to the match', 'Cats know best'],
    ]);
    expect(stdout.split('\n')).toEqual([
      'read 5 records',
      'texts changed (tweets and replies): hashtags 2, repeats 2 (digits and web addresses are exempt), white space 1',
      'dropped: 1 equal replies, 1 near-duplicates (lexical cosine > 0.85)',
      `kept 3 records, best first: ${output}`,
      '',
    ]);
  });

  it('prints one JSON object with the counts', async () => {
    const { code, stdout, output } = await cleanWith(['--json', '--threshold', '0.999']);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      ...{ output, embedding: 'lexical', threshold: 0.999, read: 5 },
      changed_texts: { hashtags: 2, repeats: 2, white_space: 1 },
      ...{ exact_duplicates: 1, near_duplicates: 0, kept: 4 },
    });
  });

  it('keeps near-duplicates when told to, and fields that it does not know', async () => {
    const { stdout, lines, replies } = await cleanWith(
      ['--keep-near-duplicates', '--json'],
      jsonLines(records.slice(0, 3)),
    );
    expect(replies).toHaveLength(3);
    expect(JSON.parse(stdout)).toMatchObject({ embedding: null, threshold: null, near_duplicates: 0 });
    expect(lines[2]).toMatchObject({ reply: 'Cats know best', source: 'mine', reply_likes: 0 });
  });

  it('reads a byte-order mark and mixed line ends, and writes gzip', async () => {
    const [first, second] = [records[0], records[4]].map((record) => JSON.stringify(record));
    const input = temporaryFile('in.jsonl', `\uFEFF${first}\r\n\n${second}`);
    const output = join(temporaryDirectory(), 'out.jsonl.gz');
    const { code } = await runCli(['clean', '--input', input, '--output', output]);
    expect(code).toBe(0);
    expect(parseLines(gunzipSync(readFileSync(output)).toString())).toHaveLength(2);
  });

  it('may write over its own input', async () => {
    const file = temporaryFile('records.jsonl', jsonLines(records));
    expect((await runCli(['clean', '--input', file, '--output', file])).code).toBe(0);
    expect(parseLines(readFileSync(file, 'utf8'))).toHaveLength(3);
    const once = readFileSync(file, 'utf8');
    expect((await runCli(['clean', '--input', file, '--output', file])).code).toBe(0);
    expect(readFileSync(file, 'utf8')).toBe(once);
  });

  it('takes emoji, right-to-left text, a reply of 100 kB and one record', async () => {
    const replies = ['😂😂😂😂', '👍🏽', 'شكرا جزيلا لكم', `so ${'many words '.repeat(10_000)}here`];
    const odd = replies.map((reply, i) => ({ tweet_id: String(i), tweet: 'Odd', reply }));
    const { code, replies: cleaned } = await cleanWith([], jsonLines(odd));
    expect([code, cleaned.length, cleaned[0]]).toEqual([0, 4, '😂😂']);
    expect((await cleanWith([], jsonLines(odd.slice(0, 1)))).replies).toEqual(['😂😂']);
  });

  it.each(['"reply_likes":"NaN"', '"reply_likes":NaN', '"reply_likes":-1'])(
    'refuses a record with %s, or sets it aside when told to',
    async (likes) => {
      const bad = `${jsonLines(records)}{"tweet_id":"9","tweet":"a","reply":"b",${likes}}\n`;
      const file = temporaryFile('bad.jsonl', bad);
      const output = join(temporaryDirectory(), 'out.jsonl');
      const argv = ['clean', '--input', file, '--output', output];
      const refused = await runCli(argv);
      expect([refused.code, existsSync(output)]).toEqual([2, false]);
      expect(refused.stderr).toContain('bad.jsonl:6: ');
      const accepted = await runCli([...argv, '--skip-invalid']);
      expect(accepted.code).toBe(0);
      expect(accepted.stderr).toContain('1 bad lines set aside');
      expect(parseLines(readFileSync(output, 'utf8'))).toHaveLength(3);
    },
  );

  it('leaves an older output alone after Ctrl-C, and no other file', async () => {
    const directory = temporaryDirectory();
    const output = join(directory, 'out.jsonl');
    writeFileSync(output, 'older\n');
    for (const option of [[], ['--keep-near-duplicates']]) {
      const argv = ['clean', '--input', '-', '--output', output, ...option];
      const { code, stdout } = await runCli(argv, jsonLines(records), AbortSignal.abort());
      expect([code, stdout]).toEqual([130, '']);
      expect(readFileSync(output, 'utf8')).toBe('older\n');
      expect(readdirSync(directory)).toEqual(['out.jsonl']);
    }
  });

  it('ends at Ctrl-C while it waits for standard input', async () => {
    const [abort, stdin] = [new AbortController(), new Readable({ read: () => {} })];
    stdin.push(jsonLines(records));
    const output = join(temporaryDirectory(), 'out.jsonl');
    const sink = () => new Writable({ write: (_, __, done) => done() });
    const argv = ['clean', '--input', '-', '--output', output];
    const io = { stdin, stdout: sink(), stderr: sink(), signal: abort.signal };
    setTimeout(() => abort.abort(new Interrupted()), 50);
    expect(await main(argv, io)).toBe(130);
    expect(existsSync(output)).toBe(false);
  });

  it('ends at Ctrl-C while it normalises texts, and leaves nothing behind', async () => {
    const abort = new AbortController();
    const many = Array.from({ length: 40_000 }, (_, i) => ({ ...records[0], reply: `Reply number ${i}` }));
    const directory = temporaryDirectory();
    const argv = [
      'clean',
      '--keep-near-duplicates',
      '--input',
      '-',
      '--output',
      join(directory, 'out.jsonl'),
    ];
    // The output's temporary file is there when all lines are read.
    const watcher = watch(directory, () => abort.abort(new Interrupted()));
    const write = vi.spyOn(JsonlWriter.prototype, 'write');
    const { code } = await runCli(argv, jsonLines(many), abort.signal);
    watcher.close();
    expect([code, readdirSync(directory)]).toEqual([130, []]);
    expect(write).not.toHaveBeenCalled();
    write.mockRestore();
  });

  it('refuses an output that is not JSONL, or takes its rejected lines, before it reads anything', async () => {
    const input = temporaryFile('col.jsonl', jsonLines(records));
    const directory = dirname(input);
    for (const [name, message] of [
      ['-', 'output is -; expected a name that ends in .jsonl or .jsonl.gz.'],
      [join(directory, 'x.csv'), 'expected a name that ends in .jsonl or .jsonl.gz.'],
      [join(directory, 'col.rejected.jsonl'), 'where bad lines go; choose another name.'],
    ]) {
      const argv = ['clean', '--skip-invalid', '--input', input, '--output', name];
      const { code, stdout, stderr } = await runCli(argv);
      expect([code, stdout]).toEqual([2, '']);
      expect(stderr).toContain(message);
      const fromStdin = await runCli(['clean', '--input', '-', '--output', name], 'no JSON');
      if (!name.includes('rejected')) expect(fromStdin.stderr).toContain(message);
    }
    expect(readdirSync(directory)).toEqual(['col.jsonl']);
    expect(existsSync('-')).toBe(false);
  });

  it('says in its help what may repeat', async () => {
    const { stdout } = await runCli(['clean', '--help']);
    expect(stdout).toMatch(/repeated .* but for digits .* and in web addresses/);
  });

  it('says where it cannot write before it begins, and that there is nothing to clean', async () => {
    const output = join(temporaryDirectory(), 'absent', 'out.jsonl');
    const { code, stderr } = await runCli(['clean', '--input', '-', '--output', output], jsonLines(records));
    expect(code).toBe(2);
    expect(stderr).toContain('its directory does not exist');
    const empty = await cleanWith([], '\n');
    expect(empty.code).toBe(2);
    expect(empty.stderr).toContain('stdin: has no valid line');
  });

  it.each([
    [['--threshold', '1'], '--threshold is "1"; expected a number'],
    [['--threshold', 'high'], '--threshold is "high"; expected a number'],
    [['--threshold', '0.9', '--keep-near-duplicates'], '--threshold has no use with --keep-near-duplicates'],
    [['--embedding', 'lexical', '--keep-near-duplicates'], '--embedding has no use with'],
  ])('refuses %j', async (argv, message) => {
    const { code, stderr, output } = await cleanWith(argv);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
    expect(existsSync(output)).toBe(false);
  });
});
