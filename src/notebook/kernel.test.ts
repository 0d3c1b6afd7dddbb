import { EventEmitter } from 'node:events';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { Display, display, Interrupted, interruptible, outputDirectory, smallMode } from './kernel';
import type { MimeBundle } from './kernel';

const KERNEL = Symbol.for('grpolab.kernel');
const interrupts = new EventEmitter();
const shown: { data: MimeBundle; id?: string; update?: boolean }[] = [];

beforeEach(() => {
  shown.length = 0;
  const show = (data: MimeBundle, options = {}): number => shown.push({ data, ...options });
  Object.assign(globalThis, { [KERNEL]: { interrupts, display: show } });
});
afterEach(() => {
  Reflect.deleteProperty(globalThis, KERNEL);
  vi.unstubAllEnvs();
});

const text = (value: string): MimeBundle => ({ 'text/plain': value });

describe('Display', () => {
  it('shows first and updates from then on, under one id of its own', () => {
    const [one, other] = [new Display(), new Display()];
    for (const [target, value] of [
      [one, 'a'],
      [other, 'b'],
      [one, 'c'],
      [one, 'd'],
    ] as const)
      target.show(text(value));
    expect(shown.map(({ data, update }) => [data['text/plain'], update])).toEqual([
      ['a', false],
      ['b', false],
      ['c', true],
      ['d', true],
    ]);
    const [a, b, c, d] = shown.map(({ id }) => id);
    expect(a).toMatch(/./);
    expect([c, d]).toEqual([a, a]);
    expect(b).not.toBe(a);
  });

  it('says outside a notebook what to do, and shows when there is one again', () => {
    const { [KERNEL]: kernel } = globalThis as { [KERNEL]?: unknown };
    const target = new Display();
    Reflect.deleteProperty(globalThis, KERNEL);
    for (const show of [() => target.show(text('a')), () => display(text('a'))]) {
      expect(show).toThrow(ConfigError);
      expect(show).toThrow(/expected the kernel "TypeScript \(grpolab\)".*npm run lab/);
    }
    Object.assign(globalThis, { [KERNEL]: kernel });
    // What was not shown cannot be updated.
    target.show(text('b'));
    expect(shown).toMatchObject([{ update: false }]);
  });

  it('is not needed for what is shown once', () => {
    display(text('a'));
    expect(shown).toEqual([{ data: text('a') }]);
  });
});

describe('interruptible', () => {
  /** Work that waits for its signal. */
  const waiting = (signal: AbortSignal): Promise<string> =>
    new Promise((resolve) => signal.addEventListener('abort', () => resolve('stopped in order')));

  it('aborts the signal on an interrupt, and leaves the work its own end', async () => {
    const result = interruptible(waiting);
    expect(interrupts.listenerCount('interrupt')).toBe(1);
    interrupts.emit('interrupt');
    expect(await result).toBe('stopped in order');
    expect(interrupts.listenerCount('interrupt')).toBe(0);
  });

  it('is an error of its own to work that throws the reason', async () => {
    const result = interruptible(async (signal) => {
      await waiting(signal);
      signal.throwIfAborted();
    });
    interrupts.emit('interrupt');
    await expect(result).rejects.toThrow(Interrupted);
    await expect(result).rejects.toMatchObject({ name: 'Interrupted' });
  });

  it('listens no longer than the work lasts, however it ends', async () => {
    const signals: AbortSignal[] = [];
    expect(await interruptible(async (signal) => signals.push(signal))).toBe(1);
    const failing = interruptible(async (signal) => {
      signals.push(signal);
      throw new Error('broken');
    });
    await expect(failing).rejects.toThrow('broken');
    const atOnce = interruptible((signal) => {
      signals.push(signal);
      throw new Error('broken before it waits');
    });
    await expect(atOnce).rejects.toThrow('before it waits');
    expect(interrupts.listenerCount('interrupt')).toBe(0);
    interrupts.emit('interrupt');
    expect(signals.map(({ aborted }) => aborted)).toEqual([false, false, false]);
  });

  it('stops all work that goes on, and none that begins later', async () => {
    const both = [interruptible(waiting), interruptible(waiting)];
    interrupts.emit('interrupt');
    expect(await Promise.all(both)).toHaveLength(2);
    expect(await interruptible(async (signal) => signal.aborted)).toBe(false);
  });

  it('works outside a notebook, where nobody interrupts', async () => {
    Reflect.deleteProperty(globalThis, KERNEL);
    expect(await interruptible(async (signal) => [signal.aborted, 7])).toEqual([false, 7]);
    await expect(interruptible(() => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
  });
});

describe('the small mode', () => {
  it('is chosen by the environment, and writes beside what users have', () => {
    vi.stubEnv('GRPOLAB_SMALL', '1');
    expect([smallMode(), outputDirectory('01-small-test')]).toEqual([true, 'runs/small-mode/01-small-test']);
    for (const value of ['', undefined]) {
      vi.stubEnv('GRPOLAB_SMALL', value);
      expect([smallMode(), outputDirectory('01-small-test')]).toEqual([false, 'runs/01-small-test']);
    }
  });
});
