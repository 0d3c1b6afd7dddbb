/** Who answers the tweets of an evaluation: a model here, or one behind an OpenAI-compatible server. */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { completionExample, contentIds, replyTurns } from '../model/chat';
import type { ChatMessage, Tokenizer } from '../model/tokenizer';
import type { Completion, Policy, Prompt } from '../policy/policy';
import { ChatEndpoint } from '../rewards/chat-endpoint';
import type { ChatEndpointOptions, Question } from '../rewards/chat-endpoint';
import { drawnTextSchema } from '../rewards/chat-log-probs';
import type { DrawnText, Likelihood } from '../rewards/chat-log-probs';
import type { ChatEndpointConfig, ChatMessage as EndpointMessage } from '../rewards/chat-request';
import { replyText } from '../rewards/replies';
import { ConfigError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { TweetReference, TweetReplies } from './model-replies';
import type { Answerer } from './write-replies';

/** An example that a prompt shows. */
export interface Shot {
  tweet: string;
  reply: string;
}

/** How replies are drawn. */
export interface AnswerOptions {
  /** sampled replies a tweet, beside a greedy one */
  generations: number;
  temperature: number;
  topP: number;
  maxNewTokens: number;
  seed: number;
  /** Examples shown before the tweet, as earlier turns; default none: zero-shot. */
  shots?: readonly Shot[];
  signal?: AbortSignal;
}

/** Replies that a policy samples between two writes. */
const ROWS_PER_CHUNK = 320;

/** The conversation that asks for a reply, after examples where there are some. */
export function fewShotTurns(shots: readonly Shot[], tweet: string): ChatMessage[] {
  const examples = shots.flatMap(({ tweet: asked, reply }): ChatMessage[] => [
    ...replyTurns(asked),
    { role: 'assistant', content: reply },
  ]);
  return [...examples, ...replyTurns(tweet)];
}

/** Names the replies that a likelihood is of. */
export function repliesSha256(replies: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(replies)).digest('hex');
}

/** Summed log-probability (nats) and number of tokens of a tweet's reference replies, each with its end token. */
async function referenceLikelihoods(
  policy: Policy,
  tokenizer: Tokenizer,
  turns: readonly ChatMessage[][],
  replies: readonly (readonly string[])[],
): Promise<TweetReplies['reference'][]> {
  const sequences = turns.flatMap((turn, t) =>
    replies[t].map((reply) => completionExample(tokenizer, turn, reply, Infinity, 'a reference reply')),
  );
  if (sequences.length === 0) return replies.map(() => undefined);
  const logProbs = await policy.logProbs(sequences);
  let next = 0;
  return replies.map((known) => {
    const own = logProbs.slice(next, (next += known.length));
    if (own.length === 0) return undefined;
    return {
      log_prob: own.reduce((sum, row) => sum + row.reduce((a, b) => a + b, 0), 0),
      tokens: own.reduce((sum, row) => sum + row.length, 0),
      replies_sha256: repliesSha256(known),
    };
  });
}

/** Of a completion's tokens with its end token, at temperature 1 over the whole vocabulary. */
function drawnLikelihood({ logProbs }: Completion): Likelihood {
  const sum = logProbs.reduce((total, each) => total + each, 0);
  return { log_prob: Math.min(0, sum), tokens: logProbs.length }; // that of a certain token may be rounded to above 0
}

/**
 * Samples from a policy, and decodes greedily. Draws depend on seed and tweet alone; their log-probabilities, to rounding.
 * @param options.references  replies whose likelihood under the model is wanted, too
 */
