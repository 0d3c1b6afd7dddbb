import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { marked, options, repliesOf, rewardsOf, unasked } from '../../test/evaluation-task';
import { parseRecord } from '../data/records';
import { ConfigError, DataError, NumericError } from '../runtime/errors';
import { strictJson } from '../runtime/files';
import { repliesSha256 } from './answerers';
import { referencesOf } from './model-replies';
import type { ModelReplies } from './model-replies';
import { evaluateModels } from './suite';
import type { EvaluateOptions, Evaluation } from './suite';

const evaluate = (models: ModelReplies[], own: Partial<EvaluateOptions> = {}): Promise<Evaluation> =>
  evaluateModels(models, { ...options, resamples: 20, ...own });

const references = referencesOf(
  ['good strong tea', 'cold milk', 'a cab', 'nothing'].map((reply, t) =>
    parseRecord({ tweet_id: `t${t}`, tweet: 'x', reply, reply_likes: t * t, tweet_likes: 10 }),
  ),
);
const rowsOf = (salt: string): string[][] =>
  [0, 1, 2, 3].map((t) =>
    [0, 1, 2].map((i) => `${'abc'[(t + i) % 3]} ${salt} tea number ${t * i} #0.${(t * 3 + i * 5) % 10}`),
  );
const everything: Partial<EvaluateOptions> = {
  ...{ references, learned: { ...marked, name: 'likes' }, examiner: (_tweet, reply) => reply.length / 100 },
  k: [1, 3],
};
const greedy = ['a #0.1', 'b #0.2', 'c #0.3', 'd #0.4'];
const full = (name: string, seed?: number): ModelReplies => {
  const model = repliesOf(name, rowsOf(name), { seed, greedy });
  const reference = (id: string) => ({
    ...{
      log_prob: -name.length,
      tokens: 4,
      replies_sha256: repliesSha256(references.get(id)?.replies ?? []),
    },
  });
  return {
    ...model,
    tweets: model.tweets.map((tweet) => ({
      ...{ ...tweet, reference: reference(tweet.tweet_id) },
      drawn: tweet.generations.map((reply) => ({ log_prob: -reply.length / 4, tokens: 5 })),
    })),
  };
};

type Json = null | number | string | boolean | Json[] | { [key: string]: Json };
const isMetric = (value: Json): value is { value: number | null; [key: string]: Json } =>
  typeof value === 'object' && value !== null && 'value' in value;

/** Every metric of a model with its place. */
function metricsOf(value: Json, place = ''): [string, { value: number | null; [key: string]: Json }][] {
  if (isMetric(value)) return [[place, value]];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [];
  return Object.entries(value).flatMap(([key, inner]) =>
    metricsOf(inner, place === '' ? key : `${place}.${key}`),
  );
}
const parsed = (evaluation: Evaluation): { [key: string]: Json } =>
  JSON.parse(strictJson(evaluation)) as { [key: string]: Json };
const modelOf = (evaluation: Evaluation, name: string): Json =>
  (parsed(evaluation).models as { [key: string]: Json })[name];

const PLACES = [
  ...['reward', 'components.half', 'components.of_tweet', 'engagement', 'world_quality'],
  ...['greedy.reward', 'greedy.world_quality', 'pass_at_k.1', 'pass_at_k.3', 'self_bleu'],
  ...[
    'distinct.1',
    'distinct.2',
    'distinct.3',
    'distinct_2_of_a_tweet',
    'semantic_diversity',
    'vocabulary_richness',
    'token_entropy',
  ],
  ...['rouge.1', 'rouge.2', 'rouge.L', 'usq_at_k.reward.1', 'usq_at_k.reward.3', 'usq_at_k.longest.1'],
  ...['usq_at_k.longest.3', 'usq_at_k.most_unique_words.1', 'usq_at_k.most_unique_words.3'],
  ...[
    'usq_at_k.first.1',
    'usq_at_k.first.3',
    'der_at_k.1',
    'der_at_k.2',
    'der_at_k.3',
    'collapse_point',
    'perplexity',
    'reply_nats_per_token',
  ],
  ...['engagement_correlation.spearman', 'engagement_correlation.pearson', 'characters'],
];

