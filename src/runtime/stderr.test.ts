import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

/** What a process of its own ends with, and prints, that runs `body` with `holder` and `print` (to descriptor 2). */
function runHolding(body: string) {
  const program = `
    const holder = require(${JSON.stringify(resolve('native/build/stderr.node'))});
    const print = (text) => require('node:fs').writeSync(2, text);
    ${body}`;
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-e', program], {
    cwd: tmpdir(), // where a system that keeps core files may leave them
    encoding: 'utf8',
  });
  return { status, signal, stdout, stderr };
}

/** More than one part of the buffer by which a crash prints what was held. */
const long = 'x'.repeat(10_000);

describe('holding standard error back while a native library loads', () => {
  it('gives the held text to the caller and prints nothing of it', () => {
    const result = runHolding(
      `holder.hold(); print('noise'); console.log(holder.release()); print('after');`,
    );
    expect(result).toEqual({ status: 0, signal: null, stdout: 'noise\n', stderr: 'after' });
  });

  it('prints the held text when the process aborts', () => {
    const { signal, stderr } = runHolding(`holder.hold(); print('${long} reason\\n'); process.abort();`);
    expect(signal).toBe('SIGABRT');
    expect(stderr.split('\n')[0]).toBe(`${long} reason`);
  });

  it.each(['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'])(
    'prints the held text once on %s and dies by it',
    (name) => {
      const result = runHolding(
        `holder.hold(); print('reason'); process.kill(process.pid, '${name}'); setTimeout(() => {}, 5000);`,
      );
      expect(result).toEqual({ status: null, signal: name, stdout: '', stderr: 'reason' });
    },
  );

  it('prints the held text when the process exits', () => {
    const result = runHolding(`holder.hold(); print('reason'); process.reallyExit(3);`);
    expect(result).toEqual({ status: 3, signal: null, stdout: '', stderr: 'reason' });
  });

  it('leaves crashes to their owner once the text is released, and can hold again', () => {
    const result = runHolding(
      `for (const text of ['one', 'two']) { holder.hold(); print(text); console.log(holder.release()); }
       process.kill(process.pid, 'SIGABRT'); setTimeout(() => {}, 5000);`,
    );
    expect(result).toEqual({ status: null, signal: 'SIGABRT', stdout: 'one\ntwo\n', stderr: '' });
  });
});
