import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { DataError } from '../runtime/errors';
import type { TweetRecord } from './records';
import { readRecords } from './records';
import { splitPhases } from './split';
import { SPLIT_FILES, splitFile, writeSplit } from './split-files';
import { SplitSource } from './split-source';
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
      tweet: `rain ${i >> 1}`,
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
    const { files, statistics: described } = await splitFile(input, output);
    expect(readdirSync(output).sort()).toEqual(
      [SPLIT_FILES.phase1, SPLIT_FILES.phase2, SPLIT_FILES.statistics].sort(),
    );
    const [phase1, phase2] = [await records(files.phase1), await records(files.phase2)];
    expect(phase1).toEqual(splitPhases(await records(input)).phase1);
    const sources = [...phase1, ...phase2].map(
      (record) => (record as TweetRecord & { source: number }).source,
    );
    expect(sources.sort((a, b) => a - b)).toEqual(Array.from({ length: 120 }, (_, i) => i));
    const statistics = JSON.parse(readFileSync(files.statistics, 'utf8')) as SplitStatistics;
    expect(statistics).toEqual(described);
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

  it('writes what writeSplit writes of records that are complete', async () => {
    const { files, statistics } = await splitFile(input, output, { seed: 4, testFraction: 0.2 });
    const split = splitPhases(await records(input), { seed: 4, testFraction: 0.2 });
    expect(split.statistics).toEqual(statistics);
    const again = await writeSplit(split, join(directory, 'memory'));
    for (const part of ['phase1', 'phase2', 'test'] as const) {
      expect(await records(again.files[part] as string)).toEqual(await records(files[part] as string));
    }
  });

  it('touches nothing when a line is bad, and goes on without it when told', async () => {
    writeFileSync(input, '{"tweet_id": 3}\n', { flag: 'a' });
    await expect(splitFile(input, output)).rejects.toThrow(
      /all\.jsonl:121: tweet is missing; expected a text/,
    );
    expect(existsSync(join(directory, 'out'))).toBe(false);
    const { rejected, statistics } = await splitFile(input, output, { skipInvalid: true });
    expect(rejected).toEqual({ count: 1, path: join(directory, 'all.rejected.jsonl') });
    expect(statistics.phase1.count + statistics.phase2.count).toBe(120);
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

/** A line with white space, carriage return or blank lines around it; ids as numbers, and with white space, too. */
const messyLine = fc.record({
  tweet: fc.integer({ min: 0, max: 39 }),
  likes: fc.nat(50),
  reply: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 30 }).filter((text) => /\S/u.test(text)),
  id: fc.constantFrom<(digits: string) => string>(
    (digits) => digits,
    (digits) => `"${digits}"`,
    (digits) => `" ${digits}"`,
    (digits) => `"${digits}\\t"`,
  ),
  around: fc.constantFrom(['', ''], ['  ', ' \t'], ['', '\r'], ['\r\n \n', '\r\n']),
});

describe('splitFile and splitPhases', () => {
  it('give the same parts and statistics, whatever the input looks like', async () => {
    const inputs = fc.tuple(fc.array(messyLine, { minLength: 150, maxLength: 250 }), fc.boolean(), fc.nat());
    await fc.assert(
      fc.asyncProperty(inputs, async ([lines, hasMark, seed]) => {
        const texts = lines.map(({ tweet, likes, reply, id }, i) => {
          const digits = `91234567890123456${String(tweet).padStart(2, '0')}`;
          const rest = { tweet: `t${tweet}`, reply, reply_likes: likes, tweet_likes: 9, row: i };
          return `{"tweet_id": ${id(digits)}, ${JSON.stringify(rest).slice(1)}`;
        });
        const content = texts
          .map((text, i) => `${lines[i].around[0]}${text}${lines[i].around[1]}\n`)
          .join('');
        writeFileSync(input, `${hasMark ? '\uFEFF' : ''}${content}`);
        const all = await records(input);
        const options = { seed, testFraction: 0.2 };
        const memory = splitPhases(all, options);
        const { files, statistics, distributions } = await splitFile(input, output, options);
        expect({ ...statistics, notices: [] }).toEqual({ ...memory.statistics, notices: [] });
        expect(distributions).toEqual(memory.distributions);
        for (const part of ['phase1', 'phase2', 'test'] as const) {
          const written = readFileSync(files[part] as string, 'utf8');
          const rows = memory[part].map((each) => (each as TweetRecord & { row: number }).row);
          expect(written).toBe(rows.map((row) => `${texts[row]}\n`).join(''));
          expect(await records(files[part] as string)).toEqual(memory[part]);
        }
      }),
      { numRuns: 15 },
    );
  });
});