describe('the JSON of an evaluation', () => {
  it('has the keys of the contract, and says what it was made with', async () => {
    const evaluation = await evaluate([full('one'), full('two')], everything);
    const json = parsed(evaluation);
    expect(Object.keys(json)).toEqual([
      'format',
      'version',
      'settings',
      'degraded',
      'models',
      'comparisons',
      'judge',
      'samples',
    ]);
    expect(json.settings).toEqual({
      ...{ reward: 'marked', learned: 'likes', k: [1, 3], tokenizer: 'wordpunct', embedding: 'letters' },
      ...{ quality: '10 to 300 characters, repetition <= 0.5, reward >= 0.6', other_quality: [] },
      ...{ seed: 7, resamples: 20 },
      ...{ level: 0.95, correction: 'Holm, over all comparisons of this evaluation' },
    });
    expect(Object.keys(json.models as object)).toEqual(['one', 'two']);
    expect(modelOf(evaluation, 'one')).toMatchObject({ n_tweets: 4, n_replies: 12, seeds: [] });
    const [comparison] = json.comparisons as { [key: string]: Json }[];
    expect(comparison).toMatchObject({ a: 'one', b: 'two', metric: 'reward', n: 4 });
    for (const key of [
      'u',
      'p',
      'd',
      'delta',
      'ci',
      'p_holm',
      'p_mann_whitney',
      't',
      'difference',
      'significant',
      'delta_size',
    ])
      expect(comparison).toHaveProperty(key);
    expect(json.samples).toHaveLength(4);
  });

  it('has every metric with value and interval, at its place', async () => {
    const evaluation = await evaluate([full('one')], everything);
    const found = metricsOf(modelOf(evaluation, 'one'));
    expect(found.map(([place]) => place).sort()).toEqual([...PLACES].sort());
    for (const [place, metric] of found) {
      if (place === 'collapse_point') continue;
      expect(Object.keys(metric), place).toEqual(['value', 'ci']);
      const [low, high] = metric.ci as number[];
      expect(Number.isFinite(metric.value) && low <= high, place).toBe(true);
    }
  });

  it('has value null and a reason where a value cannot exist, at the same places', async () => {
    const evaluation = await evaluate([rewardsOf('m', [0, 0])]);
    const found = Object.fromEntries(metricsOf(modelOf(evaluation, 'm')));
    const expected = PLACES.filter((place) => !/\.3$/.test(place) || place === 'distinct.3').filter(
      (place) => place !== 'der_at_k.2',
    );
    expect(Object.keys(found).sort()).toEqual(expected.sort());
    const none = Object.entries(found).filter(([, { value }]) => value === null);
    expect(none.map(([place]) => place).sort()).toEqual(
      [
        ...['engagement', 'world_quality', 'greedy.reward', 'greedy.world_quality', 'self_bleu', 'rouge.1'],
        ...['semantic_diversity', 'rouge.2', 'rouge.L', 'der_at_k.1', 'collapse_point', 'perplexity'],
        'reply_nats_per_token',
        ...['engagement_correlation.spearman', 'engagement_correlation.pearson'],
      ].sort(),
    );
    for (const [place, metric] of none) {
      expect(Object.keys(metric), place).toEqual(['value', 'reason']);
      expect((metric.reason as string).length, place).toBeGreaterThan(8);
    }
  });

  it('has the values of each seed beside a metric of several runs', async () => {
    const evaluation = await evaluate([full('m', 1), full('m', 2)], everything);
    expect(modelOf(evaluation, 'm')).toMatchObject({ n_tweets: 4, n_replies: 24, seeds: [1, 2] });
    for (const [place, metric] of metricsOf(modelOf(evaluation, 'm'))) {
      if (place.startsWith('engagement_correlation') || metric.value === null) continue;
      expect(Object.keys(metric), place).toEqual(['value', 'ci', 'seeds']);
      expect(Object.keys(metric.seeds as object).sort(), place).toEqual(['ci', 'mean', 'n', 'sd', 'values']);
    }
  });

  it('is the same each time, and draws other intervals from another seed', async () => {
    const models = [full('one'), full('two')];
    const [first, again] = [await evaluate(models, everything), await evaluate(models, everything)];
    expect(strictJson(again)).toBe(strictJson(first));
    const other = await evaluate(models, { ...everything, seed: 8 });
    expect(other.models.one.reward.value).toBe(first.models.one.reward.value);
    expect(other.models.one.reward).not.toEqual(first.models.one.reward);
  });

  it('shows the first three replies of the first run of each model to the first 20 tweets with their rewards', async () => {
    const rows = Array.from({ length: 22 }, (_, t) =>
      [0.1, 0.2, 0.3, 0.4].map((reward) => `to ${t} #${reward}`),
    );
    const { samples } = await evaluate([
      repliesOf('x', rows, { seed: 1 }),
      repliesOf('x', [...rows].reverse(), { seed: 2 }),
      repliesOf('y', rows),
    ]);
    expect(samples).toHaveLength(20);
    const texts = [0.1, 0.2, 0.3].map((reward) => ({ text: `to 19 #${reward}`, reward }));
    expect(samples[19]).toEqual({ tweet: 'tweet number 19', replies: { x: texts, y: texts } });
  });

  it('names what runs on a substitute, once', async () => {
    const degraded = { ...marked, degraded: ['a word list stands in'] };
    const { degraded: notes } = await evaluate([full('m')], { reward: degraded, learned: degraded });
    expect(notes).toEqual(['a word list stands in']);
  });
});

