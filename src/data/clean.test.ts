import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DataError } from '../runtime/errors';
import { lexicalEmbedder } from '../rewards/lexical';
import { cleanRecords, cleanText, qualityOf } from './clean';
import type { TweetRecord } from './records';
import { parseRecord } from './records';

const record = (reply: string, fields: object = {}): TweetRecord =>
  parseRecord({ tweet_id: '1', tweet: 'A tweet', reply, ...fields });

const repliesOf = (records: readonly TweetRecord[]): string[] => records.map(({ reply }) => reply);

/** Texts that the rules have something to do with. */
const awkwardText = fc
  .array(
    fc.oneof(
      fc.constantFrom(...['#', '＃', '_', 'a', 'A', 'b', 'Lu', '1', '.', '!', '/', '&', ' ', '\n', '\t']),
      fc.constantFrom(
        ...[
          'https://',
          'www.',
          'x.y/',
          '#Tag',
          '👍🏽',
          '👨‍👩‍👧',
          '🇫🇷',
          '🇪🇪',
          '🇲',
          '。',
          '\u0301',
          '\u200d',
          'م',
          'ا',
        ],
      ),
      fc.string({ unit: 'grapheme', maxLength: 3 }),
    ),
    { maxLength: 20 },
  )
  .chain((parts) =>
    fc
      .array(fc.nat({ max: 4 }), { minLength: parts.length, maxLength: parts.length })
      .map((counts) => parts.map((part, i) => part.repeat(counts[i])).join('')),
  );

describe('cleanText', () => {
  it.each([
    ['#CamelCase', 'Camel Case'],
    ['#AITools and #MyAI', 'AI Tools and My AI'],
    ['#Web3 #Web3Tools #2024Goals', 'Web3 Web3 Tools 2024 Goals'],
    ['#IAmHappy with my #iPhone', 'I Am Happy with my iPhone'],
    ['#love (#lowercase!)', 'love (lowercase!)'],
    ['#new_york #a_#b', 'new york a_#b'],
    ['##Twice', 'Twice'],
    ['#日本語 #Привет', '日本語 Привет'],
    ['❤️#love', '❤️love'],
    ['#hello#world #AITools＃Web3!', 'hello world AI Tools Web3!'],
    ['#a#1 C#minor#key', 'a#1 C#minor#key'],
  ])('writes the hashtag %s as %s', (text, expected) => {
    expect(cleanText(text)).toBe(expected);
  });

  it.each(['We are #1', 'C#minor', 'it&#x27;s', '#️⃣', 'a # b', 'no.5/#part'])(
    'leaves %s, which has no hashtag',
    (text) => {
      expect(cleanText(text)).toBe(text);
    },
  );

  it.each([
    ['sooooo good!!!!', 'soo good!!'],
    ['wait... what???', 'wait.. what??'],
    ['😂😂😂😂', '😂😂'],
    ['👍🏽👍🏽👍🏽 👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧 🇫🇷🇫🇷🇫🇷', '👍🏽👍🏽 👨‍👩‍👧👨‍👩‍👧 🇫🇷🇫🇷'],
    ['e\u0301e\u0301e\u0301 aaa\u0301', 'e\u0301e\u0301 aaa\u0301'],
    ['شكراااااا', 'شكراا'],
    ['प्याााार', 'प्याार'],
  ])('shortens the repeats of %s to %s', (text, expected) => {
    expect(cleanText(text)).toBe(expected);
  });

  it('takes two regional indicators for one flag', () => {
    expect(cleanText('🇪🇪🇪🇪')).toBe('🇪🇪🇪🇪');
    expect(cleanText('🇲🇲🇲🇲🇲🇲')).toBe('🇲🇲🇲🇲');
    expect(cleanText('🇲🇲🇲🇲🇲🇲🇲🇲🇲')).toBe('🇲🇲🇲🇲🇲');
    // Afghanistan, Réunion twice, and one more: FR FR FR between them is no flag of France.
    expect(cleanText('🇦🇫🇷🇪🇷🇪🇷🇺')).toBe('🇦🇫🇷🇪🇷🇪🇷🇺');
    expect(cleanText('🇦🇫🇷🇫🇷🇫🇷🇺')).toBe('🇦🇫🇷🇫🇷🇫🇷🇺');
  });

  it('ends an address before what no address has', () => {
    expect(cleanText('看https://t.co/aaa。好好好')).toBe('看https://t.co/aaa。好好');
    expect(cleanText('（https://t.co/aaa）！！！')).toBe('（https://t.co/aaa）！！');
    expect(cleanText('<www.fooo.example/xxx>!!!')).toBe('<www.fooo.example/xxx>!!');
    expect(cleanText('https://t.co/aaa😂😂😂')).toBe('https://t.co/aaa😂😂');
    expect(cleanText('https://例え.example/ががが?q=%20ooo#yyy')).toBe(
      'https://例え.example/ががが?q=%20ooo#yyy',
    );
    expect(cleanText('https://t.co/aaa＃Tag')).toBe('https://t.co/aaa＃Tag');
  });

  it('keeps numbers and addresses, but not the marks after an address', () => {
    expect(cleanText('1000000 people, 2.5000')).toBe('1000000 people, 2.5000');
    const address = 'https://site.example/aaa///b?c=ddd#EeeEee';
    expect(cleanText(`See ${address}!!!! (www.fooo.example/xxx)...`)).toBe(
      `See ${address}!! (www.fooo.example/xxx)..`,
    );
    expect(cleanText('short.example/aaaB and user.example/yyy')).toBe(
      'short.example/aaaB and user.example/yyy',
    );
  });

  it('folds white space of every kind', () => {
    expect(cleanText('\uFEFF a\r\n\tb\u00a0 \u3000c \n')).toBe('a b c');
  });

  it('changes nothing when it is done again, and leaves something of a text that is not blank', () => {
    fc.assert(
      fc.property(awkwardText, (text) => {
        const cleaned = cleanText(text);
        expect(cleanText(cleaned)).toBe(cleaned);
        expect(cleaned === '').toBe(text.trim() === '');
      }),
      { numRuns: 3000, seed: 1 },
    );
  });

  it('is done with 100 kB of the texts that are worst for it', () => {
    const worst = [
      'a',
      'ab ',
      '#',
      '#_',
      '#1_',
      'a-',
      'a.',
      'www.!',
      'http://! ',
      '👨‍',
      '🇦',
      '🇦🇧🇨',
      '#a#',
      'www.。',
      '\u0301\u0302',
      ' ',
    ];
    const start = performance.now();
    for (const unit of worst) cleanText(unit.repeat(100_000 / unit.length));
    // They take 0.2 s together; a quadratic rule takes 10 s for one of them.
    expect(performance.now() - start).toBeLessThan(8000);
  });
});

