/**
 * One HTTP exchange, and what is known of it when it fails: whether the request can have reached the server. Each has a
 * connection of its own: on one that was kept, the server's closing it looks like a request that was lost.
 */
import http from 'node:http';
import https from 'node:https';
import { messageOf } from '../runtime/errors';
import { errorCode } from '../runtime/files';
import { clip } from '../runtime/http';

/** What came of a request. */
export type Exchange =
  | { kind: 'answer'; body: unknown }
  | { kind: 'status'; status: number; detail: string }
  /** No connection came about: nothing has reached a server. */
  | { kind: 'not sent'; detail: string }
  /** The connection broke before the end of the answer: the request may have been received. */
  | { kind: 'lost'; detail: string };

export interface ExchangeOptions {
  /** Sent as JSON by POST; undefined: GET. */
  body?: unknown;
  headers: Record<string, string>;
  /** The answer is bytes, not JSON. */
  isBinary?: boolean;
  /** Longest silence, after which the connection is taken for a dead one. */
  silenceSeconds: number;
  /** Takes out of a text what must not be shown. */
  redact?: (text: string) => string;
  signal?: AbortSignal;
}

const MOST_REDIRECTS = 3;
/** Characters of what a server wrote that a message shows. */
const SHOWN = 300;
/** A connection that is not there by then does not come. */
const CONNECT_SECONDS = 20;

/** The text of an error's body: `{"detail": "text"}`, `{"detail": [{loc, msg}]}`, or plain text. */
function detailOf(text: string): string {
  try {
    const { detail } = JSON.parse(text) as { detail?: unknown };
    if (typeof detail === 'string') return clip(detail, SHOWN);
    if (detail !== undefined) return clip(JSON.stringify(detail), SHOWN);
  } catch {
    // Plain text, as a server sends with 500.
  }
  return clip(text, SHOWN);
}

interface Received {
  status: number;
  location: string | undefined;
  bytes: Buffer;
}

/** What went wrong below HTTP. */
class Broken extends Error {
  constructor(
    readonly wasConnected: boolean,
    cause: unknown,
  ) {
    const code = errorCode(cause);
    // An error that gathers those of several addresses has a code, and no text.
    super(messageOf(cause).includes(code) ? messageOf(cause) : `${code} ${messageOf(cause)}`.trim());
  }
}

function send(url: URL, { body, headers, signal, silenceSeconds }: ExchangeOptions): Promise<Received> {
  return new Promise((resolve, reject) => {
    let wasConnected = false;
    const secure = url.protocol === 'https:';
    const text = body === undefined ? undefined : JSON.stringify(body);
    const request = (secure ? https : http).request(url, {
      ...{ agent: false, signal, method: text === undefined ? 'GET' : 'POST' },
      headers: {
        ...headers,
        ...(text !== undefined && {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(text),
        }),
      },
    });
    const fail = (error: unknown): void => reject(new Broken(wasConnected, error));
    const impatience = setTimeout(
      () => request.destroy(new Error(`no connection within ${CONNECT_SECONDS} s`)),
      1000 * CONNECT_SECONDS,
    );
    request.once('socket', (socket) =>
      socket.once(secure ? 'secureConnect' : 'connect', () => {
        wasConnected = true;
        clearTimeout(impatience);
        socket.setKeepAlive(true, 30_000);
      }),
    );
    request.setTimeout(1000 * silenceSeconds, () =>
      request.destroy(new Error(`silence for ${silenceSeconds.toPrecision(3)} s`)),
    );
    request.once('error', fail);
    request.once('close', () => clearTimeout(impatience));
    request.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', fail);
      response.once('end', () => {
        const { statusCode: status = 0, headers: answered } = response;
        resolve({ status, location: answered.location, bytes: Buffer.concat(chunks) });
      });
    });
    request.end(text);
  });
}

/**
 * Follows redirects of what is only read, as of an archive that lies in some storage; to another origin without the headers,
 * for it must not see the key, and not from https to http.
 */
async function sendFollowing(url: string, options: ExchangeOptions): Promise<Received> {
  let at = new URL(url);
  let { headers } = options;
  for (let hops = 0; ; hops++) {
    const received = await send(at, { ...options, headers });
    const { status, location } = received;
    if (status < 300 || status >= 400 || location === undefined || hops === MOST_REDIRECTS) return received;
    const next = new URL(location, at);
    const isWeaker = at.protocol === 'https:' && next.protocol !== 'https:';
    if (options.body !== undefined || isWeaker || !/^https?:$/.test(next.protocol)) return received;
    if (next.origin !== at.origin) headers = {};
    at = next;
  }
}

/** Sends a request and takes its answer. Only an abort throws: its reason. */
export async function exchange(url: string, options: ExchangeOptions): Promise<Exchange> {
  const { redact = (text: string) => text } = options;
  let received: Received;
  try {
    received = await sendFollowing(url, options);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (!(error instanceof Broken)) throw error;
    return { kind: error.wasConnected ? 'lost' : 'not sent', detail: clip(redact(error.message), SHOWN) };
  }
  const { status, bytes } = received;
  const isFine = status >= 200 && status < 300;
  if (isFine && options.isBinary === true) return { kind: 'answer', body: bytes };
  const text = bytes.toString();
  if (!isFine) return { kind: 'status', status, detail: `${status} ${detailOf(redact(text))}`.trim() };
  try {
    return { kind: 'answer', body: JSON.parse(text) as unknown };
  } catch {
    return {
      kind: 'status',
      status,
      detail: `an answer that is not JSON, but ${clip(redact(text), 80) || 'nothing'}`,
    };
  }
}
