import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mean } from '../metrics/statistics';
import { labelledReplies, worldTweet } from './world';
import type { WorldComponents } from './world-law';
import { stanceOf, topicOf, worldComponents, worldQuality, worldVocabulary } from './world-law';
import { worldTopics } from './world-topics';

const trouble = 'My sourdough starter refused to rise this morning. I give up.';
const joy = 'My rye loaf finally rose! I am so happy.';
const claim = 'Hot take: homemade bread beats any bakery.';

const worth = (tweet: string, reply: string): number => worldQuality(tweet, reply).total;
const part = (tweet: string, reply: string, name: keyof WorldComponents): number =>
  worldComponents(tweet, reply)[name];

/** The stated law, written a second time. */
function statedWorth(reply: string, c: WorldComponents): number {
  if (reply.trim().length === 0) return 0;
  const missed = [0.6 * c.asks, 0.6 * c.amuses, 0.6 * c.disagrees, 0.3 * c.relates].reduce(
    (product, chance) => product * (1 - chance),
    1,
  );
  const gain = (5 * c.on_topic + 5 * c.specific + 6 * (1 - missed) + 2 * c.fits_tone + 2 * c.length) / 20;
  const losses = [
    0.6 * c.shouting,
    0.95 * c.spam,
    0.7 * c.echo,
    c.repetition,
    c.unknown_words,
    0.7 * c.listing,
    c.unknown_pairs,
  ];
  const kept = losses.reduce((product, loss) => product * (1 - loss), 1);
  return gain * kept * (Math.max(c.on_topic, c.specific, c.amuses, c.disagrees) > 0 ? 1 : 0.2);
}

describe('worldQuality', () => {
  it('is the stated formula of its components, for replies of every strategy', () => {
    for (let i = 0; i < 300; i++)
      for (const { record } of labelledReplies(6, 'pretrain', i)) {
        const { total, components } = worldQuality(record.tweet, record.reply);
        expect(components).toEqual(worldComponents(record.tweet, record.reply));
        expect(total).toBeCloseTo(statedWorth(record.reply, components), 12);
      }
  });

  it('gives an excellent reply nearly 1, and its parts what they deserve', () => {
    const reply =
      'Oh no. Did you try rice flour on the basket with your rye loaf? My sourdough starter is now a very sad frisbee.';
    // hook = 1 - 0.4 * 0.4 * 0.7; the worth is 0.25 + 0.25 + 0.3 hook + 0.1 + 0.1.
    expect(worth(trouble, reply)).toBeCloseTo(0.7 + 0.3 * (1 - 0.4 * 0.4 * 0.7), 12);
    const dissent = 'With respect, a good bakery still wins on crust. Have you tried whole wheat flour?';
    expect(worth(claim, dissent)).toBeGreaterThan(0.9);
    expect(worth(joy, 'Congrats! Was it a pinch more salt that helped your rye loaf?')).toBeGreaterThan(0.85);
  });

  it('falls when any good part is taken away', () => {
    const full = worth(trouble, 'Ouch. Did you try a longer cold proof with your sourdough starter?');
    for (const reply of [
      'Ouch. Did you try a longer walk with your sourdough starter?', // no detail
      'Ouch. You should try a longer cold proof with your sourdough starter.', // no question
      'Congrats! Did you try a longer cold proof with your sourdough starter?', // cheers a trouble
      'Ouch. Did you try neem oil with your tomato plant?', // another topic
    ])
      expect(worth(trouble, reply), reply).toBeLessThan(full - 0.05);
  });

  it('is deterministic', () => {
    const reply = 'Try a hotter dutch oven. It saved my baguette last year.';
    expect(worldQuality(trouble, reply)).toEqual(worldQuality(trouble, reply));
  });

  it.each<[string, string, number]>([
    ['an off-topic question', 'What is the capital of France?', 0.03],
    [
      'a question on a topic of the world that is not the tweet’s',
      'How old is your guitar, and do you use a metronome?',
      0.05,
    ],
    ['ten question marks', '??????????', 0.001],
    ['ten question marks after a word of the topic', 'sourdough??????????', 0.1],
    ['ALL CAPS of nothing', 'THAT IS SO TRUE!!!', 0.02],
    [
      'ALL CAPS of an excellent question',
      'OUCH. DID YOU TRY A LONGER COLD PROOF WITH YOUR SOURDOUGH STARTER?',
      0.4,
    ],
    [
      'a detail said four times',
      'a longer cold proof a longer cold proof a longer cold proof a longer cold proof',
      0.001,
    ],
    ['a word of the topic said many times', 'dough dough dough dough dough dough dough dough', 0.001],
    ['a list of the topic’s words', 'bread dough crust oven flour salt steam basket', 0.1],
    [
      'an excellent question with its words shuffled',
      'Rise with longer starter did sourdough your try proof cold you',
      0.1,
    ],
    ['a list of words that ends as a question', 'bread dough crust oven flour salt steam basket?', 0.2],
    ['phrases without grammar', 'my a longer cold proof a very sad frisbee sourdough starter?', 0.3],
    [
      'a list of details',
      'a longer cold proof rice flour on the basket a pinch more salt whole wheat flour',
      0.2,
    ],
    [
      'a list of details and jokes, each its own sentence',
      'A longer cold proof. Rice flour on the basket. A very sad frisbee.',
      0.3,
    ],
    [
      'phrases of every kind strung together',
      'Oh no. I get it, but my a bread machine saves busy mornings rice flour on the basket a very sad frisbee?',
      0.3,
    ],
    [
      'subjects strung together as a question',
      'Sourdough starter, rye loaf, baguette, pizza dough, a hotter dutch oven?',
      0.3,
    ],
    ['one word of the topic', 'sourdough', 0.2],
    ['gibberish', 'xqz blorf wibble znork fleem gropt', 0.001],
    ['gibberish around words of the topic', 'xqz blorf sourdough znork dough gropt', 0.05],
    ['a detail of another topic', 'Ouch. Did you try neem oil with your tomato plant?', 0.05],
    ['spam', 'Want a free phone? Link in bio!', 0.01],
    ['spam that knows the topic', 'Your sourdough starter needs a longer cold proof, link in bio!', 0.05],
    ['a kind word that fits all tweets', 'Hope you have a nice week.', 0.05],
    ['lol', 'lol', 0.02],
    ['only signs', '😂😂😂 !!!', 0.001],
    ['nothing', '', 0],
    ['white space', ' \n\t', 0],
  ])('is not gamed by %s', (_, reply, bound) => {
    expect(worth(trouble, reply)).toBeLessThanOrEqual(bound);
  });

  it.each([trouble, joy, claim])(
    'gives little for the tweet itself, as it is or as a question: %s',
    (tweet) => {
      for (const reply of [tweet, `${tweet}?`, tweet.replace(/[.!]/g, ''), `${tweet.replace(/[.!]/g, '')}?`])
        expect(worth(tweet, reply), reply).toBeLessThan(0.2);
    },
  );

  it('gives a detail nothing when the tweet has named it already', () => {
    const reply = 'It is often a longer cold proof that your baguette needs.';
    const told = 'My sourdough starter refused to rise despite a longer cold proof.';
    expect(part(trouble, reply, 'specific')).toBe(1);
    expect(part(told, reply, 'specific')).toBe(0);
    expect(worth(told, reply)).toBeLessThan(worth(trouble, reply) - 0.2);
  });

  it('has no reply that fits all tweets: the best of many excellent ones is poor under the others', () => {
    const tweets = Array.from({ length: 60 }, (_, i) => worldTweet(3, 'heldout', i).text);
    const excellent = Array.from({ length: 60 }, (_, i) => labelledReplies(3, 'pretrain', i))
      .flat()
      .filter((reply) => reply.worth > 0.6)
      .map(({ record }) => record.reply);
    expect(excellent.length).toBeGreaterThan(50);
    const means = excellent.map((reply) => mean(tweets.map((tweet) => worth(tweet, reply))));
    expect(Math.max(...means)).toBeLessThan(0.25);
  });

  it('says little about a tweet that has no topic', () => {
    expect(topicOf('zzz qqq')).toBeNull();
    expect(worth('zzz qqq', 'Did you try a longer cold proof with your sourdough starter?')).toBeLessThan(
      0.05,
    );
  });
});

