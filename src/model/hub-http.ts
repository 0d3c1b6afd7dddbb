/** Requests to a model hub: what a refusal means, what is worth another try, and who gets to see the token. */
import { setTimeout as delay } from 'node:timers/promises';
import { retryAfterSeconds } from '../runtime/http';
import { formatBytes } from '../runtime/progress';
import { messageOf } from '../runtime/errors';
import type { HubToken } from './hub-token';

/**
 * Why the hub did not give what was asked for. `refused` is its last word, `interrupted` is worth another try, and
 * `unreachable` is too once the hub has answered before.
 */
export class HubFailure extends Error {
  constructor(
    message: string,
    readonly kind: 'refused' | 'unreachable' | 'interrupted',
    /** of HTTP, where there was an answer */
    readonly status?: number,
    /** that the hub asked to wait */
    readonly retryAfterSeconds = 0,
  ) {
    super(message);
  }
}

export interface HubClientOptions {
  /** Address of the hub. */
  url: string;
  /** The repository and the revision that are asked for, for messages. */
  name: string;
  revision: string;
  token?: HubToken;
  signal?: AbortSignal;
  /** Seconds without a byte after which a connection counts as dropped. */
  stallSeconds: number;
  /** Wait before the first new try, doubled with each one after it. */
  retryWaitSeconds: number;
  onNotice: (line: string) => void;
}

export interface HubAnswer {
  status: number;
  headers: Headers;
  body: AsyncIterable<Uint8Array>;
  /** Ends the connection, read to the end or not. */
  close: () => void;
}

const REDIRECTS = new Set([301, 302, 303, 307, 308]);
const MOST_REDIRECTS = 10;
/** New tries in a row, without a byte more than before, after which a download is given up. */
const MOST_RETRIES = 5;
/** The hub counts requests in windows of five minutes; a longer wait is for the user to decide. */
const LONGEST_RETRY_AFTER_SECONDS = 300;
/** A listing is a few kilobytes; what is far larger is not one. */
const MOST_LISTING_BYTES = 64 * 2 ** 20;

/** No connection came about. */
const UNREACHABLE =
  /^(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|UND_ERR_CONNECT_TIMEOUT)$|CERT|SIGNATURE|TLS|SSL/;

/** What `fetch` failed with. Its own message says nothing ("fetch failed"); its cause does. */
function networkFailure(error: unknown): HubFailure {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const kind = code === '' ? 'refused' : UNREACHABLE.test(code) ? 'unreachable' : 'interrupted';
  return new HubFailure(messageOf(cause) || code, kind);
}

/** Talks to one hub about one repository. */
export class HubClient {
  private readonly root: string;
  private readonly origin: string;
  private hasAnswered = false;
  private readonly noticed = new Set<unknown>();

