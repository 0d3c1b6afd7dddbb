import { EventEmitter } from 'node:events';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ConfigError } from '../runtime/errors';
import type { MimeBundle } from './kernel';
import { Interrupted } from './kernel';
import { withProgress } from './progress';

const KERNEL = Symbol.for('grpolab.kernel');
const interrupts = new EventEmitter();
const shown: { data: MimeBundle; id?: string; update?: boolean }[] = [];

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: 0 });
  shown.length = 0;
  const show = (data: MimeBundle, options = {}): number => shown.push({ data, ...options });
  Object.assign(globalThis, { [KERNEL]: { interrupts, display: show } });
});
afterEach(() => {
  vi.useRealTimers();
  Reflect.deleteProperty(globalThis, KERNEL);
});

const lines = (): unknown[] => shown.map(({ data }) => data['text/plain']);

/** Ten units, a second each. */
async function count(progress: { update(done: number, note?: string): void }): Promise<string> {
  for (let done = 0; done <= 10; done++) {
    if (done > 0) vi.advanceTimersByTime(1000);
    progress.update(done);
    await Promise.resolve();
  }
  return 'done';
}

describe('withProgress', () => {
  it('shows a bar that moves in one output, and ends with the time', async () => {
    expect(await withProgress({ label: 'sample', total: 10, unit: 'prompts' }, count)).toBe('done');
    expect(shown.map(({ update }) => update)).toEqual([false, ...Array<boolean>(11).fill(true)]);
    expect(new Set(shown.map(({ id }) => id)).size).toBe(1);
    const texts = lines() as string[];
    expect(texts[0]).toBe('sample   0% [                        ] 0/10 prompts');
    expect(texts[5]).toBe('sample  50% [============            ] 5/10 prompts 1.00 prompts/s ETA 0:05');
    expect(texts[10]).toContain('[========================] 10/10 prompts');
    expect(texts[11]).toBe('sample: 10/10 prompts in 0:10');
  });

  it('gives every work an output of its own', async () => {
    await Promise.all([1, 2].map((i) => withProgress({ label: `work ${i}`, total: 10 }, count)));
    const ids = (label: string) =>
      new Set(shown.filter(({ data }) => String(data['text/plain']).startsWith(label)).map(({ id }) => id));
    expect([...ids('work 1'), ...ids('work 2')]).toHaveLength(2);
    expect(new Set(shown.map(({ id }) => id)).size).toBe(2);
  });

  it('shows a note as it is, also where a page would read it as HTML', async () => {
    await withProgress({ label: 'a & b' }, async (progress) => progress.update(1, '<b>"bold"</b>'));
    expect(lines()).toEqual(['a & b 1  <b>"bold"</b>', 'a & b: 1 in 0:00  <b>"bold"</b>']);
    expect(shown[0].data['text/html']).toBe('<pre>a &amp; b 1  &lt;b&gt;&quot;bold&quot;&lt;/b&gt;</pre>');
    for (const { data } of shown) expect(JSON.stringify(data)).not.toMatch(/\\r|\\n|\\u001b/);
  });

  it('moves at most ten times a second', async () => {
    await withProgress({ label: 'work', total: 1000 }, async (progress) => {
      for (let done = 0; done <= 1000; done++) {
        progress.update(done);
        vi.advanceTimersByTime(1);
      }
    });
    expect(shown.length).toBeGreaterThanOrEqual(10);
    expect(shown.length).toBeLessThanOrEqual(12);
  });

  it('takes a total that is known only later', async () => {
    await withProgress({ label: 'measure', unit: 'steps' }, async (progress) => {
      progress.update(0);
      progress.total = 4;
      vi.advanceTimersByTime(200);
      progress.update(1);
    });
    expect(lines()).toEqual([
      'measure 0 steps',
      expect.stringMatching(/^measure {2}25% .* 1\/4 steps/),
      'measure: 1/4 steps in 0:00',
    ]);
  });

  it('has its signal aborted by an interrupt, and shows no end of what did not end', async () => {
    const work = withProgress({ label: 'work', total: 2 }, async (progress, signal) => {
      progress.update(1);
      interrupts.emit('interrupt');
      signal.throwIfAborted();
    });
    await expect(work).rejects.toThrow(Interrupted);
    expect(lines()).toHaveLength(1);
    expect(interrupts.listenerCount('interrupt')).toBe(0);
  });

  it('passes on what the work throws, and what there is to say outside a notebook', async () => {
    const failing = withProgress({ label: 'work' }, () => Promise.reject(new Error('broken')));
    await expect(failing).rejects.toThrow('broken');
    Reflect.deleteProperty(globalThis, KERNEL);
    await expect(withProgress({ label: 'work', total: 10 }, count)).rejects.toThrow(ConfigError);
  });
});
