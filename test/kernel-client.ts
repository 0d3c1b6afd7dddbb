/** A Jupyter frontend in a few lines: starts the kernel as Jupyter does and speaks its messages. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

const require = createRequire(path.resolve('node_modules/tslab/dist/main.js'));

interface Message {
  header: { msg_type: string; msg_id: string };
  parent: { msg_id?: string };
  content: Record<string, unknown>;
}

interface Socket extends AsyncIterable<Buffer[]> {
  connect(address: string): void;
  subscribe?(): void;
  send(frames: (Buffer | string)[]): Promise<void>;
  close(): void;
}

const zeromq = require('zeromq') as Record<'Dealer' | 'Subscriber', new (options?: object) => Socket>;
const { readMessage, writeMessage } = require(path.resolve('kernels/grpolab/wire.cjs')) as {
  readMessage(key: string, frames: Buffer[]): Message;
  writeMessage(key: string, type: string, content: object, options?: object): (Buffer | string)[];
};

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports = await Promise.all(
    servers.map(
      (server) =>
        new Promise<number>((resolve) =>
          server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port)),
        ),
    ),
  );
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** What a cell came to: the type and content of each of its messages, and the reply. */
export interface Outcome {
  status: string;
  messages: { type: string; content: Record<string, unknown> }[];
  reply: Record<string, unknown>;
  /** the text of a stream */
  text(name: 'stdout' | 'stderr'): string;
  /** the plain text of the cell's value */
  value: string | undefined;
  /** `ename: evalue` */
  error: string | undefined;
}

interface Cell {
  messages: Outcome['messages'];
  reply?: Record<string, unknown>;
  idle: boolean;
  done: (outcome: Outcome) => void;
}

export interface KernelOptions {
  /** directory of the project whose kernel is started */
  root?: string;
  cwd?: string;
  node?: string;
}

export class KernelClient {
  readonly key: string;
  readonly process: ChildProcess;
  /** Whether the publisher's messages arrive. */
  private isHeard = false;
  private readonly cells = new Map<string, Cell>();
  private constructor(
    process: ChildProcess,
    private readonly sockets: { shell: Socket; control: Socket; iopub: Socket },
    key: string,
  ) {
    this.process = process;
    this.key = key;
  }