  constructor(readonly options: HubClientOptions) {
    this.root = options.url.replace(/\/+$/, '');
    const url = URL.canParse(this.root) ? new URL(this.root) : undefined;
    // Not shown: it may hold a password.
    if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '')
      throw new HubFailure(
        'HF_ENDPOINT is not the address of a hub. Set it to one like https://host, without a password, or unset it.',
        'refused',
      );
    this.origin = url.origin;
  }

  /** The address of a file. */
  fileUrl(sha: string, path: string): string {
    const parts = path.split('/').map(encodeURIComponent);
    return `${this.root}/${this.options.name}/resolve/${sha}/${parts.join('/')}`;
  }

  /** In the form of `fetch`, for the listings of the hub's own client: errors and retries are dealt with here. */
  readonly fetchListing = async (input: string | URL | Request): Promise<Response> => {
    const url = input instanceof Request ? input.url : String(input);
    const retries = this.retries('the list of its files');
    for (;;) {
      try {
        const { headers, body } = await this.ask(url, { accept: 'application/json' });
        const text = await this.readJson(body);
        this.hasAnswered = true;
        return new Response(text, { headers: { link: headers.get('link') ?? '' } });
      } catch (error) {
        await retries.wait(error);
      }
    }
  };

  private async readJson(body: HubAnswer['body']): Promise<string> {
    const chunks: Uint8Array[] = [];
    let length = 0;
    for await (const chunk of body) {
      chunks.push(chunk);
      if ((length += chunk.length) > MOST_LISTING_BYTES) break;
    }
    const text = Buffer.concat(chunks).toString();
    try {
      JSON.parse(text);
      return text;
    } catch {
      // The login page of a network, for instance, answers everything with 200.
      throw new HubFailure(`what answers at ${this.root} is not a hub`, 'unreachable');
    }
  }

  /** One request; its body fails with `HubFailure` too. @throws HubFailure  unless the status is 2xx */
  async ask(url: string, headers: Record<string, string> = {}): Promise<HubAnswer> {
    const { signal, stallSeconds } = this.options;
    const stall = new AbortController();
    const timer = setTimeout(() => stall.abort(), 1000 * stallSeconds);
    const either = signal === undefined ? stall.signal : AbortSignal.any([signal, stall.signal]);
    const failure = (error: unknown): unknown => {
      clearTimeout(timer);
      if (signal?.aborted) return signal.reason;
      if (stall.signal.aborted) return new HubFailure(`no byte came for ${stallSeconds} s`, 'interrupted');
      return error instanceof HubFailure ? error : networkFailure(error);
    };
    async function* read({ body }: Response): AsyncGenerator<Uint8Array, void> {
      try {
        for await (const chunk of (body ?? []) as unknown as AsyncIterable<Uint8Array>) {
          timer.refresh();
          yield chunk;
        }
      } catch (error) {
        throw failure(error);
      } finally {
        clearTimeout(timer);
      }
    }
    try {
      const response = await this.follow(url, headers, either);
      timer.refresh();
      const close = (): void => {
        clearTimeout(timer);
        stall.abort();
      };
      return { status: response.status, headers: response.headers, body: read(response), close };
    } catch (error) {
      throw failure(error);
    }
  }

  /** Redirects are followed here and not by `fetch`, so that the token goes to the hub alone. */
  private async follow(url: string, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const { token } = this.options;
    let place = new URL(url);
    for (let hop = 0; hop <= MOST_REDIRECTS; hop++) {
      const isHub = place.origin === this.origin;
      const authorization =
        isHub && token !== undefined ? { authorization: `Bearer ${token.value}` } : undefined;
      // Ranges and sizes are those of the file, not of a compressed form of it.
      const sent = { 'accept-encoding': 'identity', ...headers, ...authorization };
      const response = await fetch(place, { headers: sent, redirect: 'manual', signal });
      const next = response.headers.get('location');
      if (response.ok) return response;
      await response.body?.cancel();
      if (!REDIRECTS.has(response.status) || next === null) throw this.failureOf(response, place);
      if (!URL.canParse(next, place.href)) throw new HubFailure('the hub redirects to nowhere', 'refused');
      place = new URL(next, place.href);
    }
    throw new HubFailure('the hub redirects without end', 'refused');
  }

  private failureOf({ status, headers }: Response, place: URL): HubFailure {
    const isHub = place.origin === this.origin;
    // Without path and query, which hold a signature.
    const who = isHub ? 'the hub' : `${place.host}, where the hub keeps the file,`;
    // An address that the hub gave for a file runs out; it gives a new one when asked again.
    if (status === 408 || status === 416 || status === 429 || status >= 500 || !isHub)
      return new HubFailure(
        `${who} answered HTTP ${status}`,
        'interrupted',
        status,
        status === 429 || status === 503
          ? (retryAfterSeconds(headers.get('retry-after'), Date.now()) ?? 0)
          : 0,
      );
    const reason = this.refusal(status, headers.get('x-error-code') ?? '');
    return new HubFailure(`${reason ?? `${who} answered`} (HTTP ${status})`, 'refused', status);
  }

  /** What a refusal means and what to do, in one line. */
  private refusal(status: number, code: string): string | undefined {
    const { name, revision, token } = this.options;
    const [page, tokens] = [`${this.root}/${name}`, `${this.root}/settings/tokens`];
    if (code === 'GatedRepo' || status === 403)
      return token === undefined
        ? `the model is gated: accept its conditions at ${page}, and set HF_TOKEN to a token of that account (${tokens})`
        : `the account of ${token.source} may not read it: accept its conditions at ${page}, wait until access is ` +
            `granted, and give a fine-grained token the right to read gated models (${tokens})`;
    if (status === 401)
      return token === undefined
        ? 'the hub has no public model of this name: check the name, and for a private or gated model set HF_TOKEN ' +
            `to a token that may read it (${tokens})`
        : `the hub does not accept ${token.source}: make a new token (${tokens}), or remove it for a public model`;
    if (code === 'RevisionNotFound') return `the model has no revision "${revision}": check the revision`;
    if (code === 'EntryNotFound') return 'a file was listed and is not found: try again';
    if (status !== 404) return undefined;
    return 'the model is not found on the hub: check the name, and for a private model set HF_TOKEN to a token that may read it';
  }

  retries(what: string): Retries {
    return new Retries(what, this.options, {
      hasAnswered: () => this.hasAnswered,
      // Once of each kind is enough: a bad network would fill the screen.
      notice: (line, kind) => {
        if (!this.noticed.has(kind)) this.options.onNotice(line);
        this.noticed.add(kind);
      },
    });
  }
}

interface RetryContext {
  hasAnswered: () => boolean;
  notice: (line: string, kind: unknown) => void;
}

/** The tries of one piece of work. */
export class Retries {
  private failures = 0;

  constructor(
    private readonly what: string,
    private readonly options: HubClientOptions,
    private readonly context: RetryContext,
  ) {}

  /** More came than ever before: the count of failures begins anew. */
  progress(): void {
    this.failures = 0;
  }

  /** Waits until the next try. @throws the error itself when another try is of no use */
  async wait(error: unknown): Promise<void> {
    const { signal, name, retryWaitSeconds } = this.options;
    signal?.throwIfAborted();
    if (!(error instanceof HubFailure) || error.kind === 'refused') throw error;
    if (error.kind === 'unreachable' && !this.context.hasAnswered()) throw error;
    const seconds = Math.max(error.retryAfterSeconds, retryWaitSeconds * 2 ** this.failures);
    if (error.retryAfterSeconds > LONGEST_RETRY_AFTER_SECONDS)
      throw new HubFailure(
        `${error.message} and asks to wait ${Math.ceil(error.retryAfterSeconds)} s`,
        error.kind,
      );
    if (++this.failures > MOST_RETRIES) throw error;
    const asked = error.retryAfterSeconds > 0 ? ` in ${Math.ceil(seconds)} s, as it asks` : '';
    this.context.notice(
      `${name}: ${this.what}: ${error.message}; trying again${asked} (said once)`,
      error.status ?? error.kind,
    );
    await delay(1000 * seconds, undefined, { signal }).catch(() => signal?.throwIfAborted());
  }
}

/** Said of a connection that ended before all was there. */
export function dropped(loaded: number, size: number): HubFailure {
  return new HubFailure(
    `the connection was dropped after ${formatBytes(loaded)} of ${formatBytes(size)}`,
    'interrupted',
  );
}
