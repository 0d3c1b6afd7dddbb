import { describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { qualityCheck, repetitionOf } from './quality';

const any = qualityCheck({ min_characters: 0, min_reward: 0 });

/** Words that are all different, of so many characters altogether. */
function textOf(length: number): string {
  let text = '';
  for (let i = 0; text.length < length; i++) text += `${i} `;
  return `${text.slice(0, length - 1)}x`;
}

describe('the quality check of Pass@k', () => {
  it('takes 10 to 300 characters, both ends included', () => {
    const check = qualityCheck();
    const lengths = [9, 10, 11, 299, 300, 301];
    expect(lengths.map((length) => check.passes(textOf(length), 1))).toEqual([
      ...[false, true, true, true, true, false],
    ]);
  });

  it('counts characters without the white space around, an emoji as one', () => {
    const check = qualityCheck();
    expect(check.passes('123456789        ', 1)).toBe(false);
    expect(check.passes(`${'🙂'.repeat(9)}`, 1)).toBe(false);
    expect(check.passes(`\n ${'🙂'.repeat(10)} `, 1)).toBe(true);
    expect(check.passes('🙂'.repeat(300), 1)).toBe(true);
    expect(check.passes('🙂'.repeat(301), 1)).toBe(false);
  });

  it('takes a reply of which half the words repeat, and none with more', () => {
    expect(repetitionOf('tea tea milk milk')).toBe(0.5);
    expect(any.passes('tea tea milk milk', 0)).toBe(true);
    expect(repetitionOf('tea tea tea milk milk')).toBeCloseTo(3 / 5, 15);
    expect(any.passes('tea tea tea milk milk', 0)).toBe(false);
  });

  it('counts words whatever their case and the white space between them', () => {
    expect(repetitionOf('Tea  tea\nTEA')).toBeCloseTo(2 / 3, 15);
    expect([repetitionOf(''), repetitionOf('   '), repetitionOf('tea')]).toEqual([0, 0, 0]);
  });

  it('refuses an empty reply even where no length is asked for', () => {
    expect(['', '   ', '\n\t', '\u3000'].map((reply) => any.passes(reply, 1))).toEqual([
      ...[false, false, false, false],
    ]);
    expect(any.passes('ok', 0)).toBe(true);
  });

  it.each([
    'Error: connection refused by the server',
    'ERROR 500 internal server problem',
    '[error] no output from the model',
    'Exception in thread main',
    'Traceback (most recent call last):',
    ' null',
    'undefined',
    'NaN',
  ])('refuses the error text %j', (reply) => {
    expect(any.passes(reply, 1)).toBe(false);
  });

  it.each([
    'Errors are how we learn',
    'Exceptional take, honestly',
    'Null results matter too',
    'Nan makes the best tea',
    'Undefined behaviour is my favourite behaviour',
    'I saw an error: my own',
  ])('takes %j for what it is', (reply) => {
    expect(any.passes(reply, 1)).toBe(true);
  });

  it('asks for a reward of 0.6, itself included, and for none where it is 0', () => {
    const check = qualityCheck();
    expect([0.5999, 0.6, 0.6001, 1].map((total) => check.passes('a fine reply', total))).toEqual([
      ...[false, true, true, true],
    ]);
    expect(qualityCheck({ min_reward: 0 }).passes('a fine reply', 0)).toBe(true);
  });

  it.each<[number, number, [total: number, truth: number | null | undefined, passes: boolean][]]>([
    [
      0.6,
      0.5,
      [
        [0.6, 0.5, true],
        [0.59, 1, false],
        [1, 0.49, false],
      ],
    ],
    [
      0,
      0.5,
      [
        [0, 0.5, true],
        [1, 0.4999, false],
        [1, 0, false],
      ],
    ],
    [
      0.6,
      0,
      [
        [0.6, 0, true],
        [0.6, -1, true],
        [0.6, undefined, true],
        [0.6, null, true],
      ],
    ],
    // Who asks for a truth is not content with none.
    [
      0,
      1e-9,
      [
        [1, undefined, false],
        [1, null, false],
        [1, 0, false],
        [1, 1e-9, true],
      ],
    ],
    [
      0,
      1,
      [
        [1, 1, true],
        [1, 0.999, false],
        [1, NaN, false],
      ],
    ],
  ])('asks for a reward of %d and a truth of %d', (min_reward, min_world_quality, cases) => {
    const check = qualityCheck({ min_reward, min_world_quality });
    expect(check.needsTruth).toBe(min_world_quality > 0);
    for (const [total, truth, passes] of cases)
      expect(check.passes('a fine reply', total, truth), `${total}, ${truth}`).toBe(passes);
    // A truth makes no good reply of one that is too short, repeats itself or is an error text.
    for (const reply of ['short', 'tea tea tea tea', 'Error: nothing came back'])
      expect(check.passes(reply, 1, 1), reply).toBe(false);
  });

  it('names itself with every threshold that is in force', () => {
    expect(qualityCheck().name).toBe('10 to 300 characters, repetition <= 0.5, reward >= 0.6');
    const settings = { min_characters: 3, max_characters: 40, max_repetition: 0.25, min_reward: 0 };
    expect(qualityCheck(settings).name).toBe('3 to 40 characters, repetition <= 0.25');
  });

  it.each([
    [{}, 'reward >= 0.6', false],
    [{ min_reward: 0 }, '', false],
    [{ min_reward: 0, min_world_quality: 0.4 }, 'world quality >= 0.4', true],
    [{ min_reward: 0.25, min_world_quality: 0.4 }, 'reward >= 0.25, world quality >= 0.4', true],
  ])('of %j is told from others by its least reward and truth alone', (settings, asked, needsTruth) => {
    const check = qualityCheck(settings);
    const form = '10 to 300 characters, repetition <= 0.5';
    expect(check).toMatchObject({
      name: asked === '' ? form : `${form}, ${asked}`,
      needsTruth,
    });
  });

  it.each([
    [{ min_characters: 20, max_characters: 10 }, /min_characters <= max_characters/],
    [{ min_reward: 1.5 }, /min_reward is 1.5/],
    [{ max_repetition: -1 }, /max_repetition is -1/],
    [{ min_world_quality: 1.1 }, /min_world_quality is 1.1/],
    [{ min_world_qualty: 0.5 }, /unknown key "min_world_qualty"; did you mean "min_world_quality"/],
    [{ min_charcters: 5 }, /unknown key "min_charcters"; did you mean "min_characters"/],
  ])('refuses %j in one line that says what to do', (settings, message) => {
    const act = (): unknown => qualityCheck(settings as Parameters<typeof qualityCheck>[0]);
    expect(act).toThrow(ConfigError);
    expect(act).toThrow(message);
    expect(act).not.toThrow(/\n/);
  });
});
