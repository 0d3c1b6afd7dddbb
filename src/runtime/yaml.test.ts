import { afterEach, describe, expect, it, vi } from 'vitest';
import { ConfigError } from './errors';
import { parseYaml } from './yaml';

const SECRET = 'sk-test-0123456789abcdef';

describe('parseYaml', () => {
  afterEach(() => vi.restoreAllMocks());

  it('gives the value of a text, and null for an empty one', () => {
    expect(parseYaml('a: {b: [1, 2.5, yes]}\n', 'f.yaml')).toEqual({ a: { b: [1, 2.5, 'yes'] } });
    expect(parseYaml('# nothing\n', 'f.yaml')).toBeNull();
    expect(parseYaml('a: &x [1]\nb: *x\n', 'f.yaml')).toEqual({ a: [1], b: [1] });
  });

  it.each([
    [`api_key: !secret ${SECRET}`, 'line 1: a tag'],
    [`model: m\napi_key: *${SECRET}`, 'an alias'],
    [`api_key: "${SECRET}`, 'line 1: missing char'],
    [`model: m\napi_key: ${SECRET}\napi_key: ${SECRET}`, 'line 3: duplicate key'],
    [`a: 1\n  ${SECRET}: 2`, 'line'],
    [`--- a\n--- ${SECRET}`, 'multiple docs'],
    [`__proto__: ${SECRET}`, 'line 1: the key __proto__'],
    [`a: &x [*x, ${SECRET}]`, 'an alias ("*...") of what it stands in'],
    [`a: &x {b: {c: *x}, d: ${SECRET}}`, 'an alias ("*...") of what it stands in'],
    [`a: 1\n? [${SECRET}]\n: 2`, 'line 2: a list or a mapping as a key'],
  ])('refuses %j in one line, without the text and without a warning elsewhere', (text, problem) => {
    const emitted = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
    const warned = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    let error: unknown;
    try {
      parseYaml(text, 'f.yaml');
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ConfigError);
    const { message } = error as Error;
    expect(message).toMatch(/^f\.yaml: not YAML: /);
    expect(message).toContain(problem);
    expect(message).not.toContain('\n');
    expect(message).not.toContain('sk-test');
    expect(emitted).not.toHaveBeenCalled();
    expect(warned).not.toHaveBeenCalled();
  });

  it.each([150, 3000, 30_000])('refuses values that are nested %i levels deep', (depth) => {
    const texts = [
      `a: ${'['.repeat(depth)}${']'.repeat(depth)}`,
      `a: ${'{b: '.repeat(depth)}1${'}'.repeat(depth)}`,
      '- '.repeat(depth),
    ];
    for (const text of texts) {
      const parse = () => parseYaml(text, 'f.yaml');
      expect(parse).toThrow(ConfigError);
      expect(parse).toThrow(/^f\.yaml: not YAML:( line 1:)? values nested too deeply\. Correct the text\.$/);
    }
  });

  it('refuses aliases that unfold to too much', () => {
    const levels = Array.from({ length: 9 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i}, `.repeat(9)}]`);
    expect(() => parseYaml(['a0: &a0 [1]', ...levels].join('\n'), 'f.yaml')).toThrow(ConfigError);
  });
});
