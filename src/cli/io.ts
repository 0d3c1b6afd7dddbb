/** What a command reads from and writes to, so that it runs in a test as it runs in a terminal. */
import type { Readable, Writable } from 'node:stream';
import type { ProgressStream } from '../runtime/progress';

export interface Io {
  stdin: Readable;
  /** Results only. */
  stdout: Writable;
  /** Progress, notices and errors. */
  stderr: ProgressStream;
  /** Aborted by Ctrl-C. */
  signal?: AbortSignal;
}

/** Thrown where work stops because of Ctrl-C. */
export class Interrupted extends Error {
  constructor() {
    super('interrupted');
  }
}

/** @throws Interrupted  after Ctrl-C */
export function checkInterrupt(io: Io): void {
  if (io.signal?.aborted) throw new Interrupted();
}

/** Characters gathered before they are written. */
const BUFFER_SIZE = 2 ** 16;

/** Writes lines to standard output, waiting for a slow reader. */
export class LineWriter {
  private lines: string[] = [];
  private size = 0;

  constructor(private readonly stream: Writable) {}

  async line(text: string): Promise<void> {
    this.lines.push(`${text}\n`);
    this.size += text.length + 1;
    if (this.size >= BUFFER_SIZE) await this.flush();
  }

  /** Resolves when the stream has taken all; rejects when it is gone (EPIPE). */
  async flush(): Promise<void> {
    if (this.size === 0) return;
    const text = this.lines.join('');
    [this.lines, this.size] = [[], 0];
    await new Promise<void>((resolve, reject) =>
      this.stream.write(text, (error) => (error ? reject(error) : resolve())),
    );
  }
}

/** One notice on standard error. */
export function notify(io: Io, text: string): void {
  io.stderr.write(`${text}\n`);
}
