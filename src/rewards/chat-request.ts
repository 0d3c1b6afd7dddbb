/**
 * One request to an OpenAI-compatible chat endpoint: its settings, its key, and what came of it. The `openai` package
 * sends it; that package's own retries are off, because they draw their jitter from `Math.random`, ignore a Retry-After
 * beyond a minute and know nothing of malformed answers.
 */

import { parseDocument } from 'yaml';
import { z } from 'zod';
import { ConfigError, messageOf } from '../runtime/errors';
import { errorCode } from '../runtime/files';
import { retryAfterSeconds } from '../runtime/http';

/** What is wrong with an endpoint's address; null when nothing is. The address itself is not repeated: it may hold a secret. */
function urlProblem(text: string): string | null {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    return 'expected an http or https address, such as http://localhost:8000/v1';
  }
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    return 'expected an address without user name, password, "?" or "#". Give a key through the variable that api_key_env names';
  }
  return /\/chat\/completions\/?$/.test(url.pathname) ? 'leave out /chat/completions at its end' : null;
}

/** The address of a server. Its refusals never show what was given. */
export const addressSchema = z.string().superRefine((text, context) => {
  const message = urlProblem(text);
  if (message !== null) context.addIssue({ code: 'custom', message });
});

/** The name of the environment variable that holds a key. Its refusals never show what was given. */
export const keyVariableSchema = z
  .string()
  .refine((name) => name === 'none' || /^[A-Z_][A-Z0-9_]*$/.test(name), {
    error: 'expected the name of an environment variable in capitals, or none. Never put the key itself here',
  })
  .describe('environment variable that holds the key; none for a server without keys');

/** Schema of an endpoint's settings. */
export const chatEndpointSchema = z.strictObject({
  base_url: addressSchema.describe('address of the endpoint, without /chat/completions'),
  model: z.string().min(1).describe("the model's name at the endpoint"),
  api_key_env: keyVariableSchema.default('OPENAI_API_KEY'),
  temperature: z.number().min(0).max(2).default(0).describe('of the draws; 0: the likeliest answer'),
  top_p: z.number().positive().max(1).nullable().default(null).describe('of the draws; null: not sent'),
  max_tokens: z.int().min(1).default(300).describe('of an answer; a model that thinks aloud needs more'),
  timeout_seconds: z.number().positive().max(300).default(60).describe('of one request, seconds'),
  max_retries: z.int().min(0).max(20).default(5).describe('requests after the first one, per question'),
  concurrency: z.int().min(1).max(256).default(4).describe('requests under way at once'),
  cache_directory: z
    .string()
    .min(1)
    .default('.cache/judge')
    .describe('where answers are kept, from the working directory'),
  seed: z
    .int()
    .min(0)
    .nullable()
    .default(42)
    .describe('sent with each request, and of the jitter; null: not sent'),
  send_seed: z.boolean().default(true).describe('false for a server that refuses a seed'),
  send_top_p: z.boolean().default(true).describe('false for a server that refuses top_p'),
  extra_body: z
    .record(z.string(), z.unknown())
    .default({})
    .describe('further fields of each request, such as chat_template_kwargs: { enable_thinking: false }'),
});

/** An OpenAI-compatible server and how it is asked, every default filled in. */
export type ChatEndpointConfig = z.output<typeof chatEndpointSchema>;

const SECRET_NAME = /^(.*[_-])?(api_?)?(key|token|secret|password|authorization|bearer)$/i;

/**
 * Refuses a configuration that holds a key, before anything could show its value.
 *
 * @throws ConfigError  naming the setting, with the remedy, never the value
 */
export function refuseSecrets(config: unknown, where: string): void {
  if (typeof config !== 'object' || config === null) return;
  const name = Object.keys(config).find((key) => SECRET_NAME.test(key));
  if (name === undefined) {
    // `extra_body` is sent as it is, and kept beside replies.
    for (const value of Object.values(config)) refuseSecrets(value, where);
    return;
  }
  throw new ConfigError(
    `${where}: "${name}" may not stand in a configuration: files get shared. Put the key into an environment variable ` +
      'and its name into api_key_env, and remove this line.',
  );
}

