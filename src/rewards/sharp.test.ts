import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { cachedEmbedder } from './embeddings';
import { lexicalEmbedder } from './lexical';
import { phrasePattern } from './heuristic';
import type { Reward } from './reward';
import { loadAfinn } from './sentiment';
import * as sharp from './sharp';
import { BAIT, EMPTY_PHRASES, INSULTS, PROMOTION, REASONS } from './sharp-words';

const words = sharp.wordsOf;
const TWEET = 'I moved my whole garden indoors for the winter and the tomatoes seem happy.';

let reward: Reward;
beforeAll(async () => {
  reward = sharp.sharpReward({ embedder: cachedEmbedder(lexicalEmbedder()), lexicon: await loadAfinn() });
});

describe('the parts', () => {
  it('ramp is 0 up to one end, 1 from the other on, straight between, also downwards', () => {
    expect([0, 2, 3, 4, 9].map((x) => sharp.ramp(x, 2, 4))).toEqual([0, 0, 0.5, 1, 1]);
    expect([0, 2, 3, 4, 9].map((x) => sharp.ramp(x, 4, 2))).toEqual([1, 1, 0.5, 0, 0]);
  });

  it('takes words without case and apostrophes, and knows which of them tell something', () => {
    expect(words("Don’t you LOVE it? It's 5 o'clock!")).toEqual([
      'dont',
      'you',
      'love',
      'it',
      'its',
      '5',
      'oclock',
    ]);
    expect(sharp.contentWords(words("Don't the tomatoes miss the rain a lot?"))).toEqual([
      'tomatoes',
      'miss',
      'rain',
    ]);
  });

  it('measures the echo by pairs of neighbouring words', () => {
    expect(sharp.echoOf(words('a b c d'), words('b c d e'))).toBe(2 / 3);
    expect(sharp.echoOf(words('a b c'), words('c b a'))).toBe(0);
    expect(sharp.echoOf(words('a b'), words('a'))).toBe(0);
  });

  it('maps the cosine by the range of its embedding, and takes an echo away', () => {
    expect(sharp.sharpRelevance(0.1, [0.1, 0.3], 0)).toBe(0.4);
    expect(sharp.sharpRelevance(0.2, [0.1, 0.3], 0.3)).toBeCloseTo(0.7, 12);
    expect(sharp.sharpRelevance(0.9, [0.1, 0.3], 0.8)).toBe(0);
  });

  it('grades the length as a trapezoid', () => {
    const lengths = [8, 26.5, 45, 200, 300, 400, 999].map(sharp.sharpLength);
    [0, 0.5, 1, 1, 0.65, 0.3, 0.3].forEach((expected, i) => expect(lengths[i]).toBeCloseTo(expected, 12));
  });

  it('minds a cheerful answer to a sad tweet, a harsh one, and an insult, not a sad answer to a sad tweet', () => {
    expect(sharp.sharpSentiment(-0.8, -0.4, false)).toBe(1);
    expect(sharp.sharpSentiment(-0.8, 0.9, false)).toBeCloseTo(0.3, 12);
    expect(sharp.sharpSentiment(0.5, 0.9, false)).toBe(1);
    expect(sharp.sharpSentiment(0.5, -0.9, false)).toBeCloseTo(0.6, 12);
    expect(sharp.sharpSentiment(-0.5, -0.9, false)).toBeCloseTo(0.8, 12);
    expect(sharp.sharpSentiment(0, 0, true)).toBe(0);
  });

  it('counts content words that the tweet has not, less where words are repeated', () => {
    const tweet = words(TWEET);
    expect(sharp.sharpDiversity(tweet, words('the garden tomatoes winter'))).toBe(0);
    expect(sharp.sharpDiversity(tweet, words('basil sulks near windows'))).toBeCloseTo((1.4 * 3) / 5, 12);
    expect(sharp.sharpDiversity(tweet, words('basil basil'))).toBeCloseTo((1.4 / 3) * 0.25, 12);
    expect(sharp.sharpDiversity(tweet, words('basil mint sage dill thyme chives'))).toBe(1);
    expect(sharp.sharpDiversity(tweet, [])).toBe(0);
  });

  it('takes off for shouting, runs of marks, and decorations beyond two', () => {
    expect(sharp.sharpPunctuation('Basil, mint and a lamp. Warm enough?')).toBe(1);
    expect(sharp.sharpPunctuation('BASIL AND MINT AND A LAMP')).toBe(0.3);
    expect(sharp.sharpPunctuation('NASA WHO')).toBe(1); // ten letters or fewer
    expect(sharp.sharpPunctuation('Really?? No way!!')).toBeCloseTo(0.36, 12);
    expect(sharp.sharpPunctuation('So! Very! Loud!')).toBeCloseTo(0.6, 12);
    expect(sharp.sharpPunctuation('Mint 🌱 and #basil 🌿 and #sage')).toBeCloseTo(0.64, 12);
  });

  it('takes a question of four words with content as one that asks', () => {
    expect(sharp.asksSomething('What lamp do you use?')).toBe(true);
    expect(sharp.asksSomething('Nice. Really?')).toBe(false);
    expect(sharp.asksSomething('What do you think?')).toBe(false);
  });

  it('adds hooks as chances that are missed together', () => {
    expect(sharp.sharpEngagement('Basil sulks near windows')).toBeCloseTo(0.35, 12);
    expect(sharp.sharpEngagement('What lamp do they use?')).toBeCloseTo(0.35 + 0.65 * 0.6, 12);
    expect(sharp.sharpEngagement('My basil died, but the 2 lamps live')).toBeCloseTo(
      0.35 + 0.65 * (1 - 0.55 * 0.65 * 0.7),
      12,
    );
  });

  it('takes praise off by its share of the words, longest phrases first, and bait and promotion whole', () => {
    expect(sharp.sharpEngagement('Great point')).toBeCloseTo(0.35 * 0.2, 12);
    expect(sharp.sharpEngagement('Well said, basil lamps win')).toBeCloseTo(0.35 * (1 - 0.8 * 0.4), 12);
    expect(sharp.sharpEngagement('Basil sulks near windows. Thoughts?')).toBeCloseTo(0.35 * 0.2, 12);
    expect(sharp.sharpEngagement('Basil lamps: link in bio')).toBeCloseTo(0.35 * 0.2, 12);
    expect(sharp.sharpEngagement('Basil lamps https://lamps.example')).toBeCloseTo(0.35 * 0.2, 12);
    expect(sharp.sharpEngagement('…')).toBe(0);
  });

  it('finds phrases as whole words only', () => {
    expect(sharp.isInsult('What a clown')).toBe(true);
    expect(sharp.isInsult('Clownfish need salt water')).toBe(false);
  });
});

