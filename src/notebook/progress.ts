/** Progress of long work in a cell: the command line's bar, in an output that changes in place. */
import { Writable } from 'node:stream';
import { Progress } from '../runtime/progress';
import type { ProgressOptions, ProgressStream } from '../runtime/progress';
import { escapeHtml } from './html';
import { Display, interruptible } from './kernel';

const COLUMNS = 110;

/** A stream that shows the newest line that was written to it. */
function displayStream(target: Display): ProgressStream {
  const stream = new Writable({
    decodeStrings: false,
    write(chunk: string, _encoding, done) {
      const line = chunk.replace(/\u001b\[K|[\r\n]/g, '').trimEnd();
      if (line !== '') target.show({ 'text/html': `<pre>${escapeHtml(line)}</pre>`, 'text/plain': line });
      done();
    },
  });
  return Object.assign(stream, { isTTY: true, columns: COLUMNS });
}

/**
 * Does work under a progress bar with the time that is left. "Interrupt Kernel" aborts the signal.
 *
 * @param work  calls `update(done, note)` as it goes on; throws when the signal is aborted
 * @throws ConfigError  outside a notebook
 */
export function withProgress<T>(
  options: Pick<ProgressOptions, 'label' | 'total' | 'unit' | 'format'>,
  work: (progress: Progress, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return interruptible(async (signal) => {
    const progress = new Progress({ ...options, stream: displayStream(new Display()) });
    const result = await work(progress, signal);
    progress.finish();
    return result;
  });
}
