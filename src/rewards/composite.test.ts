import { describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { compositeReward } from './composite';
import { scoreEach } from './reward';
import type { Reward } from './reward';

/** A reward of the reply's length and of the tweet's. */
function lengths(name: string, scale: number, degraded: string[] = []): Reward {
  const score = async (tweet: string, reply: string) => ({
    total: reply.length / scale,
    components: { own: reply.length / scale, other: tweet.length / scale },
  });
  return { name, degraded, score, scoreBatch: (pairs) => scoreEach(score, pairs) };
}

const parts = {
  first: { reward: lengths('a', 100, ['x', 'y']), weight: 0.6 },
  second: { reward: lengths('b', 50, ['y']), weight: 0.4 },
};
const pairs = [
  { tweet: 'abc', reply: 'a reply' },
  { tweet: '', reply: '' },
  { tweet: 'long'.repeat(5), reply: 'x' },
];

describe('compositeReward', () => {
  it('is the weighted sum of its parts, with the parts and their components by name', async () => {
    const { total, components } = await compositeReward(parts).score('abcd', 'x'.repeat(20));
    expect(total).toBeCloseTo(0.6 * 0.2 + 0.4 * 0.4, 12);
    expect(components).toEqual({
      ...{ first: 0.2, 'first/own': 0.2, 'first/other': 0.04 },
      ...{ second: 0.4, 'second/own': 0.4, 'second/other': 0.08 },
    });
  });

  it('scores a batch exactly as the single pairs', async () => {
    const reward = compositeReward(parts);
    const single = await Promise.all(pairs.map(({ tweet, reply }) => reward.score(tweet, reply)));
    expect(await reward.scoreBatch(pairs)).toEqual(single);
  });

  it('shows a part whose only component has its name once', async () => {
    const score = async () => ({ total: 0.5, components: { learned: 0.5 } });
    const learned: Reward = { name: 'l', degraded: [], score, scoreBatch: (all) => scoreEach(score, all) };
    const { components } = await compositeReward({ learned: { reward: learned, weight: 1 } }).score('', '');
    expect(components).toEqual({ learned: 0.5 });
  });

  it('keeps a component that has the name of its part beside others', async () => {
    const reward = compositeReward({ own: { reward: lengths('a', 100), weight: 1 } });
    const { components } = await reward.score('abcd', 'x'.repeat(20));
    expect(components).toEqual({ own: 0.2, 'own/own': 0.2, 'own/other': 0.04 });
  });

  it('is scored in batches as large as its most eager part wants', () => {
    const eager = { ...lengths('a', 1), batchSize: 500 };
    const reward = compositeReward({ ...parts, third: { reward: eager, weight: 0 } });
    expect([reward.batchSize, compositeReward(parts).batchSize]).toEqual([500, 64]);
  });

  it('names every degraded component of its parts once, and disposes them', () => {
    let disposed = 0;
    const disposable = { ...lengths('c', 1), dispose: () => disposed++ };
    const reward = compositeReward({ ...parts, third: { reward: disposable, weight: 0 } });
    expect(reward.degraded).toEqual(['x', 'y']);
    reward.dispose?.();
    expect(disposed).toBe(1);
  });

  it.each([
    [{}, /has no parts/],
    [{ a: { reward: lengths('a', 1), weight: 0.9 } }, /sum to 0.9; expected 1/],
    [
      { a: { reward: lengths('a', 1), weight: 1.5 }, b: { reward: lengths('b', 1), weight: -0.5 } },
      /"b" is -0.5/,
    ],
    [{ 'a/b': { reward: lengths('a', 1), weight: 1 } }, /without a slash/],
    [Object.fromEntries([['__proto__', { reward: lengths('a', 1), weight: 1 }]]), /not __proto__/],
    [{ a: { reward: lengths('a', 1), weight: NaN } }, /"a" is NaN/],
  ])('refuses %j', (bad, message) => {
    expect(() => compositeReward(bad)).toThrow(ConfigError);
    expect(() => compositeReward(bad)).toThrow(message);
  });
});
