import { describe, expect, it } from 'vitest';
import { evaluateOne, mean, near, options, repliesOf, rewardsOf, subsets } from '../../test/evaluation-task';
import { parseRecord } from '../data/records';
import { referencesOf } from './model-replies';

describe('diversity', () => {
  it('compares the replies to one tweet with each other, never with those to another', async () => {
    // BLEU-4 of "a b c d" against "a b c x": (3/4 * 2/3 * 1/2 * 0.1/1) ** (1/4), the same the other way round.
    const own = (0.75 * (2 / 3) * 0.5 * 0.1) ** 0.25;
    const model = await evaluateOne(
      repliesOf('m', [
        ['a b c d', 'a b c x'],
        ['a b c d', 'p q r s'],
      ]),
    );
    near(model.self_bleu, own / 2);
    near((await evaluateOne(repliesOf('m', [['a b c d', 'a b c d']]))).self_bleu, 1);
  });

  it('counts n-grams over the replies to all tweets together', async () => {
    const model = await evaluateOne(
      repliesOf('m', [
        ['a b', 'A  b'],
        ['a b', 'c d'],
      ]),
    );
    near(model.distinct[1], 4 / 8);
    near(model.distinct[2], 2 / 4);
    expect(model.distinct[3]).toEqual({ value: null, reason: 'no reply has so many words' });
    near(model.vocabulary_richness, 4 / 8);
    near(model.token_entropy, -(2 * (3 / 8) * Math.log(3 / 8) + 2 * (1 / 8) * Math.log(1 / 8)));
  });

  it('counts the tokens that the settings name', async () => {
    const rows = [["it's", 'it s']];
    near((await evaluateOne(repliesOf('m', rows))).distinct[1], 3 / 5);
    near((await evaluateOne(repliesOf('m', rows), { tokenizer: 'whitespace' })).distinct[1], 1);
    near((await evaluateOne(repliesOf('m', rows), { tokenizer: 'treebank' })).distinct[1], 3 / 4);
  });

  it('compares the tokens that the settings name', async () => {
    const rows = [["it's", 'it s']];
    // it ' s against it s, and it s against it ' s, which is shorter.
    const [longer, shorter] = [
      ((2 / 3) * 0.05 * 0.1 * 0.1) ** 0.25,
      Math.exp(-0.5) * (0.1 * 0.1 * 0.1) ** 0.25,
    ];
    near((await evaluateOne(repliesOf('m', rows))).self_bleu, (longer + shorter) / 2);
    near((await evaluateOne(repliesOf('m', rows), { tokenizer: 'whitespace' })).self_bleu, 0);
  });

  it('is in meaning the mean cosine distance of pairs of replies to one tweet', async () => {
    // Counts of a, b, c: [1 0 0], [0 1 0], [1 1 0]; and [0 0 1] twice.
    const model = await evaluateOne(
      repliesOf('m', [
        ['a', 'b', 'ab'],
        ['c', 'c'],
      ]),
    );
    const first = (1 + (1 - Math.SQRT1_2) + (1 - Math.SQRT1_2)) / 3;
    expect(model.semantic_diversity.value).toBeCloseTo(first / 2, 7);
  });

  it('does not exist of one reply a tweet, and is over the tweets that have several', async () => {
    const single = await evaluateOne(repliesOf('m', [['a b c d'], ['a b']]));
    for (const metric of [single.self_bleu, single.semantic_diversity]) {
      expect(metric.value).toBeNull();
      expect(metric).toMatchObject({ reason: expect.stringContaining('no tweet has two replies') as string });
    }
    near(single.distinct[1], 4 / 6);
    near(single.reward, 0);
    const mixed = await evaluateOne(repliesOf('m', [['x y z'], ['a b c d', 'a b c d']]));
    near(mixed.self_bleu, 1);
    near(mixed.semantic_diversity, 0);
  });
});

