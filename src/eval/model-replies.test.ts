import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { jsonLines, temporaryDirectory, temporaryFile } from '../../test/cli';
import { repliesOf } from '../../test/evaluation-task';
import { parseRecord } from '../data/records';
import { DataError } from '../runtime/errors';
import { alignModels, readModelReplies, referencesOf } from './model-replies';
import type { ModelReplies } from './model-replies';

const line = (id: unknown, generations: unknown, extra = {}) => ({
  ...{ tweet_id: id, tweet: `tweet ${String(id)}`, generations },
  ...extra,
});
const fileOf = (...lines: unknown[]): string => temporaryFile('replies.jsonl', jsonLines(lines));

describe('reading replies', () => {
  it('takes texts, and what generate prints of them, in the order of the file', async () => {
    const printed = { text: 'two', token_ids: [1], log_probs: [-1], finish_reason: 'stop' };
    const file = fileOf(line('b', ['one', printed]), line('a', ['three'], { greedy: 'four', model: 'x' }));
    expect(await readModelReplies('m', file, { seed: 3 })).toEqual({
      ...{ name: 'm', seed: 3 },
      tweets: [
        { tweet_id: 'b', tweet: 'tweet b', generations: ['one', 'two'] },
        { tweet_id: 'a', tweet: 'tweet a', generations: ['three'], greedy: 'four' },
      ],
    });
  });

  it('keeps the digits of ids, and takes numbers for texts', async () => {
    const text = '{"tweet_id": 1234567890123456789, "tweet": "t", "generations": ["r"]}\n';
    const { tweets } = await readModelReplies(
      'm',
      temporaryFile('r.jsonl', `${text}${jsonLines([line(7, ['x'])])}`),
    );
    expect(tweets.map(({ tweet_id: id }) => id)).toEqual(['1234567890123456789', '7']);
  });

  it('keeps replies that are empty, and those that are the same', async () => {
    const { tweets } = await readModelReplies('m', fileOf(line('a', ['', 'x', 'x'])));
    expect(tweets[0].generations).toEqual(['', 'x', 'x']);
    expect((await readModelReplies('m', fileOf(line('a', [''], { greedy: null })))).tweets[0].greedy).toBe(
      undefined,
    );
  });

  it('keeps the likelihood of each reply, and takes files without any', async () => {
    const drawn = [{ log_prob: -1.5, tokens: 2 }, null];
    const file = fileOf(
      line('a', ['x', 'y'], { drawn }),
      line('b', ['x']),
      line('c', ['x'], { drawn: null }),
      line('d', ['x'], { drawn: [{ log_prob: 0, tokens: 1 }] }),
    );
    const { tweets } = await readModelReplies('m', file);
    expect(tweets.map((tweet) => tweet.drawn)).toEqual([
      ...[drawn, undefined, undefined, [{ log_prob: 0, tokens: 1 }]],
    ]);
  });

  it.each([
    [
      { log_prob: -1, tokens: 1 },
      'drawn is {"log_prob":-1,"tokens":1}; expected log_prob and tokens of each',
    ],
    [[null, null], 'drawn is [null,null]; expected as many entries as there are generations'],
    [[], 'drawn is []; expected as many entries as there are generations'],
    [[-1.5], 'drawn.0 is -1.5; expected log_prob and tokens alone, or null'],
    [[{ log_prob: 0.5, tokens: 1 }], 'drawn.0.log_prob is 0.5; expected a number <= 0'],
    [[{ log_prob: -1, tokens: 0 }], 'drawn.0.tokens is 0; expected an integer >= 1'],
    [[{ log_prob: -1, tokens: 1.5 }], 'drawn.0.tokens is 1.5; expected'],
    [[{ log_prob: '-1', tokens: 1 }], 'drawn.0.log_prob is "-1"; expected'],
    [[{ log_prob: -1 }], 'drawn.0.tokens is missing'],
    [
      [{ log_prob: -1, tokens: 1, n: 2 }],
      'drawn.0 is {"log_prob":-1,"tokens":1,"n":2}; expected log_prob and',
    ],
  ])('refuses as the likelihoods of one reply %j', async (drawn, message) => {
    const file = fileOf(line('a', ['x'], { drawn }));
    await expect(readModelReplies('m', file)).rejects.toThrow(`${file}:1: ${message}`);
  });

  it.each([
    ['no list', line('b', 'x'), 'generations is "x"; expected a list of replies'],
    ['an empty list', line('b', []), 'generations is []; expected at least one reply'],
    [
      'a number for a reply',
      line('b', ['x', 3]),
      'generations.1 is 3; expected a text, or an object with text',
    ],
    [
      'an object without text',
      line('b', [{ txt: 'x' }]),
      'generations.0 is {"txt":"x"}; expected a text, or an object with text',
    ],
    ['no tweet', { tweet_id: 'b', generations: ['x'] }, 'tweet is missing; expected a text'],
    ['no id', { tweet: 't', generations: ['x'] }, 'tweet_id is missing; expected a text that is not blank'],
    ['a blank id', line(' ', ['x']), 'tweet_id is " "; expected a text that is not blank, or an integer'],
    ['a number', 12, 'the line is 12; expected'],
    ['the first tweet again', line('a', ['y']), 'tweet a comes a second time'],
  ])('refuses a line with %s, naming file and line', async (_, bad, message) => {
    const file = fileOf(line('a', ['x']), bad);
    const reading = readModelReplies('m', file);
    await expect(reading).rejects.toThrow(DataError);
    await expect(reading).rejects.toThrow(`${file}:2: ${message}`);
  });

  it('refuses a line that is no JSON, a file without lines, and one that is not there', async () => {
    const torn = temporaryFile('torn.jsonl', `${jsonLines([line('a', ['x'])])}{"tweet_id": "b", "gen`);
    await expect(readModelReplies('m', torn)).rejects.toThrow(`${torn}:2: not JSON`);
    const empty = temporaryFile('empty.jsonl', '\n');
    await expect(readModelReplies('grpo', empty)).rejects.toThrow(`${empty}: has no replies of grpo`);
    const missing = `${temporaryDirectory()}/none.jsonl`;
    await expect(readModelReplies('m', missing)).rejects.toThrow(`${missing}: no such file`);
  });

  it('sets bad lines aside where it is told to', async () => {
    const file = fileOf(line('a', ['x']), line('b', []), line('c', ['y']));
    const { tweets } = await readModelReplies('m', file, { skipInvalid: true });
    expect(tweets.map(({ tweet_id: id }) => id)).toEqual(['a', 'c']);
    expect(readFileSync(file.replace('.jsonl', '.rejected.jsonl'), 'utf8')).toContain('"line":2');
  });
});

