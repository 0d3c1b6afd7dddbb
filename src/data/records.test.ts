import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { DataError } from '../runtime/errors';
import { engagementOf, parseRecord, parserOf, replyLengthOf } from './records';

const least = { tweet_id: '1', tweet: 'rain again', reply: 'bring a boat' };

describe('parseRecord', () => {
  it('takes the three required fields and sets likes and retweets to 0', () => {
    const zeros = { tweet_likes: 0, tweet_retweets: 0, reply_likes: 0, reply_retweets: 0 };
    expect(parseRecord(least)).toEqual({ ...least, ...zeros });
  });

  it('reads null as missing and keeps fields that it does not know', () => {
    const record = parseRecord({ ...least, reply_author: null, reply_likes: null, note: { a: [1] } });
    expect(record.reply_author).toBeUndefined();
    expect(record.reply_likes).toBe(0);
    expect(JSON.parse(JSON.stringify(record))).toMatchObject({ note: { a: [1] } });
  });

  it('takes white space around an id for no part of it', () => {
    expect(parseRecord({ ...least, tweet_id: ' 12', reply_id: '\t7 ' })).toMatchObject({
      tweet_id: '12',
      reply_id: '7',
    });
  });

  it('turns ids that are numbers into strings, and refuses numbers that have been rounded', () => {
    expect(parseRecord({ ...least, tweet_id: 77, reply_id: 78 })).toMatchObject({
      tweet_id: '77',
      reply_id: '78',
    });
    expect(() => parseRecord({ ...least, tweet_id: 2 ** 60 })).toThrow(
      /tweet_id is 1152921504606847000; expected a string/,
    );
  });

  it.each([
    [{ reply_likes: '12k' }, 'reply_likes is "12k"; expected an integer >= 0'],
    [{ reply_likes: -1 }, 'reply_likes is -1; expected an integer >= 0'],
    [{ tweet_likes: 1.5 }, 'tweet_likes is 1.5; expected an integer >= 0'],
    [{ reply_author_followers: 'many' }, 'reply_author_followers is "many"; expected an integer >= 0'],
    [{ tweet: undefined }, 'tweet is missing; expected a text'],
    [{ reply: ' \n' }, 'reply is " \\n"; expected a text that is not blank'],
    [{ reply: 5 }, 'reply is 5; expected a text'],
    [{ tweet_id: '' }, 'tweet_id is ""; expected a string that is not blank, or an integer below 2^53'],
    [
      { reply_id: ' \t' },
      'reply_id is " \\t"; expected a string that is not blank, or an integer below 2^53',
    ],
    [{ reply_likes: Infinity }, 'reply_likes is Infinity; expected an integer >= 0'],
    [{ tweet_likes: NaN }, 'tweet_likes is NaN; expected an integer >= 0'],
    [{ reply_created_at: 3 }, 'reply_created_at is 3; expected a text'],
    [{ reply_time_diff_seconds: 'soon' }, 'reply_time_diff_seconds is "soon"; expected a number of seconds'],
  ])('says what came and what was expected of %j', (change, message) => {
    expect(() => parseRecord({ ...least, ...change })).toThrow(new DataError(message));
  });

  it('names a line that is no object, and cuts a long value', () => {
    expect(() => parseRecord([1])).toThrow(
      'the line is [1]; expected an object with tweet_id, tweet and reply',
    );
    expect(() => parseRecord({ ...least, reply_likes: 'x'.repeat(500) })).toThrow(/^.{0,120}$/);
  });
});

describe('parserOf', () => {
  it('gives the messages of any schema the same form', () => {
    const parse = parserOf(z.object({ texts: z.array(z.string()) }));
    expect(parse({ texts: ['a'] })).toEqual({ texts: ['a'] });
    expect(() => parse({ texts: ['a', 3] })).toThrow(/^texts.1 is 3; expected string$/);
    expect(() => parserOf(z.string().min(2))('a')).toThrow(
      /^the line is "a"; expected string to have >=2 char/,
    );
  });
});

describe('what is derived from a record', () => {
  it('has engagement relative to the likes of the tweet, which count as at least 1', () => {
    expect(engagementOf({ reply_likes: 3, tweet_likes: 12 })).toBe(0.25);
    expect(engagementOf({ reply_likes: 3, tweet_likes: 0 })).toBe(3);
  });

  it('has a length in code points without the white space around', () => {
    expect(replyLengthOf({ reply: '  hé 🎉\n' })).toBe(4);
  });
});