describe('diversity where replies are empty', () => {
  const spoken = ['a b c d', 'a b c x'];

  it('is that of the replies with words alone, wherever the empty ones stand', async () => {
    const alone = await evaluateOne(repliesOf('m', [spoken]), { k: [1] });
    for (const silence of ['', '   ', '\n\t ']) {
      for (const rows of [
        [silence, ...spoken],
        [...spoken, silence],
        [spoken[0], silence, silence, spoken[1]],
      ]) {
        const model = await evaluateOne(repliesOf('m', [rows]), { k: [1] });
        for (const key of ['self_bleu', 'semantic_diversity', 'distinct_2_of_a_tweet', 'distinct'] as const)
          expect(model[key], key).toEqual(alone[key]);
        // What is not about diversity counts every reply.
        near(model.characters, (7 + 7) / rows.length);
        expect(model.n_replies).toBe(rows.length);
      }
    }
    near(alone.self_bleu, (0.75 * (2 / 3) * 0.5 * 0.1) ** 0.25);
  });

  it('does not exist of a model that says nothing: it is not the most diverse one', async () => {
    const mute = await evaluateOne(
      repliesOf('mute', [
        ['', ' ', ''],
        ['', '', ''],
      ]),
    );
    const reason = expect.stringContaining('no tweet has two replies with words') as string;
    for (const metric of [mute.self_bleu, mute.semantic_diversity])
      expect(metric).toEqual({ value: null, reason });
  });

  it('is over the tweets that have two replies with words', async () => {
    const model = await evaluateOne(
      repliesOf('m', [
        ['', '', ''],
        ['a b c d', '', ''],
        ['', 'a b c d', 'a b c d'],
      ]),
    );
    near(model.self_bleu, 1);
    expect(model.semantic_diversity.value).toBeCloseTo(0, 7);
    const half = await evaluateOne(repliesOf('m', [['a', '', 'b'], ['c', 'c', ''], ['a']]));
    expect(half.semantic_diversity.value).toBeCloseTo((1 + 0) / 2, 7);
  });

  it('counts for words what the tokenizer of the settings takes for them', async () => {
    const rows = [['a b', '!!!', 'a b']];
    const [marks, plain] = await Promise.all(
      [rows, [['a b', 'a b']]].map((own) => evaluateOne(repliesOf('m', own), { tokenizer: 'whitespace' })),
    );
    // A reply of marks has a word here: it is one of three.
    expect(marks.self_bleu.value).toBeLessThan(plain.self_bleu.value as number);
  });
});

