/**
 * A client of any OpenAI-compatible chat endpoint: asks for answers of a stated form, asks again until they have it,
 * and keeps them on disk.
 */

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { ConfigError, DataError } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory, errorCode, readFailure, strictJson } from '../runtime/files';
import { clip } from '../runtime/http';
import { Random } from '../runtime/random';
import { lacksLikelihood, parseDrawn } from './chat-log-probs';
import { completionContent, connect, malformed, parseAnswer, parseText, readKey } from './chat-request';
import { JudgeError } from './judge-error';
import type { ChatEndpointConfig, ChatMessage, Failure, Post } from './chat-request';

const FIRST_WAIT_SECONDS = 0.5;
const LONGEST_WAIT_SECONDS = 30;
/** Characters of what a server wrote that a message shows. */
const SHOWN = 160;
/** A server that asks for a longer pause than this gets an error instead of a process that seems to hang. */
const LONGEST_RETRY_AFTER_SECONDS = 600;

/** A question with the form of its answer. */
export interface Question<T> {
  /** Name and number of the prompt; a part of the cache's key. */
  prompt: string;
  messages: readonly ChatMessage[];
  answer: z.ZodType<T>;
  /** A user message added when an answer had the wrong form, so that a deterministic model does not repeat it. */
  reminder: string;
  /**
   * `json`: one object, the default. `text`: all of the answer, which may have been cut off at max_tokens. `drawn`: such
   * a text with its log-probability, for which the endpoint is asked, too: `answer` is of `{ text, drawn }`.
   */
  form?: 'json' | 'text' | 'drawn';
  /** Sent instead of the configuration's: several draws of one question. */
  seed?: number;
}

/** What an endpoint needs beside its settings; each for tests or for whoever runs long. */
export interface ChatEndpointOptions {
  /** Default `process.env`. */
  environment?: Readonly<Record<string, string | undefined>>;
  /** Default a timer. */
  sleep?: (seconds: number) => Promise<void>;
  /** Milliseconds since 1970, for a Retry-After that is a date. */
  now?: () => number;
  /** Lines about retries and damaged cache files, each once. Default: standard error. */
  onNotice?: (text: string) => void;
  /** Called after each answer of a batch. */
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

/** min(30, 0.5 * 2^attempt) seconds, times a factor in [0.5, 1) drawn by seed, question and attempt. */
export function backOffSeconds(attempt: number, seed: number, question: string): number {
  const longest = Math.min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** attempt);
  return longest * (0.5 + new Random(seed, 'back-off', question, attempt).uniform() / 2);
}

/** At most `limit` pieces of work at once; the others wait in order. */
class Gate {
  private readonly waiting: (() => void)[] = [];

  constructor(private free: number) {}

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free--;
    else await new Promise<void>((resolve) => this.waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.waiting.shift(); // it takes over this place
      if (next === undefined) this.free++;
      else next();
    }
  }
}

/** An endpoint that answers questions. Every answer is one that the model gave: there is no made-up one. */
export class ChatEndpoint {
  private readonly key: string | undefined;
  private readonly gate: Gate;
  private readonly pending = new Map<string, Promise<unknown>>();
  private readonly noticed = new Set<string>();
  private post: Promise<Post> | undefined;

  /** @throws ConfigError  when the environment variable of the key is missing */
  constructor(
    private readonly config: ChatEndpointConfig,
    private readonly options: ChatEndpointOptions = {},
  ) {
    this.key = readKey(config.api_key_env, options.environment ?? process.env);
    this.gate = new Gate(config.concurrency);
  }

  /**
   * The answer, from the cache where it is there; the same question is under way at most once.
   *
   * @throws ConfigError  when the endpoint refuses the request (400, 401, 403, 404, ...), at once
   * @throws JudgeError   when no retry brought an answer
   */
  ask<T>(question: Question<T>): Promise<T> {
    const id = this.idOf(question);
    const pending = this.pending.get(id) as Promise<T> | undefined;
    if (pending !== undefined) return pending;
    const answer = this.answer(question, id).finally(() => this.pending.delete(id));
    this.pending.set(id, answer);
    return answer;
  }

  /** Answers in order. After a failure no further question is begun; those under way are still kept in the cache. */
  async askAll<T>(questions: readonly Question<T>[]): Promise<T[]> {
    const answers = new Array<T>(questions.length);
    const failures: unknown[] = [];
    let [next, done] = [0, 0];
    const work = async (): Promise<void> => {
      while (next < questions.length && failures.length === 0) {
        const i = next++;
        try {
          answers[i] = await this.ask(questions[i]);
          this.options.onProgress?.(++done, questions.length);
        } catch (error) {
          failures.push(error);
        }
      }
    };
    await Promise.all(Array.from({ length: this.config.concurrency }, work));
    if (failures.length > 0) throw failures[0];
    return answers;
  }

  /** SHA-256 of all that an answer depends on. The address belongs to it: two servers may use one model name. */
  private idOf({ prompt, messages, form, seed = this.config.seed ?? undefined }: Question<unknown>): string {
    const { base_url, model, temperature, top_p, max_tokens } = this.config;
    const extra = Object.keys(this.config.extra_body).length === 0 ? [] : [this.config.extra_body];
    const sampling = [temperature, max_tokens, seed ?? null, ...(top_p === null ? [] : [top_p]), ...extra];
    const drawn = form === 'drawn' ? ['logprobs'] : [];
    const parts = [base_url.replace(/\/+$/, ''), model, prompt, messages, ...sampling, ...drawn];
    return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
  }

