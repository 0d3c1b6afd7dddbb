import { Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { formatBytes, formatDuration, Progress } from './progress';
import type { ProgressStream } from './progress';

function fixture(isTTY: boolean) {
  let text = '';
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      text += chunk.toString();
      done();
    },
  }) as ProgressStream;
  stream.isTTY = isTTY;
  stream.columns = 80;
  const clock = { ms: 0 };
  return { stream, clock, now: () => clock.ms, text: () => text };
}

describe('Progress', () => {
  it('shows share, count, rate and remaining time', () => {
    const { stream, clock, now } = fixture(false);
    const progress = new Progress({ label: 'generate', total: 200, unit: 'prompts', stream, now });
    clock.ms = 10_000;
    progress.update(50);
    const line = progress.line();
    expect(line).toContain(' 25% [======                  ] 50/200 prompts');
    expect(line).toContain('5.00 prompts/s');
    expect(line).toContain('ETA 0:30');
  });

  it('does not count what was done before it began in the rate', () => {
    const { stream, clock, now } = fixture(false);
    const progress = new Progress({ label: 'train', total: 100, unit: 'steps', initial: 90, stream, now });
    clock.ms = 20_000;
    progress.advance(5);
    expect(progress.line()).toContain('0.250 steps/s');
    expect(progress.line()).toContain('ETA 0:20');
  });

  it('writes a line every ten seconds at most where there is no terminal', () => {
    const { stream, clock, now, text } = fixture(false);
    const progress = new Progress({ label: 'work', total: 1000, stream, now });
    for (let second = 0; second < 35; second++) {
      clock.ms = second * 1000;
      progress.advance();
    }
    expect(text().split('\n').filter(Boolean)).toHaveLength(3);
    expect(text()).not.toContain('\r');
  });

  it('rewrites one line of a terminal, within its width, and ends it once', () => {
    const { stream, clock, now, text } = fixture(true);
    stream.columns = 40;
    const progress = new Progress({ label: 'work', total: 10, stream, now });
    for (let i = 0; i < 10; i++) {
      clock.ms += 50;
      progress.advance(1, 'a note that is much too long for a line');
    }
    progress.finish();
    progress.close();
    const frames = text().split('\r').slice(1);
    expect(frames).toHaveLength(6); // one at once, then one for each 100 ms, and the last
    expect(text().match(/\n/g)).toHaveLength(1);
    for (const frame of frames) expect(frame.split('\u001b')[0].length).toBeLessThan(40);
  });

  it('ends an open line when work stops early', () => {
    const { stream, now, text } = fixture(true);
    const progress = new Progress({ label: 'work', stream, now });
    progress.update(1);
    progress.close();
    progress.close();
    expect(text().endsWith('\n')).toBe(true);
    expect(text().match(/\n/g)).toHaveLength(1);
  });

  it('prints nothing when it is quiet', () => {
    const { stream, clock, now, text } = fixture(true);
    const progress = new Progress({ label: 'work', total: 2, stream, now, quiet: true });
    clock.ms = 60_000;
    progress.update(1);
    progress.finish();
    progress.close();
    expect(text()).toBe('');
  });
});

describe('formats', () => {
  it('writes durations as clocks', () => {
    expect([0, 59.6, 125, 3723].map(formatDuration)).toEqual(['0:00', '1:00', '2:05', '1:02:03']);
  });

  it('writes bytes in binary units', () => {
    expect([512, 1536, 3 * 2 ** 30, 200 * 2 ** 20].map(formatBytes)).toEqual([
      '512 B',
      '1.5 KiB',
      '3.0 GiB',
      '200 MiB',
    ]);
  });
});
