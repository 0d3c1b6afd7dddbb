// The whole set-up, idempotent: npm packages, .venv with TensorFlow and JupyterLab, the native binding, the build.
// No dependencies. `node scripts/setup.mjs [--quiet]`; a step whose inputs did not change takes no time.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const at = (...parts) => path.join(root, ...parts);
const tfjs = at('node_modules/@tensorflow/tfjs-node-gpu');
const started = Date.now();

class SetupError extends Error {}

function say(text) {
  process.stderr.write(`setup: ${text}\n`);
}

function hashOf(...parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(String(part)).update('\0');
  return hash.digest('hex');
}

const contents = (...files) => files.map((file) => fs.readFileSync(file));

/** Runs `make` unless the stamp file already holds `key`; the stamp is written only when `make` succeeded. */
function step(title, stamp, key, make) {
  if (fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8') === key) return;
  const begin = Date.now();
  say(`${title} ...`);
  fs.rmSync(stamp, { force: true });
  make();
  fs.mkdirSync(path.dirname(stamp), { recursive: true });
  fs.writeFileSync(stamp, key);
  say(`${title}: ${((Date.now() - begin) / 1000).toFixed(0)} s`);
}

function run(command, args, remedy, options = {}) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (result.status === 0) return result.stdout;
  const output = `${result.stdout ?? ''}\n${result.stderr ?? result.error?.message ?? ''}`.trim();
  const tail = output.split('\n').slice(-8).join('\n  ');
  throw new SetupError(
    `${path.basename(command)} ${args.slice(0, 3).join(' ')} failed. ${remedy}\n  ${tail}`,
  );
}

function checkMachine() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19))
    throw new SetupError(`Node ${process.versions.node} is too old: install Node 20.19, 22 or 24.`);
  if (process.platform !== 'linux')
    throw new SetupError(`${process.platform} is not supported: use Linux (WSL2 on Windows).`);
}

function checkDisk(gibibytes, what) {
  const { bavail, bsize } = fs.statfsSync(root);
  const free = (bavail * bsize) / 2 ** 30;
  if (free < gibibytes)
    throw new SetupError(
      `${what} needs ${gibibytes} GiB and ${free.toFixed(1)} GiB are free in ${root}: free some disk, then run again.`,
    );
}

function installPackages() {
  const key = hashOf(...contents(at('package.json'), at('package-lock.json'), at('.npmrc')));
  step('npm packages (npm ci)', at('node_modules/.grpolab-stamp'), key, () => {
    checkDisk(2, 'npm ci');
    const remedy = 'Check the network and that npm 10 or newer is installed, then run again.';
    run('npm', ['ci', '--no-progress'], remedy);
  });
}

/** The first Python 3.10..3.13 on the path that can make virtual environments. */
function findPython() {
  const names = [
    process.env.PYTHON,
    'python3',
    'python3.13',
    'python3.12',
    'python3.11',
    'python3.10',
  ].filter(Boolean);
  const seen = [];
  for (const name of names) {
    const probe = 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])';
    const result = spawnSync(name, ['-c', probe], { encoding: 'utf8' });
    if (result.error) continue;
    const version = result.status === 0 ? result.stdout.trim() : 'without venv';
    if (['3.10', '3.11', '3.12', '3.13'].includes(version)) return name;
    seen.push(`${name}: ${version}`);
  }
  const found = seen.length > 0 ? ` Found ${seen.join(', ')}.` : '';
  throw new SetupError(
    `Python 3.10 to 3.13 with venv is needed.${found} Install it (Debian: apt install python3 python3-venv), or set PYTHON.`,
  );
}

const hasNvidiaDriver = () => fs.existsSync('/proc/driver/nvidia/version');

function installPython() {
  const gpu = hasNvidiaDriver();
  let requirements = fs.readFileSync(at('requirements.txt'), 'utf8');
  if (gpu) requirements = requirements.replace(/^tensorflow-cpu==/m, 'tensorflow[and-cuda]==');
  step(
    `.venv with TensorFlow${gpu ? ' and CUDA' : ''} and JupyterLab`,
    at('.venv/.grpolab-stamp'),
    hashOf(requirements),
    () => {
      checkDisk(gpu ? 10 : 4, 'the Python environment');
      if (!fs.existsSync(at('.venv/bin/python')))
        run(findPython(), ['-m', 'venv', at('.venv')], 'Install python3-venv, then run again.');
      fs.writeFileSync(at('.venv/requirements.txt'), requirements);
      const pip = [
        '-m',
        'pip',
        'install',
        '--quiet',
        '--disable-pip-version-check',
        '-r',
        at('.venv/requirements.txt'),
      ];
      run(at('.venv/bin/python'), pip, 'Check the network and the disk, then run again.');
    },
  );
}

function findCompiler() {
  for (const name of [process.env.CXX, 'g++', 'c++', 'clang++'].filter(Boolean))
    if (spawnSync(name, ['--version']).status === 0) return name;
  throw new SetupError('A C++17 compiler is needed: install g++ (Debian: apt install g++), or set CXX.');
}

function tensorflowDirectory() {
  const lib = at('.venv/lib');
  const python = fs.readdirSync(lib).find((name) => name.startsWith('python3'));
  return path.join(lib, python ?? 'python3', 'site-packages/tensorflow');
}

