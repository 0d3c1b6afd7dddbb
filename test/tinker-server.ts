/**
 * A server on this machine that speaks the Tinker protocol and really trains, and fails as a test says.
 * It is as strict as it can be: what a client must not send is refused, whatever a real server makes of it.
 */
import { createServer } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { TinkerApi } from './tinker-api';
import type { Applied, TinkerApiOptions } from './tinker-api';
import type { Answer } from './tinker-bodies';

/** What to do with one request. Without `isTaken` what it asks for is not done, unless it is only delayed. */
export interface Fault {
  /** It is done all the same; only the answer is another. */
  isTaken?: boolean;
  /** Waits before anything else. */
  delaySeconds?: number;
  /** Cuts the connection: before an answer, or inside its body. */
  cut?: 'at once' | 'in the body';
  status?: number;
  headers?: Record<string, string>;
  /** The body as it is. */
  text?: string;
}

export interface SeenRequest {
  /** Below the protocol's own path, such as `optim_step`. */
  path: string;
  /** Empty of GET. */
  body: Record<string, unknown>;
  headers: IncomingHttpHeaders;
  /** Requests for this path before it. */
  n: number;
  /** Of `retrieve_future`: the operation whose result is asked for. */
  of: string | undefined;
  /** When it came, by `performance.now()`. */
  milliseconds: number;
}

export interface TinkerServerOptions extends TinkerApiOptions {
  fault?: (request: SeenRequest) => Fault | undefined;
}

export interface Restart {
  /** Sessions, tickets, names of models and checkpoints live on; else tickets are counted anew from 1. */
  keepDatabase: boolean;
  /** Connections end in front of the server: they stay, and what was asked is answered 502. */
  isBehindProxy?: boolean;
}

export class TinkerServer {
  readonly requests: SeenRequest[] = [];
  fault: TinkerServerOptions['fault'];
  private readonly api: TinkerApi;
  private http: Server | null = null;
  private port = 0;

  private constructor(options: TinkerServerOptions) {
    this.fault = options.fault;
    this.api = new TinkerApi(options);
  }

  /** Starts one at a free port. Whoever starts it disposes it. */
  static async start(options: TinkerServerOptions = {}): Promise<TinkerServer> {
    const server = new TinkerServer(options);
    await server.start();
    return server;
  }

  get baseUrl(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get modelName(): string {
    return this.api.modelName;
  }

  /** Operations that were really done, in order; of one name, or all. */
  applied(name?: string): Applied[] {
    return this.api.applied.filter((one) => name === undefined || one.name === name);
  }

  /** Requests for one path, in order. */
  asked(path: string): SeenRequest[] {
    return this.requests.filter((one) => one.path === path);
  }

  /** Listens again, at the same port. */
  async start(): Promise<void> {
    const http = createServer((incoming, response) => {
      this.serve(incoming, response).catch((error: unknown) => response.destroy(error as Error));
    });
    await new Promise<void>((resolve, reject) => {
      http.once('error', reject).listen(this.port, '127.0.0.1', resolve);
    });
    this.http = http;
    this.port = (http.address() as AddressInfo).port;
  }

  /** Cuts all connections and takes no more; what was begun goes on. */
  async stop(): Promise<void> {
    const { http } = this;
    this.http = null;
    if (http === null) return;
    const closed = new Promise((resolve) => http.close(resolve));
    http.closeAllConnections();
    await closed;
  }

  /** All models are lost, and what was under way. */
  async restart({ keepDatabase, isBehindProxy = false }: Restart): Promise<void> {
    if (!isBehindProxy) await this.stop();
    await this.api.restart(keepDatabase);
    if (!isBehindProxy) await this.start();
  }

  async dispose(): Promise<void> {
    await this.stop();
    await this.api.dispose();
  }

  private async serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const path = (incoming.url ?? '').replace(/^\/api\/v1\//, '');
    const body = (text === '' ? {} : JSON.parse(text)) as Record<string, unknown>;
    const n = this.asked(path).length;
    const of = path === 'retrieve_future' ? this.api.nameOf(body.request_id) : undefined;
    const request = { path, body, headers: incoming.headers, n, of, milliseconds: performance.now() };
    this.requests.push(request);
    const fault = this.fault?.(request) ?? {};
    if (fault.delaySeconds !== undefined) await delay(1000 * fault.delaySeconds, undefined, { ref: false });
    const isReplaced = (fault.cut ?? fault.status ?? fault.text) !== undefined;
    const take = (): Promise<Answer> =>
      incoming.method === 'POST'
        ? this.api.post(path, body)
        : this.api.get(path, incoming.headers.host ?? '');
    const untaken = { status: 200, body: { type: path, request_id: '0' } };
    send(response, isReplaced && fault.isTaken !== true ? untaken : await take(), fault);
  }
}

function send(response: ServerResponse, answer: Answer, { cut, status, headers, text }: Fault): void {
  if (cut === 'at once') {
    response.destroy();
    return;
  }
  const body = text ?? (status === undefined ? answer.body : `status ${status}`);
  const isRaw = typeof body === 'string' || Buffer.isBuffer(body);
  const bytes = Buffer.from(isRaw ? body : JSON.stringify(body));
  response.writeHead(status ?? answer.status, {
    ...{ 'content-type': isRaw ? 'text/plain' : 'application/json', 'content-length': bytes.length },
    ...answer.headers,
    ...headers,
  });
  if (cut === 'in the body') response.write(bytes.subarray(0, 10), () => response.destroy());
  else response.end(bytes);
}
