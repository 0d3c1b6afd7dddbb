/** The texts of `--help`, made from the table of commands. */
import type { OptionSpec, OptionSpecs } from './arguments';
import { COMMON_OPTIONS } from './arguments';
import type { Command } from './command';

function optionName([name, { value, aliases = [] }]: [string, OptionSpec]): string {
  return [name, ...aliases].map((each) => `--${each}${value === undefined ? '' : ` ${value}`}`).join(', ');
}

function optionText({ describe, default: value, required, repeatable }: OptionSpec): string {
  const notes = [
    ...(required ? ['required'] : []),
    ...(value === undefined ? [] : [`default ${value}`]),
    ...(repeatable ? ['may be repeated'] : []),
  ];
  return notes.length === 0 ? describe : `${describe} (${notes.join(', ')})`;
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
}

function optionLines(specs: OptionSpecs): string[] {
  return columns(Object.entries(specs).map((entry) => [optionName(entry), optionText(entry[1])] as const));
}

/** `grpolab --help` */
export function generalHelp(commands: readonly Command[]): string {
  return [
    'grpolab: fine-tune Qwen3-style language models with LoRA, by SFT and GRPO',
    '',
    'Usage: grpolab COMMAND [options]',
    '',
    ...columns(commands.map(({ name, summary }) => [name, summary] as const)),
    '',
    ...columns([
      ['--help', 'this text; after a command, its options'],
      ['--version', 'the version'],
    ]),
    '',
    'Results go to standard output, progress and notices to standard error.',
    'Exit codes: 0 done, 1 the run failed, 2 wrong usage or input, 130 after Ctrl-C.',
    '',
  ].join('\n');
}

/** `grpolab COMMAND --help` */
export function commandHelp({ name, summary, usage, options, details = [], passThrough }: Command): string {
  const lines = [`grpolab ${name}: ${summary}`, '', `Usage: grpolab ${name} ${usage}`, ''];
  if (!passThrough) lines.push(...optionLines({ ...options, ...COMMON_OPTIONS }), '');
  if (details.length > 0) lines.push(...details, '');
  return lines.join('\n');
}