describe('models side by side', () => {
  it('do not change each other: a model has the metrics that it has alone', async () => {
    const alone = await evaluate([full('one')], everything);
    const both = await evaluate([full('two'), full('one', 4), full('one', 5)], everything);
    const three = await evaluate([full('two'), full('one'), full('three')], everything);
    expect(three.models.one).toEqual(alone.models.one);
    expect(both.models.two).toEqual(three.models.two);
  });

  it('are the same in whatever order the tweets of a file come', async () => {
    const [one, two] = [full('one'), full('two')];
    const reversed = { ...two, tweets: [...two.tweets].reverse() };
    expect(await evaluate([one, reversed], everything)).toEqual(await evaluate([one, two], everything));
  });

  it('keep all metrics when the replies to a tweet change their order', async () => {
    const before = metricsOf(modelOf(await evaluate([full('m')], everything), 'm'));
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.shuffledSubarray([0, 1, 2], { minLength: 3 }), { minLength: 4, maxLength: 4 }),
        async (orders) => {
          const model = full('m');
          const shuffled = {
            ...model,
            tweets: model.tweets.map((tweet, t) => ({
              ...tweet,
              generations: orders[t].map((i) => tweet.generations[i]),
            })),
          };
          const after = metricsOf(modelOf(await evaluate([shuffled], everything), 'm'));
          after.forEach(([place, { value }], i) => {
            expect(place).toBe(before[i][0]);
            if (value === null) expect(before[i][1].value).toBeNull();
            else expect(value, place).toBeCloseTo(before[i][1].value as number, 12);
          });
        },
      ),
      { seed: 4, numRuns: 8 },
    );
  });

  it('keep means, rates and curves when every tweet comes twice', async () => {
    const twice = (model: ModelReplies): ModelReplies => ({
      ...model,
      tweets: [
        ...model.tweets,
        ...model.tweets.map((tweet) => ({ ...tweet, tweet_id: `${tweet.tweet_id} again` })),
      ],
    });
    const once = Object.fromEntries(metricsOf(modelOf(await evaluate([full('m')], everything), 'm')));
    const doubled = metricsOf(modelOf(await evaluate([twice(full('m'))], everything), 'm'));
    for (const [place, { value }] of doubled) {
      // More words, but none that are new: types per token halve. Of the doubles no reference is known.
      if (/^(distinct\.|vocabulary)/.test(place))
        expect(value, place).toBeCloseTo((once[place].value as number) / 2, 12);
      else if (value === null) expect(once[place].value, place).toBeNull();
      else expect(value, place).toBeCloseTo(once[place].value as number, 12);
    }
  });
});

