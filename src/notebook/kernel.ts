/** What a notebook's kernel offers to the library: a place to show things, and word of "Interrupt Kernel". */
import { randomUUID } from 'node:crypto';
import type { EventEmitter } from 'node:events';
import { ConfigError, GrpolabError } from '../runtime/errors';

/** What to show, by MIME type; of several a frontend takes the richest that it knows. */
export type MimeBundle = Readonly<Record<string, unknown>>;

/** Set by `kernels/grpolab/server.cjs`. */
interface Kernel {
  interrupts: EventEmitter;
  display(data: MimeBundle, options?: { id?: string; update?: boolean }): void;
}

function kernelOrNull(): Kernel | null {
  return (globalThis as { [KERNEL]?: Kernel })[KERNEL] ?? null;
}

const KERNEL = Symbol.for('grpolab.kernel');

/** @throws ConfigError  outside a notebook */
function kernel(): Kernel {
  const found = kernelOrNull();
  if (found !== null) return found;
  throw new ConfigError(
    'there is no notebook to show this in; expected the kernel "TypeScript (grpolab)". Open the notebook with `npm run lab`.',
  );
}

/** Whether notebooks shall run in their small mode, as in tests: GRPOLAB_SMALL=1. */
export function smallMode(): boolean {
  return (process.env.GRPOLAB_SMALL ?? '') !== '';
}

/** Where a notebook writes: `runs/NAME`, in small mode `runs/small-mode/NAME`. */
export function outputDirectory(name: string): string {
  return smallMode() ? `runs/small-mode/${name}` : `runs/${name}`;
}

/** @throws ConfigError  outside a notebook, before work whose results could not be shown */
export function requireNotebook(): void {
  kernel();
}

/** Shows data below the cell that runs. @throws ConfigError  outside a notebook */
export function display(data: MimeBundle): void {
  kernel().display(data);
}

/** One output that changes in place, also while its cell runs and from later cells. */
export class Display {
  private readonly id = randomUUID();
  private shown = false;

  /** Shows the data, in place of what this display showed before. @throws ConfigError  outside a notebook */
  show(data: MimeBundle): void {
    kernel().display(data, { id: this.id, update: this.shown });
    this.shown = true;
  }
}

/** Why work in a cell ended before its time: somebody interrupted it. */
export class Interrupted extends GrpolabError {
  override readonly name = 'Interrupted';
}

/**
 * Does work that "Interrupt Kernel" ends at its next safe point: the signal is aborted, the work sees it and returns or
 * throws. The cell stays busy until then. Work that does not look at the signal is ended by a second interrupt, at once.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = (): void => controller.abort(new Interrupted('the work was interrupted; run the cell again'));
  const interrupts = kernelOrNull()?.interrupts;
  interrupts?.on('interrupt', stop);
  try {
    return await work(controller.signal);
  } finally {
    interrupts?.off('interrupt', stop);
  }
}
