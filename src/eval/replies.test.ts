import { describe, expect, it } from 'vitest';
import { goldenPath } from '../../test/golden';
import { promptIds } from '../model/chat';
import { loadTokenizer } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import type { Completion, Policy, SampleOptions, Sequence } from '../policy/policy';
import { TabularPolicy } from '../policy/tabular';
import type { Reward } from '../rewards/reward';
import { compareEvaluations, evaluateReplies } from './replies';
import type { ReplyEvaluation, ReplyEvaluationOptions } from './replies';

const options = { generations: 2, temperature: 0.8, topP: 1, maxNewTokens: 8, seed: 3 };

/** The share of the letter "a" in a reply: a reward that can be computed by hand. */
const letters: Reward = {
  name: 'letters',
  degraded: [],
  score: (_tweet, reply) => {
    const total = [...reply].filter((letter) => letter === 'a').length / Math.max(1, reply.length);
    return Promise.resolve({ total, components: { letters: total, half: total / 2 } });
  },
  scoreBatch: (pairs) => Promise.all(pairs.map(({ tweet, reply }) => letters.score(tweet, reply))),
};

/** A policy that says what it is told to: texts by prompt id, with constant log-probabilities a token. */
function scripted(
  tokenizer: Tokenizer,
  texts: Record<string, string[]>,
  logProb: { policy: number; reference: number },
): Policy {
  const never = (): never => {
    throw new Error('an evaluation does not train');
  };
  const completion = (text: string, finishReason: Completion['finishReason']): Completion => {
    const tokenIds = [...tokenizer.encode(text), ...(finishReason === 'stop' ? [tokenizer.eosTokenId] : [])];
    const none = new Float32Array(tokenIds.length);
    return { tokenIds, logProbs: none, finishReason };
  };
  return {
    sample: (prompts, { onProgress }: SampleOptions) => {
      onProgress?.(1);
      return Promise.resolve(
        prompts.map((prompt) => ({
          prompt,
          completions: texts[prompt.id].map((text, i) => completion(text, i === 0 ? 'stop' : 'length')),
        })),
      );
    },
    logProbs: (sequences: readonly Sequence[], { of = 'policy' } = {}) =>
      Promise.resolve(
        sequences.map(({ completionIds }) => new Float32Array(completionIds.length).fill(logProb[of])),
      ),
    ...{ forwardBackward: never, optimStep: never, save: never, load: never },
  };
}

async function evaluateScript(over: Partial<ReplyEvaluationOptions> = {}): Promise<ReplyEvaluation> {
  const tokenizer = await loadTokenizer(goldenPath('tiny-qwen3', 'tied-f32'));
  const prompts = ['p', 'q'].map((id) => ({ id, tweet: `tweet ${id}`, tokenIds: [1, 2] }));
  const policy = scripted(
    tokenizer,
    { p: ['aaaa', 'aabb'], q: ['bbbb', 'a b a b'] },
    { policy: -1, reference: -1.5 },
  );
  return evaluateReplies(policy, prompts, tokenizer, letters, { ...options, ...over });
}

describe('evaluateReplies', () => {
  it('averages reward and components over prompts, texts without the end token', async () => {
    const result = await evaluateScript();
    expect(result.prompts.map(({ replies }) => replies)).toEqual([
      ['aaaa', 'aabb'],
      ['bbbb', 'a b a b'],
    ]);
    expect(result.prompts.map(({ reward }) => reward)).toEqual([0.75, 1 / 7]);
    expect(result.reward).toBeCloseTo((0.75 + 1 / 7) / 2, 12);
    expect(result.components.half).toBeCloseTo(result.reward / 2, 12);
    expect(result.characters).toBe((4 + 4 + 4 + 7) / 4);
    expect(result.truncatedShare).toBe(0.5);
    // The bigrams of the one reply with several words: a b, b a, a b.
    expect(result.distinct2).toBeCloseTo(2 / 3, 12);
    expect(result.quality).toBeUndefined();
  });

  it('sums the k3 estimate over the tokens of a reply, and averages over replies', async () => {
    const result = await evaluateScript();
    const difference = -1.5 - -1;
    expect(result.kl).toBeCloseTo(result.tokens * (Math.exp(difference) - difference - 1), 6);
  });

  it('asks the examiner about each reply to its own tweet', async () => {
    const seen: string[] = [];
    const result = await evaluateScript({
      examiner: (tweet, reply) => {
        seen.push(`${tweet}: ${reply}`);
        return tweet === 'tweet p' ? 1 : 0;
      },
    });
    expect(seen).toEqual(['tweet p: aaaa', 'tweet p: aabb', 'tweet q: bbbb', 'tweet q: a b a b']);
    expect(result.prompts.map(({ quality }) => quality)).toEqual([1, 0]);
    expect(result.quality).toBe(0.5);
  });

  it('stops with the reason of the signal between its parts', async () => {
    const abort = new AbortController();
    const reason = new Error('enough');
    const running = evaluateScript({ signal: abort.signal, onProgress: () => abort.abort(reason) });
    await expect(running).rejects.toBe(reason);
  });

  it('draws by seed and prompt, whatever the order of the prompts, and finds no KL to an equal reference', async () => {
    const tokenizer = await loadTokenizer(goldenPath('tiny-qwen3', 'tied-f32'));
    const prompts = ['tea', 'rain', 'bread'].map((tweet) => {
      return { id: tweet, tweet, tokenIds: promptIds(tokenizer, tweet) };
    });
    const policy = new TabularPolicy({
      prompts: prompts.map(({ tokenIds }) => tokenIds),
      vocabularySize: 70,
      maxLength: 2,
    });
    policy.freezeReference();
    const own = { ...options, maxNewTokens: 2 };
    const forward = await evaluateReplies(policy, prompts, tokenizer, letters, own);
    const backward = await evaluateReplies(policy, [...prompts].reverse(), tokenizer, letters, own);
    expect(backward.prompts.reverse()).toEqual(forward.prompts);
    expect(forward.kl).toBe(0);
    const other = await evaluateReplies(policy, prompts, tokenizer, letters, { ...own, seed: 4 });
    expect(other.prompts).not.toEqual(forward.prompts);
  });
});

describe('compareEvaluations', () => {
  it('pairs the prompts: reward always, world quality where both were examined', async () => {
    const before = await evaluateScript();
    const after = {
      ...before,
      prompts: before.prompts.map((row, i) => ({ ...row, reward: row.reward + 0.1 * (i + 1) })),
    };
    const [change, ...others] = compareEvaluations(before, after, 1);
    expect(others).toEqual([]);
    expect(change).toMatchObject({ name: 'Reward', n: 2 });
    expect(change.difference).toBeCloseTo(0.15, 12);
    expect(change.interval[0]).toBeCloseTo(0.1, 12);
    expect(change.interval[1]).toBeCloseTo(0.2, 12);
    const examined = await evaluateScript({ examiner: () => 0.5 });
    expect(compareEvaluations(examined, examined, 1).map(({ name }) => name)).toEqual([
      'Reward',
      'World quality',
    ]);
    expect(compareEvaluations(before, examined, 1)).toHaveLength(1);
  });

  it('refuses evaluations on different prompts', async () => {
    const before = await evaluateScript();
    const after = { ...before, prompts: [...before.prompts].reverse() };
    expect(() => compareEvaluations(before, after, 1)).toThrow('different prompts');
  });
});