describe('models on the same tweets', () => {
  const rows = [['a'], ['b'], ['c']];
  const reordered = ({ tweets, ...rest }: ModelReplies, order: readonly number[]): ModelReplies => ({
    ...rest,
    tweets: order.map((i) => tweets[i]),
  });

  it('are put in the order of the first one, whatever their own', () => {
    const [first, second] = [repliesOf('x', rows), repliesOf('y', rows)];
    fc.assert(
      fc.property(fc.shuffledSubarray([0, 1, 2], { minLength: 3 }), (order) => {
        const aligned = alignModels([reordered(first, order), second]);
        expect(aligned.map(({ name }) => name)).toEqual(['x', 'y']);
        for (const { tweets } of aligned)
          expect(tweets.map(({ generations: [text] }) => text)).toEqual(order.map((i) => rows[i][0]));
      }),
      { seed: 1, numRuns: 12 },
    );
  });

  it('are refused where one lacks tweets, has others, or knows them by another text, with the list', () => {
    const full = repliesOf('full', [...rows, ['d'], ['e'], ['f'], ['g'], ['h']]);
    const few = { ...full, name: 'few', tweets: full.tweets.slice(0, 1) };
    expect(() => alignModels([full, few])).toThrow(
      'few and full are on different tweets: it lacks 7 (t1, t2, t3, t4, t5 and 2 more).',
    );
    expect(() => alignModels([few, full])).toThrow('it has 7 others (t1, t2, t3, t4, t5 and 2 more)');
    const moved = { ...few, name: 'moved', tweets: [{ ...few.tweets[0], tweet_id: 'z' }] };
    expect(() => alignModels([few, moved])).toThrow('it lacks 1 (t0); it has 1 others (z).');
    const reworded = { ...few, name: 'other', tweets: [{ ...few.tweets[0], tweet: 'another' }] };
    expect(() => alignModels([few, reworded])).toThrow('1 have another text (t0)');
    expect(() => alignModels([few, reworded])).toThrow(DataError);
  });

  it('are refused where none is given, two have one name, or two runs one seed', () => {
    expect(() => alignModels([])).toThrow('no model to evaluate');
    const [a, b] = [repliesOf('x', rows), repliesOf('x', rows)];
    expect(() => alignModels([a, b])).toThrow('two models are called x; expected different names, or seeds');
    const seeded = [1, 2, 1].map((seed) => repliesOf('x', rows, { seed }));
    expect(() => alignModels(seeded)).toThrow('two models are called x, seed 1');
    expect(alignModels(seeded.slice(0, 2))).toHaveLength(2);
  });

  it('are refused where only some runs of a model have a seed: the spread over seeds would be of unknown ones', () => {
    const runs = [repliesOf('x', rows), repliesOf('x', rows, { seed: 1 }), repliesOf('y', rows)];
    expect(() => alignModels(runs)).toThrow('x has several runs, one without a seed');
  });
});

describe('references', () => {
  it('are the replies of people with the mean of likes over reach', () => {
    const record = (tweet_id: string, reply: string, reply_likes: number, tweet_likes: number) =>
      parseRecord({ tweet_id, tweet: 't', reply, reply_likes, tweet_likes });
    const references = referencesOf([
      record('a', 'first', 10, 100),
      record('b', 'alone', 3, 0),
      record('a', 'second', 30, 100),
    ]);
    expect([...references.keys()]).toEqual(['a', 'b']);
    expect(references.get('a')?.replies).toEqual(['first', 'second']);
    expect(references.get('a')?.engagement).toBeCloseTo((0.1 + 0.3) / 2, 15);
    expect(references.get('b')).toEqual({ replies: ['alone'], engagement: 3 });
  });
});
