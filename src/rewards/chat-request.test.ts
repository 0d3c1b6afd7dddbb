import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { ConfigError } from '../runtime/errors';
import { retryAfterSeconds } from '../runtime/http';
import { parseStrict } from '../runtime/strict';
import { chatEndpointSchema, completionContent, parseAnswer, parseText, refuseSecrets } from './chat-request';

const KEY = 'sk-test-0123456789abcdefghij';
const schema = z.object({ grade: z.int().min(1).max(10), taste: z.int().min(1).max(10) });

describe('a key', () => {
  it.each([
    [{ base_url: `http://user:${KEY}@localhost/v1` }, /base_url: .*without user name, password/],
    [{ base_url: `http://localhost/v1?key=${KEY}` }, /base_url: /],
    [{ base_url: KEY }, /base_url: expected an http or https address/],
    [{ base_url: 'http://localhost/v1/chat/completions' }, /leave out \/chat\/completions/],
    [{ api_key_env: KEY }, /api_key_env: .*Never put the key itself here/],
  ])('in a setting is refused without showing it: %#', (wrong, message) => {
    const value = { base_url: 'http://localhost/v1', model: 'm', ...wrong };
    const error = (() => {
      try {
        return parseStrict(chatEndpointSchema, value, 'judge.yaml');
      } catch (thrown) {
        return thrown;
      }
    })() as Error;
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(message);
    expect(error.message).not.toContain('sk-test');
  });

  it.each(['api_key', 'apiKey', 'key', 'token', 'OPENAI_API_KEY', 'auth_token', 'password', 'Authorization'])(
    'under the name %s in a configuration is refused with the remedy',
    (name) => {
      const refuse = (): void => refuseSecrets({ model: 'm', [name]: KEY }, 'judge.yaml');
      expect(refuse).toThrow(ConfigError);
      expect(refuse).toThrow(/environment variable and its name into api_key_env/);
      expect(refuse).not.toThrow(/sk-test/);
      expect(() => refuseSecrets({ extra_body: { [name]: KEY } }, 'judge.yaml')).toThrow(ConfigError);
    },
  );

  it('is not seen in the settings that an endpoint has', () => {
    expect(() =>
      refuseSecrets(Object.fromEntries(Object.keys(chatEndpointSchema.shape).map((k) => [k, 1])), ''),
    ).not.toThrow();
  });
});

describe('top_p', () => {
  it.each([
    [undefined, null],
    [null, null],
    [1, 1],
    [0.05, 0.05],
  ])('is of %j %j', (top_p, value) => {
    const given = { base_url: 'http://localhost/v1', model: 'm', ...(top_p !== undefined && { top_p }) };
    expect(parseStrict(chatEndpointSchema, given, 'f').top_p).toBe(value);
  });

  it.each([0, -0.1, 1.1, '1'])('is refused as %j', (top_p) => {
    const given = { base_url: 'http://localhost/v1', model: 'm', top_p };
    expect(() => parseStrict(chatEndpointSchema, given, 'f')).toThrow(/f: top_p is /);
  });
});

describe('parseAnswer', () => {
  it.each([
    '{"grade": 7, "taste": 3}',
    '```json\n{"grade": 7, "taste": 3}\n```',
    'Here you are:\n{"taste": 3, "grade": 7, "why": "short"}\nThat is all.',
    '<think>Perhaps {"grade": 1}?</think>\n\n{"grade": 7, "taste": 3}',
    '{"grade": 7.0, "taste": 3}',
  ])('reads %j', (content) => {
    expect(parseAnswer(content, schema)).toEqual({ value: { grade: 7, taste: 3 } });
  });

  it.each([
    '{"grade": 1, "taste": 3, "grade": 10}',
    '{"grade": 1, "taste": 3, "gr\\u0061de": 10}',
    '{"grade": 7, "taste": 3, "more": {"a": 1, "a": 2}}',
  ])('refuses an object that gives a key twice: %s', (content) => {
    expect(parseAnswer(content, schema)).toEqual({ problem: 'a key stands in it twice' });
  });

  it('refuses an object that is nested without end', () => {
    const content = `{"grade": 7, "taste": 3, "more": ${'['.repeat(1e5)}${']'.repeat(1e5)}}`;
    expect(parseAnswer(content, schema)).toEqual({ problem: 'it is nested too deep' });
  });

  it.each(['', '[7, 3]', '{}', 'null', '{"grade": true, "taste": 3}', '{"Grade": 7, "taste": 3}', '}{'])(
    'says what is wrong with %j',
    (content) => {
      expect(parseAnswer(content, schema)).toHaveProperty('problem');
    },
  );
});

