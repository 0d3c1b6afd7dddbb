/** A chat endpoint on this machine that behaves, or misbehaves, as a test says. */
import { readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';
import { z } from 'zod';
import { ChatEndpoint } from '../src/rewards/chat-endpoint';
import type { ChatEndpointOptions, Question } from '../src/rewards/chat-endpoint';
import { chatEndpointSchema } from '../src/rewards/chat-request';
import { parseStrict } from '../src/runtime/strict';
import { temporaryDirectory } from './cli';

/** What the server does with one request. */
export interface Behaviour {
  /** Default 200. */
  status?: number;
  headers?: Record<string, string>;
  /** The judge's text, sent inside a chat completion. */
  content?: string;
  finishReason?: string;
  /** Thoughts that the server took out of the text. */
  reasoning?: string;
  /** What stands as `logprobs` beside the message where the request asks for it; see `logProbsOf`. */
  logProbs?: unknown;
  /** The body as it is, instead. */
  body?: string;
  /** Answers only after this long. */
  delaySeconds?: number;
  /** Cuts the connection: before any answer, or in the middle of the body. */
  reset?: 'at once' | 'in the body';
}

export interface ChatRequest {
  url: string | undefined;
  headers: IncomingHttpHeaders;
  body: {
    model: string;
    messages: { role: string; content: string }[];
    temperature: number;
    max_tokens: number;
    top_p?: number;
    seed?: number;
    logprobs?: boolean;
  };
}

export interface JudgeServer {
  baseUrl: string;
  requests: ChatRequest[];
  /** The most requests that were under way at one time. */
  mostAtOnce: number;
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

/** Log-probabilities as a server gives them: of tokens by their texts. */
export const logProbsOf = (...tokens: readonly [token: string, logProb: unknown][]): unknown => ({
  content: tokens.map(([token, logprob]) => ({ token, logprob, bytes: null, top_logprobs: [] })),
});

function completion(
  { content = '', finishReason = 'stop', reasoning, logProbs }: Behaviour,
  { logprobs: isAsked = false }: ChatRequest['body'],
): string {
  const message = {
    role: 'assistant',
    content,
    ...(reasoning !== undefined && { reasoning_content: reasoning }),
  };
  const logprobs = isAsked && logProbs !== undefined ? { logprobs: logProbs } : {};
  return JSON.stringify({
    ...{ id: 'c', object: 'chat.completion', created: 0, model: 'm' },
    choices: [{ index: 0, message, finish_reason: finishReason, ...logprobs }],
  });
}

function answer(response: ServerResponse, behaviour: Behaviour, request: ChatRequest): void {
  if (behaviour.reset === 'at once') {
    response.destroy();
    return;
  }
  const text = behaviour.body ?? completion(behaviour, request.body);
  response.writeHead(behaviour.status ?? 200, { 'content-type': 'application/json', ...behaviour.headers });
  if (behaviour.reset === 'in the body') response.write(text.slice(0, 20), () => response.destroy());
  else response.end(text);
}

/**
 * Starts a server that stops when the test ends.
 *
 * @param script  what to do with request number `n`, from 0
 */
export async function startJudge(
  script: (request: ChatRequest, n: number) => Behaviour,
): Promise<JudgeServer> {
  const judge: JudgeServer = { baseUrl: '', requests: [], mostAtOnce: 0 };
  let underWay = 0;
  const serve = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    judge.mostAtOnce = Math.max(judge.mostAtOnce, ++underWay);
    response.once('close', () => underWay--);
    const body = JSON.parse(await readBody(incoming)) as ChatRequest['body'];
    const request = { url: incoming.url, headers: incoming.headers, body };
    const behaviour = script(request, judge.requests.push(request) - 1);
    if (behaviour.delaySeconds === undefined) answer(response, behaviour, request);
    else setTimeout(() => answer(response, behaviour, request), behaviour.delaySeconds * 1000).unref();
  };
  const server = createServer((incoming, response) => {
    serve(incoming, response).catch((error: unknown) => response.destroy(error as Error));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  judge.baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  return judge;
}

/** The JSON object of data in a judge's user message. */
export function dataOf(request: ChatRequest): Record<string, string> {
  const text = request.body.messages[1].content;
  return JSON.parse(text.slice(0, text.indexOf('\n'))) as Record<string, string>;
}

/** Nobody's key. */
export const KEY = 'sk-test-0123456789abcdefghij';
const schema = z.object({ grade: z.int().min(1).max(10), taste: z.int().min(1).max(10) });
type Answer = z.output<typeof schema>;

/** The answer to `question`. */
export const GOOD: Behaviour = { content: '{"grade": 7, "taste": 3}' };

/** A question of two grades. */
export function question(text = 'tea'): Question<Answer> {
  const messages = [{ role: 'user', content: text }] as const;
  return { prompt: 'test-1', messages, answer: schema, reminder: 'Only the JSON object.' };
}

export interface Setting {
  config?: Partial<z.input<typeof chatEndpointSchema>>;
  options?: ChatEndpointOptions;
}

export interface Opened {
  endpoint: ChatEndpoint;
  slept: number[];
  notices: string[];
  cache: string;
}

/** An endpoint that does not really sleep, and says nothing on standard error. */
export function openEndpoint(baseUrl: string, { config, options }: Setting = {}): Opened {
  const [slept, notices]: [number[], string[]] = [[], []];
  const cache = config?.cache_directory ?? temporaryDirectory();
  const parsed = parseStrict(
    chatEndpointSchema,
    { base_url: baseUrl, model: 'm', cache_directory: cache, timeout_seconds: 5, ...config },
    'judge.yaml',
  );
  const endpoint = new ChatEndpoint(parsed, {
    environment: { OPENAI_API_KEY: KEY },
    sleep: (seconds) => Promise.resolve(void slept.push(seconds)),
    onNotice: (text) => notices.push(text),
    ...options,
  });
  return { endpoint, slept, notices, cache };
}

/** What a promise fails with; an error that says so when it does not fail. */
export async function failureOf(promise: Promise<unknown>): Promise<Error> {
  const outcome = await promise.then(
    (value) => new Error(`no failure but ${JSON.stringify(value)}`),
    (error: unknown) => error,
  );
  return outcome as Error;
}

/** The answers that are kept, by file name. */
export function cacheFiles(cache: string): string[] {
  return readdirSync(cache, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.json'));
}
