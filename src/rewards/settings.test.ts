import { describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { heuristicSchema } from './heuristic-options';
import { effectiveSettings, rewardDefaults, settingsTable } from './settings';
import { sharpSchema } from './sharp';

describe('rewardDefaults', () => {
  it('has every setting of a preset at the default of its schema', () => {
    expect(rewardDefaults('study')).toEqual({
      ...{ type: 'heuristic', preset: 'study', embedding: { kind: 'lexical' } },
      ...heuristicSchema.parse({}),
    });
    expect(rewardDefaults('sharp')).toEqual({
      ...{ type: 'heuristic', preset: 'sharp', embedding: { kind: 'lexical' } },
      ...sharpSchema.parse({}),
    });
  });

  it('is a new object each time, so that an edit changes no default', () => {
    const settings = rewardDefaults('study');
    settings.guards.min_length = 40;
    settings.engagement.generic_phrases.push('so cool');
    expect(rewardDefaults('study').guards.min_length).toBe(3);
    expect(rewardDefaults('study').engagement.generic_phrases).not.toContain('so cool');
  });

  it('refuses another name and says the nearest', () => {
    expect(() => rewardDefaults('shrp' as 'sharp')).toThrow(/preset is "shrp".*Did you mean "sharp"/);
  });
});

describe('effectiveSettings', () => {
  it('keeps what is given, fills in the rest, and leaves its argument alone', () => {
    const given = { preset: 'sharp', guards: { min_length: 9 } };
    const standard = rewardDefaults('sharp');
    expect(effectiveSettings(given)).toEqual({
      ...standard,
      guards: { ...standard.guards, min_length: 9 },
    });
    expect(given).toEqual({ preset: 'sharp', guards: { min_length: 9 } });
  });

  it('is the same again of its own result', () => {
    const composite = {
      type: 'composite',
      parts: {
        a: { weight: 0.25, reward: { guards: { min_length: 9 } } },
        b: { weight: 0.75, reward: { type: 'learned', directory: 'runs/reward' } },
      },
    };
    for (const settings of [rewardDefaults('study'), composite]) {
      const once = effectiveSettings(settings);
      expect(effectiveSettings(once)).toEqual(once);
    }
  });

  it('fills in the parts of a composite, and leaves names of rewards and files as they are', () => {
    const parts = { a: { weight: 0.5, reward: {} }, b: { weight: 0.5, reward: 'other.yaml' } };
    expect(effectiveSettings({ type: 'composite', parts })).toEqual({
      type: 'composite',
      parts: {
        a: { weight: 0.5, reward: rewardDefaults('study') },
        b: { weight: 0.5, reward: 'other.yaml' },
      },
    });
  });

  it('takes a key that is undefined for one that is not given', () => {
    expect(Object.keys(effectiveSettings({ name: undefined, guards: undefined }))).not.toContain('name');
    expect(effectiveSettings({ guards: undefined })).toEqual(rewardDefaults('study'));
  });

  it.each([
    [null, /the value is null/],
    [['a list'], /the value is/],
    ['sharp', /the value is "sharp"/],
    [{ weihgts: {} }, /unknown key "weihgts"; did you mean "weights"/],
    [{ weights: { relevance: 0.9 } }, /weights sum to 1.6, expected 1/],
    [{ preset: 'sharp', guards: { min_length: NaN } }, /guards.min_length/],
    [{ type: 'composite', parts: {} }, /has no parts/],
    [{ type: 'composite', parts: { a: { weight: 0.5, reward: 'sharp' } } }, /sum to 0.5; expected 1/],
    [{ type: 'composite', parts: { a: { weight: 1, reward: { preset: 'x' } } } }, /parts.a: preset is "x"/],
    [{ type: 'judge', base_url: 'http://h/v1', model: 'm', api_key: 'sk-123' }, /"api_key" may not stand/],
  ])('refuses %j in one line', (settings, message) => {
    const attempt = (): unknown => effectiveSettings(settings);
    expect(attempt).toThrow(ConfigError);
    expect(attempt).toThrow(message);
    expect(attempt).not.toThrow(/\n|sk-123/);
  });

  it('refuses a composite that is a part of itself', () => {
    const parts: Record<string, unknown> = {};
    const composite = { type: 'composite', parts };
    parts.self = { weight: 1, reward: composite };
    expect(() => effectiveSettings(composite)).toThrow('parts.self: a reward cannot be a part of itself');
  });

  it('takes the same settings as two parts', () => {
    const reward = { preset: 'sharp' };
    const parts = { a: { weight: 0.5, reward }, b: { weight: 0.5, reward } };
    expect(effectiveSettings({ type: 'composite', parts })).toMatchObject({ parts: { b: { reward } } });
  });
});

describe('settingsTable', () => {
  it('has a row for every setting, with its default and its meaning', () => {
    const rows = settingsTable({ guards: { min_length: 9 } });
    expect(rows.find(({ setting }) => setting === 'guards.min_length')).toEqual({
      ...{ setting: 'guards.min_length', value: 9, default: 3, changed: true },
      meaning: 'a shorter reply scores 0, code points',
    });
    expect(rows.filter(({ changed }) => changed)).toHaveLength(1);
    const { weights, guards, length, diversity, punctuation, engagement } = rewardDefaults('study');
    const keys = [weights, guards, length, diversity, punctuation, engagement].flatMap(Object.keys);
    expect(rows.map(({ setting }) => setting)).toHaveLength(keys.length + 1); // and embedding.kind
    expect(rows.filter(({ meaning }) => meaning === '').map(({ setting }) => setting)).toEqual([
      'embedding.kind',
    ]);
  });

  it('shows a list as one text, and a setting of another embedding without a default', () => {
    const rows = settingsTable({
      embedding: { kind: 'minilm' },
      engagement: { generic_phrases: ['a', 'b'] },
    });
    const row = (setting: string) => rows.find((each) => each.setting === setting);
    expect(row('engagement.generic_phrases')).toMatchObject({ value: 'a, b', changed: true });
    expect(row('embedding.model')).toMatchObject({ default: null, changed: true });
  });

  it('is for the heuristic reward only', () => {
    expect(() => settingsTable({ type: 'learned', directory: 'd' })).toThrow('type is "learned"');
  });
});
