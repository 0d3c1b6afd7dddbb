/** One process at a time, also over a kill -9: what a dead process left behind holds nobody up. */
import { randomBytes } from 'node:crypto';
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { errorCode } from '../runtime/files';

const POLL_SECONDS = 0.2;
const HEARTBEAT_SECONDS = 10;
/** Without a sign of life for so long, a holder is dead: its machine failed, or another process has its number. */
const LEASE_SECONDS = 60;

export interface LockOptions {
  /** Ends the waiting. */
  signal?: AbortSignal;
  /** Called now and then while another process holds the lock. */
  onWait?: () => void;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errorCode(error) !== 'ESRCH';
  }
}

function isAlive(path: string, flag: string): boolean {
  const parts = /^(.*)-(\d+)-[0-9a-f]+\.lock$/.exec(flag.slice(path.length + 1));
  const status = statSync(flag, { throwIfNoEntry: false });
  if (parts === null || status === undefined) return false;
  if (parts[1] === hostname() && !isRunning(Number(parts[2]))) return false;
  return Date.now() - status.mtimeMs < 1000 * LEASE_SECONDS;
}

/** Whether another one than `own` holds or asks for the lock; removes the flags of the dead. */
function isContended(path: string, own: string): boolean {
  const directory = dirname(path);
  const others = readdirSync(directory)
    .filter((name) => name.startsWith(`${basename(path)}.`) && name.endsWith('.lock'))
    .map((name) => join(directory, name))
    .filter((flag) => flag !== own);
  const alive = others.filter((flag) => isAlive(path, flag));
  for (const flag of others) if (!alive.includes(flag)) rmSync(flag, { force: true });
  return alive.length > 0;
}

/**
 * Does work that only one may do at a time, of all processes that see the directory of `path`. Each puts up a flag of
 * its own, then looks for others: of two, the later look sees the earlier flag, so never both go on. A flag's name is
 * used once, so that removing a dead one cannot hit a living one.
 */
export async function withLock<T>(
  path: string,
  work: () => Promise<T>,
  { signal, onWait }: LockOptions = {},
): Promise<T> {
  const flag = `${path}.${hostname()}-${process.pid}-${randomBytes(6).toString('hex')}.lock`;
  for (;;) {
    signal?.throwIfAborted();
    if (!isContended(path, flag)) {
      writeFileSync(flag, '');
      if (!isContended(path, flag)) break;
      rmSync(flag, { force: true });
    }
    onWait?.();
    // Of random length: two that saw each other must not meet again for ever.
    const seconds = POLL_SECONDS * (0.5 + Math.random());
    await delay(1000 * seconds, undefined, { signal }).catch(() => signal?.throwIfAborted());
  }
  // One that is missed does no harm.
  const beat = (): void => void utimes(flag, new Date(), new Date()).catch(() => {});
  const heartbeat = setInterval(beat, 1000 * HEARTBEAT_SECONDS);
  try {
    return await work();
  } finally {
    clearInterval(heartbeat);
    rmSync(flag, { force: true });
  }
}
