// A large JSONL file with bad lines of 20 kinds in known places: which are set aside, in what memory, and what the program says.
// Tries are lines. `refused`: bad lines set aside with a clear reason; `accepted`: good lines read.
import { spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { library } from './library.mjs';
import { flawOfMessage, judgeCommand } from './outcome.mjs';
import { emptyCounts, randomOf, runProgram } from './runs.mjs';

const good = (n) => ({
  ...{
    tweet_id: String(10n ** 18n + BigInt(n >> 2)),
    tweet: `Question ${n >> 2}: which tea?`,
    tweet_likes: n % 50,
  },
  ...{
    reply_id: n,
    reply: `Answer ${n}: the green one, brewed ${n % 7} minutes.`,
    reply_likes: n % 31,
    reply_retweets: 0,
  },
  ...{ reply_author_followers: n % 1000, reply_time_diff_seconds: n / 3, note: { kept: [n] } },
});
const without = (n, key) => JSON.stringify({ ...good(n), [key]: undefined });
const withValue = (n, key, value) => JSON.stringify({ ...good(n), [key]: value });

/** One bad line of each kind. */
const BAD = [
  (n) => JSON.stringify(good(n)).slice(0, 40 + (n % 60)),
  (n) => JSON.stringify([good(n)]),
  (n) => String(n),
  (n) => JSON.stringify(`line ${n}`),
  () => 'null',
  (n) => without(n, 'tweet_id'),
  (n) => without(n, 'tweet'),
  (n) => without(n, 'reply'),
  (n) => withValue(n, 'reply', ' \u2028\u3000'),
  (n) => withValue(n, 'reply_likes', '12k'),
  (n) => withValue(n, 'reply_likes', -1),
  (n) => withValue(n, 'tweet_likes', 0.5),
  (n) => withValue(n, 'reply_author_followers', [1]),
  (n) => withValue(n, 'tweet', 17),
  (n) => withValue(n, 'tweet_id', '  '),
  (n) => Buffer.from(JSON.stringify({ ...good(n), tweet: 'caf\u00e9' }), 'latin1'),
  (n) => JSON.stringify(good(n)).replace(/"reply_likes":\d+/, '"reply_likes":1e999'),
  (n) => JSON.stringify(good(n)).replace('[', '['.repeat(250)).replace(']', ']'.repeat(250)),
  (n) => `${JSON.stringify(good(n))}${JSON.stringify(good(n))}`,
  (n) => JSON.stringify(good(n)).replaceAll('"', "'"),
];

/** @returns what the file holds: the numbers of its bad lines, and how many good ones */
function writeCorpus(file, lines, random) {
  const handle = openSync(file, 'w');
  const bad = [];
  let [accepted, pieces] = [0, []];
  for (let n = 1; n <= lines; n++) {
    const isBad = random.integer(4) === 0;
    const kind = (bad.length + n) % BAD.length;
    if (isBad) bad.push(n);
    else accepted++;
    pieces.push(
      Buffer.from(isBad ? BAD[kind](n) : JSON.stringify(good(n))),
      Buffer.from(n % 97 === 0 ? '\r\n' : '\n'),
    );
    if (pieces.length < 4000 && n < lines) continue;
    writeSync(handle, Buffer.concat(pieces));
    pieces = [];
  }
  closeSync(handle);
  return { bad, accepted };
}

/** What the reader sets aside, against what was put in; the file of a child process's memory as well. */
function checkRejected(file, bad, counts, fail) {
  const rejected = readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  const numbers = rejected.map(({ line }) => line);
  if (numbers.join() !== bad.join()) {
    counts.wrong++;
    fail(0, 'wrong', `${numbers.length} lines set aside in other places than the ${bad.length} bad ones`);
  }
  for (const { line, reason } of rejected) {
    const flaw = flawOfMessage(reason);
    counts[flaw === null ? 'refused' : 'unclear']++;
    if (flaw !== null) fail(line, 'unclear', flaw);
  }
}

/** Growth of a child's resident memory, MiB, over the second half of the file, that still counts as bounded. */
const BOUND = 32;

function readInChild(file, rejectedPath) {
  const script = [fileURLToPath(import.meta.url), file, rejectedPath];
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', ...script], {
    encoding: 'utf8',
    timeout: 300_000,
  });
  return status === 0 ? JSON.parse(stdout) : { crash: `${status}: ${stderr}` };
}

export async function run(context) {
  const { tries: lines, directory, progress, note, fail } = context;
  const counts = emptyCounts();
  const spoil = (number, kind, why) => {
    counts[kind]++;
    fail(number, kind, why);
  };
  const file = path.join(directory, 'corpus.jsonl');
  const { bad, accepted } = writeCorpus(file, lines, randomOf(context));
  progress(1, 4);
  const read = readInChild(file, path.join(directory, 'rejected.jsonl'));
  if (read.crash !== undefined) spoil(0, 'crashes', read.crash);
  else {
    checkRejected(path.join(directory, 'rejected.jsonl'), bad, counts, fail);
    counts.accepted = read.accepted;
    if (read.accepted !== accepted) spoil(0, 'wrong', `${read.accepted} accepted, expected ${accepted}`);
    if (read.growth > BOUND) spoil(0, 'wrong', `memory grew by ${read.growth} MiB`);
    note(
      `${bad.length} bad lines of ${BAD.length} kinds; the reader's memory grew by ${read.growth.toFixed(1)} MiB over its second half`,
    );
  }
  progress(2, 4);
  await throughProgram(context, file, { bad, accepted }, spoil);
  progress(4, 4);
  return { tries: lines, ...counts };
}

async function throughProgram({ directory, note }, file, { bad, accepted }, spoil) {
  const output = path.join(directory, 'clean.jsonl');
  const args = ['clean', '--input', file, '--output', output, '--keep-near-duplicates', '--json', '--quiet'];
  const skipping = await runProgram([...args, '--skip-invalid']);
  const kept = skipping.code === 0 ? JSON.parse(skipping.stdout).read : skipping.stderr;
  if (kept !== accepted) spoil(1, 'wrong', `clean --skip-invalid: read ${kept}, expected ${accepted}`);
  const aside = readFileSync(path.join(directory, 'corpus.rejected.jsonl'), 'utf8')
    .trimEnd()
    .split('\n').length;
  if (aside !== bad.length)
    spoil(2, 'wrong', `clean --skip-invalid set aside ${aside}, expected ${bad.length}`);
  const strict = await runProgram(args);
  const { kind, why = strict.stderr } = judgeCommand(strict);
  if (kind !== 'refused' || !strict.stderr.includes(`corpus.jsonl:${bad[0]}: `))
    spoil(3, kind === 'refused' ? 'wrong' : kind, why);
  note(`clean: exit code ${skipping.code} with --skip-invalid, ${strict.code} without, at line ${bad[0]}`);
}

/** The child: reads a file to its end and prints what it accepted, and how its memory grew. */
async function child(file, rejectedPath) {
  const { readRecords } = library('data/records');
  const memory = () => {
    globalThis.gc();
    return process.memoryUsage().rss / 2 ** 20;
  };
  const { size } = await import('node:fs').then((fs) => fs.statSync(file));
  let [accepted, bytes, early] = [0, 0, undefined];
  const reader = readRecords(file, {
    skipInvalid: true,
    rejectedPath,
    onBytes: (piece) => void (bytes += piece.length),
  });
  for await (const _ of reader) {
    accepted++;
    if (early === undefined && bytes >= size / 2) early = memory();
  }
  console.log(JSON.stringify({ accepted, growth: memory() - early }));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await child(...process.argv.slice(2));
