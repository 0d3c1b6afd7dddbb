/** Input lines of `grpolab generate`: from prompt_ids, prompt or tweet to a prompt with the id of its draws. */
import { z } from 'zod';
import { parserOf } from '../data/records';
import { DataError } from '../runtime/errors';
import { promptIds } from '../model/chat';
import type { ModelConfig } from '../model/config';
import type { Tokenizer } from '../model/tokenizer';
import type { Prompt } from '../policy/policy';
import { checkLength, checkTokenIds } from './lines';

const text = z.string({ error: 'a text' }).nullish();
const id = z.union([z.string(), z.number()], { error: 'a text or a number' }).transform(String).nullish();
const fields = parserOf(
  z.object({
    prompt_ids: z.array(z.unknown(), { error: 'a list of token ids' }).nullish(),
    prompt: text,
    tweet: text,
    id,
    tweet_id: id,
  }),
);

export interface GenerateLine {
  /** The line as it came; the output repeats it. */
  fields: Record<string, unknown>;
  prompt: Prompt;
  /** What a person is shown of the prompt. */
  shown: string;
}

interface Settings {
  /** `prompt` is text to continue. */
  raw: boolean;
  maxNewTokens: number;
}

function tokensOf(
  line: ReturnType<typeof fields>,
  tokenizer: Tokenizer,
  config: ModelConfig,
  raw: boolean,
): { tokenIds: number[]; shown: string } {
  if (line.prompt_ids != null) {
    const tokenIds = checkTokenIds(line.prompt_ids, config, 'prompt_ids');
    return { tokenIds, shown: tokenizer.decode(tokenIds) };
  }
  if (line.prompt != null) {
    const messages = [{ role: 'user', content: line.prompt }];
    const tokenIds = raw
      ? tokenizer.encode(line.prompt)
      : tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true, enableThinking: false });
    return { tokenIds, shown: line.prompt };
  }
  if (line.tweet == null) throw new DataError('tweet is missing; expected prompt_ids, prompt or tweet');
  if (raw) throw new DataError('prompt is missing; --raw continues the text of prompt, not of tweet');
  return { tokenIds: promptIds(tokenizer, line.tweet), shown: line.tweet };
}

/**
 * A line's prompt. Its draws are those of `id`, else `tweet_id`, together with the prompt's tokens: they depend on
 * nothing outside the line.
 *
 * @throws DataError  when a field is wrong, the prompt is empty, or the reply would not fit behind it
 */
export function parseGenerateLine(
  value: unknown,
  tokenizer: Tokenizer,
  config: ModelConfig,
  { raw, maxNewTokens }: Settings,
): GenerateLine {
  const line = fields(value);
  const { tokenIds, shown } = tokensOf(line, tokenizer, config, raw);
  if (tokenIds.length === 0) throw new DataError('the prompt has no tokens; expected at least one');
  // Every prediction needs a place for the token before it; the last drawn token needs none.
  checkLength(tokenIds.length + maxNewTokens - 1, config, 'the prompt with --max-new-tokens');
  const id = `${line.id ?? line.tweet_id ?? ''} ${tokenIds.join(' ')}`;
  return { fields: value as Record<string, unknown>, prompt: { id, tokenIds }, shown };
}
