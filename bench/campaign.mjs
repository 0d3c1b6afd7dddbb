// What the library survives: damaged files, long runs, kills, full disks, a second process, wrong clocks; counted. Needs the build.
// usage: node bench/campaign.mjs --help
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { fuzz } from './campaign/fuzz.mjs';
import { library, root } from './campaign/library.mjs';
import { isFailure, KINDS } from './campaign/outcome.mjs';

const { formatDuration, Progress } = library('runtime/progress');

/** Every part with its number of tries, all of them and with --small. What a part counts, its file says. */
const PARTS = {
  'fuzz-safetensors': {
    full: 1_000_000,
    small: 3000,
    run: (context) => fuzz(context, 'fuzz-safetensors.mjs'),
  },
  'fuzz-tokenizer': { full: 10_000, small: 100, run: (context) => fuzz(context, 'fuzz-model-files.mjs') },
  'fuzz-config': { full: 10_000, small: 300, run: (context) => fuzz(context, 'fuzz-model-files.mjs') },
  'fuzz-adapter': { full: 10_000, small: 200, run: (context) => fuzz(context, 'fuzz-model-files.mjs') },
  'fuzz-jsonl': { full: 10_000, small: 300, run: (context) => fuzz(context, 'fuzz-text-files.mjs') },
  'fuzz-yaml': { full: 10_000, small: 200, run: (context) => fuzz(context, 'fuzz-text-files.mjs') },
  corpus: { full: 100_000, small: 5000, run: part('corpus') },
  soak: { full: 10_000, small: 40, run: part('soak') },
  kill: { full: 100, small: 2, run: part('kill') },
  'disk-full': { full: 20, small: 1, run: part('disk-full') },
  'two-processes': { full: 20, small: 1, run: part('two-processes') },
  unwritable: { full: 1, small: 1, run: part('unwritable') },
  clock: { full: 8, small: 1, run: part('clock') },
  secrets: { full: 1, small: 1, run: part('secrets') },
};

/** A part in a file of its own, loaded when it runs: TensorFlow's process ends with it. */
function part(name) {
  return async (context) => (await import(`./campaign/${name}.mjs`)).run(context);
}

const USAGE = `usage: node bench/campaign.mjs [PART...] [--small] [--seed 1] [--tries N] [--at N] [--output runs/campaign]
  PART      ${Object.keys(PARTS).join(', ')}; default: all
  --small   few tries of each: under a minute in all
  --tries   as many, whatever the part's own number is
  --at      the try of this number alone, of a fuzz part, to see a failure again
  --output  where failures go: a directory each, with the files of the try and failure.json
Exit codes: 0 nothing failed, 1 something did, 2 wrong usage`;

function fail(message) {
  console.error(`campaign: ${message}\n${USAGE}`);
  process.exit(2);
}

function readArguments() {
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  try {
    return parseArgs({
      allowPositionals: true,
      options: { small: flag, help: flag, seed: text, tries: text, at: text, output: text },
    });
  } catch (error) {
    return fail(error.message);
  }
}

function natural(name, text, least) {
  if (text === undefined) return undefined;
  return /^\d{1,9}$/.test(text) && Number(text) >= least
    ? Number(text)
    : fail(`--${name} is "${text}"; expected an integer >= ${least}`);
}

/** Runs a part. @returns its row of the table */
async function runPart(name, { seed, small, tries, at, failures }) {
  const directory = mkdtempSync(path.join(tmpdir(), `campaign-${name}-`));
  const bar = new Progress({ label: name, unit: 'tries' });
  const notes = [];
  const begin = performance.now();
  const context = {
    ...{
      part: name,
      seed,
      small,
      at,
      directory,
      failures,
      tries: tries ?? (small ? PARTS[name].small : PARTS[name].full),
    },
    progress: (done, total) => {
      bar.total = total;
      bar.update(done);
    },
    note: (text) => notes.push(text),
    fail: (number, kind, why) => keepFailure(failures, { part: name, seed, number, kind, why }),
  };
  try {
    const counts = await PARTS[name].run(context);
    return { name, ...counts, notes, seconds: (performance.now() - begin) / 1000 };
  } finally {
    bar.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Notes a failure of a part without files of its own. @returns where its files may go */
function keepFailure(failures, failure) {
  const folder = path.join(failures, `${failure.part}-${failure.seed}-${failure.number}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'failure.json'), `${JSON.stringify(failure, null, 2)}\n`);
  return folder;
}

function printTable(rows) {
  const head = ['part', 'tries', ...KINDS, 'time'];
  const cells = rows.map((row) => [
    row.name,
    ...['tries', ...KINDS].map((key) => String(row[key] ?? 0)),
    formatDuration(row.seconds),
  ]);
  const widths = head.map((_, i) => Math.max(...[head, ...cells].map((line) => line[i].length)));
  for (const line of [head, ...cells])
    console.log(
      line.map((text, i) => (i === 0 ? text.padEnd(widths[i]) : text.padStart(widths[i]))).join('  '),
    );
  for (const { name, notes } of rows) for (const note of notes) console.log(`${name}: ${note}`);
}

const { values, positionals } = readArguments();
if (values.help) {
  console.log(USAGE);
  process.exit(0);
}
const unknown = positionals.find((name) => !Object.hasOwn(PARTS, name));
if (unknown !== undefined) fail(`unknown part "${unknown}"`);
if (values.at !== undefined && !(positionals.length === 1 && positionals[0].startsWith('fuzz-')))
  fail('--at needs one fuzz part');
const failures = path.resolve(root, values.output ?? 'runs/campaign');
const settings = {
  ...{ seed: natural('seed', values.seed, 0) ?? 1, tries: natural('tries', values.tries, 1) },
  ...{ at: natural('at', values.at, 0), small: values.small, failures },
};
mkdirSync(failures, { recursive: true });
console.log(`seed ${settings.seed}; Node ${process.version}, ${cpus().length} x ${cpus()[0].model}`);
const rows = [];
for (const name of positionals.length > 0 ? positionals : Object.keys(PARTS))
  rows.push(await runPart(name, settings));
printTable(rows);
const failed = rows.reduce(
  (sum, row) => sum + KINDS.filter(isFailure).reduce((n, kind) => n + (row[kind] ?? 0), 0),
  0,
);
if (failed > 0) {
  console.log(`${failed} failures; their files are in ${failures}`);
  process.exitCode = 1;
}
