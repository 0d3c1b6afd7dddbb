import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { mean, options as evaluation, repliesOf } from '../../test/evaluation-task';
import { dataOf, failureOf, openEndpoint, startJudge } from '../../test/judge-server';
import type { Behaviour, ChatRequest, JudgeServer } from '../../test/judge-server';
import { percentileInterval, resampleIndices } from '../metrics/statistics';
import { JUDGE_CRITERIA } from '../rewards/judge';
import { JudgeError } from '../rewards/judge-error';
import { ConfigError } from '../runtime/errors';
import { judgeModels } from './judge-models';
import type { Judge, JudgeReport } from './judge-models';
import type { ModelReplies } from './model-replies';
import { evaluateModels } from './suite';

const EQUAL = { engagement: 0.25, relevance: 0.25, creativity: 0.25, naturalness: 0.25 };
const options = { seed: 7, resamples: 80 };

/** Grades a reply by the numbers at its end, one for all criteria or four: `tea 7` or `tea 7 3 3 9`. */
function grading({ first_reply, second_reply }: Record<string, string>): Behaviour {
  const read = (reply: string): Record<string, number> => {
    const numbers = (reply.match(/\d+/g) ?? []).map(Number);
    return Object.fromEntries(JUDGE_CRITERIA.map((each, i) => [each, numbers[i] ?? numbers[0]]));
  };
  return { content: JSON.stringify({ first: read(first_reply), second: read(second_reply) }) };
}
const fair = (request: ChatRequest): Behaviour => grading(dataOf(request));
/** Prefers what it reads first, whatever that is. */
const biased = (): Behaviour => grading({ first_reply: '8', second_reply: '3' });

function judgeOf({ baseUrl }: JudgeServer, weights = EQUAL, cache = temporaryDirectory()): Judge {
  const { endpoint } = openEndpoint(baseUrl, { config: { cache_directory: cache, max_retries: 0 } });
  return { endpoint, name: 'big', weights };
}
/** A model that writes `NAME GRADE` to each tweet, and worse afterwards. */
const graded = (name: string, grades: readonly (number | string)[], seed?: number): ModelReplies =>
  repliesOf(
    name,
    grades.map((grade) => [
      `${name}${seed === undefined ? '' : `-${'xyz'[seed]}`} ${grade}`,
      'never shown 1',
    ]),
    { seed },
  );
const byName = (...models: ModelReplies[]): Map<string, ModelReplies[]> => {
  const names = [...new Set(models.map(({ name }) => name))];
  return new Map(names.map((name) => [name, models.filter((model) => model.name === name)]));
};
async function judged(...models: ModelReplies[]): Promise<{ report: JudgeReport; server: JudgeServer }> {
  const server = await startJudge(fair);
  return { report: await judgeModels(byName(...models), judgeOf(server), options), server };
}
/** What the judge read, by tweet. */
const shown = ({ requests }: JudgeServer): [string, string, string][] =>
  requests.map((request) => {
    const { tweet, first_reply, second_reply } = dataOf(request);
    return [tweet, first_reply, second_reply];
  });

