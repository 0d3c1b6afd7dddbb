import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenPath } from '../../test/golden';
import { parseRecord } from '../data/records';
import type { TweetRecord } from '../data/records';
import { loadTokenizer } from '../model/tokenizer';
import { choosePrompts, FIFTH, holdOut } from './data';

const record = (id: string | number, tweet: string, reply = 'yes'): TweetRecord =>
  parseRecord({ tweet_id: String(id), tweet, reply });

const many = (n: number, perTweet = 3): TweetRecord[] =>
  Array.from({ length: n }, (_, i) => {
    const tweet = Math.floor(i / perTweet);
    return record(`t${tweet}`, `tweet ${tweet}`, `reply ${i}`);
  });

function expectNoOverlap(training: readonly TweetRecord[], heldOut: readonly TweetRecord[]): void {
  const ids = new Set(training.map(({ tweet_id: id }) => id));
  const texts = new Set(training.map(({ tweet }) => tweet.trim().toLowerCase()));
  for (const { tweet_id: id, tweet } of heldOut) {
    expect(ids.has(id)).toBe(false);
    expect(texts.has(tweet.trim().toLowerCase())).toBe(false);
  }
}

describe('the held-out tweets of the small test', () => {
  it.each([40, 100, 102, 400])('share no tweet with training (%i records)', (n) => {
    const { training, heldOut } = holdOut(many(n), undefined, 1);
    expect(heldOut.length).toBeGreaterThan(0);
    expect(training.length).toBeLessThanOrEqual(100);
    expectNoOverlap(training, heldOut);
  });

  it('share neither id nor text with training, however records repeat them', () => {
    const few = fc.integer({ min: 0, max: 12 });
    const text = fc.constantFrom('Tea', 'tea ', ' TEA', 'rain', 'Rain', 'bread', 'salt', 'snow');
    const list = fc.array(fc.tuple(few, text), { minLength: 1, maxLength: 130 });
    fc.assert(
      fc.property(list, fc.option(list, { nil: undefined }), fc.nat(), (rows, evaluation, seed) => {
        const records = rows.map(([id, tweet]) => record(id, tweet));
        const result = holdOut(
          records,
          evaluation?.map(([id, tweet]) => record(id, tweet)),
          seed,
        );
        expectNoOverlap(result.training, result.heldOut);
        if (result.source === FIFTH)
          expect(result.training.length + result.heldOut.length).toBe(Math.min(100, records.length));
      }),
      { numRuns: 200, seed: 1 },
    );
  });

  it('leave out evaluation records that training has, and count them', () => {
    const training = many(10);
    const evaluation = [training[0], record('new', 'TWEET  1'), record('t2', 'other'), record('a', 'b')];
    const result = holdOut(training, evaluation, 1);
    expect(result.heldOut).toEqual([evaluation[3]]);
    expect(result.dropped).toBe(3);
    expect(result.training).toEqual(training);
  });

  it('come from a fifth of the tweets when fewer than 2 new ones follow the first 100 records', () => {
    const first = many(100, 4);
    const repeated = [...first, first[0], record('new', 'one new tweet'), record('new', 'one new tweet')];
    const { training, heldOut, source, dropped } = holdOut(repeated, undefined, 1);
    expect(source).toBe(FIFTH);
    expect(dropped).toBe(1);
    expect([training.length, heldOut.length]).toEqual([80, 20]);
    expect(holdOut([...repeated, record('n2', 'another')], undefined, 1).source).not.toBe(FIFTH);
  });

  it('depend on the seed where they are drawn', () => {
    const ids = (seed: number) => holdOut(many(60), undefined, seed).heldOut.map((one) => one.tweet_id);
    expect(ids(1)).toEqual(ids(1));
    expect(ids(1)).not.toEqual(ids(2));
  });
});

describe('the held-out prompts', () => {
  const choice = { count: 3, maxLength: 90, file: 'held.jsonl' };
  const choose = async (heldOut: TweetRecord[], over = {}) => {
    const tokenizer = await loadTokenizer(goldenPath('tiny-qwen3', 'tied-f32'));
    return choosePrompts({ heldOut, dropped: 7 }, tokenizer, { ...choice, ...over });
  };
  const long = record('long', 'word '.repeat(200));

  it('are one for each tweet, in order, those that are too long passed over and counted', async () => {
    const records = [long, record(1, 'a'), record(1, 'a'), record(2, 'A'), record(3, 'b'), record(4, 'c')];
    const { prompts, tooLong } = await choose([...records, record(5, 'd')]);
    expect(prompts.map(({ id }) => id)).toEqual(['1', '3', '4']);
    expect(tooLong).toBe(1);
  });

  it('are not looked at beyond those that are needed', async () => {
    const { prompts, tooLong } = await choose([record(1, 'a'), record(2, 'b'), long], { count: 2 });
    expect([prompts.length, tooLong]).toEqual([2, 0]);
  });

  it('are refused when there are fewer than two, with the reasons', async () => {
    await expect(choose([record(1, 'a'), long])).rejects.toThrow(
      /held\.jsonl: 1 held-out tweets; expected at least 2.*7 records of training's tweets, 1 tweets of 90 tokens/,
    );
  });
});
