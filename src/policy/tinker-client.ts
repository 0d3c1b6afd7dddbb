/**
 * A client of servers that speak the Tinker protocol (Thinking Machines' service, SkyRL tx): a session, operations, and
 * their results. What the operations mean is for `tinker.ts`; here is what a network does to them.
 *
 * The protocol has no idempotency: an operation that is sent twice is done twice. So one is sent again only where it
 * certainly did not arrive, where the server said that it did not take it, or where doing it twice is as good as once
 * (`repeatable`). Results, which the server keeps, are asked for until they are there.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { ConfigError, RemoteError } from '../runtime/errors';
import { exchange } from './tinker-http';
import type { Exchange } from './tinker-http';

/** A server that speaks the Tinker protocol, and how long it is waited for. */
export interface TinkerConnection {
  /** `http://host:port`; the protocol's own path is added. */
  baseUrl: string;
  /** Sent as `x-api-key`; never shown. */
  apiKey?: string;
  /** Seconds that one operation may take, from the first attempt to its result; default 1800. */
  timeoutSeconds?: number;
  /** Seconds without a connection after which an operation is given up; default 60. */
  outageSeconds?: number;
  /** Seconds between signs of life, without which a server drops a session after some minutes; default 10. */
  heartbeatSeconds?: number;
  /** Ends waiting, in `run` and the others; what the server has begun goes on there. */
  signal?: AbortSignal;
  /** Told once of each kind of trouble that is overcome. Default: a line on standard error. */
  onNotice?: (line: string) => void;
}

/** The body of a request. */
export type Body = Readonly<Record<string, unknown>>;

/** An operation of the protocol. */
export interface Operation<T> {
  /** Its path, such as `optim_step`. */
  name: string;
  /** A function gives that of each attempt: names that are taken once an attempt arrived. */
  body: Body | (() => Body);
  /** The form of its result. */
  result: z.ZodType<T>;
  /** Doing it twice is as good as once. */
  repeatable?: boolean;
}

/** A question with an answer at once, not a ticket. */
interface Question<T> {
  path: string;
  /** Absent: GET. */
  body?: Body | (() => Body);
  form: z.ZodType<T>;
  repeatable: boolean;
  /** What is waited for, in messages; default: the path. */
  of?: string;
  outageSeconds?: number;
  signal?: AbortSignal;
}

interface RequestOptions {
  path: string;
  body?: unknown;
  isBinary?: boolean;
  signal?: AbortSignal;
  silenceSeconds: number;
}

/** How to wait for one operation. */
export interface WaitOptions {
  /** Ends the waiting; what the server has begun goes on there. */
  signal?: AbortSignal;
}

const API = 'api/v1';
const HEARTBEAT = 'session_heartbeat';
const FIRST_WAIT_SECONDS = 0.05;
const LONGEST_WAIT_SECONDS = 5;
/** Plain 500s in a row after which a read is given up: they may be a moment's trouble of the server, or its last word. */
const MOST_FAILURES = 4;
/** Whoever waits longer is told for what. */
const PATIENCE_SECONDS = 30;
/** Longest silence of a server that is asked for a result, which it holds for 300 s at most. */
const SILENCE_SECONDS = 400;
/** Of one that is given a sign of life, and of one that is to confirm that it knows us. */
const HEARTBEAT_SECONDS = 15;
const GREETING_SECONDS = 2;
/** Of a request of a client in a hurry. */
const HURRIED_SECONDS = 5;
/** Timers count whole milliseconds and may end early: a question that took all the time left must be found late. */
const EARLY_SECONDS = 0.005;

const sessionAnswer = z.object({ session_id: z.string().min(1) });
const ticketAnswer = z.object({ request_id: z.union([z.string().min(1), z.number()]) });
const capabilities = z.object({ supported_models: z.array(z.object({ model_name: z.string() })) });

/** What a server says of models and tickets that it had before a restart. */
const GONE = /\b(model|future)\b.* not (loaded|found)/i;

/** Answers of what stands before a server, such as a proxy: the server itself may be another one afterwards. */
const BEFORE_A_SERVER = new Set([502, 503, 504]);

