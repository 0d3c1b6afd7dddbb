/** `grpolab tokenize`: texts and conversations as token ids. */
import { z } from 'zod';
import { readJsonl } from '../data/jsonl';
import { parserOf } from '../data/records';
import { DataError } from '../runtime/errors';
import { strictJson } from '../runtime/files';
import { loadTokenizer } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter } from './io';
import { noticeRejected } from './lines';
import { openModelDirectory } from './open-model';

const A_MESSAGE = 'a list of {"role": text, "content": text}';
const message = z.looseObject(
  { role: z.string({ error: 'a text' }), content: z.string({ error: 'a text' }) },
  { error: A_MESSAGE },
);
const flag = z.boolean({ error: 'true or false' }).nullish();
const fields = parserOf(
  z.object({
    text: z.string({ error: 'a text' }).nullish(),
    messages: z.array(message, { error: A_MESSAGE }).nonempty({ error: A_MESSAGE }).nullish(),
    enable_thinking: flag,
    add_generation_prompt: flag,
  }),
);

/** Token ids of a line with `text` or `messages`. @throws DataError */
export function lineTokens(tokenizer: Tokenizer, value: unknown): number[] {
  const line = fields(value);
  if ((line.text == null) === (line.messages == null)) {
    const found = line.text == null ? 'neither' : 'both';
    throw new DataError(`the line has ${found} of text and messages; expected one of them`);
  }
  if (line.messages == null) return tokenizer.encode(line.text as string);
  return tokenizer.applyChatTemplate(line.messages, {
    addGenerationPrompt: line.add_generation_prompt ?? undefined,
    enableThinking: line.enable_thinking ?? undefined,
  });
}

export async function tokenize(args: Arguments, io: Io): Promise<number> {
  const tokenizer = await loadTokenizer(await openModelDirectory(args, io));
  const reader = readJsonl(args.required('input'), (value) => lineTokens(tokenizer, value), {
    skipInvalid: args.flag('skip-invalid'),
    stdin: io.stdin,
  });
  const output = new LineWriter(io.stdout);
  try {
    for await (const { value } of reader) {
      checkInterrupt(io);
      await output.line(strictJson({ token_ids: value, text: tokenizer.decode(value) }));
    }
  } finally {
    await output.flush();
  }
  noticeRejected(reader, io);
  return 0;
}
