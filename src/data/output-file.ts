/** Whether a file of records may be written under a name. */
import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { ConfigError } from '../runtime/errors';

/** Whether two paths name one file, through links too; a path that leads to no file is taken as it is written. */
export async function sameFile(a: string, b: string): Promise<boolean> {
  const [realA, realB] = await Promise.all([a, b].map((path) => realpath(path).catch(() => resolve(path))));
  return realA === realB;
}

/** What an output must differ from. */
export interface OutputPlace {
  output: string;
  /** where bad lines would go */
  rejectedPath: string;
  /** `-`, or a file; absent where it may be replaced */
  input?: string;
}

/** @throws ConfigError  when the output is the input, or where bad lines go, or does not look like JSONL */
export async function checkOutput({ output, rejectedPath, input = '-' }: OutputPlace): Promise<void> {
  if (!/\.jsonl(\.gz)?$/.test(output))
    throw new ConfigError(`output is ${output}; expected a name that ends in .jsonl or .jsonl.gz.`);
  if (input !== '-' && (await sameFile(input, output)))
    throw new ConfigError(`output is ${output}, the input; choose another name.`);
  if (await sameFile(rejectedPath, output))
    throw new ConfigError(`output is ${output}, where bad lines go; choose another name.`);
}
