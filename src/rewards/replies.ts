/** Completions as texts, and the scores of a batch of them; replies to tweets are the built-in case. */
import type { Tokenizer } from '../model/tokenizer';
import type { Completion, Prompt } from '../policy/policy';
import type { Reward, RewardResult } from './reward';

/** Scores completions of their prompts, in order; must not depend on how they are batched. */
export type ScoreCompletions = (
  pairs: readonly { prompt: Prompt; completion: Completion }[],
) => Promise<RewardResult[]>;

/** A prompt with the completion to learn; `id` keys its dropout masks. */
export interface SftTrainingExample {
  id: string;
  promptIds: readonly number[];
  completionIds: readonly number[];
}

/** The fields of a record that training on replies needs. */
export interface ReplyRecord {
  tweet_id: string;
  tweet: string;
  reply: string;
}

/** A prompt with the tweet that it asks about. */
export type TweetPrompt = Prompt & { tweet: string };

/** A completion's text: without its end token and special tokens. */
export function completionText({ tokenIds, finishReason }: Completion, tokenizer: Tokenizer): string {
  const spoken = finishReason === 'stop' ? tokenIds.slice(0, -1) : tokenIds;
  return tokenizer.decode(spoken, { skipSpecialTokens: true });
}

/** A completion as a reply: its text, white space trimmed. */
export function replyText(completion: Completion, tokenizer: Tokenizer): string {
  return completionText(completion, tokenizer).trim();
}

/**
 * Scores completions by their texts and the prompts that they belong to.
 * @param prompts  with ids that are all different, and whatever the scores need to know of them
 */
export function promptScorer<P extends Prompt>(
  prompts: readonly P[],
  textOf: (completion: Completion) => string,
  score: (pairs: readonly { prompt: P; text: string }[]) => Promise<RewardResult[]>,
): ScoreCompletions {
  const known = new Map(prompts.map((prompt) => [prompt.id, prompt]));
  return (pairs) =>
    score(
      pairs.map(({ prompt, completion }) => ({
        prompt: known.get(prompt.id) as P,
        text: textOf(completion),
      })),
    );
}

/** Scores completions with a reward on (tweet, reply); an empty reply stays empty. */
export function replyScorer(
  prompts: readonly TweetPrompt[],
  tokenizer: Tokenizer,
  reward: Reward,
): ScoreCompletions {
  return promptScorer(
    prompts,
    (completion) => replyText(completion, tokenizer),
    (pairs) => reward.scoreBatch(pairs.map(({ prompt: { tweet }, text: reply }) => ({ tweet, reply }))),
  );
}
