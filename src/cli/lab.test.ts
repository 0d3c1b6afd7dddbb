import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli, temporaryDirectory } from '../../test/cli';
import { Arguments } from './arguments';
import { lab, labCommand } from './lab';

/** A project whose environment has JupyterLab and the given program as its Python. */
function project(python: string): string {
  const root = temporaryDirectory();
  mkdirSync(join(root, '.venv/bin'), { recursive: true });
  mkdirSync(join(root, '.venv/lib/python3.12/site-packages/jupyterlab'), { recursive: true });
  writeFileSync(join(root, '.venv/bin/python'), python, { mode: 0o755 });
  return root;
}

describe('grpolab lab', () => {
  it('shows Jupyter the kernels and the notebooks of the project, on localhost, and gives its exit code', async () => {
    const root = project(`#!/bin/sh\nprintf '%s\\n' "$JUPYTER_PATH" "$@" > "\${0%/*}/record.txt"\nexit 7\n`);
    const record = join(root, '.venv/bin/record.txt');
    const io = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr };
    expect(await lab(new Arguments('lab', {}, {}, ['--port', '9']), io, root)).toBe(7);
    const [jupyterPath, ...args] = readFileSync(record, 'utf8').trimEnd().split('\n');
    expect(jupyterPath.split(':')[0]).toBe(root);
    expect(args.slice(0, 4)).toEqual([
      '-m',
      'jupyterlab',
      join(root, 'notebooks'),
      '--ServerApp.ip=127.0.0.1',
    ]);
    expect(args.slice(-2)).toEqual(['--port', '9']);
  });

  it('keeps the paths that were set, and runs kernels by the same node', () => {
    const root = project('');
    const { environment } = labCommand([], { JUPYTER_PATH: '/mine', PATH: '/bin' }, root);
    expect(environment.JUPYTER_PATH).toBe(`${root}:/mine`);
    expect(environment.PATH).toBe(`${join(process.execPath, '..')}:/bin`);
  });

  it('says what to do where JupyterLab is not installed', () => {
    expect(() => labCommand([], {}, temporaryDirectory())).toThrow('Run `npm run setup`');
    const cutOff = project('');
    rmSync(join(cutOff, '.venv/lib/python3.12/site-packages/jupyterlab'), { recursive: true });
    expect(() => labCommand([], {}, cutOff)).toThrow('Run `npm run setup`');
  });

  it('explains itself instead of Jupyter', async () => {
    expect((await runCli(['lab', '--help'])).stdout).toContain('grpolab lab: open JupyterLab');
  });
});