/** Answers after which an operation may have been done: of trouble, and those that were to be an answer and were not. */
const UNCERTAIN = new Set([200, 201, 202, 408, 500, 502, 504]);

/** What to do after an exchange that brought no answer. */
type Next = 'again' | 'again, a few times' | 'give up';

/**
 * 408: the result is not there yet. 425: a checkpoint is still being written. 429, 503: not taken. 502 and 504 come from what
 * stands before a server, which may have got the request: as a lost connection.
 */
function nextAfter(outcome: Exchange, repeatable: boolean): Next {
  if (outcome.kind === 'not sent') return 'again';
  if (outcome.kind === 'lost') return repeatable ? 'again' : 'give up';
  if (outcome.kind === 'answer') return 'give up';
  const { status } = outcome;
  if (status === 425 || status === 429 || status === 503) return 'again';
  if (status === 408 || status === 502 || status === 504) return repeatable ? 'again' : 'give up';
  return status === 500 && repeatable ? 'again, a few times' : 'give up';
}

function anyOf(...signals: (AbortSignal | undefined)[]): AbortSignal | undefined {
  const given = signals.filter((signal) => signal !== undefined);
  return given.length > 1 ? AbortSignal.any(given) : given[0];
}

/** One session with a server. */
export class TinkerClient {
  private readonly root: string;
  private readonly noticed = new Set<string>();
  private heartbeat: NodeJS.Timeout | undefined;
  private sessionId = '';
  /** The server does not know the session any more: it was restarted, and its models are gone. */
  private isForgotten = false;
  private isHurried = false;

  private constructor(private readonly connection: TinkerConnection) {
    const { baseUrl } = connection;
    if (!URL.canParse(baseUrl) || !/^https?:$/.test(new URL(baseUrl).protocol))
      throw new ConfigError(`base_url is "${baseUrl}"; expected an address such as http://localhost:8123`);
    this.root = baseUrl.replace(/\/+$/, '').replace(/\/api\/v1$/, '');
  }

  /**
   * Opens a session and keeps it alive until `close`.
   * @throws ConfigError  when the address is none
   * @throws RemoteError  when no server is there, or it refuses
   */
  static async open(connection: TinkerConnection): Promise<TinkerClient> {
    const client = new TinkerClient(connection);
    const body = { tags: ['grpolab'], user_metadata: {}, sdk_version: 'grpolab' };
    const opened = await client.ask({
      ...{ path: 'create_session', body, form: sessionAnswer, repeatable: true },
      // Nothing is lost yet: whoever mistyped the address should not wait long.
      outageSeconds: Math.min(3, connection.outageSeconds ?? 3),
    });
    client.sessionId = opened.session_id;
    client.heartbeat = setInterval(
      () => void client.beat().catch(() => undefined),
      1000 * (connection.heartbeatSeconds ?? 10),
    ).unref();
    return client;
  }

  get session(): string {
    return this.sessionId;
  }

  /** The server's address. */
  get address(): string {
    return this.root;
  }

  /** From now on waits little: whoever frees things at the end should not hang on a server that is gone. */
  hurry(): void {
    this.isHurried = true;
  }

  /** Ends the signs of life. The server drops the session's models some minutes later. */
  close(): void {
    clearInterval(this.heartbeat);
  }

  /** Names of the models that the server trains. */
  async models(): Promise<string[]> {
    const question = { path: 'get_server_capabilities', form: capabilities, repeatable: true };
    const { supported_models: models } = await this.ask(question);
    return models.map(({ model_name: name }) => name);
  }

  /**
   * Starts an operation; those of one model are done in the order in which they were started.
   * @returns a ticket for its result, and what the server said with it
   */
  async start<T, A = unknown>(
    { name, body, repeatable = false }: Operation<T>,
    answer?: z.ZodType<A>,
    { signal }: WaitOptions = {},
  ): Promise<{ ticket: string; answer: A }> {
    const form = ticketAnswer.loose();
    const taken = await this.ask({ path: name, body, form, repeatable, signal });
    const checked = answer === undefined ? (taken as A) : this.checked(taken, answer, name);
    return { ticket: String(taken.request_id), answer: checked };
  }

