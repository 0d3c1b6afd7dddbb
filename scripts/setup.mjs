// The whole set-up, idempotent. In a checkout: npm packages, .venv with TensorFlow and JupyterLab, the native binding, the
// build. In a project that has installed the package: .venv with TensorFlow, and the binding.
// No dependencies. A step whose inputs did not change takes no time; one that was cut off starts over the next time.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const at = (...parts) => path.join(root, ...parts);
/** A checkout has the sources; an installed package has what is built of them. */
const isCheckout = fs.existsSync(at('src'));
const started = Date.now();

class SetupError extends Error {}

/** The directory of a package that ours depends on, wherever npm has put it. */
function packageDirectory(name) {
  return path.dirname(createRequire(at('package.json')).resolve(`${name}/package.json`));
}

const tfjsDirectory = () => packageDirectory('@tensorflow/tfjs-node-gpu');

function say(text) {
  process.stderr.write(`setup: ${text}\n`);
}

function hashOf(...parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(String(part)).update('\0');
  return hash.digest('hex');
}

const contents = (...files) => files.map((file) => fs.readFileSync(file));

/** Shows `text` while `work` runs: one line whose seconds count on a terminal, one line at the start elsewhere. */
async function showing(text, work) {
  if (!process.stderr.isTTY) {
    say(text);
    return work();
  }
  const begin = Date.now();
  const draw = () => {
    const seconds = Math.round((Date.now() - begin) / 1000);
    const line = `setup: ${text}${seconds > 0 ? ` ${seconds} s` : ''}`;
    process.stderr.write(`\r${line.slice(0, (process.stderr.columns || 80) - 1)}\x1b[K`);
  };
  draw();
  const ticker = setInterval(draw, 1000);
  try {
    return await work();
  } finally {
    clearInterval(ticker);
    process.stderr.write('\r\x1b[K');
  }
}

