import { DataError } from '../runtime/errors';
import type { ChatMessage, Tokenizer } from './tokenizer';

/** A training example: loss falls on the completion only. */
export interface SftExample {
  promptIds: number[];
  completionIds: number[];
}

/** What a model is asked: the turns of a conversation, or text to go on with as it is. */
export type PromptContent = readonly ChatMessage[] | string;

/** The user's turn that asks for a reply to a tweet. */
export function replyPrompt(tweet: string): string {
  return `Generate an engaging Twitter reply to this tweet:\n\n${tweet}\n\nReply:`;
}

/** The conversation that a reply to a tweet ends. */
export function replyTurns(tweet: string): ChatMessage[] {
  return [{ role: 'user', content: replyPrompt(tweet) }];
}

/**
 * Ids up to where the completion begins: turns through the chat template, thinking off; text by itself, without it.
 * @throws CheckpointError  when turns meet a model without a chat template, or one that refuses them
 */
export function contentIds(tokenizer: Tokenizer, content: PromptContent): number[] {
  if (typeof content === 'string') return tokenizer.encode(content);
  return tokenizer.applyChatTemplate(content, { addGenerationPrompt: true, enableThinking: false });
}

/** Ids of the prompt that asks for a reply to a tweet. */
export function promptIds(tokenizer: Tokenizer, tweet: string): number[] {
  return contentIds(tokenizer, replyTurns(tweet));
}

/**
 * Ids of a prompt that has tokens and leaves room for a completion.
 *
 * @param label  names the record in an error, such as `train.jsonl:418`
 * @throws DataError  when there is no room: a prompt is never cut
 */
export function fittingIds(
  tokenizer: Tokenizer,
  content: PromptContent,
  maxLength: number,
  label: string,
): number[] {
  const ids = contentIds(tokenizer, content);
  if (ids.length === 0) throw new DataError(`${label}: the prompt has no tokens; expected at least one`);
  if (ids.length < maxLength) return ids;
  throw new DataError(
    `${label}: the prompt has ${ids.length} tokens; expected fewer than ${maxLength}. ` +
      'Raise the maximum length (training.max_length), or remove the record.',
  );
}

/**
 * Prompt and completion for SFT. The completion is its text and the end-of-turn token; where both do not fit into
 * `maxLength`, the text is cut and has no end, so that the model does not learn to stop in mid-sentence.
 *
 * @throws DataError  as {@link fittingIds}
 */
export function completionExample(
  tokenizer: Tokenizer,
  content: PromptContent,
  completion: string,
  maxLength: number,
  label: string,
): SftExample {
  const prompt = fittingIds(tokenizer, content, maxLength, label);
  const ids = [...tokenizer.encode(completion), tokenizer.eosTokenId];
  return { promptIds: prompt, completionIds: ids.slice(0, maxLength - prompt.length) };
}

/** The example of a reply to a tweet. @throws DataError  as {@link fittingIds} */
export function sftExample(
  tokenizer: Tokenizer,
  tweet: string,
  reply: string,
  maxLength: number,
  label = `tweet ${JSON.stringify(tweet.slice(0, 40))}`,
): SftExample {
  return completionExample(tokenizer, replyTurns(tweet), reply, maxLength, label);
}
