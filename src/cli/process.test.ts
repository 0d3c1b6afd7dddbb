/** The real program in a process of its own; it runs the build in dist/, which `npm test` brings up to date. */
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { jsonLines, parseLines, temporaryDirectory } from '../../test/cli';

const program = resolve('bin/grpolab.mjs');
const model = resolve('test/golden/tiny-qwen3/tied-bf16');

function grpolab(args: string[], input = '', env: NodeJS.ProcessEnv = {}) {
  const options = { input, encoding: 'utf8' as const, env: { ...process.env, ...env } };
  return spawnSync(process.execPath, [program, ...args], options);
}

describe('bin/grpolab.mjs', () => {
  it('runs a command on standard input and leaves standard output to the results', () => {
    const { status, stdout } = grpolab(
      ['logprobs', '--model', model, '--input', '-', '--json'],
      jsonLines([{ token_ids: [1, 2, 3] }, { token_ids: [4, 5] }]),
    );
    expect(status).toBe(0);
    expect(parseLines<{ log_probs: number[] }>(stdout).map(({ log_probs: values }) => values.length)).toEqual(
      [2, 1],
    );
  });

  it('exits with 2 and one line on wrong usage', () => {
    const { status, stdout, stderr } = grpolab(['logprobs', '--modle', 'x']);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toBe('grpolab: unknown option --modle (nearest: --model); see grpolab logprobs --help\n');
  });

  it('refuses a GRPOLAB_TF32 that is neither 0 nor 1', () => {
    const args = ['logprobs', '--model', model, '--input', '-'];
    const { status, stdout, stderr } = grpolab(args, jsonLines([{ token_ids: [1, 2] }]), {
      GRPOLAB_TF32: 'yes',
    });
    expect([status, stdout, stderr]).toEqual([2, '', 'grpolab: GRPOLAB_TF32 is "yes"; expected 0 or 1\n']);
  });

  it('does not load TensorFlow for the help, for split and for reward', () => {
    const probe = join(temporaryDirectory(), 'probe.cjs');
    writeFileSync(
      probe,
      `process.on('exit', () => process.stderr.write(
        'tensorflow: ' + Object.keys(require.cache).some((file) => file.includes('tfjs')) + '\\n'));`,
    );
    const env = { NODE_OPTIONS: `--require ${probe}`, GRPOLAB_CHROME: '/nowhere' };
    const records = jsonLines(
      Array.from({ length: 8 }, (_, i) => ({ tweet_id: String(i), tweet: 'a', reply: 'b' })),
    );
    const loads = (args: string[], input = '') => {
      const { status, stderr } = grpolab(args, input, env);
      expect(status).toBe(0);
      return /tensorflow: (\w+)/.exec(stderr)?.[1];
    };
    expect(loads(['--help'])).toBe('false');
    expect(loads(['split', '--input', '-', '--output-dir', temporaryDirectory()], records)).toBe('false');
    expect(loads(['reward', '--input', '-'], records)).toBe('false');
    const prompt = jsonLines([{ token_ids: [1, 2] }]);
    expect(loads(['logprobs', '--model', model, '--input', '-'], prompt)).toBe('true');
  });

  it('loads tokenizers, tables and charts only where they are needed', () => {
    const probe = join(temporaryDirectory(), 'probe.cjs');
    writeFileSync(
      probe,
      `process.on('exit', () => {
        const files = Object.keys(require.cache).join() + require('fs').readFileSync('/proc/self/maps', 'utf8');
        const names = ['danfojs', 'plotly', 'onnxruntime'].filter((name) => files.includes(name));
        process.stderr.write('loaded: ' + names.join() + '.\\n');
      });`,
    );
    const env = { NODE_OPTIONS: `--require ${probe}` };
    const loaded = (args: string[], input = ''): string | undefined =>
      /loaded: (.*)\./.exec(grpolab(args, input, env).stderr)?.[1];
    const small = ['--shape', 'P=1,G=2,Tp=4,Tc=2', '--steps', '1', '--quiet'];
    expect(loaded(['bench', '--model', model, ...small])).toBe('');
    // The tokenizer's library brings a runtime of its own: the probe sees it where there is text.
    const texts = jsonLines([{ text: 'a b' }]);
    expect(loaded(['tokenize', '--model', resolve('data/model'), '--input', '-'], texts)).toBe('onnxruntime');
  });

  it('ends with 130 after Ctrl-C', async () => {
    const args = ['generate', '--model', model, '--input', '-', '--max-new-tokens', '3000', '--n', '16'];
    const child = spawn(process.execPath, [program, ...args], { stdio: ['pipe', 'ignore', 'pipe'] });
    const ended = new Promise<number | null>((done) => child.on('exit', done));
    child.stdin.end(jsonLines(Array.from({ length: 16 }, (_, i) => ({ id: String(i), tweet: 'tea' }))));
    setTimeout(() => child.kill('SIGINT'), 1500);
    expect(await ended).toBe(130);
  });

  it('is content when nobody reads its output to the end', () => {
    const pairs = Array.from({ length: 3000 }, (_, i) => ({
      tweet: `tea ${i}`,
      reply: 'What a day it was!',
    }));
    const command = `"${process.execPath}" "${program}" reward --input - --json | head -1; echo \${PIPESTATUS[0]}`;
    const { stdout, stderr } = spawnSync('bash', ['-c', command], {
      input: jsonLines(pairs),
      encoding: 'utf8',
    });
    expect(stdout.trimEnd().split('\n')[1]).toBe('0');
    expect(stderr).toBe('');
  });

  it('says in one line what to do where nothing is built', () => {
    const root = temporaryDirectory();
    mkdirSync(join(root, 'bin'));
    copyFileSync(program, join(root, 'bin/grpolab.mjs'));
    const { status, stderr } = spawnSync(process.execPath, [join(root, 'bin/grpolab.mjs')], {
      encoding: 'utf8',
    });
    expect(status).toBe(2);
    expect(stderr).toBe('grpolab: it is not built yet. Run `npm run setup` in its directory.\n');
  });

  it('names the missing binding and environment of a package that has not been set up', () => {
    const root = temporaryDirectory();
    for (const part of ['bin', 'dist', 'package.json', 'data/lexical-idf.json'])
      cpSync(part, join(root, part), { recursive: true });
    symlinkSync(resolve('node_modules'), join(root, 'node_modules'));
    const run = (args: string[]) =>
      spawnSync(process.execPath, [join(root, 'bin/grpolab.mjs'), ...args], {
        input: jsonLines([{ token_ids: [1, 2] }]),
        encoding: 'utf8',
        env: { ...process.env, GRPOLAB_CHROME: '/nowhere' },
      });
    const doctor = run(['doctor']);
    expect(doctor.status).toBe(0);
    const problems = doctor.stdout.split('\n').filter((line) => line.startsWith('PROBLEM'));
    expect(problems.join('\n')).toMatch(/native binding is not built.*\n.*\.venv.*\n.*figures: no browser/);
    const logprobs = run(['logprobs', '--model', model, '--input', '-']);
    expect(logprobs.status).toBe(2);
    expect(logprobs.stderr).toBe('grpolab: The native binding is not built. Run `npx grpolab setup`.\n');
  });
});
