import { spawn, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
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

/** The launcher in a project of its own, whose tslab is replaced by the given program. */
function launcher(startKernel: string) {
  const root = realpathSync(temporaryDirectory());
  cpSync('kernels', join(root, 'kernels'), { recursive: true });
  const tslab = join(root, 'node_modules/tslab/dist');
  mkdirSync(tslab, { recursive: true });
  mkdirSync(join(root, 'node_modules/grpolab'));
  mkdirSync(join(root, 'notebooks'));
  writeFileSync(join(tslab, 'main.js'), `exports.startKernel = (options) => { ${startKernel} };`);
  return { root, file: join(root, 'kernels/grpolab/kernel.cjs') };
}

describe('the kernel launcher', () => {
  it('starts from its own kernelspec', () => {
    const spec = JSON.parse(readFileSync('kernels/grpolab/kernel.json', 'utf8')) as { argv: string[] };
    expect(spec.argv).toEqual(['node', '{resource_dir}/kernel.cjs', '{connection_file}']);
  });

  it('stays in the folder of a notebook of the project, and goes to the project from elsewhere', () => {
    const { root, file } = launcher('console.log(JSON.stringify([process.cwd(), options.configPath]))');
    const run = (cwd: string): unknown =>
      JSON.parse(spawnSync(process.execPath, [file, 'connection.json'], { cwd, encoding: 'utf8' }).stdout);
    expect(run(join(root, 'notebooks'))).toEqual([join(root, 'notebooks'), 'connection.json']);
    expect(run(temporaryDirectory())).toEqual([root, 'connection.json']);
  });

  it('gives tfjs the functions that Node 23 removed, and TensorFlow its quiet log level', () => {
    const { root, file } = launcher(
      `const util = require('node:util');
       console.log(JSON.stringify([util.isNullOrUndefined(null), util.isNullOrUndefined(0), util.isArray([]),
         process.env.TF_CPP_MIN_LOG_LEVEL]))`,
    );
    const env = { ...process.env };
    delete env.TF_CPP_MIN_LOG_LEVEL;
    const { stdout } = spawnSync(process.execPath, [file], { cwd: root, encoding: 'utf8', env });
    expect(JSON.parse(stdout)).toEqual([true, false, true, '2']);
  });

  it('survives an interrupt and passes it on to whoever listens to the bus', async () => {
    const { root, file } = launcher(
      `const timer = setTimeout(() => {}, 20000);
       globalThis[Symbol.for('grpolab.interrupt')].on('interrupt', () => { console.log('heard'); clearTimeout(timer); });
       console.log('ready');`,
    );
    const child = spawn(process.execPath, [file], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      if (output === 'ready\n') child.kill('SIGINT');
    });
    const code = await new Promise((done) => child.on('close', done));
    expect([code, output]).toEqual([0, 'ready\nheard\n']);
  });
});
