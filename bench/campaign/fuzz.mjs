// A fuzz part: its tries run in child processes; one that crashes or hangs costs one try, and the next goes on after it.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { KINDS } from './outcome.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
/** Seconds without a finished try after which a try counts as a hang. */
const LIMIT = 20;
/** Failures of one part after which it stops: they are then one and the same, most likely. */
const ENOUGH = 200;

function readState(file) {
  const bytes = fs.existsSync(file) ? fs.readFileSync(file) : Buffer.alloc(0);
  const size = 8 * (1 + KINDS.length);
  if (bytes.length < size) return null;
  const [number, ...counts] = new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + size));
  return { number, counts };
}

/** Runs one child until its end, a crash or a hang. */
function runChild(args, stateFile, onState) {
  fs.rmSync(stateFile, { force: true });
  const child = spawn(
    process.execPath,
    ['--max-old-space-size=2048', path.join(here, 'fuzz-child.mjs'), ...args],
    {
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  );
  let [stderr, last, moved, hung] = ['', -1, performance.now(), false];
  child.stderr.on('data', (data) => (stderr = (stderr + data).slice(-4000)));
  const timer = setInterval(() => {
    const state = readState(stateFile);
    if (state === null) return;
    onState(state);
    if (state.number !== last) [last, moved] = [state.number, performance.now()];
    if (performance.now() - moved < LIMIT * 1000) return;
    hung = true;
    child.kill('SIGKILL');
  }, 200);
  return new Promise((done) =>
    child.on('close', (code, signal) => {
      clearInterval(timer);
      done({ code, signal, stderr, hung, state: readState(stateFile) });
    }),
  );
}

const add = (sum, counts) => counts.forEach((count, i) => (sum[KINDS[i]] += count));

/** What stopped a child before its end, with the files of that try. */
function keepStopped({ part, failures, directory }, seed, { code, signal, stderr, hung, state }) {
  const kind = hung ? 'hangs' : 'crashes';
  const number = state?.number ?? -1;
  const folder = path.join(failures, `${part}-${seed}-${number}`);
  fs.mkdirSync(folder, { recursive: true });
  if (state !== null) fs.cpSync(path.join(directory, 'try'), folder, { recursive: true });
  const why = hung ? `no end after ${LIMIT} s` : `the process ended with ${signal ?? code}: ${stderr}`;
  fs.writeFileSync(
    path.join(folder, 'failure.json'),
    JSON.stringify({ part, seed, number, kind, why }, null, 2),
  );
  return { kind, number };
}

/**
 * @param options  module: file beside this one that exports `prepare`; at: a single try instead of all
 */
export async function fuzz(context, module) {
  const { part, tries, seed, directory, failures, at, progress } = context;
  const sum = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
  const stateFile = path.join(directory, 'state');
  let next = at ?? 0;
  const end = at === undefined ? tries : at + 1;
  const begin = next;
  const failed = () => sum.unclear + sum.crashes + sum.hangs + sum.wrong;
  while (next < end && failed() < ENOUGH) {
    const args = [`./${module}`, part, String(seed), String(next), String(end), directory, failures];
    const result = await runChild(args, stateFile, ({ number }) => progress(number - begin, end - begin));
    if (result.state !== null) add(sum, result.state.counts);
    if (result.code === 0 && result.state?.number === end) next = end;
    else {
      const { kind, number } = keepStopped(context, seed, result);
      sum[kind]++;
      if (number < next) break; // it did not even begin
      next = number + 1;
    }
  }
  return { tries: next - begin, ...sum };
}
