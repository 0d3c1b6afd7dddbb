import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import type { ReplyEvaluation } from '../eval/replies';
import { DataError } from '../runtime/errors';
import { changedPrompts, varietyRows } from './comparison';
import { readSmallTest } from './output';

/** An evaluation of tweets with the rewards and replies that they are given. */
function evaluation(prompts: readonly { reward?: number; replies: string[] }[]): ReplyEvaluation {
  return {
    prompts: prompts.map(({ reward = 0.5, replies }, i) => ({
      id: `t${i}`,
      tweet: `tweet ${i}`,
      reward,
      replies,
    })),
    ...{ reward: 0.5, components: {}, characters: 10, tokens: 3, truncatedShare: 0, distinct2: null, kl: 0 },
  };
}

const repliesOf = (...groups: string[][]): ReplyEvaluation =>
  evaluation(groups.map((replies) => ({ replies })));

describe('varietyRows', () => {
  it('measures self-BLEU inside a tweet and distinct n-grams over all of them, before and after', () => {
    const before = repliesOf(['a b c d', 'e f g h'], ['a b', 'c d']);
    const after = repliesOf(['a b c d', 'a b c d'], ['a b c d', 'a b c d']);
    const rows = varietyRows({ before, after });
    expect(rows.map(({ measure }) => measure)).toEqual([
      'self-BLEU-4',
      'distinct-1',
      'distinct-2',
      'distinct-3',
    ]);
    expect(rows[0]).toMatchObject({ before: 0, after: 1 });
    // Before: 12 words of 8, bigrams ab bc cd ef fg gh ab cd, trigrams abc bcd efg fgh.
    expect(rows.slice(1).map((row) => row.before)).toEqual([8 / 12, 6 / 8, 1]);
    expect(rows.slice(1).map((row) => row.after)).toEqual([4 / 16, 3 / 12, 2 / 8]);
  });

  it('never compares replies to different tweets by self-BLEU, and averages over tweets', () => {
    const alike = repliesOf(['a b c d', 'e f g h'], ['a b c d', 'e f g h']);
    const half = repliesOf(['a b c d', 'a b c d'], ['a b c d', 'e f g h'], ['a b c d']);
    expect(varietyRows({ before: alike, after: half })[0]).toMatchObject({ before: 0, after: 0.5 });
  });

  it('has no value where there is nothing to measure', () => {
    const rows = varietyRows({ before: repliesOf(['word'], ['other']), after: repliesOf(['', ''], ['']) });
    expect(rows.map(({ before }) => before)).toEqual([null, 1, null, null]);
    expect(rows.slice(1).map(({ after }) => after)).toEqual([null, null, null]);
  });
});

describe('changedPrompts', () => {
  const rewards = (values: readonly number[], word: string): ReplyEvaluation =>
    evaluation(values.map((reward, i) => ({ reward, replies: [`${word} ${i}`, 'another'] })));
  const before = rewards([0.5, 0.5, 0.5, 0.5, 0.5], 'before');
  const after = rewards([0.75, 0.25, 0.5, 1, 0], 'after');
  const tweetsOf = (count?: number): string[] =>
    changedPrompts({ before, after }, count).map(({ tweet }) => tweet.replace('tweet ', ''));

  it('lists every tweet by its change, with the first reply to it before and after', () => {
    expect(tweetsOf()).toEqual(['3', '0', '2', '1', '4']);
    expect(changedPrompts({ before, after })[0]).toEqual({
      ...{ tweet: 'tweet 3', change: 0.5, 'reply before': 'before 3', 'reply after': 'after 3' },
    });
    expect(tweetsOf(5)).toHaveLength(5);
  });

  it('takes gains from the top and losses from the bottom where there are more than asked for', () => {
    expect(tweetsOf(4)).toEqual(['3', '0', '1', '4']);
    expect(tweetsOf(3)).toEqual(['3', '0', '4']);
    expect(tweetsOf(2)).toEqual(['3', '4']);
    expect(tweetsOf(1)).toEqual(['3']);
    expect(tweetsOf(0)).toEqual([]);
  });

  it('shows ten tweets where no number is asked for', () => {
    const many = (values: number[]): ReplyEvaluation => rewards(values, 'reply');
    const rows = changedPrompts({
      before: many(Array<number>(30).fill(0.5)),
      after: many(Array.from({ length: 30 }, (_, i) => i / 30)),
    });
    expect(rows.map(({ tweet }) => Number(tweet.replace('tweet ', '')))).toEqual([
      29, 28, 27, 26, 25, 4, 3, 2, 1, 0,
    ]);
    expect(rows.filter(({ change }) => change < 0)).toHaveLength(5);
  });
});

describe('readSmallTest', () => {
  it('gives the result that a test left in its directory', () => {
    const directory = temporaryDirectory();
    const result = { before: repliesOf(['a']), criteria: [{ name: 'memory', passed: true }] };
    writeFileSync(path.join(directory, 'result.json'), JSON.stringify(result));
    expect(readSmallTest(directory)).toEqual(result);
  });

  it('says how to make one where there is none, and names a file that is damaged', () => {
    const directory = path.join(temporaryDirectory(), 'run');
    expect(() => readSmallTest(directory)).toThrow(DataError);
    expect(() => readSmallTest(directory)).toThrow(/run\/result\.json: there is no such result.*notebook 01/);
    mkdirSync(directory);
    writeFileSync(path.join(directory, 'result.json'), '{"before":');
    expect(() => readSmallTest(directory)).toThrow(DataError);
    expect(() => readSmallTest(directory)).toThrow(/run\/result\.json/);
  });
});