describe('the phrases', () => {
  const lists = { BAIT, EMPTY_PHRASES, INSULTS, PROMOTION, REASONS };

  it.each(Object.entries(lists))('of %s are all found in a sentence', (_name, phrases) => {
    const pattern = phrasePattern(phrases) as RegExp;
    for (const phrase of phrases) {
      const sentence = /^\w/.test(phrase) ? `Hmpf, ${phrase} zzz` : `Lamps 20${phrase} zzz`;
      const found = pattern.exec(sentence)?.[0] ?? '';
      expect(`${phrase}: ${found}`).toBe(`${phrase}: ${phrase}`);
    }
  });

  it('that begin or end with a sign are found beside digits and letters', () => {
    for (const offer of ['Lamps 20% off', 'Lamps 20 % off today', 'Lamps 20％ off'])
      expect(sharp.sharpEngagement(offer)).toBe(sharp.sharpEngagement('Lamps 20, link in bio'));
    expect(sharp.sharpEngagement('Lamps 20% offline')).toBeGreaterThan(
      sharp.sharpEngagement('Lamps 20% off'),
    );
  });

  it('are found with curly apostrophes and in full-width letters', () => {
    for (const curly of ['‘', '’', 'ʼ']) {
      const text = `couldn${curly}t agree more, basil`;
      expect(sharp.sharpEngagement(text)).toBe(sharp.sharpEngagement("couldn't agree more, basil"));
    }
    expect(sharp.sharpEngagement('I’m basil')).toBe(sharp.sharpEngagement("I'm basil"));
    expect(sharp.isInsult('ｃｌｏｗｎ')).toBe(true);
    expect(sharp.asksSomething('What lamp do you use？')).toBe(true);
  });
});

