import { beforeAll, describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { near, options as evaluation, repliesOf } from '../../test/evaluation-task';
import { goldenPath } from '../../test/golden';
import { fullLogits, nextLogProbs } from '../../test/golden-model';
import { parseRecord } from '../data/records';
import { readModelConfig } from '../model/config';
import { loadTokenizer } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import { LocalPolicy } from '../policy/local';
import { tf } from '../runtime/tf';
import { policyAnswerer, repliesSha256 } from './answerers';
import type { AnswerOptions, Shot } from './answerers';
import { referencesOf } from './model-replies';
import type { ModelReplies, TweetReference, TweetReplies } from './model-replies';
import { openModelReplies } from './model-sources';
import { metricRows } from './report';
import { evaluateModels } from './suite';
import type { Evaluation } from './suite';

const model = goldenPath('tiny-qwen3', 'untied-f32');
const adapter = goldenPath('lora', 'adapter');
const tweets = ['I love tea', 'Rain again', 'My cab is late'].map((tweet, t) => ({
  tweet_id: `t${t}`,
  tweet,
}));
/** Two replies to the first tweet, one long one to the second, none to the third. */
const references = new Map<string, TweetReference>([
  ['t0', { replies: ['Good strong tea', 'Me too!'], engagement: 1 }],
  ['t1', { replies: ['Bring a boat 🛶, it will rain for seven more days'], engagement: 2 }],
  ['elsewhere', { replies: ['never asked'], engagement: 3 }],
]);
const options: AnswerOptions = { generations: 2, temperature: 1, topP: 1, maxNewTokens: 3, seed: 4 };
const shots = [{ tweet: 'Sun?', reply: 'Hats.' }];

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(model);
});

async function withPolicy<T>(
  adapterDirectory: string | undefined,
  use: (policy: LocalPolicy) => Promise<T>,
): Promise<T> {
  const policy = LocalPolicy.load({ modelDirectory: model, adapterDirectory });
  try {
    return await use(policy);
  } finally {
    policy.dispose();
  }
}

/** The conversation as the model reads it: turns between marks, thoughts left empty. */
function promptText(tweet: string, examples: readonly Shot[]): string {
  const asked = (text: string): string =>
    `<|im_start|>user\nGenerate an engaging Twitter reply to this tweet:\n\n${text}\n\nReply:<|im_end|>\n`;
  const shown = examples.map(
    ({ tweet: text, reply }) => `${asked(text)}<|im_start|>assistant\n${reply}<|im_end|>\n`,
  );
  return `${shown.join('')}${asked(tweet)}<|im_start|>assistant\n<think>\n\n</think>\n\n`;
}

/** Of a reply and the mark that ends it, from the logits of the whole text, one sequence at a time. */
function likelihood(
  policy: LocalPolicy,
  tweet: string,
  reply: string,
  examples: readonly Shot[] = [],
): { log_prob: number; tokens: number } {
  const prompt = tokenizer.encode(promptText(tweet, examples));
  const ids = tokenizer.encode(`${promptText(tweet, examples)}${reply}<|im_end|>`);
  expect(ids.slice(0, prompt.length)).toEqual(prompt);
  const logits = fullLogits(policy, [ids], [ids.map(() => 1)], [ids.map((_, i) => i)]);
  const own = nextLogProbs(logits, policy.config.vocabSize, ids, 0).slice(prompt.length - 1);
  return { log_prob: own.reduce((a, b) => a + b, 0), tokens: own.length };
}

const total = (
  parts: readonly { log_prob: number; tokens: number }[],
): { log_prob: number; tokens: number } => ({
  log_prob: parts.reduce((sum, part) => sum + part.log_prob, 0),
  tokens: parts.reduce((sum, part) => sum + part.tokens, 0),
});

