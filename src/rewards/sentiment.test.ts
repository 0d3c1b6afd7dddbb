import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadAfinn, polarity } from './sentiment';
import type { Lexicon } from './sentiment';

const squash = (s: number): number => s / Math.sqrt(s * s + 15);
const lexicon: Lexicon = new Map([
  ['good', 3],
  ['awful', -3],
  ['problem', -2],
  ['no', -1],
  ['not fond of', -4],
  ['well-made', 2],
]);

describe('polarity', () => {
  it('squashes the sum of the valences', () => {
    expect(polarity('A good, GOOD day.', lexicon)).toBe(squash(6));
    expect(polarity('An awful day', lexicon)).toBe(squash(-3));
    expect(polarity('A day', lexicon)).toBe(0);
    expect(polarity('', lexicon)).toBe(0);
  });

  it('turns and weakens a word within three words after a negation', () => {
    expect(polarity('not good', lexicon)).toBe(squash(-0.74 * 3));
    expect(polarity("it isn't all that good", lexicon)).toBe(squash(-0.74 * 3));
    expect(polarity('it isn’t awful', lexicon)).toBe(squash(0.74 * 3));
    expect(polarity('not that it was ever good', lexicon)).toBe(squash(3));
    expect(polarity('Not now. Good idea', lexicon)).toBe(squash(3));
  });

  it('counts a negator that is in the list only where it negates nothing', () => {
    expect(polarity('no problem', lexicon)).toBe(squash(0.74 * 2));
    expect(polarity('no, we went home', lexicon)).toBe(squash(-1));
    expect(polarity('no, good!', lexicon)).toBe(squash(-1 + 3));
    expect(polarity('no no', lexicon)).toBe(squash(-2));
  });

  it('prefers the longest phrase, which no negation inside it turns', () => {
    expect(polarity('I am not fond of it', lexicon)).toBe(squash(-4));
  });

  it('reads a hyphenated entry as one word and other compounds as their parts', () => {
    expect(polarity('well-made', lexicon)).toBe(squash(2));
    expect(polarity('good-awful-good', lexicon)).toBe(squash(3));
  });

  it('does not find an entry inside another word', () => {
    expect(polarity('goodness knows', lexicon)).toBe(0);
  });

  it('stays inside (-1, 1) for any text', () => {
    const words = fc.array(fc.constantFrom('good', 'awful', 'not', 'no', 'day', "don't", '!'), {
      maxLength: 60,
    });
    fc.assert(
      fc.property(words, (list) => {
        expect(Math.abs(polarity(list.join(' '), lexicon))).toBeLessThan(1);
      }),
    );
  });
});

describe('AFINN', () => {
  let afinn: Lexicon;
  beforeAll(async () => {
    afinn = await loadAfinn();
  });

  it('is loaded once and rates words from -5 to 5', async () => {
    expect(await loadAfinn()).toBe(afinn);
    expect(afinn.size).toBeGreaterThan(3000);
    for (const valence of afinn.values()) expect(Math.abs(valence)).toBeLessThanOrEqual(5);
  });

  it('has no entry longer than the phrases that are looked up', () => {
    for (const entry of afinn.keys()) expect(entry.split(' ').length).toBeLessThanOrEqual(3);
  });

  it('orders plain sentences as a reader would', () => {
    const texts = [
      'What a terrible, disgusting mess',
      "I don't like it",
      'We went home at six',
      'I love this, wonderful',
    ];
    const values = texts.map((text) => polarity(text, afinn));
    expect(values).toEqual([...values].sort((a, b) => a - b));
    expect(values[2]).toBe(0);
  });
});
