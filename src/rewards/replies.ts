/** The built-in task: replies to tweets. Records become prompts and examples; completions become scored replies. */
import { DataError } from '../runtime/errors';
import { promptIds, sftExample } from '../model/chat';
import type { Tokenizer } from '../model/tokenizer';
import type { Completion, Prompt } from '../policy/policy';
import type { Reward, RewardResult } from './reward';

/** Scores completions of their prompts, in order; must not depend on how they are batched. */
export type ScoreCompletions = (
  pairs: readonly { prompt: Prompt; completion: Completion }[],
) => Promise<RewardResult[]>;

/** The fields of a record that training needs. */
export interface ReplyRecord {
  tweet_id: string;
  tweet: string;
  reply: string;
}

/** A prompt with the reply to learn; `id` keys its dropout masks. */
export interface SftTrainingExample {
  id: string;
  promptIds: readonly number[];
  completionIds: readonly number[];
}

export function sftExamples(
  records: readonly ReplyRecord[],
  tokenizer: Tokenizer,
  maxLength: number,
  source = 'record',
): SftTrainingExample[] {
  return records.map((record, i) => ({
    id: `${record.tweet_id} ${i}`,
    ...sftExample(tokenizer, record.tweet, record.reply, maxLength, `${source}:${i + 1}`),
  }));
}

/** A prompt with the tweet that it asks about. */
export type TweetPrompt = Prompt & { tweet: string };

/** One prompt for each distinct tweet, in order of appearance. */
export function tweetPrompts(
  records: readonly ReplyRecord[],
  tokenizer: Tokenizer,
  maxLength: number,
): TweetPrompt[] {
  const seen = new Set<string>();
  const prompts: TweetPrompt[] = [];
  for (const { tweet_id: id, tweet } of records) {
    if (seen.has(id)) continue;
    seen.add(id);
    const tokenIds = promptIds(tokenizer, tweet);
    if (tokenIds.length >= maxLength)
      throw new DataError(
        `tweet ${id}: its prompt has ${tokenIds.length} tokens; expected fewer than ${maxLength}. Raise training.max_length, or remove the record.`,
      );
    prompts.push({ id, tweet, tokenIds });
  }
  return prompts;
}

/** A completion's text: without its end token and special tokens, white space trimmed. */
export function replyText({ tokenIds, finishReason }: Completion, tokenizer: Tokenizer): string {
  const spoken = finishReason === 'stop' ? tokenIds.slice(0, -1) : tokenIds;
  return tokenizer.decode(spoken, { skipSpecialTokens: true }).trim();
}

/** Scores completions with a reward on (tweet, reply); an empty reply stays empty. */
export function replyScorer(
  prompts: readonly TweetPrompt[],
  tokenizer: Tokenizer,
  reward: Reward,
): ScoreCompletions {
  const tweets = new Map(prompts.map(({ id, tweet }) => [id, tweet]));
  return (pairs) =>
    reward.scoreBatch(
      pairs.map(({ prompt, completion }) => ({
        tweet: tweets.get(prompt.id) as string,
        reply: replyText(completion, tokenizer),
      })),
    );
}