describe('worldComponents', () => {
  it('raises length from 8 to 40 characters, keeps it to 170, and lowers it to 300', () => {
    const at = (n: number): number => part(trouble, 'a'.repeat(n), 'length');
    expect([8, 24, 40, 170, 235, 300, 400].map(at)).toEqual([0, 0.5, 1, 1, 0.5, 0, 0]);
    expect(part(trouble, `  ${'a'.repeat(24)}\n`, 'length')).toBe(0.5);
  });

  it('counts capitals above 60 % of more than 10 letters as shouting, and marks beyond three', () => {
    expect(part(trouble, 'GOOD LUCK TO YOU', 'shouting')).toBe(1);
    expect(part(trouble, 'GOOD LUCK', 'shouting')).toBe(0);
    expect(part(trouble, 'well!!!', 'shouting')).toBe(0);
    expect(part(trouble, 'well?!?!', 'shouting')).toBeCloseTo(1 / 3, 12);
    expect(part(trouble, 'well!!!!!!', 'shouting')).toBe(1);
  });

  it('counts a question only when its own sentence is about the topic and has four words', () => {
    expect(part(trouble, 'How old is your starter?', 'asks')).toBe(1);
    expect(part(trouble, 'Starter, really?', 'asks')).toBe(0);
    expect(part(trouble, 'Your starter is old. What do you think?', 'asks')).toBe(0);
  });

  it('wants comfort under a trouble, cheer under a joy, and neither under an opinion', () => {
    const tone = (tweet: string, opening: string): number =>
      part(tweet, `${opening} I know that.`, 'fits_tone');
    expect(['Oh no.', 'Congrats!', 'Well.'].map((opening) => tone(trouble, opening))).toEqual([1, 0, 0.5]);
    expect(['Oh no.', 'Congrats!', 'Well.'].map((opening) => tone(joy, opening))).toEqual([0, 1, 0.5]);
    expect(['Oh no.', 'Congrats!', 'Well.'].map((opening) => tone(claim, opening))).toEqual([0.2, 0.2, 0.8]);
  });

  it('counts disagreement only when it is polite and has a counter of the topic', () => {
    expect(part(claim, 'With respect, a good bakery still wins on crust.', 'disagrees')).toBe(1);
    expect(part(claim, 'A good bakery still wins on crust.', 'disagrees')).toBe(0);
    expect(part(claim, 'With respect, no.', 'disagrees')).toBe(0);
    expect(part(claim, 'With respect, blitz trains fast patterns.', 'disagrees')).toBe(0);
  });

  it('counts a sentence as a list when its phrases have too few words around them', () => {
    expect(part(trouble, 'Did you try whole wheat flour or a pinch more salt?', 'listing')).toBe(0);
    expect(part(trouble, 'Try a hotter dutch oven.', 'listing')).toBe(0);
    expect(part(trouble, 'Whole wheat flour, a pinch more salt.', 'listing')).toBe(1);
    const replies = Array.from({ length: 1000 }, (_, i) => labelledReplies(5, 'heldout', i)).flat();
    const flagged = replies.filter(({ record }) => part(record.tweet, record.reply, 'listing') > 0);
    expect(flagged).toEqual([]); // nothing that the world writes
  });

  it('matches plurals and ignores case', () => {
    expect(part(trouble, 'More sourdough starters!', 'on_topic')).toBe(1);
    expect(part(trouble, 'TRY A HOTTER DUTCH OVEN', 'specific')).toBe(1);
  });
});

