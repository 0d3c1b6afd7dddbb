/** `grpolab setup`: the set-up script, which is plain Node, in a process of its own. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { packageRoot } from '../runtime/machine';
import type { Io } from './io';

/** @returns the script's exit code */
export async function setup(io: Io): Promise<number> {
  const script = path.join(packageRoot, 'scripts', 'setup.mjs');
  const child = spawn(process.execPath, [script], { stdio: 'inherit' });
  // It mends what it began when it is told to end.
  io.signal?.addEventListener('abort', () => child.kill('SIGTERM'), { once: true });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
}
