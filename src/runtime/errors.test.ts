import { describe, expect, it } from 'vitest';
import { ConfigError, DataError, MemoryError, RemoteError } from './errors';

describe('the message of an error', () => {
  it('is one line of plain text, whatever is quoted in it', () => {
    expect(new DataError('f:1: id is "a\u001b[2Jb\u0000"').message).toBe('f:1: id is "a\\u001b[2Jb\\u0000"');
    expect(new ConfigError('one\r\n  two\nthree').message).toBe('one two three');
    expect(new RemoteError('x\u2028y\u0085z', 500)).toMatchObject({
      message: 'x\\u2028y\\u0085z',
      status: 500,
    });
    expect(new ConfigError('Grüße, 茶 ☕').message).toBe('Grüße, 茶 ☕');
  });

  it('can keep what it comes from', () => {
    const cause = new Error('OOM');
    expect(new MemoryError('out of memory', { cause })).toMatchObject({ name: 'MemoryError', cause });
  });
});