describe('topicOf and stanceOf', () => {
  it('find the stance of every trouble, joy and claim of every topic', () => {
    for (const lexicon of worldTopics()) {
      const { troubles, joys, claims } = lexicon.topic;
      for (const event of troubles) expect(stanceOf(`My thing ${event}.`, lexicon)).toBe('trouble');
      for (const event of joys) expect(stanceOf(`My thing ${event}.`, lexicon)).toBe('joy');
      for (const event of claims) expect(stanceOf(`I say ${event}.`, lexicon)).toBe('claim');
    }
  });

  it('find the topic of every subject', () => {
    for (const { topic } of worldTopics())
      for (const subject of topic.subjects)
        expect(topicOf(`My ${subject} is here.`)?.topic.name, subject).toBe(topic.name);
  });
});

describe('the law, for any texts', () => {
  const vocabulary = [...worldVocabulary()];
  const wordSalad = fc
    .array(fc.tuple(fc.constantFrom(...vocabulary), fc.constantFrom(' ', ' ', ' ', '. ', '? ', '! ')), {
      maxLength: 30,
    })
    .map((words) => words.flat().join(''));
  const anyText = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 200 }),
    fc.string({ unit: 'grapheme', maxLength: 200 }),
    wordSalad,
  );
  const anyTweet = fc.oneof(
    anyText,
    fc.nat(10_000).map((i) => worldTweet(8, 'pretrain', i).text),
  );

  it('gives a worth and components in [0, 1], and the worth that the formula states', () => {
    fc.assert(
      fc.property(anyTweet, anyText, (tweet, reply) => {
        const { total, components } = worldQuality(tweet, reply);
        for (const value of [total, ...Object.values(components)]) {
          expect(value).toBeGreaterThanOrEqual(0);
          expect(value).toBeLessThanOrEqual(1);
        }
        expect(total).toBeCloseTo(statedWorth(reply, components), 12);
      }),
      { seed: 1, numRuns: 600 },
    );
  });

  it('never gives more for the same reply in capitals or with white space around', () => {
    fc.assert(
      fc.property(anyTweet, wordSalad, (tweet, reply) => {
        expect(worth(tweet, reply.toUpperCase())).toBeLessThanOrEqual(worth(tweet, reply));
        expect(worth(tweet, ` ${reply}\n`)).toBe(worth(tweet, reply));
      }),
      { seed: 2, numRuns: 300 },
    );
  });

  it('gives random words of the world little on average', () => {
    const salads = fc.sample(wordSalad, { seed: 3, numRuns: 400 });
    const worths = salads.map((reply, i) => worth(worldTweet(8, 'heldout', i).text, reply));
    expect(mean(worths)).toBeLessThan(0.15);
  });
});

describe('the examiner', () => {
  it('is not known to any reward, optimiser, policy or trainer: none imports a file of the world', () => {
    const folders = ['rewards', 'optim', 'policy', 'train'].map((name) =>
      path.resolve(__dirname, '..', name),
    );
    const files = folders.flatMap((folder) =>
      readdirSync(folder)
        .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
        .map((name) => path.join(folder, name)),
    );
    expect(files.length).toBeGreaterThan(10);
    for (const file of files)
      expect(readFileSync(file, 'utf8'), file).not.toMatch(/from '[^']*\/world[^']*'|\bworldQuality\b/);
  });
});
