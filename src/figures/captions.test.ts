import { describe, expect, it } from 'vitest';
import { footnotes, missingLines, plain, wrap } from './captions';

describe('captions', () => {
  it('show marks of HTML as they are', () => {
    expect(plain('a<5 & b')).toBe('a&lt;5 &amp; b');
  });

  it('break lines between words only', () => {
    expect(wrap('one two three', 7)).toEqual(['one two', 'three']);
    expect(wrap('unbreakable', 3)).toEqual(['unbreakable']);
  });

  it('name all that has no value for a reason in one line', () => {
    const missing = [
      { what: 'GRPO', reason: 'no reply' },
      { what: 'Baseline', reason: 'Pass@1 is 0' },
      { what: 'Few-shot', reason: 'no reply' },
    ];
    expect(missingLines(missing)).toEqual([
      'No value: GRPO; Few-shot (no reply)',
      'No value: Baseline (Pass@1 is 0)',
    ]);
  });

  it('take no room where there is nothing to say, and more for every line', () => {
    expect(footnotes([], 50, 0)).toEqual({ annotations: [], height: 0 });
    const [one, two] = [footnotes(['a'], 50, 0), footnotes(['a', 'long '.repeat(30)], 50, 0)];
    expect(two.height).toBeGreaterThan(one.height);
    expect(two.annotations[0].text).toMatch(/^a<br>long .*<br>long /);
  });
});
