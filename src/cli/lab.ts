/** `grpolab lab`: JupyterLab on the notebooks, with the kernel in `kernels/`. */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { ConfigError } from '../runtime/errors';
import { packageRoot } from '../runtime/machine';
import type { Arguments } from './arguments';
import type { Io } from './io';

export interface LabCommand {
  program: string;
  args: string[];
  environment: NodeJS.ProcessEnv;
}

/** Whether set-up has put JupyterLab into the environment whose `python` is given. */
function hasJupyterLab(python: string): boolean {
  const lib = path.resolve(path.dirname(python), '../lib');
  if (!existsSync(python) || !existsSync(lib)) return false;
  return readdirSync(lib).some((version) => existsSync(path.join(lib, version, 'site-packages/jupyterlab')));
}

/**
 * What to start: JupyterLab as a module, because the scripts in `.venv/bin` name the directory in which the environment
 * was made, and a checkout may have been moved since. Jupyter looks for `kernels/NAME/kernel.json` in every directory of
 * JUPYTER_PATH, so the project's own is put first; new notebooks get that kernel; its `node` is the one that runs this.
 *
 * @throws ConfigError  when set-up has not installed JupyterLab
 */
export function labCommand(
  extra: readonly string[],
  environment: NodeJS.ProcessEnv,
  root: string = packageRoot,
): LabCommand {
  const program = path.join(root, '.venv', 'bin', 'python');
  if (!hasJupyterLab(program))
    throw new ConfigError('JupyterLab is not installed. Run `npm run setup` in a checkout.');
  const join = (...parts: (string | undefined)[]): string =>
    parts.filter((part) => part !== undefined && part !== '').join(path.delimiter);
  // Jupyter refuses to run as root unless told to; it listens on this machine only.
  const asRoot = process.getuid?.() === 0 ? ['--allow-root'] : [];
  return {
    program,
    args: [
      ...['-m', 'jupyterlab', path.join(root, 'notebooks'), '--ServerApp.ip=127.0.0.1'],
      '--MultiKernelManager.default_kernel_name=grpolab',
      ...asRoot,
      ...extra,
    ],
    environment: {
      ...environment,
      JUPYTER_PATH: join(root, environment.JUPYTER_PATH),
      PATH: join(path.dirname(process.execPath), environment.PATH),
    },
  };
}

/** As shells have them. */
const exitCodes: Readonly<Record<string, number>> = { SIGINT: 130, SIGTERM: 143 };

/** @returns Jupyter's exit code */
export async function lab(args: Arguments, io: Io, root: string = packageRoot): Promise<number> {
  const { program, args: programArgs, environment } = labCommand(args.rest, process.env, root);
  const child = spawn(program, programArgs, { env: environment, stdio: 'inherit' });
  // The terminal sends Ctrl-C to Jupyter too, which asks before it ends: this process waits for its answer.
  if (io.signal !== undefined) {
    process.removeAllListeners('SIGINT');
    process.on('SIGINT', () => {});
    // These come to this process alone. Jupyter ends its kernels and then itself.
    for (const signal of ['SIGTERM', 'SIGHUP'] as const) {
      process.removeAllListeners(signal);
      process.on(signal, () => child.kill('SIGTERM'));
    }
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) => resolve(code ?? exitCodes[signal ?? ''] ?? 1));
  });
}
