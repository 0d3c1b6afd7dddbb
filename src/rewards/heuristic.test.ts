import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { cachedEmbedder } from './embeddings';
import * as heuristic from './heuristic';
import { heuristicSchema } from './heuristic-options';
import { lexicalEmbedder } from './lexical';
import type { Reward } from './reward';
import { loadAfinn } from './sentiment';
import type { Lexicon } from './sentiment';

const options = heuristicSchema.parse({});
const generic = heuristic.phrasePattern(options.engagement.generic_phrases);
const engagementOf = (reply: string): number => heuristic.engagementOf(reply, generic, options.engagement);
const punctuationOf = (reply: string): number => heuristic.punctuationOf(reply, options.punctuation);
const withMarks = (marks: number, length: number): string => '.'.repeat(marks) + 'x'.repeat(length - marks);
const TWEET = 'I moved my whole garden indoors for the winter and the tomatoes seem happy.';

let lexicon: Lexicon;
let reward: Reward;
beforeAll(async () => {
  lexicon = await loadAfinn();
  reward = heuristic.heuristicReward({ embedder: cachedEmbedder(lexicalEmbedder()), lexicon });
});

describe('the guards', () => {
  it.each(['', '  \n ', ' a ', 'ok', '  👍👍 '])(
    'give 0 to %j, shorter than three characters once trimmed',
    async (reply) => {
      const { total, components } = await reward.score(TWEET, reply);
      expect(total).toBe(0);
      for (const value of Object.values(components)) expect(value).toBe(0);
    },
  );

  it('give 0.3 to more than 500 characters, counted without the white space around them', async () => {
    expect((await reward.score(TWEET, 'word '.repeat(100) + 'x')).total).toBe(0.3); // 501
    expect((await reward.score(TWEET, '👍'.repeat(501))).total).toBe(0.3);
    expect((await reward.score(TWEET, ` ${'word '.repeat(100)} `)).total).not.toBe(0.3); // 499
  });
});

describe('the six components', () => {
  it('maps the cosine to [0, 1]', () => {
    expect([-1, 0, 1].map(heuristic.relevanceOf)).toEqual([0, 0.5, 1]);
  });

  it('grades the length with the upper ends inside their bands', () => {
    const lengths = [3, 19, 20, 49, 50, 150, 151, 280, 281, 500];
    expect(lengths.map((length) => heuristic.lengthOf(length, options.length))).toEqual([
      0.3, 0.3, 0.6, 0.6, 1, 1, 0.8, 0.8, 0.4, 0.4,
    ]);
  });

  it('counts an emoji as one character', async () => {
    expect((await reward.score(TWEET, '👍'.repeat(19))).components.length).toBe(0.3);
    expect((await reward.score(TWEET, '👍'.repeat(20))).components.length).toBe(0.6);
  });

  it('compares the two polarities', () => {
    expect(heuristic.sentimentOf(0.5, 0.5)).toBe(1);
    expect(heuristic.sentimentOf(1, -1)).toBe(0);
    expect(heuristic.sentimentOf(0.5, -0.25)).toBe(0.625);
  });

  it('takes unique words over words, with a penalty below one half', () => {
    const diversityOf = (reply: string): number => heuristic.diversityOf(reply, options.diversity);
    expect(diversityOf('every word  differs\nhere')).toBe(1);
    expect(diversityOf('Go go stop STOP')).toBe(0.5);
    expect(diversityOf('go go go go stop')).toBeCloseTo(0.4 * 0.7, 15);
  });

  it('grades the share of punctuation marks with the upper ends inside their bands', () => {
    const shares = [0, 0.0099, 0.01, 0.015, 0.08, 0.0801, 0.15, 0.1501, 1];
    const values = shares.map((share) => punctuationOf(withMarks(Math.round(share * 10000), 10000)));
    expect(values).toEqual([0.7, 0.7, 1, 1, 1, 0.8, 0.8, 0.3, 0.3]);
    expect(punctuationOf(withMarks(2, 25))).toBe(1); // exactly 0.08
    expect(punctuationOf(withMarks(3, 20))).toBe(0.8); // exactly 0.15
    expect(punctuationOf('x;:x'.repeat(10))).toBe(0.7); // other marks do not count
  });

  it('halves the engagement of a short reply with a generic phrase', () => {
    for (const reply of ['lol', 'Thank  you so much', 'oh YES', 'that is so true', 'good point there']) {
      expect(engagementOf(reply)).toBe(0.5);
    }
    expect(engagementOf('no, because the soil was frozen')).toBe(1); // 31 characters
    expect(engagementOf('no because the soil was hard')).toBe(0.5); // 28
  });

  it('finds a generic phrase only as whole words', () => {
    for (const reply of [
      'I know',
      'thistles again',
      'untrue',
      'nicely put',
      'yesterday',
      'señor',
      'same_day',
    ]) {
      expect(engagementOf(reply)).toBe(1);
    }
  });

  it('rewards a question and several sentences, clamped to 1', () => {
    expect(engagementOf('nice one?')).toBeCloseTo(0.55, 15);
    expect(engagementOf('nice. one.')).toBeCloseTo(0.525, 15);
    expect(engagementOf('nice one?!')).toBeCloseTo(0.5 * 1.1 * 1.05, 15);
    expect(engagementOf('Which soil? Which lamp?')).toBe(1);
  });

  it('lowers ALL CAPS of more than ten characters', () => {
    expect(engagementOf('WHAT A TOMATO')).toBe(0.6);
    expect(engagementOf('BIG TOMATO')).toBe(1); // 10
    expect(engagementOf('WHAT A TOMATo')).toBe(1);
    expect(engagementOf('12345 67890 12')).toBe(1); // nothing to capitalise
    expect(engagementOf('ÇA ALORS, ÉTÉ')).toBe(0.6);
  });
});