describe('replies that are odd', () => {
  it('are evaluated when they are empty: they do not pass, and nothing is not a number', async () => {
    const evaluation = await evaluate(
      [
        repliesOf('mute', [
          ['', '', ''],
          ['', '  ', ''],
        ]),
        repliesOf('m', [
          ['a b c #0.9', '', 'b'],
          ['c', '', ''],
        ]),
      ],
      { k: [1, 3] },
    );
    const { mute, m } = evaluation.models;
    expect(mute.pass_at_k[3].value).toBe(0);
    expect(mute.characters.value).toBe(0);
    for (const metric of [mute.distinct[1], mute.vocabulary_richness, mute.token_entropy, mute.der_at_k[3]])
      expect(metric.value).toBeNull();
    expect(m.pass_at_k[3].value).toBe(0.5);
    expect(() => strictJson(evaluation)).not.toThrow();
  });

  it('are evaluated when all are the same: self-BLEU 1, no semantic diversity, no entropy over tweets', async () => {
    const same = 'a b c d e #0.7';
    const { models } = await evaluate(
      [
        repliesOf('m', [
          [same, same, same],
          [same, same, same],
        ]),
      ],
      { k: [1, 2, 3] },
    );
    expect(models.m.self_bleu).toEqual({ value: 1, ci: [1, 1] });
    expect(models.m.semantic_diversity.value).toBeCloseTo(0, 7);
    expect([1, 2, 3].map((k) => models.m.pass_at_k[k].value)).toEqual([1, 1, 1]);
    expect([1, 2, 3].map((k) => models.m.der_at_k[k].value)).toEqual([1, 1 / 2, 1 / 3]);
    expect(models.m.collapse_point).toEqual({ value: 2, ci: [2, 2] });
  });
});

describe('what cannot be evaluated', () => {
  it.each([
    [
      [1, 4],
      'k is 4, but few has 3 replies to tweet t1; expected 1 to 3. Generate more replies, or ask for smaller k.',
    ],
    [[0], 'k is 0, but many has'],
    [[1.5], 'k is 1.5'],
  ])('is refused for k = %j, before anything is scored', async (k, message) => {
    const rows = rowsOf('x');
    const few = repliesOf('few', [[...rows[0], 'one more'], ...rows.slice(1)]);
    const running = evaluate(
      [
        repliesOf(
          'many',
          rows.map((row) => [...row, ...row]),
        ),
        few,
      ],
      { k, reward: unasked },
    );
    await expect(running).rejects.toThrow(ConfigError);
    await expect(running).rejects.toThrow(message);
  });

  it('takes each k once, in order', async () => {
    const { settings, models } = await evaluate([full('m')], { k: [3, 1, 3] });
    expect(settings.k).toEqual([1, 3]);
    expect(Object.keys(models.m.pass_at_k)).toEqual(['1', '3']);
  });

  it('is refused where models are on different tweets, or there is none', async () => {
    const short = { ...full('short'), tweets: full('short').tweets.slice(1) };
    await expect(evaluate([full('m'), short])).rejects.toThrow(
      'short and m are on different tweets: it lacks 1 (t0)',
    );
    await expect(evaluate([])).rejects.toThrow(DataError);
  });

  it('is an error where a reward is not a number: no null in its place', async () => {
    const broken = {
      ...marked,
      scoreBatch: (pairs: readonly { reply: string }[]) =>
        Promise.resolve(pairs.map(({ reply }) => ({ total: reply === 'bad' ? NaN : 1, components: {} }))),
    };
    const running = evaluate([repliesOf('m', [['good', 'bad']])], { reward: broken });
    await expect(running).rejects.toThrow(NumericError);
    await expect(running).rejects.toThrow('marked gave NaN to the reply "bad"');
    await expect(evaluate([repliesOf('m', [['good', 'bad']])], { learned: broken })).rejects.toThrow(
      NumericError,
    );
  });

  it('is an error where the truth is not a number', async () => {
    await expect(evaluate([full('m')], { examiner: () => NaN })).rejects.toThrow(NumericError);
  });

  it('ends with the reason of the signal, and tells of every run before', async () => {
    const stop = new AbortController();
    const reason = new Error('stopped');
    const seen: unknown[] = [];
    const running = evaluate([full('one'), full('two')], {
      signal: stop.signal,
      onProgress: (done, total, note) => {
        seen.push([done, total, note]);
        if (done === 1) stop.abort(reason);
      },
    });
    await expect(running).rejects.toBe(reason);
    expect(seen).toEqual([
      [0, 2, 'one'],
      [1, 2, 'two'],
    ]);
  });
});
