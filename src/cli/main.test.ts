import { describe, expect, it } from 'vitest';
import { runCli } from '../../test/cli';
import { parseArguments } from './arguments';
import { COMMANDS } from './commands';
import { Interrupted } from './io';

const specs = {
  input: { value: 'F', required: true, describe: 'a file' },
  ratio: { value: 'R', default: '0.5', aliases: ['share'], describe: 'a share' },
  set: { value: 'K=V', repeatable: true, describe: 'a setting' },
  fast: { describe: 'a switch' },
};
const parse = (...argv: string[]) => parseArguments('test', specs, argv);

describe('arguments', () => {
  it('gives values, defaults, switches, aliases and repeated options', () => {
    const args = parse('--input', 'a', '--share=0.25', '--set', 'a=1', '--set', 'b=2', '--fast');
    expect(args.required('input')).toBe('a');
    expect(args.number('ratio', { above: 0, below: 1 })).toBe(0.25);
    expect(args.list('set')).toEqual(['a=1', 'b=2']);
    expect([args.flag('fast'), args.flag('quiet')]).toEqual([true, false]);
    expect(parse('--input', 'a').number('ratio')).toBe(0.5);
    expect([args.given('ratio'), parse('--input', 'a').given('ratio')]).toEqual([true, false]);
  });

  it.each([
    [['--inptu', 'a'], 'unknown option --inptu (nearest: --input)'],
    [['--input'], '--input needs a value'],
    [['--input', ''], '--input is empty'],
    [['--input', 'a', '--fast=yes'], '--fast takes no value'],
    [['--input', '-x'], 'write --input=VALUE'],
    [['--input', 'a', 'b'], 'unexpected argument "b"'],
    [[], 'test needs --input F'],
    [['--input', 'a', '--ratio', '1', '--share', '2'], '--ratio and --share are the same option'],
  ])('refuses %j', (argv, message) => {
    expect(() => parse(...argv)).toThrow(message);
    expect(() => parse(...argv)).toThrow('; see grpolab test --help');
  });

  it.each(['x', '1.5', '', ' ', '1e400', '0x10', '99999999999999999999'])(
    'refuses "%s" as an integer',
    (text) => {
      const args = () => parse('--input', 'a', `--ratio=${text}`).integer('ratio', { min: 0 });
      expect(args).toThrow(text === '' ? '--ratio is empty' : 'expected an integer >= 0');
    },
  );

  it('checks ranges at their ends', () => {
    const ratio = (text: string) =>
      parse('--input', 'a', `--ratio=${text}`).number('ratio', { above: 0, max: 1 });
    expect(ratio('1')).toBe(1);
    expect(() => ratio('0')).toThrow('--ratio is "0"; expected a number above 0 and <= 1');
    expect(() => ratio('1.01')).toThrow('expected a number above 0 and <= 1');
  });
});

describe('the command line', () => {
  it('prints its version and its help', async () => {
    expect(await runCli(['--version'])).toMatchObject({ code: 0, stderr: '' });
    const { code, stdout } = await runCli(['--help']);
    expect(code).toBe(0);
    for (const { name } of COMMANDS) expect(stdout).toContain(`\n  ${name} `);
  });

  it.each(COMMANDS.map(({ name }) => name))('explains every option of %s', async (name) => {
    const { code, stdout, stderr } = await runCli([name, '--help']);
    expect([code, stderr]).toEqual([0, '']);
    const options = COMMANDS.find((command) => command.name === name)?.options ?? {};
    for (const option of Object.keys(options)) expect(stdout).toContain(`--${option}`);
    expect(Math.max(...stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(130);
  });

  it.each([
    [['generat'], 'unknown command "generat" (nearest: generate)'],
    [[], 'expected a command'],
    [['--model', 'x'], 'expected a command before --model'],
    [['split', '--inputs', 'x'], 'unknown option --inputs (nearest: --input)'],
  ])('answers %j with one line and exit code 2', async (argv, message) => {
    const { code, stdout, stderr } = await runCli(argv);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain(message);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  });

  it('shows the stack of an error only when it is asked to', async () => {
    const argv = ['reward', '--input', 'no-such-file.jsonl'];
    expect((await runCli(argv)).stderr.trimEnd().split('\n')).toHaveLength(1);
    expect((await runCli([...argv, '--debug'])).stderr).toMatch(/\n\s+at /);
  });

  it('ends with 130 after Ctrl-C', async () => {
    const interrupt = new AbortController();
    interrupt.abort(new Interrupted());
    const line = JSON.stringify({ tweet: 'a', reply: 'b' });
    const { code, stderr } = await runCli(['reward', '--input', '-'], `${line}\n`, interrupt.signal);
    expect([code, stderr]).toEqual([130, 'grpolab: interrupted\n']);
  });

  it('reports an unexpected error as a failed run', async () => {
    const command = COMMANDS[0];
    const { run } = command;
    command.run = () => Promise.reject(new TypeError('x is not\n a function'));
    const { code, stderr } = await runCli([command.name]);
    command.run = run;
    expect(code).toBe(1);
    expect(stderr).toBe(
      `grpolab: ${command.name} failed: x is not a function (run with --debug for the stack)\n`,
    );
  });
});