describe('the heuristic reward', () => {
  const text = fc.oneof(
    fc.string({ maxLength: 80 }),
    fc.string({ unit: 'grapheme', maxLength: 600 }),
    fc
      .array(fc.constantFrom('tomato', 'no', 'lol', 'great', 'awful', 'WHY', '?', '!!'), { maxLength: 80 })
      .map((w) => w.join(' ')),
  );

  it('is the weighted sum of its components', async () => {
    const { total, components } = await reward.score(
      TWEET,
      'Which lamp keeps your tomatoes happy in winter?',
    );
    expect(Object.keys(components)).toEqual(Object.keys(options.weights));
    const { relevance, length, sentiment, diversity, punctuation, engagement } = components;
    const sum =
      0.3 * relevance +
      0.15 * length +
      0.15 * sentiment +
      0.1 * diversity +
      0.1 * punctuation +
      0.2 * engagement;
    expect(total).toBeCloseTo(sum, 14);
  });

  it('lies in [0, 1], and so does every component, for any texts', async () => {
    await fc.assert(
      fc.asyncProperty(text, text, async (tweet, reply) => {
        const { total, components } = await reward.score(tweet, reply);
        for (const value of [total, ...Object.values(components)])
          expect(value >= 0 && value <= 1).toBe(true);
      }),
    );
  });

  it('scores a batch exactly as the single pairs, whatever is cached', async () => {
    const pairs = fc.array(fc.record({ tweet: text, reply: text }), { maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(pairs, async (batch) => {
        const fresh = heuristic.heuristicReward({ embedder: cachedEmbedder(lexicalEmbedder(), 3), lexicon });
        const together = await fresh.scoreBatch(batch);
        const alone = await Promise.all(
          [...batch].reverse().map(({ tweet, reply }) => reward.score(tweet, reply)),
        );
        expect(together).toStrictEqual(alone.reverse());
      }),
      { numRuns: 50 },
    );
  });

  it('ignores white space around the reply', async () => {
    const reply = 'Which lamp do you use?';
    expect(await reward.score(TWEET, ` \n${reply}\t`)).toEqual(await reward.score(TWEET, reply));
  });

  it('says once that the lexical embedding stands in, and nothing with a real one', () => {
    expect(reward.degraded).toEqual(['relevance: lexical embedding instead of all-MiniLM-L6-v2']);
    const embedder = {
      name: 'real',
      duplicateCosine: 0.9,
      cosineRange: [0, 1] as const,
      embed: async () => Float32Array.of(1),
    };
    expect(heuristic.heuristicReward({ embedder, lexicon }).degraded).toEqual([]);
  });

  it('takes other weights and thresholds, and refuses weights that do not sum to 1', async () => {
    const weights = { relevance: 0, length: 1, sentiment: 0, diversity: 0, punctuation: 0, engagement: 0 };
    const embedder = lexicalEmbedder();
    const lengthOnly = heuristic.heuristicReward({
      embedder,
      lexicon,
      options: { weights, length: { tiny_below: 5 } },
    });
    expect((await lengthOnly.score(TWEET, 'wow!!')).total).toBe(0.6);
    const make = (bad: object): Reward => heuristic.heuristicReward({ embedder, lexicon, options: bad });
    expect(() => make({ weights: { relevance: 0.5 } })).toThrow('the six weights sum to 1.2, expected 1');
    expect(() => make({ weights: { relevence: 0.3 } })).toThrow(
      new ConfigError(
        'heuristic: unknown key "weights.relevence"; did you mean "relevance"? ' +
          'Known keys: relevance, length, sentiment, diversity, punctuation, engagement',
      ),
    );
    expect(() => make({ punctuation: { good_up_to: 0.5 } })).toThrow(ConfigError);
    expect(() => make({ guards: { min_length: 0 } })).toThrow(ConfigError);
  });
});
