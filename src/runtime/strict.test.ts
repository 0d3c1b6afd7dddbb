import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { ConfigError } from './errors';
import { editDistance, nearest, parseStrict } from './strict';

const schema = z.strictObject({
  name: z.string(),
  optimiser: z
    .strictObject({
      learning_rate: z.number().positive().default(2e-4),
      betas: z.tuple([z.number(), z.number()]),
    })
    .prefault({ betas: [0.9, 0.999] }),
  stages: z
    .array(z.strictObject({ epochs: z.number().int(), ratio: z.number().max(1).optional() }))
    .default([]),
  embedding: z
    .discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('lexical') }),
      z.strictObject({ kind: z.literal('minilm'), directory: z.string() }),
    ])
    .optional(),
});

function failure(value: unknown): string {
  try {
    parseStrict(schema, value, 'run.yaml');
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as Error).message;
  }
  throw new Error('accepted');
}

describe('parseStrict', () => {
  it('fills in the defaults', () => {
    const parsed = parseStrict(schema, { name: 'a' }, 'run.yaml');
    expect(parsed).toEqual({
      name: 'a',
      optimiser: { learning_rate: 2e-4, betas: [0.9, 0.999] },
      stages: [],
    });
  });

  it('names the nearest known key at the top level', () => {
    expect(failure({ nmae: 'a', name: 'b' })).toBe(
      'run.yaml: unknown key "nmae"; did you mean "name"? Known keys: name, optimiser, stages, embedding',
    );
  });

  it('names the nearest known key through defaults, arrays, optionals and unions', () => {
    expect(failure({ name: 'a', optimiser: { learningrate: 1, betas: [0, 0] } })).toContain(
      'unknown key "optimiser.learningrate"; did you mean "learning_rate"?',
    );
    expect(failure({ name: 'a', stages: [{ epochs: 1 }, { epochs: 1, raito: 1 }] })).toContain(
      'unknown key "stages[1].raito"; did you mean "ratio"?',
    );
    expect(failure({ name: 'a', embedding: { kind: 'minilm', directory: 'd', dir: 'd' } })).toContain(
      'unknown key "embedding.dir"; did you mean "directory"?',
    );
  });

  it('says what came where a value is wrong or missing', () => {
    const message = failure({ optimiser: { learning_rate: 'high', betas: [0.9, 0.99] } });
    expect(message).toContain('name is missing: ');
    expect(message).toContain('optimiser.learning_rate is "high": ');
    expect(message).not.toContain('\n');
  });

  it('reports every problem of the value in one line', () => {
    const message = failure({ name: 1, stages: [{ epochs: 1.5 }], extra: true });
    for (const part of ['name is 1', 'stages[0].epochs is 1.5', 'unknown key "extra"'])
      expect(message).toContain(part);
  });

  it('explains the nearest branch of a plain union', () => {
    const union = z.union([
      z.strictObject({ directory: z.string() }),
      z.strictObject({ a: z.number(), b: z.number() }),
    ]);
    expect(() => parseStrict(union, { directory: 3 }, 'x')).toThrow('x: directory is 3: ');
  });
});

describe('editDistance', () => {
  it('counts insertions, deletions and substitutions', () => {
    expect(editDistance('kitten', 'sitting')).toBe(3);
    expect(editDistance('', 'abc')).toBe(3);
  });

  it('is a metric', () => {
    const word = fc.string({ maxLength: 8 });
    fc.assert(
      fc.property(word, word, word, (a, b, c) => {
        expect(editDistance(a, a)).toBe(0);
        expect(editDistance(a, b)).toBe(editDistance(b, a));
        expect(editDistance(a, c)).toBeLessThanOrEqual(editDistance(a, b) + editDistance(b, c));
      }),
    );
  });

  it('gives no nearest key where there is none to choose from', () => {
    expect(nearest('x', [])).toBeUndefined();
    expect(nearest('lenght', ['relevance', 'length'])).toBe('length');
  });
});
