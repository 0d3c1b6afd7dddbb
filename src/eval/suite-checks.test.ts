import { describe, expect, it } from 'vitest';
import { mean, near, options, repliesOf, unasked } from '../../test/evaluation-task';
import { ConfigError } from '../runtime/errors';
import { evaluationMarkdown, metricRows } from './report';
import { evaluateModels } from './suite';
import type { EvaluateOptions, Evaluation } from './suite';

/** The truth of a reply is the number before its mark, `true 0.3 tea #0.7`; of tweets of an odd length half of it. */
const examiner = (tweet: string, reply: string): number =>
  Number(/true ([\d.]+)/.exec(reply)?.[1] ?? 0) / (tweet.length % 2 === 0 ? 1 : 2);
const reply = (truth: number, reward: number): string => `true ${truth} tea #${reward}`;

/** Three replies to each of two tweets, "tweet number 0" and "tweet number 1", both of an even length. */
const rows = [
  [reply(0.9, 0.1), reply(0.2, 0.9), reply(0.1, 0.2)],
  [reply(0.8, 0.7), reply(0.7, 0.3), reply(0.9, 0.2)],
];
const FORM = '10 to 300 characters, repetition <= 0.5';
const BY_REWARD = `${FORM}, reward >= 0.6`;
const BY_TRUTH = `${FORM}, world quality >= 0.5`;
const truth = { min_reward: 0, min_world_quality: 0.5 };

const evaluate = (own: Partial<EvaluateOptions>, models = [repliesOf('m', rows)]): Promise<Evaluation> =>
  evaluateModels(models, { ...options, k: [1, 3], resamples: 50, examiner, ...own });

describe('further checks of an evaluation', () => {
  it('have their Pass@k beside that of the first one, which DER, collapse and comparisons follow', async () => {
    const other = repliesOf('other', [rows[1], rows[0]]);
    const models = [repliesOf('m', rows), other];
    const byTruth = await evaluate({ quality: truth, otherQuality: [{}] }, models);
    expect(byTruth.settings).toMatchObject({ quality: BY_TRUTH, other_quality: [BY_REWARD] });
    const { m } = byTruth.models;
    // 1 and 3 of 3 replies are true enough; 1 and 1 of 3 earn enough.
    near(m.pass_at_k[1], mean([1 / 3, 1]));
    near(m.pass_at_k[3], 1);
    expect(Object.keys(m.other_checks)).toEqual([BY_REWARD]);
    near(m.other_checks[BY_REWARD][1], 1 / 3);
    near(m.other_checks[BY_REWARD][3], 1);
    near(m.der_at_k[3], 1 / (3 * mean([1 / 3, 1])));
    // The same two checks the other way round: what is first and what is beside it change places, nothing else.
    const byReward = await evaluate({ quality: {}, otherQuality: [truth] }, models);
    const turned = byReward.models.m;
    expect(turned.pass_at_k).toEqual(m.other_checks[BY_REWARD]);
    expect(turned.other_checks).toEqual({ [BY_TRUTH]: m.pass_at_k });
    near(turned.der_at_k[3], 1 / (3 * (1 / 3)));
    const passOf = ({ comparisons }: Evaluation): unknown =>
      comparisons.find(({ metric }) => metric === 'pass@1')?.difference;
    expect([passOf(byTruth), passOf(byReward)]).toEqual([0, 0]);
    expect(turned.reward).toEqual(m.reward);
  });

  it('have the Pass@k that they have as the first one, with interval and seeds', async () => {
    const runs = [1, 2].map((seed) => repliesOf('m', seed === 1 ? rows : [...rows].reverse(), { seed }));
    const settings = [{ min_reward: 0.15 }, { min_reward: 0.25 }, { min_characters: 17, min_reward: 0 }];
    const beside = await evaluate({ otherQuality: settings }, runs);
    expect(beside.settings.other_quality).toHaveLength(3);
    for (const quality of settings) {
      const first = await evaluate({ quality }, runs);
      const own = beside.models.m.other_checks[first.settings.quality];
      expect(own).toEqual(first.models.m.pass_at_k);
      expect(own[1].seeds?.values).toHaveLength(2);
    }
  });

  it.each([
    ['none', undefined, []],
    ['that of the first one again', [{}, { min_reward: 0.6 }], []],
    ['one twice', [truth, { ...truth }, { min_reward: 0.3 }, {}], [BY_TRUTH, `${FORM}, reward >= 0.3`]],
  ])('are each named once: %s', async (_, otherQuality, names) => {
    const { settings, models } = await evaluate({ otherQuality });
    expect([settings.quality, settings.other_quality]).toEqual([BY_REWARD, names]);
    expect(Object.keys(models.m.other_checks)).toEqual(names);
  });

  it('have a line each in the tables, whose number the report explains', async () => {
    const evaluation = await evaluate({ otherQuality: [truth, { min_reward: 0.25 }] });
    const names = metricRows(evaluation).map(({ metric }) => metric);
    expect(names.slice(0, 6)).toEqual([
      ...['Pass@1', 'Pass@3', 'Pass@1, check 2', 'Pass@3, check 2', 'Pass@1, check 3', 'Pass@3, check 3'],
    ]);
    const text = evaluationMarkdown(evaluation);
    expect(text).toContain(
      `A reply passes when it has ${BY_REWARD}. Check 2: ${BY_TRUTH}. Check 3: ${FORM}, r`,
    );
    expect(text).toContain('| Pass@1, check 2 ↑ | 0.667 [0.333, 1.000] |');
  });
});

describe('a check by the truth', () => {
  it('asks the examiner of each reply to its own tweet', async () => {
    const [even, odd] = ['tweet of 14 ch', 'tweet of 13 c'].map((tweet, t) => ({
      ...{ tweet_id: `t${t}`, tweet, generations: rows[0] },
    }));
    const { models } = await evaluate({ quality: truth }, [{ name: 'm', tweets: [even, odd] }]);
    // 0.9 is 0.45 under the odd tweet.
    near(models.m.pass_at_k[1], mean([1 / 3, 0]));
  });

  it.each([
    ['first', { quality: truth }],
    ['further', { otherQuality: [{}, truth] }],
  ])('is refused as a %s check where no truth is known, before anything is scored', async (_, own) => {
    const running = evaluate({ ...own, reward: unasked, examiner: undefined });
    await expect(running).rejects.toThrow(ConfigError);
    await expect(running).rejects.toThrow(/min_world_quality .* not of the embedded world.*least reward/);
  });

  it('changes nothing else, and no check needs a truth that asks for none', async () => {
    const plain = await evaluate({ examiner: undefined, otherQuality: [{ min_reward: 0 }] });
    const known = await evaluate({ otherQuality: [truth] });
    const { world_quality: worth, other_checks: checks, ...rest } = known.models.m;
    const { world_quality: none, other_checks: others, ...same } = plain.models.m;
    expect(rest).toEqual(same);
    expect(none.value).toBeNull();
    near(worth, mean(rows.flat().map((text) => examiner('even', text))));
    expect(Object.keys(checks)).toEqual([BY_TRUTH]);
    near(others[FORM][1], 1);
  });
});