  /**
   * Waits for the result of an operation that was started. A sign of life after it tells that the server still knows us: one
   * that was restarted may count its tickets anew, and give the result of somebody else.
   */
  async finish<T>({ name, result }: Operation<T>, ticket: string, { signal }: WaitOptions = {}): Promise<T> {
    const line = `${this.root}: ${name}: no result for ${PATIENCE_SECONDS} s; still waiting (a server compiles each new shape once)`;
    const impatience = setTimeout(() => this.notice(line, `patience ${name}`), 1000 * PATIENCE_SECONDS);
    const body = { request_id: ticket };
    const question = { path: 'retrieve_future', body, form: result, repeatable: true, of: name, signal };
    try {
      const found = await this.ask(question);
      await this.beat(GREETING_SECONDS);
      if (this.isForgotten) throw this.forgotten(name);
      return found;
    } finally {
      clearTimeout(impatience);
    }
  }

  /** Starts an operation and waits for its result. */
  async run<T>(operation: Operation<T>, options: WaitOptions = {}): Promise<T> {
    const { ticket } = await this.start(operation, undefined, options);
    return this.finish(operation, ticket, options);
  }

  /** The bytes at a path below the protocol's, redirects followed. */
  async download(path: string, of: string): Promise<Buffer> {
    const question = { path, form: z.instanceof(Buffer), repeatable: true, of };
    return this.ask(question, true);
  }

  /** One that is missed does no harm: the next comes soon, and a session lasts for minutes. */
  private beat(silenceSeconds = HEARTBEAT_SECONDS): Promise<Exchange> {
    return this.request({ path: HEARTBEAT, body: { session_id: this.sessionId }, silenceSeconds });
  }

  /** Asks until there is an answer, a refusal, or no time left. */
  private async ask<T>(question: Question<T>, isBinary = false): Promise<T> {
    const { form, repeatable, of = question.path } = question;
    const signal = anyOf(this.connectionSignal, question.signal);
    const { timeoutSeconds, outageSeconds } = this.limits(question);
    const begin = performance.now();
    let outageBegin: number | null = null;
    let failures = 0;
    let isBack = false;
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      const left = Math.max(0, timeoutSeconds - (performance.now() - begin) / 1000) + EARLY_SECONDS;
      const silenceSeconds = Math.min(SILENCE_SECONDS, left);
      const outcome = await this.attempt(question, { isBinary, signal, isBack, silenceSeconds });
      if (outcome.kind === 'answer') return this.checked(outcome.body, form, of);
      const now = performance.now();
      outageBegin = outcome.kind === 'status' ? null : (outageBegin ?? now);
      isBack = outcome.kind !== 'status' || BEFORE_A_SERVER.has(outcome.status);
      failures = outcome.kind === 'status' && outcome.status === 500 ? failures + 1 : 0;
      const next = nextAfter(outcome, repeatable);
      const isLate = now - begin > 1000 * timeoutSeconds;
      const isGone = outageBegin !== null && now - outageBegin > 1000 * outageSeconds;
      if (next === 'give up' || isLate || isGone || failures >= MOST_FAILURES)
        throw this.errorOf(outcome, of, { isLate, isGone, repeatable, timeoutSeconds, outageSeconds });
      // 408 is how a server says that it is still at work.
      const kind = outcome.kind === 'status' ? `status ${outcome.status}` : outcome.kind;
      if (kind !== 'status 408')
        this.notice(`${this.root}: ${of}: ${outcome.detail}; trying again (said once)`, kind);
      const wait = Math.min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** Math.min(attempt, 10));
      await delay(1000 * wait, undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }

  /** One request. After an outage, first a greeting: the server may be another one. */
  private async attempt(
    { path, body, of = path }: Question<unknown>,
    { isBack, ...how }: Omit<RequestOptions, 'path' | 'body'> & { isBack: boolean },
  ): Promise<Exchange> {
    const greeting = isBack && this.sessionId !== '' ? await this.beat() : null;
    if (this.isForgotten) throw this.forgotten(of);
    if (greeting !== null && greeting.kind !== 'answer') return { kind: 'not sent', detail: greeting.detail };
    const outcome = await this.request({ path, body: typeof body === 'function' ? body() : body, ...how });
    if (this.isForgotten) throw this.forgotten(of);
    return outcome;
  }