describe('signs', () => {
  it('count an emoji of several code points once', () => {
    for (const emoji of ['👨‍👩‍👧‍👦', '🇩🇪', '👍🏽', '❤️', '❤', '🌱', '1️⃣']) {
      expect(`${emoji} ${sharp.sharpPunctuation(`Mint ${emoji} and ${emoji}`)}`).toBe(`${emoji} 1`);
      expect(sharp.sharpPunctuation(`Mint ${emoji} and ${emoji} or ${emoji}`)).toBeCloseTo(0.8, 12);
    }
  });

  it('count hashtags that begin with a digit, not plain numbers', () => {
    expect(sharp.sharpPunctuation('Mint #2024goals #100days #mint')).toBeCloseTo(0.8, 12);
    expect(sharp.sharpPunctuation('We are #1 of #2 and #3 and #4')).toBe(1);
  });

  it('are looked for in linear time', () => {
    for (const text of [
      'a '.repeat(200_000),
      '#1'.repeat(200_000),
      '!a'.repeat(200_000),
      ' '.repeat(400_000),
    ]) {
      const started = performance.now();
      sharp.asksSomething(text);
      sharp.sharpPunctuation(text);
      sharp.sharpEngagement(text);
      expect(performance.now() - started).toBeLessThan(5000);
    }
  });
});

describe('the sharp reward', () => {
  it('is the weighted geometric mean of its components, none below 0.05', async () => {
    const weights = {
      ...{ relevance: 0.2, length: 0.1, sentiment: 0.1 },
      ...{ diversity: 0.2, punctuation: 0.1, engagement: 0.3 },
    };
    for (const reply of ['Which lamp keeps them warm at night?', 'GREAT POINT!!!', TWEET, 'Nice one']) {
      const { total, components } = await reward.score(TWEET, reply);
      const product = Object.entries(weights).reduce(
        (value, [name, weight]) => value * Math.max(0.05, components[name]) ** weight,
        1,
      );
      expect(total).toBeCloseTo(product, 12);
    }
  });

  it('puts a question and an anecdote above praise, an echo, shouting, promotion and bait', async () => {
    const total = async (reply: string): Promise<number> => (await reward.score(TWEET, reply)).total;
    const good = [
      'Which lamp keeps your tomatoes warm at night?',
      'My basil spent a winter indoors, but it sulked until April.',
    ];
    const bad = [
      'Great point, so true!',
      TWEET,
      'TOMATOES ARE THE BEST!!!',
      'Cheap grow lamps, link in bio!',
      'Lovely garden. Thoughts?',
    ];
    const [worstGood, bestBad] = [
      Math.min(...(await Promise.all(good.map(total)))),
      Math.max(...(await Promise.all(bad.map(total)))),
    ];
    expect(worstGood).toBeGreaterThan(bestBad + 0.15);
  });

  it('keeps the guards, trims, and stays in [0, 1] with every component for any texts', async () => {
    expect((await reward.score(TWEET, ' a ')).total).toBe(0);
    expect((await reward.score(TWEET, 'word '.repeat(100) + 'x')).total).toBe(0.3);
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: 'grapheme' }),
        fc.string({ unit: 'grapheme' }),
        async (tweet, reply) => {
          const { total, components } = await reward.score(tweet, reply);
          expect(await reward.score(tweet, `\n${reply} `)).toEqual({ total, components });
          for (const value of [total, ...Object.values(components)]) {
            expect(value).toBeGreaterThanOrEqual(0);
            expect(value).toBeLessThanOrEqual(1);
          }
        },
      ),
    );
  });

  it('scores a batch exactly as the single pairs', async () => {
    const pairs = ['Which lamp?', 'Great', TWEET, 'My basil sulked'].map((reply) => ({
      tweet: TWEET,
      reply,
    }));
    const batch = await reward.scoreBatch(pairs);
    for (const [i, { tweet, reply }] of pairs.entries()) {
      expect(await reward.score(tweet, reply)).toEqual(batch[i]);
    }
  });

  it('takes other weights, and refuses those that do not sum to 1', async () => {
    const parts = { embedder: lexicalEmbedder(), lexicon: await loadAfinn() };
    const only = { relevance: 0, length: 1, sentiment: 0, diversity: 0, punctuation: 0, engagement: 0 };
    const reward = sharp.sharpReward({ ...parts, options: { weights: only } });
    expect((await reward.score(TWEET, 'x'.repeat(60))).total).toBe(1);
    expect(() => sharp.sharpReward({ ...parts, options: { weights: { length: 0.9 } } })).toThrow(ConfigError);
  });
});
