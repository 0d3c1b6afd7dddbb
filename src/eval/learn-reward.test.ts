import { describe, expect, it } from 'vitest';
import { DataError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { cachedEmbedder } from '../rewards/embeddings';
import { lexicalEmbedder } from '../rewards/lexical';
import { learnReward, tweetFamilies } from './learn-reward';

interface Row {
  tweet_id: string;
  tweet: string;
  reply: string;
  reply_likes: number;
  tweet_likes: number;
}

const WORDS = 'tea rain cat tax gold mud lamp basil train river paper cloud stone bread winter garden'.split(
  ' ',
);

/** Tweets with replies whose likes are drawn by lot: nothing can be learned of them. */
function lottery(tweets: number, replies: number): Row[] {
  return Array.from({ length: tweets }, (_, t) => {
    const random = new Random(7, 'lottery', t);
    const text = (): string => Array.from({ length: 6 }, () => random.pick(WORDS)).join(' ');
    const tweet = text();
    return Array.from({ length: replies }, () => ({
      ...{ tweet_id: `t${t}`, tweet, reply: text() },
      ...{ reply_likes: random.integer(1000), tweet_likes: 100 },
    }));
  }).flat();
}

const embedder = cachedEmbedder(lexicalEmbedder());
const memorising = { epochs: 12, patience: 12, batchReplies: 32, learningRate: 3e-3, dropout: 0, seed: 1 };

describe('learnReward', () => {
  it('does not learn the test replies by heart from copies of their tweets under other ids', async () => {
    const rows = lottery(150, 4);
    const copies = rows.map((row, i) => ({
      ...row,
      tweet_id: `${row.tweet_id}-copy`,
      tweet: i % 2 === 0 ? row.tweet.toUpperCase() : `  ${row.tweet.replaceAll(' ', '  ')}`,
    }));
    const { agreement } = await learnReward([...rows, ...copies], embedder, memorising);
    const { value, interval } = agreement.learned.likes.pair_accuracy ?? { value: 0, interval: [0, 0] };
    expect(Math.abs(value - 0.5)).toBeLessThan(0.13);
    expect(interval[0]).toBeLessThan(0.5);
    expect(interval[1]).toBeGreaterThan(0.5);
  });

  it('draws training and validation from the tweets that have two different likes', async () => {
    const rows = lottery(300, 2);
    const mostlyEqual = rows.map((row, i) => (i < 540 ? { ...row, reply_likes: 1 } : row));
    const { model, agreement } = await learnReward(mostlyEqual, embedder, { epochs: 1, seed: 1 });
    const { tweets, validation_tweets: validation } = model.description.training;
    expect(agreement.learned.n_tweets).toBe(60);
    expect(validation).toBeGreaterThan(0);
    expect(tweets).toBeGreaterThan(validation as number);
    expect((tweets as number) + (validation as number)).toBeLessThanOrEqual(30);
    const equal = rows.map((row) => ({ ...row, reply_likes: 1 }));
    await expect(learnReward(equal, embedder, memorising)).rejects.toThrow(DataError);
    await expect(learnReward(equal, embedder, memorising)).rejects.toThrow('use the objective "regression"');
  });

  it('says in the description all that the hold-out can be made again from', async () => {
    const rows = lottery(40, 3);
    const options = { epochs: 1, seed: 5, testFraction: 0.25, data: 'replies.jsonl' };
    const { model } = await learnReward(rows, embedder, options);
    const { data, embedding, versions } = model.description;
    expect(data).toEqual({ file: 'replies.jsonl', records: 120, test_fraction: 0.25, seed: 5 });
    expect(embedding).toEqual({ name: 'lexical', source: lexicalEmbedder().source, dimensions: 4096 });
    expect(versions.grpolab).toMatch(/^\d+\.\d+/);
    expect(versions.tensorflow).toMatch(/^2\./);
  });

  it('stops soon after the signal in every phase, also between the resamples of the report', async () => {
    const rows = lottery(40, 3);
    for (const phase of ['embedding', 'training', 'judging']) {
      const abort = new AbortController();
      const reason = new Error(`enough of ${phase}`);
      const seen: string[] = [];
      const running = learnReward(
        rows,
        embedder,
        { epochs: 2, seed: 1 },
        {
          signal: abort.signal,
          onProgress: (progress) => {
            seen.push(progress.phase);
            if (progress.phase === phase) abort.abort(reason);
          },
        },
      );
      await expect(running).rejects.toBe(reason);
      expect(seen.filter((each) => each === phase)).toHaveLength(1);
    }
  });
});

describe('tweetFamilies', () => {
  const tweet = (id: string, ...texts: string[]): Row[] =>
    texts.map((text) => ({ tweet_id: id, tweet: text, reply: 'r', reply_likes: 0, tweet_likes: 0 }));

  it('keep tweets together that share a text but for case, white space and width, also by way of others', () => {
    const a = tweet('a', 'Rain again');
    const b = tweet('b', 'ＲＡＩＮ \n again ', 'Sun at last');
    const c = tweet('c', 'Tea');
    const d = tweet('d', 'sun at LAST');
    expect(tweetFamilies([a, c, d, b])).toEqual([[a, d, b], [c]]);
  });

  it('leave tweets of different texts alone, with whatever replies', () => {
    const tweets = ['one', 'two', 'three'].map((text) => tweet(text, text));
    expect(tweetFamilies(tweets)).toEqual(tweets.map((each) => [each]));
  });
});