  /** Starts a kernel and waits until it answers. */
  static async start({ root = '.', cwd = 'notebooks', node = process.execPath }: KernelOptions = {}) {
    const [shellPort, control, iopub, stdin, hb] = await freePorts(5);
    const key = randomUUID();
    const file = path.join(mkdtempSync(path.join(tmpdir(), 'grpolab-kernel-')), 'connection.json');
    const ports = {
      shell_port: shellPort,
      control_port: control,
      iopub_port: iopub,
      stdin_port: stdin,
      hb_port: hb,
    };
    const scheme = { transport: 'tcp', ip: '127.0.0.1', signature_scheme: 'hmac-sha256', key };
    writeFileSync(file, JSON.stringify({ ...ports, ...scheme }));
    const directory = path.resolve(root, 'kernels/grpolab');
    const spec = JSON.parse(readFileSync(path.join(directory, 'kernel.json'), 'utf8')) as { argv: string[] };
    const argv = spec.argv.map((text) =>
      text.replace('{resource_dir}', directory).replace('{connection_file}', file),
    );
    const child = spawn(node, argv.slice(1), { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    const address = (port: number): string => `tcp://127.0.0.1:${port}`;
    const sockets = {
      ...{ shell: new zeromq.Dealer({ linger: 0 }), control: new zeromq.Dealer({ linger: 0 }) },
      iopub: new zeromq.Subscriber({ linger: 0, receiveHighWaterMark: 0 }),
    };
    sockets.iopub.subscribe?.();
    sockets.shell.connect(address(shellPort));
    sockets.control.connect(address(control));
    sockets.iopub.connect(address(iopub));
    const client = new KernelClient(child, sockets, key);
    void client.listen();
    let errors = '';
    child.stderr.on('data', (text: Buffer) => (errors += text.toString()));
    const ended = new Promise<never>((_, reject) =>
      child.once('exit', (code) => reject(new Error(`the kernel ended with ${code}: ${errors}`))),
    );
    ended.catch(() => {});
    // A publisher's messages may arrive later than replies: it is asked until one does.
    while (!client.isHeard) {
      const delay = new Promise((resolve) => setTimeout(resolve, 50));
      await Promise.race([client.request('kernel_info_request', {}).then(() => delay), ended]);
    }
    rmSync(path.dirname(file), { recursive: true });
    return client;
  }

  private async listen(): Promise<void> {
    const read = async (socket: Socket): Promise<void> => {
      for await (const frames of socket) this.take(readMessage(this.key, frames));
    };
    await Promise.all(Object.values(this.sockets).map(read));
  }

  private readonly replies = new Map<string, (content: Record<string, unknown>) => void>();

  private take({ header: { msg_type: type }, parent, content }: Message): void {
    const id = parent.msg_id ?? '';
    this.isHeard ||= type === 'status';
    if (type.endsWith('_reply')) this.replies.get(id)?.(content);
    const cell = this.cells.get(id);
    if (cell === undefined) return;
    if (type === 'execute_reply') cell.reply = content;
    else if (type === 'status') cell.idle ||= content.execution_state === 'idle';
    else cell.messages.push({ type, content });
    if (!cell.idle || cell.reply === undefined) return;
    this.cells.delete(id);
    cell.done(outcomeOf(cell.messages, cell.reply));
  }

  private send(socket: Socket, type: string, content: object): string {
    const frames = writeMessage(this.key, type, content, { identity: [] });
    const { header } = readMessage(
      this.key,
      frames.map((frame) => Buffer.from(frame)),
    );
    void socket.send(frames);
    return header.msg_id;
  }

  /** Sends a request and waits for its reply's content. */
  request(type: string, content: object, channel: 'shell' | 'control' = 'shell') {
    return new Promise<Record<string, unknown>>((resolve) => {
      const id = this.send(this.sockets[channel], type, content);
      this.replies.set(id, resolve);
    });
  }

  run(code: string): Promise<Outcome> {
    return new Promise((done) => {
      const id = this.send(this.sockets.shell, 'execute_request', {
        code,
        silent: false,
        stop_on_error: true,
      });
      this.cells.set(id, { messages: [], idle: false, done });
    });
  }

  /** Runs a cell, and interrupts it when so much time has passed, or when its output matches. */
  async interrupted(code: string, after: number): Promise<Outcome> {
    const outcome = this.run(code);
    await new Promise((resolve) => setTimeout(resolve, after));
    await this.interrupt();
    return outcome;
  }

  async interrupt(): Promise<void> {
    await this.request('interrupt_request', {}, 'control');
  }

  /** @returns the exit code, or the signal that ended it */
  async shutdown(): Promise<number | string | null> {
    const ended = new Promise<number | string | null>((resolve) =>
      this.process.on('exit', (code, signal) => resolve(code ?? signal)),
    );
    await this.request('shutdown_request', { restart: false }, 'control');
    const how = await ended;
    this.close();
    return how;
  }

  close(): void {
    this.process.kill('SIGKILL');
    for (const socket of Object.values(this.sockets)) socket.close();
  }
}

function outcomeOf(messages: Outcome['messages'], reply: Record<string, unknown>): Outcome {
  const first = (type: string) => messages.find((message) => message.type === type)?.content;
  const error = first('error');
  return {
    ...{ status: reply.status as string, messages, reply },
    text: (name) =>
      messages
        .filter(({ type, content }) => type === 'stream' && content.name === name)
        .map(({ content }) => content.text)
        .join(''),
    value: (first('execute_result')?.data as Record<string, string> | undefined)?.['text/plain'],
    error: error && `${String(error.ename)}: ${String(error.evalue)}`,
  };
}
