/**
 * One process at a time in a run directory. The lock is a socket name of Linux's abstract namespace, which the kernel
 * frees when its process ends, however it ends: a lock file would outlive a `kill -9`. `run.pid` only says who has it.
 * Processes in other containers, or on other machines with the same disk, do not see it.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { ConfigError, messageOf } from '../runtime/errors';
import { errorCode, writeError } from '../runtime/files';

const PID_FILE = 'run.pid';

export interface RunLock {
  release(): void;
}

/** Who has the directory, and what to do about it. */
function holder(file: string): string {
  try {
    const pid = readFileSync(file, 'utf8').trim();
    if (Number(pid) === process.pid)
      return 'another run of this process is training here, or still stopping; wait a moment and try again';
    return `process ${pid} is training here; wait for it, stop it, or give another output directory`;
  } catch {
    return 'another process is training here; wait for it, stop it, or give another output directory';
  }
}

/** @throws ConfigError, DataError  when another process, or another run of this one, has the directory, or it is read-only */
export async function lockRun(directory: string): Promise<RunLock> {
  const place = realpathSync(directory);
  const server = createServer((connection) => connection.destroy());
  const name = `\0grpolab-run-${createHash('sha256').update(place).digest('hex')}`;
  const file = path.join(directory, PID_FILE);
  try {
    server.listen(name);
    await once(server, 'listening');
  } catch (error) {
    if (errorCode(error) !== 'EADDRINUSE')
      throw new ConfigError(`${directory}: cannot be locked: ${messageOf(error)}.`);
    throw new ConfigError(`${directory}: ${holder(file)}.`);
  }
  server.unref();
  try {
    writeFileSync(file, `${process.pid}\n`);
  } catch (error) {
    server.close();
    throw writeError(file, error);
  }
  return {
    release: () => {
      rmSync(file, { force: true });
      server.close();
    },
  };
}