describe('parseText', () => {
  it.each([
    ['tea', 'tea'],
    ['  tea\n\nand milk \n', 'tea\n\nand milk'],
    ['', ''],
    [' \n', ''],
    ['<think>Tea? Milk?</think>tea', 'tea'],
    ['\n<think>\n{"a": 1}\n</think>\n\ntea', 'tea'],
    ['<think></think>', ''],
    // Of two blocks the first one alone is thought; what it says of one is its own text.
    ['<think>a</think> tea <think>b</think>', 'tea <think>b</think>'],
    ['tea </think> milk', 'milk'],
    ['<think>a</think><think>b</think> tea', 'tea'],
    ['<thinking> aloud', '<thinking> aloud'],
    ['```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```'],
  ])('reads %j as %j', (content, text) => {
    expect(parseText(content, z.string())).toEqual({ value: text });
  });

  it.each(['<think>', '  <think>\nTea or', '<think>a</think>\n<think>b'])(
    'takes no answer that ends within its thoughts: %j',
    (content) => {
      expect(parseText(content, z.string())).toEqual({
        problem: expect.stringMatching(/within its thoughts: allow more/) as string,
      });
    },
  );

  it('asks of the text what the schema asks', () => {
    const short = z.string().min(1, { error: 'empty' }).max(3);
    expect(parseText(' <think>long thoughts</think> tea ', short)).toEqual({ value: 'tea' });
    expect(parseText(' ', short)).toEqual({ problem: 'empty' });
    expect(parseText('milk', short)).toHaveProperty('problem');
  });
});

describe('the text of a completion', () => {
  const body = (finish_reason: unknown, content: unknown = 'tea') => ({
    choices: [{ message: { role: 'assistant', content }, finish_reason }],
  });

  it('may have ended at max_tokens only where it is said to', () => {
    expect(completionContent(body('stop'))).toEqual({ content: 'tea' });
    expect(completionContent(body('length'))).toMatchObject({ malformed: true });
    expect(completionContent(body('length'), true)).toEqual({ content: 'tea' });
    expect(completionContent(body(null), true)).toEqual({ content: 'tea' });
  });

  it.each([{}, null, 'tea', { choices: [] }, body('stop', null), body('length', null), '<html>'])(
    'is none in %j, cut or not',
    (wrong) => {
      for (const mayBeCut of [false, true])
        expect(completionContent(wrong, mayBeCut)).toMatchObject({ malformed: true });
    },
  );
});

describe('retryAfterSeconds', () => {
  it('reads seconds and dates, none of them negative', () => {
    const now = Date.parse('2026-01-02T03:04:05Z');
    expect(retryAfterSeconds('3', now)).toBe(3);
    expect(retryAfterSeconds(' 0.5 ', now)).toBe(0.5);
    expect(retryAfterSeconds('Fri, 02 Jan 2026 03:05:05 GMT', now)).toBe(60);
    expect(retryAfterSeconds('Fri, 02 Jan 2026 03:00:00 GMT', now)).toBe(0);
    for (const text of [undefined, null, '', 'soon']) expect(retryAfterSeconds(text, now)).toBeUndefined();
  });
});
