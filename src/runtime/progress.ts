/** A progress bar for people: one updating line on a terminal, now and then a line elsewhere. It never touches stdout. */
import type { Writable } from 'node:stream';

/** Where progress goes: a terminal when `isTTY`. */
export type ProgressStream = Writable & { isTTY?: boolean; columns?: number };

/** What a progress line says and where. */
export interface ProgressOptions {
  /** What is being done, e.g. `generate`. */
  label: string;
  /** Units of work; absent when it is not known beforehand. */
  total?: number;
  /** What is counted, e.g. `prompts`. */
  unit?: string;
  /** Units already done before this run, which do not count for the rate. */
  initial?: number;
  /** Default: the process's standard error. */
  stream?: ProgressStream;
  /** Prints nothing at all. */
  quiet?: boolean;
  /** How a count is shown; default: as it is. */
  format?: (count: number) => string;
  /** Milliseconds, for tests. */
  now?: () => number;
}

const TERMINAL_INTERVAL_MS = 100;
const LOG_INTERVAL_MS = 10_000;
const BAR_WIDTH = 24;
const CLEAR_REST = '\u001b[K';

/** `1:02:03` or `2:03` from seconds. */
export function formatDuration(seconds: number): string {
  const whole = Math.round(seconds);
  const pad = (value: number): string => String(value).padStart(2, '0');
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours > 0 ? `${hours}:${pad(minutes)}:${pad(rest)}` : `${minutes}:${pad(rest)}`;
}

/** `1.5 GiB` from bytes. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? value : value.toFixed(value < 100 ? 1 : 0)} ${units[unit]}`;
}

function formatRate(perSecond: number, format: (count: number) => string, unit: string): string {
  if (format !== String) return `${format(perSecond)}/s`;
  if (perSecond >= 0.1) return `${perSecond.toPrecision(3)} ${unit}/s`;
  return `${(1 / perSecond).toPrecision(3)} s each`;
}

/**
 * Counts work and shows how far it is, at what rate (the average since it was made), and how long the rest will take.
 * On a terminal at most ten times a second, elsewhere at most a line every ten seconds.
 */
export class Progress {
  total: number | undefined;
  private done: number;
  private note = '';
  private readonly initial: number;
  private readonly stream: ProgressStream;
  private readonly now: () => number;
  private readonly started: number;
  private shown: number;
  private lineOpen = false;

  constructor(private readonly options: ProgressOptions) {
    this.total = options.total;
    this.initial = options.initial ?? 0;
    this.done = this.initial;
    this.stream = options.stream ?? process.stderr;
    this.now = options.now ?? Date.now;
    this.started = this.now();
    // A terminal shows the bar at once; a log only hears of work that takes long.
    this.shown = this.stream.isTTY ? -Infinity : this.started;
  }

  /** Sets how much is done, with a short note such as `reward 0.61`. */
  update(done: number, note = this.note): void {
    this.done = done;
    this.note = note;
    const interval = this.stream.isTTY ? TERMINAL_INTERVAL_MS : LOG_INTERVAL_MS;
    if (this.now() - this.shown >= interval) this.show();
  }

  advance(count = 1, note = this.note): void {
    this.update(this.done + count, note);
  }

  /** The last state, with the time that it took; ends the line. */
  finish(note = this.note): void {
    this.note = note;
    if (this.options.quiet) return;
    const seconds = formatDuration((this.now() - this.started) / 1000);
    this.write(`${this.options.label}: ${this.counts()} in ${seconds}${this.noteText()}`, true);
  }

  /** Ends the line where it is, for a run that stops early. Without effect after `finish`. */
  close(): void {
    if (this.lineOpen) this.stream.write('\n');
    this.lineOpen = false;
  }

  /** The line as it is shown now, without control characters. */
  line(): string {
    const { label, format = String, unit = '' } = this.options;
    const seconds = (this.now() - this.started) / 1000;
    const rate = seconds > 0 ? (this.done - this.initial) / seconds : 0;
    const parts = [label];
    if (this.total !== undefined && this.total > 0) {
      const share = Math.min(1, this.done / this.total);
      const filled = Math.round(share * BAR_WIDTH);
      parts.push(`${String(Math.floor(share * 100)).padStart(3)}%`);
      parts.push(`[${'='.repeat(filled)}${' '.repeat(BAR_WIDTH - filled)}]`);
    }
    parts.push(this.counts());
    if (rate > 0) parts.push(formatRate(rate, format, unit));
    if (rate > 0 && this.total !== undefined)
      parts.push(`ETA ${formatDuration(Math.max(0, this.total - this.done) / rate)}`);
    return `${parts.join(' ')}${this.noteText()}`;
  }

  private noteText(): string {
    return this.note === '' ? '' : `  ${this.note}`;
  }

  private counts(): string {
    const { format = String, unit = '' } = this.options;
    // Work may be reported in parts of a unit; only whole ones are shown.
    const shown = format(Math.floor(this.done));
    const counted = this.total === undefined ? shown : `${shown}/${format(this.total)}`;
    return format === String && unit !== '' ? `${counted} ${unit}` : counted;
  }

  private show(): void {
    if (this.options.quiet) return;
    this.write(this.line(), false);
    this.shown = this.now();
  }

  private write(text: string, last: boolean): void {
    if (!this.stream.isTTY) {
      this.stream.write(`${text}\n`);
      return;
    }
    const width = (this.stream.columns ?? 80) - 1;
    this.stream.write(`\r${text.slice(0, width)}${CLEAR_REST}${last ? '\n' : ''}`);
    this.lineOpen = !last;
  }
}