describe('quality', () => {
  const records = [
    ['t0', 'Good strong tea!', 10, 100],
    ['t0', 'cold milk', 30, 100],
    ['t1', 'running late', 2, 0],
  ].map(([tweet_id, reply, reply_likes, tweet_likes]) =>
    parseRecord({ tweet_id, tweet: 'x', reply, reply_likes, tweet_likes }),
  );
  const references = referencesOf(records);

  it('is by ROUGE that of the best reference of each reply, over the tweets that have one', async () => {
    const rows = [['good tea', 'Cold milk'], ['he runs', 'nothing shared here'], ['no reference']];
    const model = await evaluateOne(repliesOf('m', rows), { references });
    // "good tea" has 2 of 2 words in 3 of the reference: F = 0.8; "runs" is "running" by its stem: F = 0.5.
    near(model.rouge[1], ((0.8 + 1) / 2 + 0.5 / 2) / 2);
    near(model.rouge[2], ((0 + 1) / 2 + 0) / 2);
    near(model.rouge.L, ((0.8 + 1) / 2 + 0.5 / 2) / 2);
    const without = await evaluateOne(repliesOf('m', rows));
    expect(Object.values(without.rouge)).toEqual(
      [1, 2, 3].map(() => ({ value: null, reason: 'no reference reply' })),
    );
  });

  it('is by ROUGE-L that of words in order, with others between', async () => {
    const model = await evaluateOne(repliesOf('m', [['tea good strong']]), { references });
    near(model.rouge[1], 1);
    near(model.rouge[2], 1 / 2);
    near(model.rouge.L, 2 / 3);
  });

  it('is by reward, components, learned reward and truth the mean over tweets of the mean over replies', async () => {
    const learned = {
      ...options.reward,
      name: 'likes',
      scoreBatch: (pairs: readonly { tweet: string; reply: string }[]) =>
        Promise.resolve(pairs.map(({ reply }) => ({ total: reply.length / 100, components: {} }))),
    };
    const model = await evaluateOne(
      repliesOf('m', [['a #0.5', 'b #0.7'], ['c #0.1']], { greedy: ['d #1', 'long #0'] }),
      {
        learned,
        examiner: (tweet, reply) => tweet.length / 100 + reply.length / 1000,
      },
    );
    near(model.reward, (0.6 + 0.1) / 2);
    near(model.components.half, 0.35 / 2);
    near(model.components.of_tweet, 'tweet number 0'.length / 100);
    expect(Object.keys(model.components)).toEqual(['half', 'of_tweet']);
    near(model.engagement, 0.06);
    near(model.world_quality, 0.14 + 0.006);
    near(model.greedy.reward, 0.5);
    near(model.greedy.world_quality, 0.14 + (0.004 + 0.007) / 2);
  });

  it('says why it is not known: no learned reward, no truth, no greedy reply', async () => {
    const model = await evaluateOne(repliesOf('m', [['a']]));
    const reasons = [model.engagement, model.world_quality, model.greedy.reward, model.greedy.world_quality];
    expect(reasons.map((metric) => (metric.value === null ? metric.reason : metric.value))).toEqual([
      'no learned reward was given',
      'the tweets are not of the embedded world, whose truth is known',
      'no greedy reply',
      'no greedy reply, or no known truth',
    ]);
  });

  it('counts characters without white space around, an emoji as one', async () => {
    near((await evaluateOne(repliesOf('m', [['  abc\n', '🙂'], ['']]))).characters, ((3 + 1) / 2 + 0) / 2);
  });

  it('goes with the engagement of people as their correlation over tweets says', async () => {
    const people = referencesOf(
      [5, 1, 9, 30].map((reply_likes, t) =>
        parseRecord({ tweet_id: `t${t}`, tweet: 'x', reply: 'r', reply_likes, tweet_likes: 10 }),
      ),
    );
    // Rewards by rank 1 2 3 4 and likes by rank 2 1 3 4: rho = 1 - 6 (1 + 1) / (4 * 15).
    const model = rewardsOf('m', [0.1, 0.2, 0.3, 0.9, 0.5]);
    const { spearman, pearson } = (await evaluateOne(model, { references: people })).engagement_correlation;
    near(spearman, 0.8);
    const [x, y] = [
      [0.1, 0.2, 0.3, 0.9],
      [0.5, 0.1, 0.9, 3],
    ];
    const moment = (a: number[], b: number[]) =>
      mean(a.map((value, i) => (value - mean(a)) * (b[i] - mean(b))));
    near(pearson, moment(x, y) / Math.sqrt(moment(x, x) * moment(y, y)));
  });

  it('has no correlation with engagement of two tweets, or of likes that are all the same', async () => {
    const correlation = async (likes: number[]) => {
      const people = referencesOf(
        likes.map((reply_likes, t) =>
          parseRecord({ tweet_id: `t${t}`, tweet: 'x', reply: 'r', reply_likes }),
        ),
      );
      const model = rewardsOf('m', [0.1, 0.2, 0.3, 0.9]);
      return (await evaluateOne(model, { references: people })).engagement_correlation;
    };
    const none = {
      value: null,
      reason: 'fewer than 3 tweets have a reply of known engagement, or it is all the same',
    };
    expect(await correlation([1, 2])).toEqual({ spearman: none, pearson: none });
    expect(await correlation([4, 4, 4, 4])).toEqual({ spearman: none, pearson: none });
    near((await correlation([1, 2, 3, 4])).spearman, 1);
  });
});

describe('USQ@k', () => {
  const SELECTORS = {
    reward: (_text: string, reward: number) => reward,
    longest: (text: string) => [...text].length,
    most_unique_words: (text: string) => new Set(text.toLowerCase().split(' ')).size,
    first: () => 0,
  };
  const orders = (items: readonly number[]): number[][] =>
    items.length === 0
      ? [[]]
      : items.flatMap((item) =>
          orders(items.filter((other) => other !== item)).map((rest) => [item, ...rest]),
        );

  it('is the mean reward of the reply that each selector picks, over all orders of all subsets', async () => {
    const texts = ['a b c #0.3', 'dd DD dd DD dd #0.9', 'e f g h #0.3', 'a long word here #0.5'];
    const rewards = [0.3, 0.9, 0.3, 0.5];
    const model = await evaluateOne(repliesOf('m', [texts]), { k: [1, 2, 3, 4] });
    for (const [name, score] of Object.entries(SELECTORS)) {
      for (const k of [1, 2, 3, 4]) {
        const picked = subsets(4, k)
          .flatMap(orders)
          .map((order) => {
            const scores = order.map((i) => score(texts[i], rewards[i]));
            return rewards[order[scores.indexOf(Math.max(...scores))]];
          });
        near(model.usq_at_k[name as keyof typeof SELECTORS][k], mean(picked));
      }
    }
  });
});