describe('models before a judge', () => {
  it('are judged two by two, b against a in the order of the models, on one reply to each tweet', async () => {
    const { report, server } = await judged(
      graded('one', [3, 6, 9, 2]),
      graded('two', [8, 6, 2, 5]),
      graded('three', [9, 9, 10, 1]),
    );
    expect(report.pairs.map(({ a, b, n, outcomes }) => [a, b, n, outcomes])).toEqual([
      ['one', 'two', 4, { win: 2, tie: 1, loss: 1 }],
      ['one', 'three', 4, { win: 3, tie: 0, loss: 1 }],
      ['two', 'three', 4, { win: 3, tie: 0, loss: 1 }],
    ]);
    expect(report.pairs.map(({ win_rate: rate }) => rate.value)).toEqual([2.5 / 4, 3 / 4, 3 / 4]);
    expect(report.pairs[0].criteria.relevance).toEqual({ a: mean([3, 6, 9, 2]), b: mean([8, 6, 2, 5]) });
    expect([report.model, report.weights]).toEqual(['big', EQUAL]);
    expect(server.requests).toHaveLength(3 * 4);
    expect(shown(server).flat().join()).not.toContain('never shown');
    for (const [tweet, first, second] of shown(server)) {
      const t = Number(/\d+$/.exec(tweet)?.[0]);
      const pair = [first, second].map((text) => text.split(' '));
      const grades: Record<string, number[]> = { one: [3, 6, 9, 2], two: [8, 6, 2, 5], three: [9, 9, 10, 1] };
      for (const [name, grade] of pair) expect(Number(grade)).toBe(grades[name][t]);
    }
  });

  it('have the interval of their win rate over tweets, from resamples drawn one by one', async () => {
    const [a, b] = [
      [3, 6, 9, 2, 4, 4, 7],
      [8, 6, 2, 5, 5, 4, 6],
    ];
    const { report } = await judged(graded('a', a), graded('b', b));
    const points = b.map((grade, t) => (Math.sign(grade - a[t]) + 1) / 2);
    const drawn = [...resampleIndices(7, 80, 7)].map((row) => mean(Array.from(row, (t) => points[t])));
    const { value, ci } = report.pairs[0].win_rate;
    expect(value).toBeCloseTo(mean(points), 12);
    percentileInterval(drawn).forEach((bound, i) => expect(ci[i]).toBeCloseTo(bound, 12));
  });

  it('stand in an order drawn for each tweet: a judge that prefers the first one has no model win', async () => {
    const [server, many] = [await startJudge(biased), Array.from({ length: 40 }, () => 5)];
    const models = byName(graded('a', many), graded('b', many));
    const { pairs } = await judgeModels(models, judgeOf(server), options);
    const firsts = shown(server).map(([, first]) => first.split(' ')[0]);
    for (const name of ['a', 'b']) {
      expect(firsts.filter((first) => first === name).length).toBeGreaterThan(10);
    }
    const [{ outcomes, first_position_win_share: share, win_rate: rate }] = pairs;
    expect(share).toBe(1);
    expect(outcomes).toEqual({
      ...{ win: firsts.filter((first) => first === 'b').length, tie: 0 },
      loss: firsts.filter((first) => first === 'a').length,
    });
    expect(rate.value).toBe(outcomes.win / 40);
    // Of a fair judge about half; of one that calls all the same there is none.
    const other = await judged(
      graded('a', many),
      graded(
        'b',
        many.map(() => 6),
      ),
    );
    const fairShare = other.report.pairs[0].first_position_win_share as number;
    expect(fairShare).toBeCloseTo(firsts.filter((first) => first === 'b').length / 40, 12);
    expect((await judged(graded('a', many), graded('b', many))).report.pairs[0]).toMatchObject({
      ...{ first_position_win_share: null, outcomes: { win: 0, tie: 40, loss: 0 } },
      win_rate: { value: 0.5, ci: [0.5, 0.5] },
    });
  });

  it('are weighed by the criteria as the judge is told', async () => {
    const server = await startJudge(fair);
    const models = byName(graded('a', ['9 2 2 2', '9 2 2 2']), graded('b', ['5 3 3 3', '5 3 3 3']));
    const weighed = { engagement: 0.7, relevance: 0.1, creativity: 0.1, naturalness: 0.1 };
    const cache = temporaryDirectory();
    const [equal, other] = [
      await judgeModels(models, judgeOf(server, EQUAL, cache), options),
      await judgeModels(models, judgeOf(server, weighed, cache), options),
    ];
    // (9 + 6) / 4 against (5 + 9) / 4; with weights 6.9 against 4.4.
    expect([equal, other].map(({ pairs }) => pairs[0].outcomes.loss)).toEqual([2, 2]);
    const creative = { engagement: 0.1, relevance: 0.3, creativity: 0.3, naturalness: 0.3 };
    const third = await judgeModels(models, judgeOf(server, creative, cache), options);
    expect(third.pairs[0].outcomes).toEqual({ win: 2, tie: 0, loss: 0 });
    expect(third.pairs[0].criteria.engagement).toEqual({ a: 9, b: 5 });
    // Grades are of the replies: weights ask nothing anew.
    expect(server.requests).toHaveLength(2);
  });

  it('of several runs show a reply of each run in turn', async () => {
    const grades = [5, 5, 5, 5, 5];
    const runs = [0, 1, 2].map((seed) => graded('m', grades, seed));
    const { report, server } = await judged(...runs, graded('other', grades));
    expect(report.pairs).toHaveLength(1);
    const own = new Map(
      shown(server).map(([tweet, ...pair]) => [tweet, pair.find((text) => text.startsWith('m'))]),
    );
    expect(tweetsOf(5).map((tweet) => own.get(tweet))).toEqual(['m-x 5', 'm-y 5', 'm-z 5', 'm-x 5', 'm-y 5']);
  });

  it('have no pairs where there is one model, of which nothing is asked', async () => {
    const { report, server } = await judged(graded('m', [5, 6]));
    expect([report.pairs, server.requests.length]).toEqual([[], 0]);
  });
});