  private limits({ outageSeconds: own }: Question<unknown>): {
    timeoutSeconds: number;
    outageSeconds: number;
  } {
    const { timeoutSeconds = 1800, outageSeconds = 60 } = this.connection;
    if (this.isHurried) return { timeoutSeconds: HURRIED_SECONDS, outageSeconds: 1 };
    return { timeoutSeconds, outageSeconds: own ?? outageSeconds };
  }

  private async request({ path, body, isBinary, signal, silenceSeconds }: RequestOptions): Promise<Exchange> {
    const { apiKey } = this.connection;
    const outcome = await exchange(`${this.root}/${API}/${path}`, {
      ...{ body, isBinary, redact: (text) => this.withoutKey(text) },
      signal: anyOf(this.connectionSignal, signal),
      silenceSeconds: Math.min(this.isHurried ? HURRIED_SECONDS + EARLY_SECONDS : Infinity, silenceSeconds),
      headers: apiKey === undefined ? {} : { 'x-api-key': apiKey },
    });
    if (path === HEARTBEAT && outcome.kind === 'status' && outcome.status === 404) this.isForgotten = true;
    return outcome;
  }

  /** Whoever aborts a run does not mean what frees its models. */
  private get connectionSignal(): AbortSignal | undefined {
    return this.isHurried ? undefined : this.connection.signal;
  }

  private checked<T>(body: unknown, form: z.ZodType<T>, of: string): T {
    const result = form.safeParse(body);
    if (result.success) return result.data;
    const { path, message } = result.error.issues[0];
    const where = path.length === 0 ? '' : ` at ${path.join('.')}`;
    throw new RemoteError(
      `${this.root}: ${of}: not the answer of a Tinker server${where}: ${message}. Is base_url the address of one?`,
    );
  }

  private forgotten(of: string, detail = ''): RemoteError {
    return new RemoteError(
      `${this.root}: ${of}: ${detail}the server was restarted, or gave this session up, and the models that it trained are ` +
        'gone. Go on from the last checkpoint (--resume).',
      404,
    );
  }

  private errorOf(
    outcome: Exclude<Exchange, { kind: 'answer' }>,
    of: string,
    why: {
      isLate: boolean;
      isGone: boolean;
      repeatable: boolean;
      timeoutSeconds: number;
      outageSeconds: number;
    },
  ): RemoteError {
    const where = `${this.root}: ${of}: ${outcome.detail}`;
    const status = outcome.kind === 'status' ? outcome.status : undefined;
    if (GONE.test(outcome.detail)) return this.forgotten(of, `${outcome.detail}: `);
    const isUncertain = outcome.kind === 'lost' || UNCERTAIN.has(status ?? 0);
    if (isUncertain && !why.repeatable)
      return new RemoteError(
        `${where}; the server may have done it or not, so it is not sent again. Go on from the last checkpoint (--resume).`,
        status,
      );
    if (why.isGone)
      return new RemoteError(
        `${where}; there was no connection for ${why.outageSeconds} s. Is the server running, and base_url its address?`,
        status,
      );
    if (why.isLate)
      return new RemoteError(
        `${where}; there is no result after ${why.timeoutSeconds} s. A higher timeout_seconds waits longer.`,
        status,
      );
    const advice = status === 500 ? "; the server's log has the reason" : '';
    return new RemoteError(`${where}${advice}`, status);
  }

  private notice(line: string, kind: string): void {
    if (this.noticed.has(kind)) return;
    this.noticed.add(kind);
    const say = this.connection.onNotice ?? ((text: string) => void process.stderr.write(`${text}\n`));
    say(line);
  }

  /** Some servers repeat the key that they were given. */
  private withoutKey(text: string): string {
    const { apiKey } = this.connection;
    return apiKey === undefined || apiKey === '' ? text : text.replaceAll(apiKey, '[key]');
  }
}
