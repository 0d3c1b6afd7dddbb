import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { stringify } from 'yaml';
import { beforeAll, describe, expect, it } from 'vitest';
import { copyModel, jsonLines, temporaryDirectory, temporaryFile } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { promptIds, sftExample } from '../model/chat';
import { readModelConfig } from '../model/config';
import { loadTokenizerOf } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import { loadReward } from '../rewards/config';
import { loadExperiment, parseExperiment } from './config';
import { ownTask, taskSchema } from './own-task';
import { readTaskRecords, replyTask, taskExamples, taskPrompts, taskRecords } from './task';
import type { Task, TaskRecord } from './task';

const directory = goldenPath('tiny-qwen3', 'tied-f32');
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizerOf(directory, readModelConfig(directory));
});

const constant = (): string => temporaryFile('reward.cjs', 'module.exports = () => 1;');

function open(settings: Record<string, unknown>, learns = false): Promise<Task> {
  return ownTask(taskSchema.parse({ reward: constant(), ...settings }), learns);
}

/** The scores that a module's reward gives to texts. */
async function scores(name: string, code: string, texts: readonly string[], fields: object = { id: 'x' }) {
  const task = await open({ template: 'Go.', reward: temporaryFile(name, code) });
  const [record] = taskRecords(task, [fields]);
  const prompt = { id: record.id, tokenIds: [1], record };
  return task.score(texts.map((text) => ({ prompt, text })));
}

/** Why an experiment with this task is refused. */
function refusal(task: unknown, more: object = {}): string {
  try {
    parseExperiment({ method: 'grpo', data: { train: 'x' }, task, ...more });
  } catch (error) {
    return (error as Error).message;
  }
  return 'nothing';
}

describe('the prompts of a task by config', () => {
  it('put fields into the template, braces where they are doubled, through the chat template with thinking off', async () => {
    const task = await open({ template: '{{{a}}} + { b } is {ok}? {{}}' });
    const [record] = taskRecords(task, [{ a: 'x{b}', b: 2.5, ok: true }]);
    const content = '{x{b}} + 2.5 is true? {}';
    expect(record).toMatchObject({ id: '1', shown: content, prompt: [{ role: 'user', content }] });
    const [prompt] = taskPrompts([record], tokenizer, 200);
    const options = { addGenerationPrompt: true, enableThinking: false };
    expect(prompt.tokenIds).toEqual(tokenizer.applyChatTemplate([{ role: 'user', content }], options));
  });

  it('are the turns of messages, and with raw the text alone', async () => {
    const messages = [
      { role: 'system', content: 'Be {tone}.' },
      { role: 'user', content: '{q}' },
    ];
    const lines = [{ tone: 'brief', q: 'Why?' }];
    const [turns] = taskRecords(await open({ messages }), lines);
    expect(turns.prompt).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Why?' },
    ]);
    expect(turns.shown).toBe('Why?');
    const raw = taskRecords(await open({ template: 'Q: {q}\nA:', raw: true }), lines);
    expect(taskPrompts(raw, tokenizer, 200)[0].tokenIds).toEqual(tokenizer.encode('Q: Why?\nA:'));
  });

  it('need no chat template with raw, and are refused without one otherwise', async () => {
    const model = copyModel(directory);
    rmSync(path.join(model, 'chat_template.jinja'));
    const bare = await loadTokenizerOf(model, readModelConfig(model));
    const prompts = async (raw: boolean) =>
      taskPrompts(taskRecords(await open({ template: 'Go.', raw }), [{}]), bare, 200);
    expect((await prompts(true))[0].tokenIds).toEqual(tokenizer.encode('Go.'));
    await expect(prompts(false)).rejects.toThrow(/expected a chat template/);
  });

  it('name file and line of a missing field, a bad one, and a prompt without room or without tokens', async () => {
    const file = temporaryFile('data.jsonl', `${jsonLines([{ a: 1 }])}\n${jsonLines([{ b: 2 }])}`);
    await expect(readTaskRecords(await open({ template: '{a}' }), file)).rejects.toThrow(
      `${file}:3: field a is missing; expected a text, a number, true or false`,
    );
    const task = await open({ template: '{a}', raw: true });
    expect(() => taskRecords(task, [{ a: 1 }, { a: [2] }])).toThrow(
      'record 2: field a is [2]; expected a text',
    );
    expect(() => taskRecords(task, [[1]])).toThrow('record 1: the line is [1]; expected an object');
    const prompts = (lines: object[], most: number) => taskPrompts(taskRecords(task, lines), tokenizer, most);
    expect(() => prompts([{ a: 'many words, more than there is room for' }], 3)).toThrow(
      /^record 1: the prompt has \d+ tokens; expected fewer than 3/,
    );
    expect(() => prompts([{ a: '' }], 3)).toThrow('record 1: the prompt has no tokens');
    // No field of an object that every object has.
    await expect(async () => taskRecords(await open({ template: '{toString}' }), [{}])).rejects.toThrow(
      'field toString is missing',
    );
  });

  it('are one an id; ids are fields or line numbers, and one id for two prompts is refused', async () => {
    const task = await open({ template: '{a}' });
    const file = temporaryFile(
      'data.jsonl',
      jsonLines([{ a: 1, id: 7 }, { a: 2 }, { a: 1, id: '7', more: 1 }]),
    );
    const records = await readTaskRecords(task, file);
    expect(records.map(({ id }) => id)).toEqual(['7', '2', '7']);
    expect(taskPrompts(records, tokenizer, 200).map(({ id, record }) => [id, record.place])).toEqual([
      ['7', `${file}:1`],
      ['2', `${file}:2`],
    ]);
    expect(await readTaskRecords(task, file, 2)).toEqual(records.slice(0, 2));
    const other = jsonLines([
      { a: 1, id: 7 },
      { a: 2, id: 7 },
    ]);
    await expect(readTaskRecords(task, temporaryFile('other.jsonl', other))).rejects.toThrow(
      /other\.jsonl:2: id 7 is that of another prompt \(.*other\.jsonl:1\).*task\.id/,
    );
    const named = await open({ template: '{a}', id: 'key' });
    expect(taskRecords(named, [{ a: 1, id: 7, key: 'k' }])[0].id).toBe('k');
    expect(() => taskRecords(named, [{ a: 1, id: 7 }])).toThrow('record 1: field key is missing');
    expect(() => taskRecords(named, [{ a: 1, key: ' ' }])).toThrow('record 1: field key is blank');
  });

  it('come with the text to learn where a method learns one, and need none otherwise', async () => {
    const settings = { template: '{a}', completion: 'answer' };
    const lines = [{ a: 1, answer: 42 }, { a: 2 }];
    expect(taskRecords(await open(settings), lines).length).toBe(2);
    const learning = await open(settings, true);
    expect(() => taskRecords(learning, lines)).toThrow('record 2: field answer is missing');
    const records = taskRecords(learning, lines.slice(0, 1));
    const [example] = taskExamples(records, tokenizer, 200);
    expect(example.promptIds).toEqual(taskPrompts(records, tokenizer, 200)[0].tokenIds);
    expect(example.completionIds).toEqual([...tokenizer.encode('42'), tokenizer.eosTokenId]);
  });
});