const tweetsOf = (n: number): string[] => Array.from({ length: n }, (_, t) => `tweet number ${t}`);

describe('the judge of an evaluation', () => {
  const models = [graded('a', [3, 6, 9]), graded('b', [8, 7, 2], 0), graded('b', [9, 7, 2], 1)];
  const run = (judge?: Judge, own = {}) => evaluateModels(models, { ...evaluation, ...own, judge });

  it('changes nothing but its own part, which is null without one', async () => {
    const server = await startJudge(fair);
    const [without, within] = [await run(), await run(judgeOf(server))];
    expect(without.judge).toBeNull();
    const { judge, ...rest } = within;
    expect({ ...rest, judge: null }).toEqual(without);
    expect(judge?.pairs.map(({ a, b, outcomes }) => [a, b, outcomes])).toEqual([
      ['a', 'b', { win: 2, tie: 0, loss: 1 }],
    ]);
    expect(judge?.pairs[0]).toEqual(
      (await judgeModels(byName(...models), judgeOf(await startJudge(fair)), { seed: 7, resamples: 100 }))
        .pairs[0],
    );
  });

  it('goes on from its cache, also after it failed', async () => {
    let broken = true;
    const server = await startJudge((request, n) =>
      broken && n >= 2 ? { status: 503, body: '{}' } : fair(request),
    );
    const cache = temporaryDirectory();
    const error = await failureOf(run(judgeOf(server, EQUAL, cache)));
    expect(error).toBeInstanceOf(JudgeError);
    broken = false;
    const asked = server.requests.length;
    const { judge } = await run(judgeOf(server, EQUAL, cache));
    expect(server.requests.length - asked).toBe(3 - 2);
    expect(await run(judgeOf(server, EQUAL, cache))).toMatchObject({ judge });
    expect(server.requests.length - asked).toBe(1);
  });

  it('is not asked about one model or one tweet', async () => {
    const server = await startJudge(fair);
    const judge = judgeOf(server);
    const rows = [['tea #0.1'], ['milk #0.2']];
    for (const [given, message] of [
      [[repliesOf('a', rows)], 'compares models, and there is one'],
      [[repliesOf('a', [rows[0]]), repliesOf('b', [rows[1]])], 'was asked about one tweet'],
    ] as const)
      await expect(evaluateModels(given, { ...evaluation, judge })).rejects.toThrow(message);
    expect(server.requests).toHaveLength(0);
  });

  it('is not asked for weights that do not sum to 1', async () => {
    const server = await startJudge(fair);
    await expect(run(judgeOf(server, { ...EQUAL, relevance: 0.5 }))).rejects.toThrow(ConfigError);
    expect(server.requests).toHaveLength(0);
  });
});
