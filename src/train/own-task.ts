/** A task by config: prompts from a template, a score from a module of the user's. */
import { createHash } from 'node:crypto';
import { readFile, realpath } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { inspect, isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { shown } from '../data/records';
import { completionText } from '../rewards/replies';
import type { RewardResult } from '../rewards/reward';
import { ConfigError, DataError, messageOf } from '../runtime/errors';
import { readFailure } from '../runtime/files';
import type { Fields, Task, TaskLine, TaskRecord } from './task';

type TemplatePart = { text: string } | { field: string } | { stray: string };

/** A template as its parts: `{field}` is a field of the record, `{{` and `}}` are braces, other braces are stray. */
function partsOf(template: string): TemplatePart[] {
  const tokens = template.match(/\{\{|\}\}|\{\s*[^{}\s][^{}]*\}|[{}]|[^{}]+/g) ?? [];
  return tokens.map((token): TemplatePart => {
    if (token === '{{' || token === '}}') return { text: token[0] };
    if (token === '{' || token === '}') return { stray: token };
    return token.startsWith('{') ? { field: token.slice(1, -1).trim() } : { text: token };
  });
}

const template = z
  .string({ error: 'expected a text; put one that begins with { in quotes' })
  .superRefine((text, context) => {
    const stray = partsOf(text).find((part) => 'stray' in part);
    if (stray !== undefined)
      context.addIssue({
        code: 'custom',
        message: `has a "${stray.stray}" that belongs to no {field}; write ${stray.stray.repeat(2)} for a brace of the text`,
      });
  });

/** A task in an experiment. */
export const taskSchema = z
  .strictObject({
    template: template.optional().describe("the user's turn; {field} is a field of the record"),
    messages: z
      .array(z.strictObject({ role: z.enum(['system', 'user', 'assistant']), content: template }))
      .min(1)
      .optional()
      .describe('the turns of a conversation, instead of template'),
    raw: z.boolean().default(false).describe('template is text to go on with, without the chat template'),
    completion: z.string().min(1).default('completion').describe('field that SFT learns'),
    id: z
      .string()
      .min(1)
      .optional()
      .describe("field that names a prompt; default: id, else the line's number"),
    reward: z
      .string()
      .min(1)
      .transform((file) => path.resolve(file))
      .describe(
        'JavaScript module, from this file: (record, completion) => number | {total, components}, or a promise of it',
      ),
  })
  .superRefine(({ template: text, messages, raw }, context) => {
    const refuse = (key: string, message: string): void =>
      context.addIssue({ code: 'custom', path: [key], message });
    if (text === undefined && messages === undefined)
      refuse('template', 'is missing, and so is messages; give one of them');
    if (text !== undefined && messages !== undefined)
      refuse('messages', 'and template are both given; remove one of them');
    if (raw && messages !== undefined)
      refuse('raw', 'belongs to template; turns need the chat template. Remove raw, or give template');
    if (messages !== undefined && messages.at(-1)?.role !== 'user')
      refuse(
        'messages',
        `end with the turn of ${messages.at(-1)?.role}; expected that of user, to be answered`,
      );
  });

/** A task of one's own, every default filled in: `task` of an experiment. */
export type TaskConfig = z.output<typeof taskSchema>;

/** What the reward of a task is given: the line, not to be changed, and the completion's text as the model wrote it. */
export type TaskReward = (record: Fields, completion: string) => TaskScore | Promise<TaskScore>;
/** A score, or one with the components that reports show; any finite number. */
export type TaskScore = number | { total: number; components?: Record<string, number> };

function textField(fields: Fields, name: string, use: string): string {
  const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
  if (typeof value === 'string') return value;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  throw new DataError(`field ${name} is ${shown(value)}; expected a text, a number, true or false: ${use}`);
}

/** How a text with fields becomes one of a record. */
function renderer(text: string): (fields: Fields) => string {
  const parts = partsOf(text);
  return (fields) =>
    parts
      .map((part) => {
        if ('field' in part) return textField(fields, part.field, "the task's prompt has it");
        return 'text' in part ? part.text : part.stray;
      })
      .join('');
}

/** How a line becomes what the model is asked, and what a person is shown of it. */
function prompter({
  template: text,
  messages,
  raw,
}: TaskConfig): (fields: Fields) => Pick<TaskLine, 'prompt' | 'shown'> {
  const turns = (messages ?? [{ role: 'user' as const, content: text ?? '' }]).map(({ role, content }) => ({
    ...{ role, render: renderer(content) },
  }));
  return (fields) => {
    const prompt = turns.map(({ role, render }) => ({ role, content: render(fields) }));
    const last = prompt[prompt.length - 1].content;
    return { prompt: raw ? last : prompt, shown: last };
  };
}

function idOf(fields: Fields, name: string | undefined): string | undefined {
  if (name === undefined && (fields.id ?? undefined) === undefined) return undefined;
  const id = textField(fields, name ?? 'id', 'it names the prompt').trim();
  if (id === '') throw new DataError(`field ${name ?? 'id'} is blank; expected what names the prompt`);
  return id;
}

/** @throws DataError  when records of one id ask for different things: their draws would be the same, and one would be lost */
function checkIds(records: readonly TaskRecord[]): void {
  const first = new Map<string, TaskRecord>();
  for (const record of records) {
    const known = first.get(record.id) ?? record;
    first.set(record.id, known);
    if (!isDeepStrictEqual(record.prompt, known.prompt))
      throw new DataError(
        `${record.place}: id ${record.id} is that of another prompt (${known.place}); expected one id a prompt. Name the field with the ids in task.id.`,
      );
  }
}

/** The reward function of a module, and the module's text. */
async function loadTaskReward(file: string): Promise<{ reward: TaskReward; code: string }> {
  let code: string;
  try {
    code = await readFile(file, 'utf8');
  } catch (error) {
    throw new ConfigError(`${file}: the task's reward: ${readFailure(error)}.`);
  }
  let module: Record<string, unknown>;
  try {
    // A notebook's process may have loaded the module before it was edited: both of Node's caches are passed by.
    delete createRequire(file).cache[await realpath(file)];
    const version = createHash('sha256').update(code).digest('hex');
    module = (await import(`${pathToFileURL(file).href}?${version}`)) as Record<string, unknown>;
  } catch (error) {
    throw new ConfigError(`${file}: the task's reward cannot be loaded: ${messageOf(error)}`);
  }
  const nested = module.default as Record<string, unknown> | undefined | null;
  const found = [nested, module.reward, nested?.default, nested?.reward].find(
    (one) => typeof one === 'function',
  );
  if (found !== undefined) return { reward: found as TaskReward, code };
  throw new ConfigError(
    `${file}: the task's reward exports ${Object.keys(module).join(', ') || 'nothing'}; expected a default export, or an export reward, that is a function of (record, completion)`,
  );
}

const scoreSchema = z.strictObject({
  total: z.number(),
  components: z.record(z.string(), z.number()).default({}),
});

/** @throws ConfigError  naming module and record, when the reward throws or gives no score */
async function scoreOne(
  file: string,
  reward: TaskReward,
  { fields, place }: TaskRecord,
  text: string,
): Promise<RewardResult> {
  let score: unknown;
  try {
    score = await reward(fields, text);
  } catch (error) {
    throw new ConfigError(`${file}: the reward of a completion of ${place} throws: ${messageOf(error)}`);
  }
  const result = scoreSchema.safeParse(typeof score === 'number' ? { total: score } : score);
  if (result.success) return result.data;
  const given = inspect(score, { breakLength: Infinity }).slice(0, 80);
  throw new ConfigError(
    `${file}: the reward of a completion of ${place} is ${given}; expected a finite number, or {total, components} of finite numbers`,
  );
}

/**
 * The task that an experiment describes. The completions of a batch are scored at once, so that a reward that waits for a
 * service waits for all of them together.
 *
 * @param learns  every record needs a completion
 * @throws ConfigError  when the reward's module gives no function
 */
export async function ownTask(config: TaskConfig, learns: boolean): Promise<Task> {
  const { reward: file } = config;
  const { reward, code } = await loadTaskReward(file);
  const promptOf = prompter(config);
  let names: string | undefined;
  return {
    ...{ reward: { name: path.basename(file), degraded: [] }, code, textOf: completionText },
    parse: (line) => {
      if (typeof line !== 'object' || line === null || Array.isArray(line))
        throw new DataError(`the line is ${shown(line)}; expected an object`);
      const fields = line as Fields;
      const completion = learns ? textField(fields, config.completion, 'it is what is learned') : undefined;
      return { id: idOf(fields, config.id), ...promptOf(fields), completion, fields };
    },
    check: checkIds,
    score: async (pairs) => {
      const results = await Promise.all(
        pairs.map(({ prompt, text }) => scoreOne(file, reward, prompt.record, text)),
      );
      for (const { components } of results) {
        const own = Object.keys(components).sort().join(', ');
        names ??= own;
        // A mean over completions needs each component of each.
        if (own !== names)
          throw new ConfigError(
            `${file}: the reward gives components (${own}) after (${names}); expected the same ones every time`,
          );
      }
      return results;
    },
  };
}