describe('replies to tweets', () => {
  it('are a task of the same pieces', async () => {
    const reward = await loadReward('heuristic');
    const task = replyTask(reward);
    const lines = [
      { tweet_id: '1', tweet: 'My plant wilted.', reply: 'Did you water it?' },
      { tweet_id: '1', tweet: 'My plant wilted.', reply: 'Sad.' },
    ];
    const records: TaskRecord[] = taskRecords(task, lines);
    const prompts = taskPrompts(records, tokenizer, 200);
    expect(prompts.map(({ id, tokenIds }) => ({ id, tokenIds }))).toEqual([
      { id: '1', tokenIds: promptIds(tokenizer, 'My plant wilted.') },
    ]);
    const { tweet, reply } = lines[1];
    expect(taskExamples(records, tokenizer, 200)[1]).toEqual({
      id: '1 1',
      ...sftExample(tokenizer, tweet, reply, 200),
    });
    expect(await task.score([{ prompt: prompts[0], text: reply }])).toEqual([
      await reward.score(tweet, reply),
    ]);
  });
});

describe('the reward of a task by config', () => {
  it.each([
    ['a.cjs', 'module.exports = (record, text) => text.length - record.n;'],
    ['b.cjs', 'exports.reward = (record, text) => text.length - record.n;'],
    [
      'c.cjs',
      'Object.defineProperty(exports, "__esModule", { value: true }); exports.default = (r, t) => t.length - r.n;',
    ],
    ['d.mjs', 'export default (record, text) => text.length - record.n;'],
    ['e.mjs', 'export async function reward(record, text) { return text.length - record.n; }'],
    ['f.js', 'const n = await Promise.resolve(1); export default (r, t) => ({ total: t.length - r.n * n });'],
  ])('comes from a CommonJS or an ES module (%s)', async (name, code) => {
    expect(await scores(name, code, ['abc', ''], { n: 5 })).toEqual([
      { total: -2, components: {} },
      { total: -5, components: {} },
    ]);
  });

  it('may be slow and have components; all completions of a batch wait together', async () => {
    const code = `let open = 0; let most = 0;
      export default async (record, text) => {
        most = Math.max(most, ++open);
        await new Promise((resolve) => setTimeout(resolve, 5));
        open--;
        return { total: most, components: { length: text.length } };
      };`;
    expect(await scores('slow.mjs', code, ['a', 'bb', 'ccc'])).toEqual(
      [1, 2, 3].map((length) => ({ total: 3, components: { length } })),
    );
  });

  it.each(['reward.cjs', 'reward.mjs'])(
    'is that of the file as it is now, also when it was loaded before (%s)',
    async (name) => {
      const file = temporaryFile(name, '');
      for (const value of [1, 2]) {
        writeFileSync(
          file,
          name.endsWith('cjs') ? `module.exports = () => ${value}` : `export default () => ${value}`,
        );
        const task = await open({ template: 'Go.', reward: file });
        const [record] = taskRecords(task, [{}]);
        const [{ total }] = await task.score([{ prompt: { id: '1', tokenIds: [1], record }, text: '' }]);
        expect(total).toBe(value);
        expect(task.code).toContain(String(value));
      }
    },
  );

  it.each([
    [
      '() => { throw new Error("no luck"); }',
      /reward\.mjs: the reward of a completion of record 1 throws: no luck$/,
    ],
    ['async () => { throw "text"; }', /throws: text$/],
    ['() => NaN', /is NaN; expected a finite number, or \{total, components\}/],
    ['() => undefined', /is undefined; expected/],
    ['() => "1"', /is '1'; expected/],
    ['() => ({ total: 1, componets: {} })', /is \{ total: 1, componets: \{\} \}; expected/],
    ['() => ({ total: 1, components: { a: Infinity } })', /components: \{ a: Infinity \} \}; expected/],
    ['(r, t) => ({ total: 1, components: { [t]: 1 } })', /components \(b\) after \(a\); expected the same/],
  ])('is one error with the path of the module when it is wrong: %s', async (code, message) => {
    await expect(scores('reward.mjs', `export default ${code};`, ['a', 'b'])).rejects.toThrow(message);
    await expect(scores('reward.mjs', `export default ${code};`, ['a', 'b'])).rejects.toThrow('reward.mjs');
  });

  it.each([
    [
      'reward.mjs',
      'export const rewards = 1;',
      /reward\.mjs: the task's reward exports rewards; expected a default export/,
    ],
    ['reward.mjs', '', /exports nothing; expected/],
    ['reward.mjs', 'export default (', /reward\.mjs: the task's reward cannot be loaded/],
    ['reward.cjs', 'throw new Error("at once");', /reward\.cjs: the task's reward cannot be loaded: at once/],
  ])('is refused when a module gives no function: %s %s', async (name, code, message) => {
    await expect(open({ template: 'a', reward: temporaryFile(name, code) })).rejects.toThrow(message);
  });

  it('is refused when there is no such file', async () => {
    await expect(open({ template: 'a', reward: 'no/such/reward.js' })).rejects.toThrow(
      /no\/such\/reward\.js: the task's reward: no such file/,
    );
  });
});

describe('the settings of a task', () => {
  const reward = 'reward.js';

  it.each([
    [{ reward }, /task\.template: is missing, and so is messages/],
    [
      { reward, template: 'a', messages: [{ role: 'user', content: 'a' }] },
      /task\.messages: and template are both given/,
    ],
    [{ reward, raw: true, messages: [{ role: 'user', content: 'a' }] }, /task\.raw: belongs to template/],
    [
      { reward, messages: [{ role: 'assistant', content: 'a' }] },
      /task\.messages: end with the turn of assistant; expected/,
    ],
    [{ reward, template: 'a { b' }, /task\.template: has a "\{" that belongs to no \{field\}; write \{\{/],
    [{ reward, template: '{ }' }, /task\.template: has a "\{"/],
    [{ reward, template: '{}' }, /task\.template: has a "\{"/],
    [{ reward, template: '{a}}' }, /task\.template: has a "\}".*write \}\}/],
    [{ reward, template: 'a', templte: 'b' }, /unknown key "task\.templte"; did you mean "template"/],
    [{ template: 'a' }, /task\.reward is missing/],
  ])('are refused in words: %j', (task, message) => {
    expect(refusal(task)).toMatch(message);
  });

  it('leave the reward of replies out: both are refused, the default is none', () => {
    const task = { template: 'a', reward };
    expect(refusal(task, { reward: 'sharp' })).toMatch(
      /reward: is sharp, but the task has a reward of its own/,
    );
    const data = { train: 'x' };
    expect(parseExperiment({ method: 'grpo', data, task }).reward).toBeUndefined();
    expect(parseExperiment({ method: 'grpo', data }).reward).toBe('heuristic');
    const again = parseExperiment(parseExperiment({ method: 'grpo', data, task }));
    expect(again).toEqual(parseExperiment({ method: 'grpo', data, task }));
  });

  it('find the reward from the file that names it, also through _base_, and keep its full path', () => {
    const root = temporaryDirectory();
    mkdirSync(path.join(root, 'deep'));
    const [base, top] = [path.join(root, 'deep', 'base.yaml'), path.join(root, 'top.yaml')];
    writeFileSync(
      base,
      stringify({ method: 'grpo', data: { train: 'x' }, task: { template: 'a', reward: './r.js' } }),
    );
    writeFileSync(top, stringify({ _base_: 'deep/base.yaml', task: { id: 'key' } }));
    expect(loadExperiment(top).task).toMatchObject({ id: 'key', reward: path.join(root, 'deep', 'r.js') });
    expect(loadExperiment(top, ['task.reward=r.js']).task?.reward).toBe(path.resolve('r.js'));
  });
});
