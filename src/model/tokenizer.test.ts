import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CheckpointError } from '../runtime/errors';
import { pythonStrip } from './chat-template';
import { loadTokenizer } from './tokenizer';

const SOURCE = join(__dirname, '../../test/golden/tiny-qwen3/untied-f32');

let dir: string;
beforeAll(() => (dir = mkdtempSync(join(tmpdir(), 'tokenizer-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A copy of a good tokenizer with other settings. */
function copyWith(changes: Record<string, unknown>): string {
  const home = mkdtempSync(join(dir, 'home-'));
  copyFileSync(join(SOURCE, 'tokenizer.json'), join(home, 'tokenizer.json'));
  const settings = JSON.parse(readFileSync(join(SOURCE, 'tokenizer_config.json'), 'utf8')) as object;
  writeFileSync(join(home, 'tokenizer_config.json'), JSON.stringify({ ...settings, ...changes }));
  return home;
}

async function render(template: string, content: string): Promise<string> {
  const tokenizer = await loadTokenizer(copyWith({ chat_template: template }));
  return tokenizer.chatText([{ role: 'user', content }]);
}

describe('loadTokenizer', () => {
  it('names every file that is missing', async () => {
    const home = mkdtempSync(join(dir, 'missing-'));
    await expect(loadTokenizer(home)).rejects.toThrow(/missing: tokenizer.json, tokenizer_config.json/);
    copyFileSync(join(SOURCE, 'tokenizer.json'), join(home, 'tokenizer.json'));
    await expect(loadTokenizer(home)).rejects.toThrow(/missing: tokenizer_config.json\./);
    await expect(loadTokenizer(home)).rejects.toThrow(CheckpointError);
  });

  it('refuses files that are not what they should be', async () => {
    const home = copyWith({});
    writeFileSync(join(home, 'tokenizer.json'), '{"model": ');
    await expect(loadTokenizer(home)).rejects.toThrow(CheckpointError);
    writeFileSync(join(home, 'tokenizer.json'), '{"model": {"type": "New"}, "added_tokens": []}');
    await expect(loadTokenizer(home)).rejects.toThrow(/tokenizer.json: cannot be understood/);
    await expect(loadTokenizer(copyWith({ eos_token: '<none>' }))).rejects.toThrow(
      /eos_token.*found "<none>"/,
    );
    await expect(loadTokenizer(copyWith({ eos_token: null }))).rejects.toThrow(CheckpointError);
  });

  it.each<[string, (tokenizer: { model: { vocab: unknown }; [key: string]: unknown }) => void, RegExp]>([
    ['an id that is no number', ({ model }) => (model.vocab = { a: '0' }), /for "a", found "0"/],
    ['an id that would fill the memory', ({ model }) => (model.vocab = { a: 2 ** 31 }), /found 2147483648/],
    ['a text for a vocabulary', ({ model }) => (model.vocab = '{"a":0}'), /expected tokens with their ids/],
    [
      'an added token that would fill the memory',
      (all) => (all.added_tokens = [{ id: 2 ** 31, content: 'a' }]),
      /added_tokens\.0\.id/,
    ],
    [
      'a setting that is looked at only when there is a text',
      (all) => (all.pre_tokenizer = { type: 'Split', pattern: { Regex: ' ' }, behavior: [1], invert: false }),
      /cannot be understood/,
    ],
  ])('refuses %s', async (_what, change, message) => {
    const home = copyWith({});
    const file = join(home, 'tokenizer.json');
    const tokenizer = JSON.parse(readFileSync(file, 'utf8')) as { model: { vocab: unknown } };
    change(tokenizer);
    writeFileSync(file, JSON.stringify(tokenizer));
    await expect(loadTokenizer(home)).rejects.toThrow(CheckpointError);
    await expect(loadTokenizer(home)).rejects.toThrow(message);
  });

  it('prefers chat_template.jinja to the template in tokenizer_config.json', async () => {
    const home = copyWith({ chat_template: 'from config' });
    expect((await loadTokenizer(home)).chatText([])).toBe('from config');
    writeFileSync(join(home, 'chat_template.jinja'), 'from file');
    expect((await loadTokenizer(home)).chatText([])).toBe('from file');
  });

  it('accepts tokens written as objects, and pads with the end token where there is no other', async () => {
    const eos = { __type: 'AddedToken', content: '<|im_end|>', special: true };
    const tokenizer = await loadTokenizer(copyWith({ eos_token: { content: eos.content }, pad_token: null }));
    expect(tokenizer.eosTokenId).toBe(tokenizer.tokenId(eos.content));
    expect(tokenizer.padTokenId).toBe(tokenizer.eosTokenId);
    expect((await loadTokenizer(copyWith({ eos_token: eos }))).eosTokenId).toBe(tokenizer.eosTokenId);
  });

  it('ends completions with the tokens of generation_config.json, else with eos_token', async () => {
    const home = copyWith({});
    const tokenizer = await loadTokenizer(home);
    expect(tokenizer.eosTokenIds).toEqual([tokenizer.eosTokenId]);
    writeFileSync(join(home, 'generation_config.json'), '{"eos_token_id": [1, 2]}');
    expect((await loadTokenizer(home)).eosTokenIds).toEqual([1, 2]);
  });

  it('decodes nothing to nothing', async () => {
    expect((await loadTokenizer(SOURCE)).decode([])).toBe('');
  });
});

describe('the chat template', () => {
  // Expected values by Python 3.11, jinja2 3.1.6.
  it.each([
    ["{{ messages[0].content.strip('\\n') }}", '\n x \n', ' x '],
    ["{{ messages[0].content.lstrip('\\n') }}", '\n\n x \n', ' x \n'],
    ["{{ messages[0].content.rstrip('\\n ') }}", '\n x \n', '\n x'],
    ["{{ ('<' + messages[0].content).split('<')[-1].lstrip('xy') }}", 'xyxz', 'z'],
    ['{{ messages[0].content.strip() }}', '\ufeff\u0085\u001c x \u00a0', '\ufeff\u0085\u001c x'],
    ['{{ messages[0].content | trim }}|', ' \u0085x\u001f', 'x|'],
    ["{% if messages[0].content.strip('a') == '' %}empty{% endif %}", 'aaa', 'empty'],
    ["{% set c = messages[0].content | trim('ab') | upper %}{{ c }}", 'abxba', 'X'],
  ])('renders %s as Python does', async (template, content, expected) => {
    expect(await render(template, content)).toBe(expected);
  });

  it('reports its own complaint, a syntax error, or its absence', async () => {
    await expect(render("{{ raise_exception('no tools') }}", '')).rejects.toThrow(
      /chat template fails: no tools/,
    );
    await expect(render('{% if %}', '')).rejects.toThrow(CheckpointError);
    await expect(render('{{ messages[0].tools.strip() }}', '')).rejects.toThrow(
      /strip on something that is not text/,
    );
    const bare = await loadTokenizer(copyWith({ chat_template: undefined }));
    expect(() => bare.chatText([])).toThrow(/expected a chat template in chat_template.jinja or/);
  });
});

describe('pythonStrip', () => {
  it('removes what Python calls white space, or the given code points', () => {
    const spaces =
      '\t\n\v\f\r\u001c\u001d\u001e\u001f \u0085\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000';
    expect(pythonStrip(`${spaces}x${spaces}`, null)).toBe('x');
    expect(pythonStrip('\u200b\ufeffx\u180e', null)).toBe('\u200b\ufeffx\u180e');
    expect(pythonStrip('👍👎x👍', '👍')).toBe('👎x');
    expect(pythonStrip('aaa', 'a', 'lstrip')).toBe('');
    expect(pythonStrip(' a ', '')).toBe(' a ');
  });
});
