/** The command line: finds the command, runs it, and turns whatever happens into a line and an exit code. */
import { JudgeError } from '../rewards/judge-error';
import { GrpolabError, MemoryError, messageOf, NumericError, RemoteError } from '../runtime/errors';
import { errorCode } from '../runtime/files';
import { ownVersion } from '../runtime/machine';
import { nearest } from '../runtime/strict';
import { Arguments, parseArguments, UsageError } from './arguments';
import { COMMANDS } from './commands';
import { commandHelp, generalHelp } from './help';
import type { Io } from './io';
import { Interrupted } from './io';

export const EXIT = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

async function dispatch(argv: readonly string[], io: Io): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined) throw new UsageError('expected a command');
  if (name === '--help' || name === '-h') {
    io.stdout.write(generalHelp(COMMANDS));
    return EXIT.done;
  }
  if (name === '--version') {
    io.stdout.write(`${ownVersion()}\n`);
    return EXIT.done;
  }
  if (name.startsWith('-')) throw new UsageError(`expected a command before ${name}`);
  const command = COMMANDS.find((each) => each.name === name);
  if (command === undefined) {
    const names = COMMANDS.map((each) => each.name);
    throw new UsageError(`unknown command "${name}" (nearest: ${nearest(name, names)})`);
  }
  const asksHelp = command.passThrough && (rest[0] === '--help' || rest[0] === '-h');
  const args = command.passThrough
    ? new Arguments(name, {}, { help: asksHelp }, rest)
    : parseArguments(name, command.options, rest);
  if (args.flag('help')) {
    io.stdout.write(commandHelp(command));
    return EXIT.done;
  }
  return command.run(args, io);
}

/** One line for people, and with `--debug` the stack. @returns the exit code */
function report(error: unknown, argv: readonly string[], io: Io): number {
  if (error instanceof Interrupted) {
    io.stderr.write('grpolab: interrupted\n');
    return EXIT.interrupted;
  }
  // Whoever reads our output has had enough of it (`| head`).
  if (errorCode(error) === 'EPIPE') return EXIT.done;
  const debug = argv.includes('--debug');
  const expected = error instanceof GrpolabError;
  const line = messageOf(error).replace(/\s*\n\s*/g, ' ');
  const advice = expected || debug ? '' : ' (run with --debug for the stack)';
  io.stderr.write(`grpolab: ${expected ? '' : `${argv[0]} failed: `}${line}${advice}\n`);
  if (debug && error instanceof Error) io.stderr.write(`${error.stack}\n`);
  // What was given may be right, and the run failed all the same.
  const kinds = [NumericError, JudgeError, RemoteError, MemoryError];
  const failed = !expected || kinds.some((kind) => error instanceof kind);
  return failed ? EXIT.failed : EXIT.usage;
}

/** Runs a command line. Never throws. @returns the exit code */
export async function main(argv: readonly string[], io: Io): Promise<number> {
  try {
    return await dispatch(argv, io);
  } catch (error) {
    return report(error, argv, io);
  }
}

/**
 * Runs this process's command line. The first Ctrl-C (or SIGTERM) asks the command to save and end, a second one ends at once.
 */
export async function runProcess(): Promise<void> {
  const interrupt = new AbortController();
  const stop = (): void => {
    if (interrupt.signal.aborted) process.exit(EXIT.interrupted);
    interrupt.abort(new Interrupted());
  };
  process.on('SIGINT', stop);
  // What a batch system sends before it kills.
  process.on('SIGTERM', stop);
  // A write after the reader left is reported to its callback; without a listener it would end the process too.
  process.stdout.on('error', () => {});
  const { stdin, stdout, stderr } = process;
  process.exitCode = await main(process.argv.slice(2), { stdin, stdout, stderr, signal: interrupt.signal });
  stdin.destroy();
}
