/** What a run is about: prompts, texts to learn and a score, made of records. Replies to tweets, or a task by config. */
import { readJsonl } from '../data/jsonl';
import { parseRecord } from '../data/records';
import { completionExample, fittingIds, replyTurns } from '../model/chat';
import type { PromptContent } from '../model/chat';
import type { Tokenizer } from '../model/tokenizer';
import type { Completion, Prompt } from '../policy/policy';
import { replyText } from '../rewards/replies';
import type { SftTrainingExample } from '../rewards/replies';
import type { Reward, RewardResult } from '../rewards/reward';
import { DataError } from '../runtime/errors';

/** A line of data: a JSON object. */
export type Fields = Readonly<Record<string, unknown>>;

/** What a task makes of a line. */
export interface TaskLine {
  /** Lines of one id have one prompt; default: the line's number. */
  id?: string;
  prompt: PromptContent;
  /** What a person is shown of the prompt. */
  shown: string;
  /** Text to learn; GRPO needs none. */
  completion?: string;
  /** What the score may look at, and what decides the run: the data's hash is made of it. */
  fields: Fields;
}

/** A line with its place, `file:line`, for messages. */
export interface TaskRecord extends TaskLine {
  id: string;
  place: string;
}

/** A prompt with the record that it was made of. */
export type TaskPrompt = Prompt & { record: TaskRecord };

/** A task: all that a run knows of its subject. */
export interface Task {
  /** What scores: its name and substitutes for the log, and how to free it. */
  readonly reward: Pick<Reward, 'name' | 'degraded' | 'dispose'>;
  /** The text of the reward's module, which decides the run as the records do; empty where there is none. */
  readonly code: string;
  /** @throws DataError  without the place */
  parse(line: unknown): TaskLine;
  /** Rules across the records of a file. @throws DataError  with the place */
  check?(records: readonly TaskRecord[]): void;
  /** One score a completion, in order; any finite number. */
  score(pairs: readonly { prompt: TaskPrompt; text: string }[]): Promise<RewardResult[]>;
  textOf(completion: Completion, tokenizer: Tokenizer): string;
}

// ---- of any task ----

/** The first `limit` records of a file. @throws DataError  `file:line: ...` */
export async function readTaskRecords(task: Task, file: string, limit = Infinity): Promise<TaskRecord[]> {
  const records: TaskRecord[] = [];
  for await (const { line, value } of readJsonl(file, (json) => task.parse(json))) {
    if (records.length >= limit) break;
    records.push({ ...value, id: value.id ?? String(line), place: `${file}:${line}` });
  }
  task.check?.(records);
  return records;
}

/** Records of lines in memory. @throws DataError  `record n: ...` */
export function taskRecords(task: Task, lines: readonly object[]): TaskRecord[] {
  const records = lines.map((line, i): TaskRecord => {
    const place = `record ${i + 1}`;
    try {
      const value = task.parse(line);
      return { ...value, id: value.id ?? String(i + 1), place };
    } catch (error) {
      throw error instanceof DataError ? new DataError(`${place}: ${error.message}.`) : error;
    }
  });
  task.check?.(records);
  return records;
}

/** One prompt for each distinct id, in order of appearance, of the first record that has it. */
export function taskPrompts(
  records: readonly TaskRecord[],
  tokenizer: Tokenizer,
  maxLength: number,
): TaskPrompt[] {
  const prompts = new Map<string, TaskPrompt>();
  for (const record of records) {
    const { id, place, prompt } = record;
    if (!prompts.has(id))
      prompts.set(id, { id, record, tokenIds: fittingIds(tokenizer, prompt, maxLength, place) });
  }
  return [...prompts.values()];
}

/** A prompt with the completion to learn for each record; the task's `parse` has seen to it that there is one. */
export function taskExamples(
  records: readonly TaskRecord[],
  tokenizer: Tokenizer,
  maxLength: number,
): SftTrainingExample[] {
  return records.map(({ id, place, prompt, completion }, i) => ({
    id: `${id} ${i}`,
    ...completionExample(tokenizer, prompt, completion as string, maxLength, place),
  }));
}

// ---- replies to tweets ----

/** The built-in task: records of the study, and a reward on (tweet, reply). */
export function replyTask(reward: Reward): Task {
  return {
    ...{ reward, code: '', textOf: replyText },
    parse: (line) => {
      const { tweet_id, tweet, reply } = parseRecord(line);
      const fields = { tweet_id, tweet, reply };
      return { id: tweet_id, prompt: replyTurns(tweet), shown: tweet, completion: reply, fields };
    },
    score: (pairs) =>
      reward.scoreBatch(pairs.map(({ prompt, text }) => ({ tweet: prompt.record.shown, reply: text }))),
  };
}