/** A turn of a conversation, as the OpenAI API has it. */
export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** Why an attempt gave nothing. `kind` is the reason without its details. */
export interface Failure {
  kind: string;
  detail?: string;
  malformed?: boolean;
  /** Present where asking again is useless. */
  remedy?: string;
  retryAfterSeconds?: number;
}

/** The failure of an answer that came but cannot be used. */
export function malformed(detail: string): Failure {
  return { kind: 'an answer of the wrong form', detail, malformed: true };
}

/** `JSON.parse` takes the last value of a key that is given twice; YAML, of which JSON is a part, forbids it. */
function keyProblem(json: string): string | undefined {
  const { errors } = parseDocument(json, { prettyErrors: false, logLevel: 'error' });
  const codes = errors.map(({ code }) => code);
  if (codes.includes('RESOURCE_EXHAUSTION')) return 'it is nested too deep';
  return codes.includes('DUPLICATE_KEY') ? 'a key stands in it twice' : undefined;
}

/**
 * The answer in a chat message: one JSON object, alone, in a code fence, or with text around it, after an optional
 * `<think>` block. What is in it is checked strictly; two objects are no answer, nor is one that gives a key twice.
 */
export function parseAnswer<T>(content: string, schema: z.ZodType<T>): { value: T } | { problem: string } {
  const text = content.replace(/^\s*<think>[\s\S]*?<\/think>/, '');
  const json = text.slice(text.indexOf('{'), text.lastIndexOf('}') + 1);
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return { problem: `expected one JSON object, got "${text.trim()}"` }; // whoever shows it hides the key, then clips
  }
  const problem = keyProblem(json);
  if (problem !== undefined) return { problem };
  const result = schema.safeParse(value);
  if (result.success) return { value: result.data };
  const { path, message } = result.error.issues[0];
  return { problem: `${path.join('.') || 'the object'}: ${message}` };
}

/** The key, from the environment alone; undefined for `none`. */
export function readKey(
  name: string,
  environment: Readonly<Record<string, string | undefined>>,
): string | undefined {
  if (name === 'none') return undefined;
  const key = (environment[name] ?? '').trim();
  if (key === '') {
    throw new ConfigError(
      `the environment variable ${name} is not set; expected the endpoint's key. Set it, name another one by ` +
        'api_key_env, or give "api_key_env: none" for a server without keys.',
    );
  }
  if (/^[\x21-\x7e]+$/.test(key)) return key;
  throw new ConfigError(
    `the environment variable ${name} holds white space or characters that no key has. Set it again.`,
  );
}

/**
 * The answer that is a text, behind its `<think>` blocks. One that was cut off within the block is none.
 */
export function parseText<T>(content: string, schema: z.ZodType<T>): { value: T } | { problem: string } {
  const rest = content.replace(/^(?:\s*<think>[\s\S]*?<\/think>)+/, '');
  // Some servers begin the block in the prompt: then only its end is in the answer.
  const text = rest.replace(/^(?:(?!<think>)[\s\S])*?<\/think>/, '').trim();
  if (text.startsWith('<think>'))
    return {
      problem:
        'cut off within its thoughts: allow more new tokens, or turn thinking off (extra_body: { chat_template_kwargs: { enable_thinking: false } })',
    };
  const result = schema.safeParse(text);
  return result.success ? { value: result.data } : { problem: result.error.issues[0].message };
}

/** Sends messages, with a seed or none; asks for log-probabilities or not. What comes back is unchecked. */
export type Post = (
  messages: readonly ChatMessage[],
  seed: number | null,
  logProbs?: boolean,
) => Promise<{ body: unknown } | Failure>;

const completionSchema = z.object({
  choices: z
    .array(
      z.object({
        message: z.object({ content: z.string().nullable(), refusal: z.string().nullish() }),
        finish_reason: z.string().nullish(),
      }),
    )
    .min(1),
});

/** The text of a response, which may be anything. @param mayBeCut  whether one that ended at max_tokens is an answer */
export function completionContent(body: unknown, mayBeCut = false): { content: string } | Failure {
  if (typeof body === 'string' && body.trimStart().startsWith('<'))
    return malformed('a web page instead of a chat completion; check base_url');
  const result = completionSchema.safeParse(body);
  if (!result.success) return malformed('expected a chat completion with a text in choices[0]');
  const { message, finish_reason } = result.data.choices[0];
  if (message.content === null)
    return malformed(
      `a message without a text (finish_reason ${finish_reason ?? 'not given'}${message.refusal ? `, refusal "${message.refusal}"` : ''})`,
    );
  if (finish_reason === 'length' && !mayBeCut) return malformed('cut off at max_tokens; raise it');
  return { content: message.content };
}

