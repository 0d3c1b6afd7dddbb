// Near-duplicates by the index against brute force: recall, seconds, peak memory. Replies of the embedded world, a third
// of them written again with a typo, swapped words, other punctuation or one word more; no two are equal.
// Needs the build. usage: node bench/near-duplicates.mjs --help
import { createRequire } from 'node:module';
import { performance } from 'node:perf_hooks';
import { parseArgs } from 'node:util';

const require = createRequire(import.meta.url);
const { worldRecords } = require('../dist/data/world.js');
const { findNearDuplicates } = require('../dist/data/near-duplicates.js');
const { lexicalEmbedder } = require('../dist/rewards/lexical.js');
const { minilmEmbedder } = require('../dist/rewards/minilm.js');
const { Random } = require('../dist/runtime/random.js');

const BRUTE_FORCE_UP_TO = 10_000;

const USAGE = `usage: node bench/near-duplicates.mjs [--count 5000] [--embedding lexical|DIR|ID] [--threshold C]
  --count N      replies, at least 10. Brute force compares with every kept reply: it runs up to ${BRUTE_FORCE_UP_TO},
                 above that only the index is timed
  --embedding E  lexical, or a sentence encoder: a directory or a hub id
  --threshold C  cosine above which two replies are near-duplicates, above 0 and below 1; default: the embedding's own`;

function fail(message) {
  console.error(`${message}\n${USAGE}`);
  process.exit(2);
}

function readArguments() {
  try {
    return parseArgs({
      options: {
        count: { type: 'string', default: '5000' },
        embedding: { type: 'string', default: 'lexical' },
        threshold: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return fail(error.message);
  }
}

const values = readArguments();
if (values.help) {
  console.log(USAGE);
  process.exit(0);
}
const count = Number(values.count);
if (!(/^\d{1,9}$/.test(values.count) && count >= 10))
  fail(`--count is ${JSON.stringify(values.count)}; expected an integer >= 10`);
const given = values.threshold === undefined ? undefined : Number(values.threshold);
if (given !== undefined && !(given > 0 && given < 1))
  fail(`--threshold is ${JSON.stringify(values.threshold)}; expected a number above 0 and below 1`);

/** The text with one small change. */
function noisy(text, random) {
  const words = text.split(' ');
  const place = random.integer(Math.max(1, words.length - 1));
  switch (random.integer(4)) {
    case 0:
      return [...words.slice(0, place), words[place + 1], words[place], ...words.slice(place + 2)]
        .join(' ')
        .trim();
    case 1: {
      const at = random.integer(text.length - 1);
      return text.slice(0, at) + text[at + 1] + text[at] + text.slice(at + 2);
    }
    case 2:
      return text.replace(/[.!?]*$/, random.pick(['!', '..', '?!', ' :)', '']));
    default:
      return `${text} ${random.pick(['really', 'honestly', 'so', 'indeed', 'folks'])}`;
  }
}

function corpus(count) {
  const random = new Random(1, 'near-duplicates bench');
  const texts = new Set();
  for (const { reply } of worldRecords(7, 'pretrain', Infinity)) {
    if (texts.size >= count) break;
    texts.add(reply);
    if (random.uniform() < 0.5 && texts.size < count) texts.add(noisy(reply, random));
  }
  return random.shuffle([...texts]);
}

/** The definition, word for word: each text against every text kept before it. */
async function bruteForce(texts, { embed, threshold }) {
  const duplicateOf = new Int32Array(texts.length).fill(-1);
  const kept = [];
  for (const [position, text] of texts.entries()) {
    const vector = await embed(text);
    let best = threshold;
    for (const other of kept) {
      let cosine = 0;
      for (const [i, index] of other.indices.entries()) cosine += other.values[i] * vector[index];
      if (cosine > best) [best, duplicateOf[position]] = [cosine, other.position];
    }
    if (duplicateOf[position] >= 0) continue;
    const indices = Uint32Array.from(vector.keys()).filter((i) => vector[i] !== 0);
    kept.push({ position, indices, values: Float32Array.from(indices, (i) => vector[i]) });
  }
  return duplicateOf;
}

async function timed(work) {
  const start = performance.now();
  const result = await work();
  return [result, (performance.now() - start) / 1000];
}

const texts = corpus(count);
const embedder = values.embedding === 'lexical' ? lexicalEmbedder() : await minilmEmbedder(values.embedding);
const threshold = given ?? embedder.duplicateCosine;
const compare = texts.length <= BRUTE_FORCE_UP_TO;
const vectors = new Map();
// Vectors of a comparison are made once, so that its seconds are those of the search.
if (compare) for (const text of texts) vectors.set(text, await embedder.embed(text));
const embed = compare ? async (text) => vectors.get(text) : (text) => embedder.embed(text);

const [found, seconds] = await timed(() => findNearDuplicates(texts, { embed, threshold }));
const dropped = found.reduce((count, of) => count + (of >= 0), 0);
const report = { replies: texts.length, embedding: embedder.name, threshold, dropped, seconds };
if (compare) {
  const [expected, bruteSeconds] = await timed(() => bruteForce(texts, { embed, threshold }));
  const inBoth = found.filter((of, i) => of >= 0 && expected[i] >= 0).length;
  const right = expected.reduce((count, of) => count + (of >= 0), 0);
  report.brute_force = { dropped: right, seconds: bruteSeconds };
  report.recall = inBoth / right;
  report.precision = inBoth / dropped;
  report.pair_recall = found.filter((of, i) => of >= 0 && of === expected[i]).length / right;
}
report.peak_rss_bytes = process.resourceUsage().maxRSS * 1024;
console.log(JSON.stringify(report, null, 2));
