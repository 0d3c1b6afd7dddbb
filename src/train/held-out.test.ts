import { describe, expect, it } from 'vitest';
import { expectedReward, LENGTH, makePolicy, prompts, rewardOf, score } from '../../test/tabular-task';
import { selfBleu4 } from '../metrics/diversity';
import type { Completion } from '../policy/policy';
import { NumericError, ShapeError } from '../runtime/errors';
import { evaluateHeldOut } from './held-out';
import type { HeldOutOptions } from './held-out';

const WORDS = ['red', 'green', 'blue', 'end'];
const texts = ({ tokenIds }: Completion): string => tokenIds.map((id) => WORDS[id]).join(' ');

/** Every text has a direction of its own, so the distance of two texts is 1 when they differ, else 0. */
function oneHot(): HeldOutOptions['embed'] {
  const known: string[] = [];
  return (text) => {
    if (!known.includes(text)) known.push(text);
    return Promise.resolve(Array.from({ length: 100 }, (_, i) => Number(i === known.indexOf(text))));
  };
}

const options = (over: Partial<HeldOutOptions> = {}): HeldOutOptions => ({
  ...{ generations: 5, seed: 3, embed: oneHot() },
  settings: { temperature: 1, maxNewTokens: LENGTH },
  ...over,
});

const average = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

const pairsOf = <T>(items: readonly T[]): [T, T][] =>
  items.flatMap((a, i) => items.slice(i + 1).map((b): [T, T] => [a, b]));

const bigramsOf = (reply: string): string[] => {
  const words = reply.split(' ');
  return words.slice(1).map((word, i) => `${words[i]} ${word}`);
};