/** Runs `make` unless the stamp file already holds `key`; the stamp is written only when `make` succeeded. */
async function step(title, stamp, key, make) {
  if (fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8') === key) return;
  const begin = Date.now();
  await showing(`${title} ...`, async () => {
    fs.rmSync(stamp, { force: true });
    await make();
    fs.mkdirSync(path.dirname(stamp), { recursive: true });
    fs.writeFileSync(stamp, key);
  });
  say(`${title}: ${((Date.now() - begin) / 1000).toFixed(0)} s`);
}

/** Held by one set-up in a directory at a time: see withLock. */
const lock = net.createServer((connection) => connection.destroy());

/** The command that is running, ended together with this process. */
let running;

for (const [signal, code] of Object.entries({ SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }))
  process.on(signal, () => {
    running?.kill();
    if (process.stderr.isTTY) process.stderr.write('\n');
    say('interrupted; the same command goes on from here.');
    process.exit(code);
  });

/** Runs a command to its end. @returns the end of its output; @throws SetupError with `remedy` and the last lines of its output */
async function run(command, args, remedy) {
  // The child gets the lock's descriptor: should this process be killed, the next set-up waits for what is left of it.
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe', lock._handle.fd] });
  running = child;
  let output = '';
  const collect = (text) => (output = (output + text).slice(-20_000));
  child.stdout.setEncoding('utf8').on('data', collect);
  child.stderr.setEncoding('utf8').on('data', collect);
  const name = path.basename(command);
  try {
    const [code, signal] = await once(child, 'close');
    if (code === 0) return output;
    const end = signal === null ? 'failed' : `was ended by ${signal}`;
    const tail = output.trim().split('\n').slice(-8).join('\n  ');
    throw new SetupError(`${name} ${args.slice(0, 3).join(' ')} ${end}. ${remedy}\n  ${tail}`);
  } catch (error) {
    if (error instanceof SetupError) throw error;
    throw new SetupError(`${name} cannot be started (${error.code ?? error.message}). ${remedy}`);
  } finally {
    running = undefined;
  }
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

async function installPackages() {
  // npm's own scripts may change without a new installation.
  const { scripts: _, ...manifest } = JSON.parse(fs.readFileSync(at('package.json'), 'utf8'));
  const key = hashOf(JSON.stringify(manifest), ...contents(at('package-lock.json'), at('.npmrc')));
  await step('npm packages (npm ci)', at('node_modules/.grpolab-stamp'), key, async () => {
    checkDisk(2, 'npm ci');
    const remedy = 'Check the network and that npm 10 or newer is installed, then run again.';
    // NODE_ENV=production would leave out what the build, the tests and the notebooks need.
    const output = await run('npm', ['ci', '--include=dev', '--no-progress'], remedy);
    // npm only warns, and succeeds, when it could not write some of the files.
    const unwritten = output.match(/TAR_ENTRY_ERROR .*/);
    if (unwritten)
      throw new SetupError(`npm ci left out files (${unwritten[0]}): free some disk, then run again.`);
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

async function installPython() {
  const gpu = hasNvidiaDriver();
  let requirements = fs.readFileSync(at('requirements.txt'), 'utf8');
  // Notebooks are of a checkout.
  if (!isCheckout) requirements = requirements.match(/^tensor.*$/gm).join('\n');
  if (gpu) requirements = requirements.replace(/^tensorflow-cpu==/m, 'tensorflow[and-cuda]==');
  const title = `.venv with TensorFlow${gpu ? ' and CUDA' : ''}${isCheckout ? ' and JupyterLab' : ''}`;
  const python = at('.venv/bin/python');
  const stamp = at('.venv/.grpolab-stamp');
  // The Python that it was made from may be gone or be another version by now.
  const findPip = 'import importlib.util, sys; sys.exit(importlib.util.find_spec("pip") is None)';
  const works = spawnSync(python, ['-c', findPip]).status === 0;
  if (!works) fs.rmSync(stamp, { force: true });
  await step(title, stamp, hashOf(requirements), async () => {
    checkDisk(gpu ? 10 : 4, 'the Python environment');
    // Always anew: one that was cut off may lack pip or half a package, and the two TensorFlows overwrite each other.
    const base = findPython();
    await run(base, ['-m', 'venv', '--clear', at('.venv')], 'Install python3-venv, then run again.');
    fs.writeFileSync(at('.venv/requirements.txt'), requirements);
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-r'];
    const remedy = 'Check the network and the disk, then run again.';
    await run(python, [...pip, at('.venv/requirements.txt')], remedy);
  });
}

/** JupyterLab's defaults: it asks for no news, and set-up decides the version. */
function quietLab() {
  const file = at('.venv/share/jupyter/lab/settings/overrides.json');
  const settings = { fetchNews: 'false', checkForUpdates: false };
  const text = JSON.stringify({ '@jupyterlab/apputils-extension:notification': settings });
  if (fs.existsSync(file) && fs.readFileSync(file, 'utf8') === text) return;
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, text);
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
  const text = fs.readFileSync(path.join(tfjsDirectory(), 'binding', file), 'utf8');
  if (text.split(anchor).length !== 2)
    throw new SetupError(
      `${file} of @tensorflow/tfjs-node-gpu is not the version that this set-up knows: install the one that package.json names.`,
    );
  fs.writeFileSync(path.join(directory, file), text.replace(anchor, `${insertion}${anchor}`));
}

/** The binding's sources with ours: native/graph.cc needs the context, and to be called when the binding is loaded. */
function copySources(copies) {
  fs.rmSync(copies, { recursive: true, force: true });
  fs.mkdirSync(copies, { recursive: true });
  const sources = path.join(tfjsDirectory(), 'binding');
  for (const file of fs.readdirSync(sources))
    fs.copyFileSync(path.join(sources, file), path.join(copies, file));
  const context = '  TFE_Context *context() const { return tfe_context_; }\n';
  patchedCopy('tfjs_backend.h', copies, '  bool is_gpu_device;\n', context);
  const call = '  ::grpolab_exports(env, exports);\n';
  patchedCopy('tfjs_binding.cc', copies, '  // Export TF property types to JS\n', call);
  const main = path.join(copies, 'tfjs_binding.cc');
  const declaration = '#include <node_api.h>\nvoid grpolab_exports(napi_env, napi_value);\n';
  fs.writeFileSync(main, declaration + fs.readFileSync(main, 'utf8'));
}

/** Renamed into place whole: overwriting a library that a process has loaded would crash that process. */
function replaceFile(from, to) {
  const fresh = `${to}.new`;
  fs.copyFileSync(from, fresh);
  fs.renameSync(fresh, to);
}

/** The kernels of products are built for each of these, and the best that the processor has is taken when they run. */
function instructionSets(compiler) {
  const plain = ['kernels_plain', []];
  if (process.arch !== 'x64') return [plain];
  // What native/ops.cc asks the processor for; -march=x86-64-v3 and v4 are not known to older compilers.
  const v3 = ['-mavx2', '-mfma', '-mbmi2'];
  const v4 = [...v3, '-mavx512f', '-mavx512bw', '-mavx512cd', '-mavx512dq', '-mavx512vl'];
  const bf16 = [...v4, '-mavx512bf16']; // not known to compilers before 2020
  const input = '#include <immintrin.h>\n__m512 f(__m512 a, __m512bh b) { return _mm512_dpbf16_ps(a, b, b); }'; // prettier-ignore
  const probe = spawnSync(compiler, [...bf16, '-x', 'c++', '-c', '-', '-o', '/dev/null'], { input });
  const newest = probe.status === 0 ? [['kernels_bf16', bf16]] : [];
  return [...newest, ['kernels_v4', v4], ['kernels_v3', v3], plain];
}

async function buildBinding() {
  const tensorflow = tensorflowDirectory();
  const binding = path.join(tfjsDirectory(), 'lib/napi-v8/tfjs_binding.node');
  const built = at('native/build');
  const sourceNames = fs.readdirSync(at('native')).filter((name) => /\.(cc|h)$/.test(name));
  const ours = [...sourceNames.sort().map((name) => at('native', name)), at('scripts/setup.mjs')];
  const version = fs.readFileSync(at('requirements.txt'), 'utf8').match(/^tensorflow-cpu==(.*)$/m)?.[1];
  const key = hashOf(...contents(...ours), version, tensorflow, hasNvidiaDriver(), process.arch);
  await step('native binding', path.join(built, 'stamp'), key, async () => {
    checkDisk(0.2, 'the native binding');
    const compiler = findCompiler();
    const copies = path.join(built, 'src');
    copySources(copies);
    const headers = `-I${path.join(packageDirectory('node-api-headers'), 'include')}`;
    const flags = ['-std=c++17', '-fPIC', '-DNAPI_VERSION=8', headers];
    const remedy = 'Install a C++17 compiler (Debian: apt install g++), then run again.';
    const compile = async (name, ...args) => {
      await run(compiler, [...flags, '-O2', '-shared', ...args, '-o', path.join(copies, name)], remedy);
      replaceFile(path.join(copies, name), path.join(built, name));
    };
    const compileKernels = async ([name, options]) => {
      const object = path.join(copies, `${name}.o`);
      const fast = ['-O3', '-ffp-contract=fast', '-fno-math-errno', '-Wno-psabi', ...options];
      const args = [
        ...flags,
        ...fast,
        `-DGRPOLAB_KERNELS=${name}`,
        '-c',
        at('native/kernels.cc'),
        '-o',
        object,
      ];
      await run(compiler, args, remedy);
      return object;
    };
    await compile('stderr.node', at('native/stderr.cc'));
    const objects = [];
    const sets = instructionSets(compiler);
    for (const set of sets) objects.push(await compileKernels(set));
    const has = sets.map(([name]) => `-DGRPOLAB_HAS_${name.toUpperCase()}`);
    const includes = [...has, `-I${copies}`, `-I${path.join(tensorflow, 'include')}`, '-w'];
    const sources = [path.join(copies, 'tfjs_backend.cc'), path.join(copies, 'tfjs_binding.cc')];
    const libraries = [`-L${tensorflow}`, '-l:libtensorflow_cc.so.2', '-l:libtensorflow_framework.so.2'];
    // -Wl, would split a directory at its commas.
    const searchPath = ['-Xlinker', '-rpath', '-Xlinker', tensorflow];
    await compile(
      'tfjs_binding.node',
      ...includes,
      ...sources,
      ...fs
        .readdirSync(at('native'))
        .filter((name) => /\.cc$/.test(name) && !/^(kernels|stderr)\./.test(name))
        .map((name) => at('native', name)),
      ...objects,
      ...libraries,
      ...searchPath,
    );
  });
  // npm ci removes what is in node_modules: put the binding back where the package looks for it.
  const fresh = path.join(built, 'tfjs_binding.node');
  if (fs.existsSync(binding) && fs.statSync(binding).mtimeMs >= fs.statSync(fresh).mtimeMs) return;
  fs.mkdirSync(path.dirname(binding), { recursive: true });
  replaceFile(fresh, binding);
}

function sourceFiles(directory) {
  return fs.readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const full = path.join(directory, entry.name);
    if (entry.isDirectory()) return sourceFiles(full);
    return entry.name.endsWith('.ts') && !entry.name.endsWith('.test.ts') ? [full] : [];
  });
}

async function buildLibrary() {
  const files = [...sourceFiles(at('src')).sort(), at('tsconfig.json')];
  await step('library (tsc)', at('dist/.stamp'), hashOf(...files, ...contents(...files)), async () => {
    fs.rmSync(at('dist'), { recursive: true, force: true });
    const tsc = [at('node_modules/typescript/bin/tsc'), '-p', at('tsconfig.json')];
    await run(process.execPath, tsc, 'Mend the source, then run again.');
  });
}

/**
 * One set-up at a time in a directory. The lock is a socket name of Linux's abstract namespace: the kernel gives it to
 * one process (and its children) and takes it back when they end, however they end, so it cannot go stale.
 */
async function withLock(work) {
  const { dev, ino } = fs.statSync(root);
  // The full length of an address: older Node pads shorter names with zeros, newer does not.
  const name = `\0${`grpolab-setup-${dev}-${ino}`.padEnd(107, '-')}`;
  const take = async () => {
    lock.listen(name);
    await once(lock, 'listening');
  };
  const waitAndTake = async (error) => {
    for (; error?.code === 'EADDRINUSE'; error = await take().catch((reason) => reason)) await sleep(500);
    if (error) throw new SetupError(`the lock of ${root} cannot be taken: ${error.message}.`);
  };
  const refusal = await take().catch((reason) => reason);
  if (refusal) await showing('waiting for another set-up of this directory ...', () => waitAndTake(refusal));
  try {
    await work();
  } finally {
    lock.close();
  }
}

/** What a failed file operation means to a user; null for an error of this program. */
function fileErrorText(error) {
  const { code, message } = error;
  if (['EACCES', 'EPERM', 'EROFS'].includes(code))
    return `${root} cannot be written (${message}): make it yours (chown), or copy it to a directory of yours; then run again.`;
  if (['ENOSPC', 'EDQUOT'].includes(code))
    return `the disk of ${root} is full (${message}): free some space, then run again.`;
  return null;
}

try {
  checkMachine();
  await withLock(async () => {
    if (isCheckout) await installPackages();
    await installPython();
    if (isCheckout) quietLab();
    await buildBinding();
    if (isCheckout) await buildLibrary();
  });
  if (Date.now() - started > 3000) say(`ready after ${((Date.now() - started) / 1000).toFixed(0)} s`);
} catch (error) {
  const text = error instanceof SetupError ? error.message : fileErrorText(error);
  if (text === null) throw error;
  say(text);
  process.exit(1);
}