describe('the input of splitFile', () => {
  const left = () => readdirSync(output).filter((name) => name.startsWith('.'));
  const phases = () =>
    [SPLIT_FILES.phase1, SPLIT_FILES.phase2].map((name) => readFileSync(join(output, name), 'utf8'));

  it('may be standard input, a pipe or compressed: the same bytes come out, and no temporary file stays', async () => {
    await splitFile(input, output);
    const expected = phases();
    const bytes = readFileSync(input);
    await splitFile('-', output, { stdin: Readable.from([bytes.subarray(0, 1000), bytes.subarray(1000)]) });
    expect(phases()).toEqual(expected);
    expect(left()).toEqual([]);
    for (const name of ['all.jsonl.gz', 'pipe.jsonl.gz', 'pipe.jsonl']) {
      const [path, content] = [join(directory, name), name.endsWith('.gz') ? gzipSync(bytes) : bytes];
      if (name.startsWith('pipe')) {
        execFileSync('mkfifo', [path]);
        const written = writeFile(path, content);
        await splitFile(path, output);
        await written;
      } else {
        writeFileSync(path, content);
        await splitFile(path, output);
      }
      expect(phases()).toEqual(expected);
      expect(left()).toEqual([]);
    }
  });

  it('may be a pipe without a name, as a shell gives for <(...) and /dev/stdin', async () => {
    await splitFile(input, output);
    const expected = phases();
    // /dev/fd/5 of another process: its real path, pipe:[...], is no file.
    const shell = spawn('bash', ['-c', 'exec 5< <(cat "$1"); echo open; read -r', 'bash', input]);
    try {
      await once(shell.stdout, 'data');
      await splitFile(`/proc/${shell.pid}/fd/5`, output);
    } finally {
      shell.stdin.end();
    }
    expect(phases()).toEqual(expected);
    expect(left()).toEqual([]);
  });

  it('is refused when a line of standard input is bad, and its temporary copy removed', async () => {
    const stdin = Readable.from([readFileSync(input), Buffer.from('{"tweet_id": 3}\n')]);
    await expect(splitFile('-', output, { stdin })).rejects.toThrow(/^stdin:121: tweet is missing/);
    expect(readdirSync(output)).toEqual([]);
  });

  it('is refused when it changes between the two passes, and the old files stay', async () => {
    await splitFile(input, output);
    const expected = phases();
    const [first] = readFileSync(input, 'utf8').split('\n');
    for (const change of ['append', 'rewrite', 'cut'] as const) {
      const content = readFileSync(input, 'utf8');
      const between = vi.spyOn(SplitSource.prototype, 'index').mockImplementationOnce(async function (
        this: SplitSource,
      ) {
        const result = await this.index();
        if (change === 'append') writeFileSync(input, `${first}\n`, { flag: 'a' });
        if (change === 'rewrite') writeFileSync(input, content.replace('reply 7"', 'REPLY 7"'));
        if (change === 'cut') writeFileSync(input, content.slice(0, -50));
        return result;
      });
      await expect(splitFile(input, output, { seed: 3 })).rejects.toThrow(
        /all\.jsonl: changed while it was split; nothing was written\. Split it when/,
      );
      between.mockRestore();
      expect(phases()).toEqual(expected);
      expect(left()).toEqual([]);
    }
  });

  it('is not overwritten by its own split', async () => {
    const { files } = await splitFile(input, output);
    const before = readFileSync(files.phase1, 'utf8');
    await expect(splitFile(files.phase1, output)).rejects.toThrow(/would be overwritten by its own split/);
    expect(readFileSync(files.phase1, 'utf8')).toBe(before);
  });

  it('says where its lines are when all of them were set aside', async () => {
    writeFileSync(input, '{"tweet_id": 3}\nnonsense\n\n');
    await expect(splitFile(input, output, { skipInvalid: true })).rejects.toThrow(
      new DataError(
        `${input}: has no valid record; all 2 lines were set aside in ${join(directory, 'all.rejected.jsonl')}.`,
      ),
    );
    expect(readFileSync(join(directory, 'all.rejected.jsonl'), 'utf8').trim().split('\n')).toHaveLength(2);
  });

  it('is left as it is, with the old files, when the work is interrupted in either pass', async () => {
    await splitFile(input, output);
    const expected = phases();
    for (const stop of ['read', 'write']) {
      const controller = new AbortController();
      const onProgress = (pass: string) => pass === stop && controller.abort(new Error('enough'));
      const options = { seed: 3, signal: controller.signal, onProgress };
      await expect(splitFile(input, output, options)).rejects.toThrow('enough');
      expect(phases()).toEqual(expected);
      expect(left()).toEqual([]);
    }
  });

  it('is given up at once by an interrupt when standard input never ends', async () => {
    const controller = new AbortController();
    const stdin = new Readable({ read: () => {} });
    stdin.push(readFileSync(input));
    const split = splitFile('-', output, { stdin, signal: controller.signal });
    setTimeout(() => controller.abort(new Error('enough')), 50);
    await expect(split).rejects.toThrow('enough');
    expect(readdirSync(output)).toEqual([]);
  });

  it('is counted in bytes in both passes', async () => {
    const seen: [string, number, number | undefined][] = [];
    await splitFile(input, output, { onProgress: (...call) => seen.push(call) });
    const size = readFileSync(input).length;
    expect(seen).toEqual([
      ['read', size, size],
      ['write', size, size],
    ]);
  });
});