  /** One file an answer, written atomically: processes may share the directory, and a crash leaves no half of one. */
  private fileOf(id: string): string {
    return join(this.config.cache_directory, id.slice(0, 2), `${id}.json`);
  }

  private async answer<T>(question: Question<T>, id: string): Promise<T> {
    const kept = await this.recall(question, id);
    const value = kept === undefined ? await this.askAndKeep(question, id) : kept.value;
    if (question.form === 'drawn' && lacksLikelihood(value))
      this.notice(
        `${this.config.base_url}: an answer without log-probabilities of its tokens: the server gives none, or what it gives is of a longer text, such as thoughts; kept so in ${this.config.cache_directory} (said once)`,
      );
    return value;
  }

  private async askAndKeep<T>(question: Question<T>, id: string): Promise<T> {
    const value = await this.gate.run(() => this.askUntilAnswered(question, id));
    const file = this.fileOf(id);
    await ensureDirectory(dirname(file));
    // The checked value: of an object its grades; of a text what `attempt` found free of the key.
    const { model } = this.config;
    await atomicWriteFile(file, `${strictJson({ model, prompt: question.prompt, answer: value })}\n`);
    return value;
  }

  private async recall<T>(question: Question<T>, id: string): Promise<{ value: T } | undefined> {
    const file = this.fileOf(id);
    let text: string;
    try {
      text = await readFile(file, 'utf8');
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return undefined;
      throw new DataError(`${file}: ${readFailure(error)}.`);
    }
    const kept = parseAnswer(text, z.object({ answer: question.answer }));
    if ('value' in kept) return { value: kept.value.answer };
    this.notice(`${file}: damaged (${clip(this.withoutKey(kept.problem), SHOWN)}); asking again`);
    return undefined;
  }

  private async askUntilAnswered<T>(question: Question<T>, id: string): Promise<T> {
    const { max_retries, seed } = this.config;
    let messages = question.messages;
    for (let attempt = 0; ; attempt++) {
      this.options.signal?.throwIfAborted();
      const outcome = await this.attempt(question, messages);
      if ('value' in outcome) return outcome.value;
      const wait = Math.max(backOffSeconds(attempt, seed ?? 0, id), outcome.retryAfterSeconds ?? 0);
      if (outcome.remedy !== undefined || attempt === max_retries || wait > LONGEST_RETRY_AFTER_SECONDS)
        throw this.errorOf(outcome, attempt + 1);
      if (outcome.malformed) messages = [...question.messages, { role: 'user', content: question.reminder }];
      this.notice(`${this.config.base_url}: ${outcome.kind}; asking again (said once)`);
      await this.pause(wait);
    }
  }

  private async attempt<T>(
    question: Question<T>,
    messages: readonly ChatMessage[],
  ): Promise<{ value: T } | Failure> {
    const post = await (this.post ??= connect(this.config, this.key, this.options));
    const isDrawn = question.form === 'drawn';
    const response = await post(messages, question.seed ?? this.config.seed, isDrawn);
    if (!('body' in response)) return response;
    const isText = isDrawn || question.form === 'text';
    const completion = completionContent(response.body, isText);
    if (!('content' in completion)) return completion;
    // What the server wrote is kept and shown as it is: no key may be in it.
    if (isText && this.key !== undefined && completion.content.includes(this.key))
      return { kind: 'an answer that repeats the key', remedy: 'Use a server that keeps it to itself' };
    const answer = isDrawn
      ? parseDrawn(response.body, completion.content, question.answer)
      : (isText ? parseText : parseAnswer)(completion.content, question.answer);
    return 'value' in answer ? answer : malformed(answer.problem);
  }

  private async pause(seconds: number): Promise<void> {
    const { sleep, signal } = this.options;
    try {
      await (sleep === undefined ? delay(seconds * 1000, undefined, { signal }) : sleep(seconds));
    } catch (error) {
      signal?.throwIfAborted(); // the caller's own reason, not the timer's
      throw error;
    }
  }

  private errorOf({ kind, detail, remedy, retryAfterSeconds: asked = 0 }: Failure, attempts: number): Error {
    const { base_url, cache_directory } = this.config;
    const reason = detail === undefined ? kind : `${kind} (${clip(this.withoutKey(detail), SHOWN)})`;
    if (remedy !== undefined) return new ConfigError(this.withoutKey(`${base_url}: ${reason}. ${remedy}.`));
    const times = attempts === 1 ? 'one request' : `${attempts} requests`;
    const pause = asked > LONGEST_RETRY_AFTER_SECONDS ? `; it asks for a pause of ${Math.ceil(asked)} s` : '';
    const message =
      `${base_url}: no answer after ${times}, at last: ${reason}${pause}. What has been answered is kept in ` +
      `${cache_directory}: run again to go on from there, with a lower concurrency or a higher max_retries if need be.`;
    return new JudgeError(this.withoutKey(message));
  }

  /** Some servers repeat the key that they were given. */
  private withoutKey(text: string): string {
    return this.key === undefined ? text : text.replaceAll(this.key, '[key]');
  }

  private notice(line: string): void {
    if (this.noticed.has(line)) return;
    this.noticed.add(line);
    const say = this.options.onNotice ?? ((text: string) => process.stderr.write(`${text}\n`));
    say(this.withoutKey(line));
  }
}
