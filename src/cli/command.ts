/** What a command is made of. Its module is loaded only when it runs. */
import type { Arguments, OptionSpecs } from './arguments';
import type { Io } from './io';

export interface Command {
  name: string;
  /** One line for the list of commands. */
  summary: string;
  /** What follows `grpolab NAME` in the help. */
  usage: string;
  options: OptionSpecs;
  /** What the options alone do not say; lines of the help. */
  details?: readonly string[];
  /** Gets every argument as it is, in `Arguments.rest`, and parses none. */
  passThrough?: boolean;
  /** @returns the exit code: 0, or 1 when the run failed by its own criteria */
  run(args: Arguments, io: Io): Promise<number>;
}
