// Seconds and memory of `grpolab split` on N lines of its own making, by share of the work. Needs the build.
// usage: node bench/split.mjs --help
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { cpus, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';

const require = createRequire(import.meta.url);
const { Random } = require('../dist/runtime/random.js');
const { splitFile } = require('../dist/data/split-files.js');
const { drawChart } = require('../dist/cli/split.js');

const USAGE = `usage: node bench/split.mjs [--lines 1000000] [--runs 3] [--gz] [--one-reply]
  --lines N    lines of the input, at least 100
  --runs N     splits to measure, at least 1
  --gz         the input is compressed
  --one-reply  every tweet has one reply (the most tweets), instead of 1 to 8`;

const WORDS = 'the tea rain bicycle morning train question garden kettle slow again never maybe window'.split(
  ' ',
);
const SHARES = ['parse', 'assign', 'copy', 'chart'];

/** Lines of the study's fields, about 470 bytes each, with heavy-tailed likes. */
function writeInput(file, lines, { gz, oneReply }) {
  const random = new Random(1, 'bench');
  const text = (most) => Array.from({ length: 3 + random.integer(most) }, () => random.pick(WORDS)).join(' ');
  const likes = () => Math.floor(Math.exp(2 + 1.5 * random.normal()));
  const handle = openSync(file, 'w');
  let pending = '';
  for (let line = 0, tweet = 0; line < lines; tweet++) {
    const shared = { tweet_id: String(1.2e18 + tweet * 512), tweet: `${tweet}: ${text(20)}` };
    const replies = oneReply ? 1 : 1 + random.integer(8);
    const tweetLikes = likes();
    for (let n = 0; n < replies && line < lines; n++, line++) {
      pending += `${JSON.stringify({
        ...shared,
        tweet_author: `author_${random.integer(5000)}`,
        tweet_likes: tweetLikes,
        tweet_retweets: 3,
        tweet_created_at: '2024-06-09T15:52:04.000Z',
        reply_id: `r${line}`,
        reply: text(25),
        reply_author: `reader_${random.integer(20000)}`,
        reply_author_followers: likes(),
        reply_likes: likes(),
        reply_retweets: 0,
        reply_created_at: '2024-06-09T15:55:56.000Z',
        reply_time_diff_seconds: random.integer(5000),
      })}\n`;
    }
    if (pending.length < 2 ** 20 && line < lines) continue;
    writeSync(handle, gz ? gzipSync(pending, { level: 1 }) : pending);
    pending = '';
  }
  closeSync(handle);
}

/** One split in this process; prints when each share of it ended, and the peak memory until then. */
async function splitOnce(input, directory) {
  const ends = {};
  const mark = (share) => {
    ends[share] = { at: performance.now(), peak: process.resourceUsage().maxRSS * 1024 };
  };
  const start = performance.now();
  let pass = 'read';
  const result = await splitFile(input, directory, {
    onProgress: (now) => {
      if (now === 'write' && pass === 'read') mark('assign');
      if (now === 'read') mark('parse');
      pass = now;
    },
  });
  mark('copy');
  await drawChart(result, directory, process);
  mark('chart');
  console.log(JSON.stringify({ start, ends }));
}

function measure(input, directory) {
  const child = [fileURLToPath(import.meta.url), '--child', input, directory];
  const { status, stdout } = spawnSync(process.execPath, child, { stdio: ['ignore', 'pipe', 'inherit'] });
  if (status !== 0) throw new Error(`the split ended with ${status}`);
  const { start, ends } = JSON.parse(stdout);
  let before = start;
  const seconds = SHARES.map((share) => {
    const took = (ends[share].at - before) / 1000;
    before = ends[share].at;
    return took;
  });
  return {
    seconds: [(before - start) / 1000, ...seconds],
    peaks: [ends.chart.peak, ...SHARES.map((s) => ends[s].peak)],
  };
}

function fail(message) {
  console.error(`${message}\n${USAGE}`);
  process.exit(2);
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        child: { type: 'boolean' },
        lines: { type: 'string', default: '1000000' },
        runs: { type: 'string', default: '3' },
        gz: { type: 'boolean', default: false },
        'one-reply': { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    });
  } catch (error) {
    return fail(error.message);
  }
}

function integer(name, text, least) {
  if (/^\d{1,9}$/.test(text) && Number(text) >= least) return Number(text);
  return fail(`--${name} is ${JSON.stringify(text)}; expected an integer >= ${least}`);
}

const { values, positionals } = readArguments();

if (values.help) {
  console.log(USAGE);
} else if (values.child) {
  await splitOnce(...positionals);
} else {
  if (positionals.length > 0) fail(`unexpected argument ${positionals[0]}`);
  // With fewer lines a quartile may have too few tweets for two phases.
  const [lines, count] = [integer('lines', values.lines, 100), integer('runs', values.runs, 1)];
  const directory = mkdtempSync(path.join(tmpdir(), 'grpolab-bench-'));
  try {
    const input = path.join(directory, values.gz ? 'in.jsonl.gz' : 'in.jsonl');
    writeInput(input, lines, { gz: values.gz, oneReply: values['one-reply'] });
    console.log(
      `${lines} lines, ${(statSync(input).size / 1e6).toFixed(0)} MB; Node ${process.version}, ${cpus().length} x ${cpus()[0].model}`,
    );
    const runs = Array.from({ length: count }, () => measure(input, path.join(directory, 'out')));
    ['total', ...SHARES].forEach((share, i) => {
      const sorted = (key) => runs.map((run) => run[key][i]).sort((a, b) => a - b);
      const [seconds, peaks] = [sorted('seconds'), sorted('peaks')];
      const middle = (runs.length - 1) >> 1;
      console.log(
        `${share.padEnd(7)} median ${seconds[middle].toFixed(2)} s, min ${seconds[0].toFixed(2)} s; ` +
          `peak RSS ${i === 0 ? '' : 'so far '}median ${(peaks[middle] / 1e6).toFixed(0)} MB, min ${(peaks[0] / 1e6).toFixed(0)} MB`,
      );
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