describe('the likelihood of what people replied', () => {
  it.each<[string, string | undefined, Shot[]]>([
    ['the bare model', undefined, []],
    ['the model with an adapter', adapter, []],
    ['the model after an example', undefined, shots],
  ])('is under %s the sum over all replies to a tweet, each with its end', async (_, directory, examples) => {
    await withPolicy(directory, async (policy) => {
      const { answer } = policyAnswerer(policy, tokenizer, { ...options, shots: examples, references });
      const answered = await answer(tweets);
      for (const [t, { tweet, tweet_id: id }] of tweets.entries()) {
        const { replies } = references.get(id) ?? { replies: [] };
        const { reference } = answered[t];
        if (replies.length === 0) {
          expect(answered[t]).not.toHaveProperty('reference');
          continue;
        }
        const expected = total(replies.map((reply) => likelihood(policy, tweet, reply, examples)));
        expect(reference?.tokens).toBe(expected.tokens);
        expect(expected.tokens).toBe(
          replies.reduce((sum, reply) => sum + tokenizer.encode(reply).length + 1, 0),
        );
        expect(Math.abs((reference?.log_prob as number) - expected.log_prob)).toBeLessThan(1e-3);
      }
    });
  });

  it('is that of one sequence at a time, in whatever company the tweets are asked', async () => {
    await withPolicy(undefined, async (policy) => {
      const { answer } = policyAnswerer(policy, tokenizer, { ...options, references });
      const together = await answer(tweets);
      const alone: TweetReplies[] = [];
      for (const tweet of [...tweets].reverse()) alone.unshift(...(await answer([tweet])));
      const parts = [];
      for (const reply of references.get('t0')?.replies ?? []) {
        const promptIds = tokenizer.encode(promptText(tweets[0].tweet, []));
        const completionIds = [...tokenizer.encode(reply), tokenizer.eosTokenId];
        const [row] = await policy.logProbs([{ promptIds, completionIds }]);
        parts.push({ log_prob: row.reduce((a, b) => a + b, 0), tokens: row.length });
      }
      const { log_prob: sum, tokens } = total(parts);
      for (const [one] of [together, alone]) {
        expect(one.reference?.tokens).toBe(tokens);
        expect(one.reference?.log_prob).toBeCloseTo(sum, 3);
      }
      expect(alone.map(({ generations, greedy }) => [generations, greedy])).toEqual(
        together.map(({ generations, greedy }) => [generations, greedy]),
      );
    });
  });

  it('changes no reply, and is asked for none where there are no references', async () => {
    await withPolicy(undefined, async (policy) => {
      const [asked, unasked] = [
        await policyAnswerer(policy, tokenizer, { ...options, references }).answer(tweets),
        await policyAnswerer(policy, tokenizer, options).answer(tweets),
      ];
      for (const [t, one] of unasked.entries()) {
        expect(Object.keys(one)).toEqual(['tweet_id', 'tweet', 'generations', 'greedy', 'drawn']);
        expect({ ...asked[t], reference: undefined }).toEqual({ ...one, reference: undefined });
      }
    });
  });
});

describe('the likelihood of what a model drew', () => {
  it.each<[string, string | undefined, Partial<AnswerOptions>]>([
    ['as it is', undefined, {}],
    ['with an adapter', adapter, { maxNewTokens: 12 }],
    ['at a temperature and from a nucleus', undefined, { temperature: 0.5, topP: 0.6, maxNewTokens: 7 }],
  ])('is %s that at temperature 1 over all tokens, the end token included', async (_, directory, own) => {
    // So many end tokens that some completions end with one.
    const stopTokenIds = Array.from({ length: readModelConfig(model).vocabSize / 8 }, (_id, i) => 8 * i);
    const policy = LocalPolicy.load({ modelDirectory: model, adapterDirectory: directory, stopTokenIds });
    try {
      const given = { ...options, generations: 4, ...own };
      const answered = await policyAnswerer(policy, tokenizer, given).answer(tweets);
      const { generations: groupSize, ...sampling } = given;
      const prompts = tweets.map(({ tweet_id: id, tweet }) => ({
        ...{ id, tokenIds: tokenizer.encode(promptText(tweet, [])) },
      }));
      const groups = await policy.sample(prompts, { ...sampling, groupSize, stream: 'evaluation' });
      const reasons = groups.flatMap(({ completions }) => completions.map((one) => one.finishReason));
      expect(new Set(reasons)).toEqual(new Set(['stop', 'length']));
      for (const [t, { completions, prompt }] of groups.entries()) {
        expect(answered[t].drawn).toHaveLength(4);
        for (const [g, { tokenIds }] of completions.entries()) {
          const ids = [...prompt.tokenIds, ...tokenIds];
          const logits = fullLogits(policy, [ids], [ids.map(() => 1)], [ids.map((_id, i) => i)]);
          const all = nextLogProbs(logits, policy.config.vocabSize, ids, 0);
          const expected = all.slice(prompt.tokenIds.length - 1).reduce((a, b) => a + b, 0);
          expect(answered[t].drawn?.[g]?.tokens).toBe(tokenIds.length);
          expect(answered[t].drawn?.[g]?.log_prob).toBeCloseTo(expected, 3);
        }
      }
    } finally {
      policy.dispose();
    }
  });
});