describe('qualityOf', () => {
  it('adds up likes, retweets, reach and timing with the weights of the study', () => {
    const fields = { reply_likes: 10, reply_retweets: 3, reply_author_followers: 2500 };
    expect(qualityOf(record('x', { ...fields, reply_time_diff_seconds: 600 }))).toBeCloseTo(9.6 + 5 + 10, 12);
    expect(qualityOf(record('x', { reply_author_followers: 1e6 }))).toBe(20);
    expect(qualityOf(record('x'))).toBe(0);
  });

  it.each([
    [299, 5],
    [300, 10],
    [7200, 10],
    [7201, 7],
    [undefined, 0],
  ])('gives a reply after %s seconds %s', (reply_time_diff_seconds, expected) => {
    expect(qualityOf(record('x', { reply_time_diff_seconds }))).toBe(expected);
  });
});

describe('cleanRecords', () => {
  const nothingAlike = async (): Promise<Float32Array> => new Float32Array(4);

  it('keeps the better liked of equal replies, whatever their tweets, and of equal ones the earlier', async () => {
    const { records, counts } = await cleanRecords([
      record('Same!!!', { reply_likes: 1, reply_id: 'a' }),
      record('Same!!', { reply_likes: 5, reply_id: 'b', tweet_id: '2' }),
      record('Same!! ', { reply_likes: 5, reply_id: 'c' }),
      record('same!!', { reply_likes: 2, reply_id: 'd' }),
    ]);
    expect(records.map(({ reply_id }) => reply_id)).toEqual(['b', 'd']);
    expect(counts).toEqual({
      ...{ read: 4, exact_duplicates: 2, near_duplicates: 0, kept: 2 },
      changed_texts: { hashtags: 0, repeats: 1, white_space: 1 },
    });
  });

  it('keeps the better liked of replies with a cosine above the threshold', async () => {
    const angles: Record<string, number> = { one: 0, two: 0.3, three: 0.6, four: 1.5 };
    const embed = async (text: string) => Float32Array.of(Math.cos(angles[text]), Math.sin(angles[text]));
    const input = [
      record('one', { reply_likes: 3 }),
      record('two', { reply_likes: 4 }),
      record('three', { reply_likes: 4 }),
      record('four', { reply_likes: 9 }),
    ];
    const near = (threshold: number) => cleanRecords(input, { embed, threshold });
    // cos 0.3 = 0.955, cos 0.6 = 0.825: two stands for one and, first of equals, for three.
    expect(repliesOf((await near(0.9)).records)).toEqual(['four', 'two']);
    expect((await near(0.9)).counts).toMatchObject({ exact_duplicates: 0, near_duplicates: 2, kept: 2 });
    expect((await near(0.96)).counts.near_duplicates).toBe(0);
  });

  it('orders by quality, highest first, equal ones as they came', async () => {
    const { records } = await cleanRecords([
      record('plain'),
      record('in time', { reply_time_diff_seconds: 400 }),
      record('liked', { reply_likes: 100 }),
      record('plain too'),
    ]);
    expect(repliesOf(records)).toEqual(['liked', 'in time', 'plain', 'plain too']);
  });

  it('keeps the input order where nobody was liked', async () => {
    const replies = ['c', 'a', 'd', 'b'];
    const { records } = await cleanRecords(replies.map((reply) => record(reply)));
    expect(repliesOf(records)).toEqual(replies);
  });

  it('takes no record, one record, and identical replies', async () => {
    expect((await cleanRecords([])).counts).toMatchObject({ read: 0, kept: 0 });
    const near = { embed: nothingAlike, threshold: 0.9 };
    expect((await cleanRecords([record('alone')], near)).counts.kept).toBe(1);
    const identical = Array.from({ length: 50 }, () => record('me too'));
    expect((await cleanRecords(identical, near)).counts).toMatchObject({ exact_duplicates: 49, kept: 1 });
  });

  it('cleans tweets as it cleans replies, and keeps every other field', async () => {
    const input = record('Yes', { tweet: '#BigNews!!!', lang: 'en', reply_author: 'x__x___' });
    const { records } = await cleanRecords([input]);
    expect(records).toEqual([{ ...input, tweet: 'Big News!!' }]);
    expect(input.tweet).toBe('#BigNews!!!');
  });

  it('keeps emoji, right-to-left and very long replies, of which it drops a near-duplicate', async () => {
    const long = `long ${'word and other words '.repeat(5000)}end`;
    const replies = ['😂😂', '👍🏽', 'شكرا جزيلا لكم يا اصدقائي', 'שלום לכולם', long];
    const repeats = [`${long} ok`, 'شكرا جزيلا لكم يا اصدقائي!'];
    const { embed } = lexicalEmbedder();
    const input = [...replies, ...repeats].map((reply) => record(reply));
    const { records, counts } = await cleanRecords(input, { embed, threshold: 0.85 });
    expect(repliesOf(records)).toEqual(replies);
    expect(counts).toMatchObject({ exact_duplicates: 0, near_duplicates: 2 });
  });

  it.each([
    [{ reply_likes: NaN }, 'record 2: reply_likes is NaN; expected an integer >= 0.'],
    [{ reply_likes: Infinity }, 'record 2: reply_likes is Infinity; expected an integer >= 0.'],
    [{ reply_retweets: -1 }, 'record 2: reply_retweets is -1; expected an integer >= 0.'],
    [{ reply_author_followers: NaN }, 'record 2: reply_author_followers is NaN; expected an integer >= 0.'],
  ])('refuses %j, which no order of quality could hold', async (change, message) => {
    const input = [record('a'), { ...record('b'), ...change }];
    await expect(cleanRecords(input)).rejects.toThrow(new DataError(message));
  });

  it('stops while it normalises texts when its signal is aborted', async () => {
    const abort = new AbortController();
    const many = Array.from({ length: 50_000 }, (_, i) => record(`a reply ${i}`));
    setImmediate(() => abort.abort(new Error('enough')));
    await expect(cleanRecords(many, undefined, abort.signal)).rejects.toThrow('enough');
  });

  it('drops what it counts, for any records', async () => {
    const anyRecord = fc
      .record({
        reply: fc.constantFrom('a', 'b', ' a', 'aaa', 'aa', '#A', 'A'),
        reply_likes: fc.nat({ max: 3 }),
      })
      .map(({ reply, reply_likes }) => record(reply, { reply_likes }));
    await fc.assert(
      fc.asyncProperty(fc.array(anyRecord), async (input) => {
        const { records, counts } = await cleanRecords(input, { embed: nothingAlike, threshold: 0.9 });
        expect(counts.read).toBe(input.length);
        expect(counts.exact_duplicates + counts.near_duplicates + counts.kept).toBe(input.length);
        expect(records).toHaveLength(counts.kept);
        expect(new Set(repliesOf(records))).toEqual(new Set(input.map(({ reply }) => cleanText(reply))));
      }),
    );
  });
});