/** Copies a source of the package into `directory` with one insertion; fails when the package no longer fits. */
function patchedCopy(file, directory, anchor, insertion) {
  const text = fs.readFileSync(path.join(tfjs, 'binding', file), 'utf8');
  if (text.split(anchor).length !== 2)
    throw new SetupError(
      `${file} of @tensorflow/tfjs-node-gpu is not the version that this set-up knows: run npm ci.`,
    );
  fs.writeFileSync(path.join(directory, file), text.replace(anchor, `${insertion}${anchor}`));
}

function buildBinding() {
  const tensorflow = tensorflowDirectory();
  const napi = at('node_modules/node-api-headers/include');
  const binding = path.join(tfjs, 'lib/napi-v8/tfjs_binding.node');
  const built = at('native/build');
  const sources = [at('native/graph.cc'), at('native/stderr.cc'), at('scripts/setup.mjs')];
  const version = fs.readFileSync(at('requirements.txt'), 'utf8').match(/^tensorflow-cpu==(.*)$/m)?.[1];
  const key = hashOf(...contents(...sources), version, tensorflow, hasNvidiaDriver(), process.arch);
  step('native binding', path.join(built, 'stamp'), key, () => {
    checkDisk(0.2, 'the native binding');
    const compiler = findCompiler();
    const copies = path.join(built, 'src');
    fs.rmSync(built, { recursive: true, force: true });
    fs.mkdirSync(copies, { recursive: true });
    for (const file of fs.readdirSync(path.join(tfjs, 'binding')))
      fs.copyFileSync(path.join(tfjs, 'binding', file), path.join(copies, file));
    patchedCopy(
      'tfjs_backend.h',
      copies,
      '  bool is_gpu_device;\n',
      '  TFE_Context *context() const { return tfe_context_; }\n',
    );
    patchedCopy(
      'tfjs_binding.cc',
      copies,
      '  // Export TF property types to JS\n',
      '  ::grpolab_exports(env, exports);\n',
    );
    const main = path.join(copies, 'tfjs_binding.cc');
    fs.writeFileSync(
      main,
      `#include <node_api.h>\nvoid grpolab_exports(napi_env, napi_value);\n${fs.readFileSync(main)}`,
    );
    const flags = ['-std=c++17', '-O2', '-fPIC', '-shared', '-DNAPI_VERSION=8', `-I${napi}`];
    const remedy = 'Install a C++17 compiler (Debian: apt install g++), then run again.';
    run(compiler, [...flags, at('native/stderr.cc'), '-o', path.join(built, 'stderr.node')], remedy);
    run(
      compiler,
      [
        ...[...flags, `-I${copies}`, `-I${path.join(tensorflow, 'include')}`, '-w'],
        ...[
          path.join(copies, 'tfjs_backend.cc'),
          main,
          at('native/graph.cc'),
          '-o',
          path.join(built, 'tfjs_binding.node'),
        ],
        ...[
          `-L${tensorflow}`,
          '-l:libtensorflow_cc.so.2',
          '-l:libtensorflow_framework.so.2',
          `-Wl,-rpath,${tensorflow}`,
        ],
      ],
      remedy,
    );
  });
  // npm ci removes what is in node_modules: put the binding back where the package looks for it.
  if (
    !fs.existsSync(binding) ||
    fs.statSync(binding).mtimeMs < fs.statSync(path.join(built, 'tfjs_binding.node')).mtimeMs
  ) {
    fs.mkdirSync(path.dirname(binding), { recursive: true });
    fs.copyFileSync(path.join(built, 'tfjs_binding.node'), binding);
  }
}

function sourceFiles(directory) {
  return fs.readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const full = path.join(directory, entry.name);
    if (entry.isDirectory()) return sourceFiles(full);
    return entry.name.endsWith('.ts') && !entry.name.endsWith('.test.ts') ? [full] : [];
  });
}

function buildLibrary() {
  const files = [...sourceFiles(at('src')).sort(), at('tsconfig.json')];
  step('library (tsc)', at('dist/.stamp'), hashOf(...files, ...contents(...files)), () => {
    fs.rmSync(at('dist'), { recursive: true, force: true });
    run(
      process.execPath,
      [at('node_modules/typescript/bin/tsc'), '-p', at('tsconfig.json')],
      'Mend the source, then run again.',
    );
  });
}

/** One set-up at a time: two commands started together must not write the same files. */
function withLock(work) {
  const lock = at('.setup-lock');
  for (let waited = 0; ; waited++) {
    try {
      fs.writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch {
      const owner = Number(fs.existsSync(lock) ? fs.readFileSync(lock, 'utf8') : 0);
      const alive = owner > 0 && fs.existsSync(`/proc/${owner}`);
      if (!alive) fs.rmSync(lock, { force: true });
      else if (waited === 0) say(`waiting for the set-up of process ${owner} ...`);
      else if (waited > 3600)
        throw new SetupError(`process ${owner} holds ${lock}: end it, or remove the file.`);
      execFileSync('sleep', ['0.5']);
    }
  }
  try {
    work();
  } finally {
    fs.rmSync(lock, { force: true });
  }
}

try {
  checkMachine();
  withLock(() => {
    installPackages();
    installPython();
    buildBinding();
    buildLibrary();
  });
  if (Date.now() - started > 3000) say(`ready after ${((Date.now() - started) / 1000).toFixed(0)} s`);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  say(error.message);
  process.exit(1);
}