describe('perplexity', () => {
  const open = (name: string, seed: number, own: object = {}): Promise<ModelReplies> =>
    openModelReplies({ name, model, shots: 0, seed, ...own }, tweets, {
      ...{ ...options, references, directory: temporaryDirectory() },
    });

  it('is of models that were opened with references that of their tokens: tweets weigh by length', async () => {
    const before = tf.memory().numTensors;
    const [plain, tuned] = [await open('plain', 1), await open('tuned', 1, { adapter })];
    expect(tf.memory().numTensors).toBe(before);
    const { models } = await evaluateModels([plain, tuned], { ...evaluation, references });
    for (const [name, directory] of [['plain'], ['tuned', adapter]]) {
      const { log_prob: sum, tokens } = await withPolicy(directory, (policy) => {
        const parts = tweets.flatMap(({ tweet, tweet_id: id }) =>
          (references.get(id)?.replies ?? []).map((reply) => likelihood(policy, tweet, reply)),
        );
        return Promise.resolve(total(parts));
      });
      const { value } = models[name].perplexity;
      expect((value as number) / Math.exp(-sum / tokens)).toBeCloseTo(1, 4);
    }
  });

  const known: [number, number][] = [
    [-2, 4],
    [-30, 10],
    [-1, 1],
  ];
  /** To each tweet one reference, whose likelihood is known where there is a row. */
  const people = referencesOf(
    [0, 1, 2].map((t) =>
      parseRecord({ tweet_id: `t${t}`, tweet: `tweet number ${t}`, reply: `of people ${t}` }),
    ),
  );
  const withLikelihoods = (rows: readonly ([number, number] | null)[], seed?: number): ModelReplies => {
    const replies = repliesOf(
      'm',
      rows.map(() => ['a reply']),
      { seed },
    );
    return {
      ...replies,
      tweets: replies.tweets.map((tweet, t) => {
        const row = rows[t];
        const of = people.get(tweet.tweet_id)?.replies;
        if (row === null || of === undefined) return tweet;
        const reference = { log_prob: row[0], tokens: row[1], replies_sha256: repliesSha256(of) };
        return { ...tweet, reference };
      }),
    };
  };
  const perplexityOf = async (...runs: ModelReplies[]) =>
    (await evaluateModels(runs, { ...evaluation, references: people })).models.m.perplexity;

  it('is exp(-sum / tokens) over all tweets with references', async () => {
    near(await perplexityOf(withLikelihoods(known)), Math.exp(33 / 15));
    // Of the fourth tweet no reply of people is known.
    near(await perplexityOf(withLikelihoods([...known, null])), Math.exp(33 / 15));
    const { ci } = (await perplexityOf(withLikelihoods(known))) as { ci: [number, number] };
    // A resample lies between the least and the largest of the tweets' own.
    expect(ci[0]).toBeGreaterThanOrEqual(Math.exp(1 / 2));
    expect(ci[1]).toBeLessThanOrEqual(Math.exp(3));
    expect(ci[0]).toBeLessThan(ci[1]);
  });

  it('is of several seeds the mean of theirs, which stand beside it', async () => {
    const other = known.map(([sum, tokens]): [number, number] => [2 * sum, tokens]);
    const metric = await perplexityOf(withLikelihoods(known, 1), withLikelihoods(other, 2));
    const [one, two] = [Math.exp(33 / 15), Math.exp(66 / 15)];
    near(metric, (one + two) / 2);
    metric.seeds?.values.forEach((value, i) => expect(value).toBeCloseTo([one, two][i], 10));
    expect(metric.seeds?.n).toBe(2);
  });

  const changed = withLikelihoods(known);
  changed.tweets[1].reference = { log_prob: -1, tokens: 2, replies_sha256: repliesSha256(['another']) };
  it('has no better side where models count other tokens', async () => {
    const finer = { ...withLikelihoods(known.map(([sum, tokens]) => [sum, 2 * tokens])), name: 'finer' };
    const own = { ...evaluation, references: people };
    const sideOf = (made: Evaluation) =>
      metricRows(made).find(({ metric }) => metric === 'Perplexity of references');
    expect(sideOf(await evaluateModels([withLikelihoods(known), finer], own))).toMatchObject({
      ...{ better: null, winner: null },
    });
    const worse = { ...withLikelihoods(known.map(([sum, tokens]) => [2 * sum, tokens])), name: 'worse' };
    expect(sideOf(await evaluateModels([withLikelihoods(known), worse], own))).toMatchObject({
      ...{ better: 'lower', winner: 'm' },
    });
  });

  it.each([
    ['no tweet has a likelihood', [withLikelihoods([null, null])]],
    ['one tweet with a reference has none', [withLikelihoods([...known.slice(0, 2), null])]],
    ['one likelihood is of other references', [changed]],
    ['a run was not asked', [withLikelihoods(known, 1), withLikelihoods([null, null, null], 2)]],
  ])('does not exist where %s, with the reason', async (_, runs) => {
    expect(await perplexityOf(...runs)).toEqual({
      value: null,
      reason: "the likelihood of each tweet's references under the model is not known, or there are none",
    });
  });
});