describe('evaluateHeldOut', () => {
  it('measures what it returns: every value equals the one computed from the replies', async () => {
    const policy = makePolicy();
    const { metrics, prompts: rows } = await evaluateHeldOut(policy, prompts, score, texts, options());
    expect(rows.map(({ id }) => id)).toEqual(['p0', 'p1', 'p2']);
    const [{ groups }] = policy.sampled;
    rows.forEach(({ replies, rewards }, p) => {
      const { prompt, completions } = groups[p];
      expect(replies).toEqual(completions.map(texts));
      expect(rewards).toEqual(completions.map(({ tokenIds }) => rewardOf(prompt.tokenIds, tokenIds)));
    });
    const replies = rows.flatMap((row) => row.replies);
    const bigrams = replies.flatMap(bigramsOf);
    const completions = groups.flatMap((group) => group.completions);
    const differing = rows.map((row) => average(pairsOf(row.replies).map(([a, b]) => Number(a !== b))));
    const bleus = rows.map((row) => selfBleu4(row.replies.map((reply) => reply.split(' '))) as number);
    const direct = {
      'eval/reward': average(rows.flatMap((row) => row.rewards)),
      'eval/self_bleu': average(bleus),
      'eval/distinct_2': new Set(bigrams).size / bigrams.length,
      'eval/semantic_diversity': average(differing),
      'eval/reply_characters': average(replies.map((reply) => reply.length)),
      'eval/truncated_share': average(completions.map(({ tokenIds }) => Number(tokenIds.at(-1) !== 3))),
    };
    for (const [key, value] of Object.entries(direct)) expect(metrics[key], key).toBeCloseTo(value, 12);
    expect(Object.keys(metrics).sort()).toEqual(Object.keys(direct).sort());
    // The task is such that nothing is at a bound, where a wrong formula could still be right.
    for (const key of [
      'eval/distinct_2',
      'eval/semantic_diversity',
      'eval/truncated_share',
      'eval/self_bleu',
    ]) {
      expect(metrics[key], key).toBeGreaterThan(0);
      expect(metrics[key], key).toBeLessThan(1);
    }
  });

  it('estimates reward, diversity and truncation of the policy, as enumeration has them', async () => {
    const policy = makePolicy();
    const runs: Record<string, number>[] = [];
    for (let seed = 0; seed < 20; seed++)
      runs.push(
        (await evaluateHeldOut(policy, prompts, score, texts, options({ generations: 30, seed }))).metrics,
      );
    const estimate = (key: string): number => average(runs.map((metrics) => metrics[key]));
    const all = prompts.map(({ tokenIds }) => policy.enumerate(tokenIds));
    const differ = average(all.map((list) => 1 - list.reduce((sum, { probability: p }) => sum + p * p, 0)));
    const truncated = average(
      all.map((list) =>
        list.reduce((sum, { tokenIds, probability: p }) => sum + (tokenIds.at(-1) === 3 ? 0 : p), 0),
      ),
    );
    // 1,800 replies: standard errors are below 0.012.
    expect(Math.abs(estimate('eval/reward') - expectedReward(policy))).toBeLessThan(0.03);
    expect(Math.abs(estimate('eval/semantic_diversity') - differ)).toBeLessThan(0.03);
    expect(Math.abs(estimate('eval/truncated_share') - truncated)).toBeLessThan(0.03);
  });

  it('takes diversity inside a prompt, and distinct-2 over all of them', async () => {
    // Greedy: one prompt's replies are all alike; the three prompts' differ.
    const greedy = options({ settings: { temperature: 0, maxNewTokens: LENGTH } });
    const { metrics, prompts: rows } = await evaluateHeldOut(makePolicy([]), prompts, score, texts, greedy);
    expect(new Set(rows.flatMap(({ replies }) => replies)).size).toBe(3);
    expect(metrics['eval/semantic_diversity']).toBe(0);
    // Identical replies of three words: precisions 1, 1, 1 and, of the missing 4-gram, the smoothed 0.1.
    expect(metrics['eval/self_bleu']).toBeCloseTo(0.1 ** 0.25, 12);
    const bigrams = rows.flatMap((row) => row.replies.flatMap(bigramsOf));
    expect(bigrams).toHaveLength(30);
    expect(metrics['eval/distinct_2']).toBeCloseTo(new Set(bigrams).size / 30, 12);
  });

  it('gives the same draws at every evaluation, others for another seed, and none of those of training', async () => {
    const policy = makePolicy();
    const replies = async (seed: number, visit?: number): Promise<string[]> => {
      const asked = visit === undefined ? prompts : prompts.map((prompt) => ({ ...prompt, visit }));
      const { prompts: rows } = await evaluateHeldOut(policy, asked, score, texts, options({ seed }));
      return rows.flatMap((row) => row.replies);
    };
    const first = await replies(3);
    await policy.sample(prompts, {
      groupSize: 7,
      temperature: 1,
      maxNewTokens: LENGTH,
      seed: 3,
      stream: 'rollout',
    });
    expect(await replies(3)).toEqual(first);
    expect(await replies(4)).not.toEqual(first);
    const rollouts = await policy.sample(prompts, {
      ...options().settings,
      groupSize: 5,
      seed: 3,
      stream: 'rollout',
    });
    expect(rollouts.flatMap(({ completions }) => completions.map(texts))).not.toEqual(first);
    expect(policy.sampled[0].options).toMatchObject({ groupSize: 5, seed: 3, stream: 'evaluation' });
  });

  it('has no self-BLEU and no semantic diversity of one reply a prompt, and embeds nothing', async () => {
    const embed = (): never => {
      throw new Error('not expected');
    };
    const one = options({ generations: 1, embed });
    const { metrics, prompts: rows } = await evaluateHeldOut(makePolicy([]), prompts, score, texts, one);
    expect(rows.map(({ replies }) => replies.length)).toEqual([1, 1, 1]);
    expect(Object.keys(metrics).sort()).toEqual(
      ['eval/distinct_2', 'eval/reply_characters', 'eval/reward', 'eval/truncated_share'], // prettier-ignore
    );
  });

  it('has no distinct-2 when no reply has two words', async () => {
    const short = options({ settings: { temperature: 1, maxNewTokens: 1 } });
    const { metrics } = await evaluateHeldOut(makePolicy(), prompts, score, texts, short);
    expect(metrics).not.toHaveProperty(['eval/distinct_2']);
    expect(metrics).toHaveProperty(['eval/self_bleu']);
  });

  it('counts characters, not UTF-16 units', async () => {
    const { metrics } = await evaluateHeldOut(makePolicy(), prompts, score, () => 'é🙂', options());
    expect(metrics['eval/reply_characters']).toBe(2);
  });

  it('names the prompt whose reward is not finite, and refuses to evaluate nothing', async () => {
    const broken: typeof score = async (pairs) =>
      (await score(pairs)).map((result, i) =>
        pairs[i].prompt.id === 'p1' ? { ...result, total: NaN } : result,
      );
    const evaluation = evaluateHeldOut(makePolicy(), prompts, broken, texts, options());
    await expect(evaluation).rejects.toThrow(NumericError);
    await expect(evaluation).rejects.toThrow('held-out prompt p1 is NaN');
    await expect(evaluateHeldOut(makePolicy(), [], score, texts, options())).rejects.toThrow(ShapeError);
    await expect(
      evaluateHeldOut(makePolicy(), prompts, score, texts, options({ generations: 0 })),
    ).rejects.toThrow(ShapeError);
  });
});
