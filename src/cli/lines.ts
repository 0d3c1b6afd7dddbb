/** Input lines of commands that compute with a model: all are read and checked before any work begins. */
import type { JsonlLine, JsonlReader } from '../data/jsonl';
import { readJsonl } from '../data/jsonl';
import { DataError } from '../runtime/errors';
import type { ModelConfig } from '../model/config';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, notify } from './io';

/** Says how many lines were set aside, and where they are. */
export function noticeRejected(reader: JsonlReader<unknown>, io: Io): void {
  if (reader.rejected > 0) notify(io, `${reader.rejected} bad lines set aside in ${reader.rejectedPath}`);
}

/**
 * Every line of `--input`, so that a bad one stops the command before it has loaded a model.
 * @throws DataError  `file:line: ...`; Interrupted after Ctrl-C, also while it waits for standard input
 */
export async function readInput<T>(
  args: Arguments,
  io: Io,
  parse: (value: unknown) => T,
): Promise<JsonlLine<T>[]> {
  const reader = readJsonl(args.required('input'), parse, {
    skipInvalid: args.flag('skip-invalid'),
    stdin: io.stdin,
    signal: io.signal,
  });
  const lines: JsonlLine<T>[] = [];
  try {
    for await (const line of reader) lines.push(line);
  } catch (error) {
    checkInterrupt(io);
    throw error;
  }
  noticeRejected(reader, io);
  if (lines.length === 0) throw new DataError(`${reader.name}: has no valid line; expected at least one.`);
  return lines;
}

/**
 * Token ids of an input line.
 * @throws DataError  when one is not in the model's vocabulary, or there are more than the model can place
 */
export function checkTokenIds(ids: readonly unknown[], config: ModelConfig, field: string): number[] {
  const bad = ids.findIndex(
    (id) => !Number.isInteger(id) || (id as number) < 0 || (id as number) >= config.vocabSize,
  );
  if (bad >= 0) {
    throw new DataError(
      `${field}[${bad}] is ${JSON.stringify(ids[bad])}; expected an integer in 0..${config.vocabSize - 1}, the model's vocabulary`,
    );
  }
  checkLength(ids.length, config, field);
  return ids as number[];
}

/** @throws DataError  when a sequence is longer than the model's `max_position_embeddings` */
export function checkLength(length: number, config: ModelConfig, what: string): void {
  if (length > config.maxPositionEmbeddings) {
    throw new DataError(
      `${what} has ${length} tokens; expected at most ${config.maxPositionEmbeddings}, the model's max_position_embeddings`,
    );
  }
}
