import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { ShapeError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { estimateSchema, intervalNote, modelsOf, requireRising, seedNote } from './result-shapes';

const models = z.strictObject({ models: modelsOf(z.strictObject({ name: z.string() })) });

function parseNames(...names: string[]): unknown {
  return parseStrict(models, { models: names.map((name) => ({ name })) }, 'data');
}

describe('an estimate', () => {
  const parse = (value: unknown) => parseStrict(z.strictObject({ x: estimateSchema }), { x: value }, 'data');

  it('is a value with its interval, or nothing with a reason', () => {
    expect(parse({ value: 0.5, ci: [0.4, 0.7] })).toEqual({ x: { value: 0.5, ci: [0.4, 0.7] } });
    expect(parse({ value: null, reason: 'no reply' })).toEqual({ x: { value: null, reason: 'no reply' } });
  });

  it.each([
    [{ value: 0.5 }, 'data: x.ci is missing'],
    [{ value: null }, 'data: x.reason is missing'],
    [{ value: NaN, ci: [0, 1] }, 'data: x.value is'],
    [{ value: 0.5, ci: [0.7, 0.4] }, 'x.ci: expected [low, high], low first'],
    [{ value: 0.5, ci: [0.4, 0.7], n: 3 }, 'unknown key "x.n"'],
  ])('is refused as %j', (value, message) => {
    expect(() => parse(value)).toThrow(message);
  });
});

describe('the models of a figure', () => {
  it('each have a name and a look of their own', () => {
    expect(parseNames('grpo', 'mine')).toEqual({ models: [{ name: 'grpo' }, { name: 'mine' }] });
    expect(() => parseNames('grpo', 'mine', 'grpo')).toThrow(
      'models[2].name: a second model "grpo"; expected each once',
    );
    expect(() => parseNames('grpo', 'GRPO')).toThrow('"GRPO" would look like "grpo"');
    expect(() => parseNames('a', 'b', 'c', 'd', 'e')).toThrow('"e" would look like "a"');
    expect(() => parseNames()).toThrow('models is []');
  });
});

describe('what a figure says of its intervals', () => {
  it('names level, tweets and seeds', () => {
    expect(intervalNote({ level: 0.95, tweets: 1200, seeds: 3 })).toBe(
      'bootstrap 95 % intervals, n = 1,200 tweets, 3 seeds',
    );
    expect(intervalNote({ level: 0.9, tweets: 1 })).toBe('bootstrap 90 % intervals, n = 1 tweet');
  });

  it('names the bands over seeds, and every count where they differ', () => {
    const three = { label: 'GRPO', seeds: 3 };
    expect(seedNote([three, { label: 'A', seeds: 3 }], 'min-max')).toBe(
      'Lines: mean over seeds (n = 3 seeds); bands: from the smallest to the largest seed.',
    );
    expect(seedNote([three, { label: 'A', seeds: 1 }], 'sd')).toBe(
      'Lines: mean over seeds (seeds: GRPO 3, A 1); bands: ± 1 standard deviation over seeds.',
    );
    expect(seedNote([{ label: 'A', seeds: 1 }], 'sd')).toBe('Lines: one training seed a model; no bands.');
  });

  it('refuses values that do not rise', () => {
    expect(() => requireRising('GRPO: k =', [1, 2, 4])).not.toThrow();
    expect(() => requireRising('GRPO: k =', [1, 2, 2])).toThrow(ShapeError);
    expect(() => requireRising('GRPO: k =', [1, 2, 2])).toThrow(
      'GRPO: k = 2 follows 2; expected rising values.',
    );
  });
});
