/** A command's arguments, parsed strictly: an unknown or misspelt option is an error that names the nearest one. */
import { parseArgs } from 'node:util';
import { GrpolabError, messageOf } from '../runtime/errors';
import { nearest } from '../runtime/strict';

/** The command line itself is wrong. The message ends with where to read how it should be. */
export class UsageError extends GrpolabError {
  override readonly name = 'UsageError';

  constructor(message: string, command?: string) {
    super(`${message}; see grpolab ${command === undefined ? '' : `${command} `}--help`);
  }
}

export interface OptionSpec {
  /** What stands for the value in the help, e.g. `DIR`; absent for a switch. */
  value?: string;
  describe: string;
  /** Shown in the help and used when the option is not given. */
  default?: string;
  /** Other names of the same option. */
  aliases?: readonly string[];
  repeatable?: boolean;
  required?: boolean;
}

export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

/** Bounds of a number; `min` and `max` are allowed themselves, `above` and `below` are not. */
export interface Range {
  min?: number;
  max?: number;
  above?: number;
  below?: number;
}

type Value = string | boolean | (string | boolean)[] | undefined;

/** Options that every command has. */
export const COMMON_OPTIONS: OptionSpecs = {
  quiet: { describe: 'no progress on standard error' },
  debug: { describe: 'show the stack of an error' },
  help: { describe: 'this text' },
};

function rangeText({ min, max, above, below }: Range): string {
  const low = min !== undefined ? `>= ${min}` : above !== undefined ? `above ${above}` : '';
  const high = max !== undefined ? `<= ${max}` : below !== undefined ? `below ${below}` : '';
  return [low, high].filter(Boolean).join(' and ');
}

function inside(value: number, { min, max, above, below }: Range): boolean {
  return (
    value >= (min ?? -Infinity) &&
    value <= (max ?? Infinity) &&
    value > (above ?? -Infinity) &&
    value < (below ?? Infinity)
  );
}

/** The parsed arguments of one command. */
export class Arguments {
  constructor(
    private readonly command: string,
    private readonly specs: OptionSpecs,
    private readonly values: Readonly<Record<string, Value>>,
    /** Everything after the command's name, of a command that passes its arguments on. */
    readonly rest: readonly string[] = [],
  ) {}

  /** Whether the option was written, as opposed to its default being in force. */
  given(name: string): boolean {
    return this.values[name] !== undefined;
  }

  flag(name: string): boolean {
    return this.values[name] === true;
  }

  /** The option's text or its default; undefined without either. */
  text(name: string): string | undefined {
    const value = this.values[name];
    return typeof value === 'string' ? value : this.specs[name]?.default;
  }

  /** Like `text`, of an option that is required or has a default. */
  required(name: string): string {
    const value = this.text(name);
    if (value === undefined) throw new UsageError(`--${name} is missing`, this.command);
    return value;
  }

  /** Every value of a repeatable option, in order. */
  list(name: string): string[] {
    return [this.values[name] ?? []].flat().filter((value) => typeof value === 'string');
  }

  /** @throws UsageError  when it is not an integer in the range */
  integer(name: string, range: Range = {}): number {
    const text = this.required(name);
    const value = /^[+-]?\d+$/.test(text) ? Number(text) : NaN;
    if (Number.isSafeInteger(value) && inside(value, range)) return value;
    throw this.outOfRange(name, text, 'an integer', range);
  }

  /** @throws UsageError  when it is not a finite number in the range */
  number(name: string, range: Range = {}): number {
    const text = this.required(name);
    const value = text.trim() === '' ? NaN : Number(text);
    if (Number.isFinite(value) && inside(value, range)) return value;
    throw this.outOfRange(name, text, 'a number', range);
  }

  /** One of a few words. @throws UsageError */
  choice<T extends string>(name: string, choices: readonly T[]): T {
    const text = this.required(name);
    const found = choices.find((choice) => choice === text.toLowerCase());
    if (found !== undefined) return found;
    throw new UsageError(`--${name} is "${text}"; expected ${choices.join(', ')}`, this.command);
  }

  private outOfRange(name: string, text: string, kind: string, range: Range): UsageError {
    const expected = [kind, rangeText(range)].filter(Boolean).join(' ');
    return new UsageError(`--${name} is "${text}"; expected ${expected}`, this.command);
  }
}

/** parseArgs's errors in our words: the first sentence, and for an unknown option the nearest known one. */
function usageError(error: unknown, command: string, known: readonly string[]): UsageError {
  const message = messageOf(error);
  const unknown = /^Unknown option '(-[^']*)'/.exec(message)?.[1];
  if (unknown !== undefined) {
    const guess = nearest(unknown.replace(/^-+/, ''), known);
    return new UsageError(`unknown option ${unknown} (nearest: --${guess})`, command);
  }
  const positional = /^Unexpected argument '([^']*)'/.exec(message)?.[1];
  if (positional !== undefined)
    return new UsageError(`unexpected argument "${positional}"; every argument has a name`, command);
  const option = /^Option '(?:-\w, )?--([\w-]+)/.exec(message)?.[1];
  if (option === undefined) return new UsageError(message.split(/[.\n]/)[0], command);
  if (message.includes('ambiguous'))
    return new UsageError(`--${option}: write --${option}=VALUE for a value that begins with "-"`, command);
  return new UsageError(
    message.includes('does not take an argument')
      ? `--${option} takes no value`
      : `--${option} needs a value`,
    command,
  );
}

/** Values under their main names. */
function foldAliases(
  values: Record<string, Value>,
  specs: OptionSpecs,
  command: string,
): Record<string, Value> {
  const folded: Record<string, Value> = { ...values };
  for (const [name, { aliases = [] }] of Object.entries(specs)) {
    for (const alias of aliases) {
      if (values[alias] === undefined) continue;
      if (folded[name] !== undefined)
        throw new UsageError(`--${name} and --${alias} are the same option; give one`, command);
      folded[name] = values[alias];
    }
  }
  return folded;
}

/**
 * Parses a command's arguments.
 * @throws UsageError  for an unknown option, a missing value, a positional argument, or a required option left out
 */
export function parseArguments(command: string, specs: OptionSpecs, argv: readonly string[]): Arguments {
  const all: OptionSpecs = { ...specs, ...COMMON_OPTIONS };
  const options: Record<string, { type: 'string' | 'boolean'; multiple?: boolean; short?: string }> = {};
  for (const [name, { value, aliases = [], repeatable = false }] of Object.entries(all)) {
    const type = value === undefined ? 'boolean' : 'string';
    for (const each of [name, ...aliases]) options[each] = { type, multiple: repeatable };
  }
  options.help.short = 'h';
  let values: Record<string, Value>;
  try {
    ({ values } = parseArgs({ args: [...argv], options, strict: true, allowPositionals: false }));
  } catch (error) {
    throw usageError(error, command, Object.keys(options));
  }
  const folded = foldAliases(values, all, command);
  const empty = Object.entries(folded).find(([, value]) => value === '');
  if (empty !== undefined) throw new UsageError(`--${empty[0]} is empty`, command);
  if (folded.help !== true) {
    const missing = Object.entries(specs).filter(
      ([name, { required }]) => required && folded[name] === undefined,
    );
    if (missing.length > 0) {
      const names = missing.map(([name, { value }]) => `--${name} ${value}`).join(' and ');
      throw new UsageError(`${command} needs ${names}`, command);
    }
  }
  return new Arguments(command, all, folded);
}
