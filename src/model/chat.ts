import { DataError } from '../runtime/errors';
import type { Tokenizer } from './tokenizer';

/** A training example: loss falls on the completion only. */
export interface SftExample {
  promptIds: number[];
  completionIds: number[];
}

/** The user's turn that asks for a reply to a tweet. */
export function replyPrompt(tweet: string): string {
  return `Generate an engaging Twitter reply to this tweet:\n\n${tweet}\n\nReply:`;
}

/** Ids up to where the reply begins: the user's turn through the chat template, thinking off. */
export function promptIds(tokenizer: Tokenizer, tweet: string): number[] {
  const messages = [{ role: 'user', content: replyPrompt(tweet) }];
  return tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true, enableThinking: false });
}

/**
 * Prompt and completion for SFT. The completion is the reply and the end-of-turn token; where both do not fit into
 * `maxLength`, the reply is cut and has no end, so that the model does not learn to stop in mid-sentence.
 *
 * @param label  names the record in an error, such as `train.jsonl:418`
 * @throws DataError  when the prompt alone leaves no room: it is never cut
 */
export function sftExample(
  tokenizer: Tokenizer,
  tweet: string,
  reply: string,
  maxLength: number,
  label = `tweet ${JSON.stringify(tweet.slice(0, 40))}`,
): SftExample {
  const prompt = promptIds(tokenizer, tweet);
  const room = maxLength - prompt.length;
  if (room < 1) {
    throw new DataError(
      `${label}: the prompt has ${prompt.length} tokens; expected fewer than ${maxLength}. ` +
        'Raise the maximum length, or remove the record.',
    );
  }
  const completion = [...tokenizer.encode(reply), tokenizer.eosTokenId];
  return { promptIds: prompt, completionIds: completion.slice(0, room) };
}