export function policyAnswerer(
  policy: Policy,
  tokenizer: Tokenizer,
  options: AnswerOptions & { references?: ReadonlyMap<string, TweetReference> },
): Answerer {
  const { generations, temperature, topP, maxNewTokens, seed, shots = [], signal, references } = options;
  const answer: Answerer['answer'] = async (tweets) => {
    const turns = tweets.map(({ tweet }) => fewShotTurns(shots, tweet));
    const prompts = tweets.map(({ tweet_id: id }, i): Prompt => ({
      id,
      tokenIds: contentIds(tokenizer, turns[i]),
    }));
    const common = { maxNewTokens, seed, signal, stream: 'evaluation' };
    const groups = await policy.sample(prompts, { ...common, groupSize: generations, temperature, topP });
    const greedy = await policy.sample(prompts, { ...common, groupSize: 1, temperature: 0, topP: 1 });
    const known = tweets.map(({ tweet_id: id }) => references?.get(id)?.replies ?? []);
    const likelihoods = await referenceLikelihoods(policy, tokenizer, turns, known);
    return tweets.map(({ tweet_id, tweet }, i): TweetReplies => ({
      ...{ tweet_id, tweet },
      generations: groups[i].completions.map((completion) => replyText(completion, tokenizer)),
      greedy: replyText(greedy[i].completions[0], tokenizer),
      drawn: groups[i].completions.map(drawnLikelihood),
      ...(likelihoods[i] && { reference: likelihoods[i] }),
    }));
  };
  return { chunk: Math.max(1, Math.floor(ROWS_PER_CHUNK / generations)), answer };
}

const reply = z.string();

/** A reply as the server is asked for it. */
function question(messages: readonly EndpointMessage[], seed?: number): Question<string> {
  return {
    ...{ prompt: 'reply-1', messages, answer: reply, form: 'text', seed },
    reminder: 'Answer with the text of the reply alone.',
  };
}

/** The texts of answers, with their likelihoods where these are wanted. */
async function drawAll(
  endpoint: ChatEndpoint,
  questions: readonly Question<string>[],
  logProbs: boolean,
): Promise<DrawnText[]> {
  if (logProbs)
    return endpoint.askAll(questions.map((one) => ({ ...one, answer: drawnTextSchema, form: 'drawn' })));
  return (await endpoint.askAll(questions)).map((text) => ({ text, drawn: null }));
}

/**
 * Asks a server: for each sample with a seed of its own, drawn from the seed and the tweet, and once at temperature 0.
 * Answers are kept in the endpoint's cache. For a server that takes no seed (`send_seed: false`) the draws are its own.
 *
 * With `logProbs` it is asked for those of the samples. vLLM and llama.cpp give what `policyAnswerer` has, at temperature
 * 1 over the whole vocabulary with the end token; some servers give them after temperature, or without that token.
 * @throws ConfigError  when the endpoint cannot be used
 */
export function servedAnswerer(
  config: ChatEndpointConfig,
  options: AnswerOptions & { logProbs?: boolean },
  context: ChatEndpointOptions = {},
): Answerer {
  const { generations, temperature, topP, maxNewTokens, seed, shots = [], logProbs = false } = options;
  if (temperature > 2)
    throw new ConfigError(`temperature is ${temperature}; a server takes 0 to 2. Lower it.`);
  const common = { ...config, max_tokens: maxNewTokens };
  const sampler = new ChatEndpoint({ ...common, temperature, top_p: topP, seed }, context);
  const greedy = new ChatEndpoint({ ...common, temperature: 0, top_p: null, seed }, context);
  const answer: Answerer['answer'] = async (tweets) => {
    const questions = tweets.flatMap(({ tweet_id: id, tweet }) => {
      const random = new Random(seed, 'served replies', id);
      const turns = fewShotTurns(shots, tweet) as EndpointMessage[];
      return Array.from({ length: generations }, () => question(turns, random.integer(2 ** 31)));
    });
    const sampled = await drawAll(sampler, questions, logProbs);
    const likely = await greedy.askAll(
      tweets.map(({ tweet }) => question(fewShotTurns(shots, tweet) as EndpointMessage[])),
    );
    return tweets.map(({ tweet_id, tweet }, t): TweetReplies => {
      const own = sampled.slice(t * generations, (t + 1) * generations);
      return {
        ...{ tweet_id, tweet, generations: own.map(({ text }) => text), greedy: likely[t] },
        ...(logProbs && { drawn: own.map(({ drawn }) => drawn) }),
      };
    });
  };
  // Enough for the requests that may be under way, and no more: what is answered is on file, and seen.
  return { chunk: Math.max(1, Math.ceil((4 * config.concurrency) / (generations + 1))), answer };
}
