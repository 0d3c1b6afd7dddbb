import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { dataOf, startJudge } from '../../test/judge-server';
import type { Behaviour, ChatRequest, JudgeServer } from '../../test/judge-server';
import { ChatEndpoint } from '../rewards/chat-endpoint';
import { chatEndpointSchema } from '../rewards/chat-request';
import { JUDGE_CRITERIA } from '../rewards/judge';
import { ConfigError, ShapeError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { judgePairs } from './judge';
import type { JudgePairsOptions, PairwiseJudgement, RepliesToCompare } from './judge';

function endpointOf(baseUrl: string, cache = temporaryDirectory()): ChatEndpoint {
  const config = { base_url: baseUrl, model: 'm', api_key_env: 'none', cache_directory: cache };
  return new ChatEndpoint(parseStrict(chatEndpointSchema, config, 'judge'), { onNotice: () => undefined });
}

const all = (grade: number): Record<string, number> =>
  Object.fromEntries(JUDGE_CRITERIA.map((each) => [each, grade]));

/** A judge that reads the grade, or the four grades, at the end of a reply, and may favour the first one. */
function fair(request: ChatRequest, favour = 0): Behaviour {
  const { first_reply, second_reply } = dataOf(request);
  const read = (reply: string, extra: number): Record<string, number> => {
    const numbers = (reply.match(/\d+/g) ?? []).map(Number);
    return Object.fromEntries(JUDGE_CRITERIA.map((each, i) => [each, (numbers[i] ?? numbers[0]) + extra]));
  };
  return { content: JSON.stringify({ first: read(first_reply, favour), second: read(second_reply, 0) }) };
}

/** Pairs from [tweet id, A's grade, B's grade]. */
function pairsOf(rows: readonly (readonly [string, number | string, number | string])[]): RepliesToCompare[] {
  return rows.map(([tweetId, a, b]) => ({ tweetId, tweet: `about ${tweetId}`, a: `a ${a}`, b: `b ${b}` }));
}

async function judged(
  rows: Parameters<typeof pairsOf>[0],
  over: Partial<JudgePairsOptions> = {},
): Promise<{ result: PairwiseJudgement; judge: JudgeServer }> {
  const judge = await startJudge((request) => fair(request));
  const options = { seed: 1, resamples: 500, ...over };
  return { result: await judgePairs(endpointOf(judge.baseUrl), pairsOf(rows), options), judge };
}

const MANY = Array.from({ length: 60 }, (_, i) => [`t${i}`, 5, 5] as const);

describe('judgePairs', () => {
  it('counts wins, ties and losses of B over A, wherever each stood', async () => {
    const { result } = await judged([
      ['t1', 3, 8],
      ['t2', 6, 6],
      ['t3', 9, 2],
      ['t4', 1, 2],
    ]);
    expect(result.pairs.map(({ outcome }) => outcome)).toEqual(['win', 'tie', 'loss', 'win']);
    expect(result.outcomes).toEqual({ win: 2, tie: 1, loss: 1 });
    expect(result.winRate).toBe(2.5 / 4);
    expect(result.tweets).toBe(4);
    expect(result.pairs.map(({ grades }) => [grades.a.engagement, grades.b.engagement])).toEqual([
      [3, 8],
      [6, 6],
      [9, 2],
      [1, 2],
    ]);
    const [low, high] = result.interval;
    expect(low).toBeGreaterThanOrEqual(0);
    expect(low).toBeLessThan(result.winRate);
    expect(high).toBeGreaterThan(result.winRate);
    expect(high).toBeLessThanOrEqual(1);
  });

  it('compares each criterion, and the whole by the weights', async () => {
    const rows = [
      ['t1', '9 5 5 5', '1 6 6 6'],
      ['t2', '9 5 5 5', '1 6 6 5'],
    ] as const;
    const { result } = await judged(rows);
    expect(result.outcomes).toEqual({ win: 0, tie: 0, loss: 2 });
    expect(result.criteria.engagement).toEqual({ a: 9, b: 1, outcomes: { win: 0, tie: 0, loss: 2 } });
    expect(result.criteria.naturalness).toEqual({ a: 5, b: 5.5, outcomes: { win: 1, tie: 1, loss: 0 } });
    const weights = { engagement: 0, relevance: 0.4, creativity: 0.3, naturalness: 0.3 };
    expect((await judged(rows, { weights })).result.outcomes).toEqual({ win: 2, tie: 0, loss: 0 });
  });

  it('calls grades that weigh the same a tie, though their sums differ in the last bit', async () => {
    const weights = { engagement: 0.1, relevance: 0.2, creativity: 0.3, naturalness: 0.4 };
    const rows = [
      ['t1', '4 1 1 1', '1 1 2 1'], // 0.1 * 3 and 0.3 * 1 more than the rest
      ['t2', '3 2 1 1', '2 1 2 1'],
    ] as const;
    expect((await judged(rows, { weights })).result.outcomes).toEqual({ win: 0, tie: 2, loss: 0 });
  });

  it('takes the tweet as its unit: many pairs of one weigh as one of another', async () => {
    const { result } = await judged([
      ['t1', '5 5 5 5', '8 8 8 8'],
      ['t1', '5 5 5 6', '8 8 8 9'],
      ['t1', '5 5 5 7', '8 8 8 10'],
      ['t2', 7, 3],
    ]);
    expect(result.tweets).toBe(2);
    expect(result.outcomes).toEqual({ win: 3, tie: 0, loss: 1 });
    expect(result.winRate).toBe(0.5);
    expect(result.criteria.engagement).toMatchObject({ a: 6, b: 5.5 });
  });

  it('draws who stands first by seed and tweet, about half each, whatever else is judged', async () => {
    const { result, judge } = await judged(MANY);
    const firsts = result.pairs.map(({ first }) => first);
    const share = firsts.filter((first) => first === 'a').length / firsts.length;
    expect(share).toBeGreaterThan(0.3);
    expect(share).toBeLessThan(0.7);
    const shown = new Map(
      judge.requests.map((request) => [dataOf(request).tweet, dataOf(request).first_reply]),
    );
    expect(result.pairs.map(({ tweet }) => shown.get(tweet))).toEqual(firsts.map((first) => `${first} 5`));
    const reversed = await judged([...MANY].reverse());
    expect(reversed.result.pairs.map(({ first }) => first).reverse()).toEqual(firsts);
    const other = await judged(MANY, { seed: 2 });
    expect(other.result.pairs.map(({ first }) => first)).not.toEqual(firsts);
  });

  it('shows a judge that favours the first reply by the share that the first one won', async () => {
    const biased = await startJudge((request) => fair(request, 1));
    const result = await judgePairs(endpointOf(biased.baseUrl), pairsOf(MANY), { seed: 1, resamples: 200 });
    expect(result.firstPositionWinShare).toBe(1);
    expect(result.outcomes.tie).toBe(0);
    expect(result.outcomes.win).toBe(result.pairs.filter(({ first }) => first === 'b').length);
  });

  it('has no such share when all are ties, and near half for a fair judge', async () => {
    expect((await judged(MANY)).result.firstPositionWinShare).toBeNull();
    const share = (await judged(MANY.map(([id]) => [id, 4, 8] as const))).result.firstPositionWinShare;
    expect(share).toBeGreaterThan(0.3);
    expect(share).toBeLessThan(0.7);
  });

  it('goes on from the cache', async () => {
    const judge = await startJudge((request) => fair(request));
    const cache = temporaryDirectory();
    const options = { seed: 1, resamples: 100 };
    const first = await judgePairs(endpointOf(judge.baseUrl, cache), pairsOf(MANY.slice(0, 5)), options);
    const again = await judgePairs(endpointOf(judge.baseUrl, cache), pairsOf(MANY.slice(0, 7)), options);
    expect(again.pairs.slice(0, 5)).toEqual(first.pairs);
    expect(judge.requests).toHaveLength(7);
  });

  it('asks again when one reply has no grades', async () => {
    const judge = await startJudge((request, n) => {
      return n === 0 ? { content: JSON.stringify({ first: all(5) }) } : fair(request);
    });
    const pairs = pairsOf([
      ['t1', 3, 8],
      ['t2', 3, 8],
    ]);
    const result = await judgePairs(endpointOf(judge.baseUrl), pairs, { seed: 1, resamples: 10 });
    expect(result.outcomes.win).toBe(2);
    expect(judge.requests).toHaveLength(3);
  });

  it('refuses fewer than two tweets and weights that do not sum to 1, before asking', async () => {
    const judge = await startJudge((request) => fair(request));
    const endpoint = endpointOf(judge.baseUrl);
    for (const rows of [[], [['t1', 1, 2]], [['t1', 1, 2] as const, ['t1', 3, 4] as const]] as const)
      await expect(judgePairs(endpoint, pairsOf(rows), { seed: 1 })).rejects.toThrow(ShapeError);
    const wrong = { seed: 1, weights: { engagement: 1 } };
    await expect(judgePairs(endpoint, pairsOf(MANY), wrong)).rejects.toThrow(ConfigError);
    expect(judge.requests).toHaveLength(0);
  });
});