/** The first system code (ECONNRESET, ...) among an error and its causes, else the innermost message. */
function connectionProblem(error: unknown): string {
  for (let each = error; ; each = (each as Error).cause) {
    const code = errorCode(each);
    if (code !== '') return code;
    if (!(each instanceof Error) || each.cause === undefined) return messageOf(each);
  }
}

/** What to do about a status that asking again does not change. */
function remedyOf(status: number, { api_key_env, model }: ChatEndpointConfig, logProbs: boolean): string {
  const without = logProbs
    ? '. Where it gives no log-probabilities, log_probs: false does not ask for them'
    : '';
  if (status === 401 || status === 403) {
    return api_key_env === 'none'
      ? 'The endpoint wants a key: name its environment variable by api_key_env'
      : `Check the key in the environment variable ${api_key_env}, and what it may do${without}`;
  }
  if (status >= 300 && status < 400)
    return 'It leads on to another address, which is not followed: give that one as base_url if you trust it';
  if (status === 404) return `Check base_url, which often ends in /v1, and the model's name "${model}"`;
  return `Check base_url, model, temperature, top_p, max_tokens and seed (send_seed: false, send_top_p: false leave them out) against what the endpoint takes${without}`;
}

/** Whether a later request may succeed where one got this status. */
function isTransient(status: number): boolean {
  return status === 408 || status === 409 || status === 429 || status >= 500;
}

/**
 * Loads the `openai` package. Left alone, it would send the admin key, organization and project that it finds in the
 * environment to any endpoint, and log what OPENAI_LOG asks for.
 */
export async function connect(
  config: ChatEndpointConfig,
  key: string | undefined,
  { signal, now = Date.now }: { signal?: AbortSignal; now?: () => number },
): Promise<Post> {
  const { default: OpenAI, APIError, APIConnectionTimeoutError } = await import('openai');
  const client = new OpenAI({
    baseURL: config.base_url,
    apiKey: key ?? 'none',
    defaultHeaders: key === undefined ? { Authorization: null } : {},
    ...{ adminAPIKey: null, organization: null, project: null, webhookSecret: null },
    // A redirect is answered as any other status: neither texts nor key go to an address that nobody named.
    fetchOptions: { redirect: 'manual' },
    ...{ maxRetries: 0, timeout: config.timeout_seconds * 1000, logLevel: 'off' },
  });
  const { model, temperature, max_tokens, extra_body } = config;
  const topP = config.send_top_p ? (config.top_p ?? undefined) : undefined;
  const failureOf = (error: unknown, logProbs: boolean): Failure => {
    if (error instanceof APIConnectionTimeoutError)
      return { kind: `no answer within ${config.timeout_seconds} s` };
    if (error instanceof SyntaxError) return malformed('a body that is not JSON');
    if (!(error instanceof APIError) || error.status === undefined)
      return { kind: 'the connection failed', detail: connectionProblem(error) };
    const status = error.status as number;
    const text = error.message.replace(/^\d+ /, '');
    return {
      kind: `status ${status}`,
      detail: /^\s*</.test(text) ? 'a web page' : text,
      remedy: isTransient(status) ? undefined : remedyOf(status, config, logProbs),
      retryAfterSeconds: retryAfterSeconds((error.headers as Headers | undefined)?.get('retry-after'), now()),
    };
  };
  return async (messages, seed, logProbs = false) => {
    try {
      const sent = config.send_seed ? (seed ?? undefined) : undefined;
      const settings = { ...extra_body, model, temperature, top_p: topP, max_tokens, seed: sent };
      const asked = { ...settings, ...(logProbs && { logprobs: true }), messages: [...messages] };
      return { body: await client.chat.completions.create(asked, { signal }) };
    } catch (error) {
      signal?.throwIfAborted();
      return failureOf(error, logProbs);
    }
  };
}
