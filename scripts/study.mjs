// The study on the embedded world, by one command: npm run study [-- --seeds 42,123,456] [--output runs/study] [--publish]
// Cleans and splits the sample, learns a reward from likes, trains all paradigms for every seed, generates replies to
// held-out tweets, compares, and draws the six figures. Stopped at any moment, the same command goes on. --publish also
// writes data/results and figures/paper.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
process.chdir(root);
const require = createRequire(import.meta.url);
const { data, evaluation, study, train } = require('../dist/index.js');
const { main } = require('../dist/cli/main.js');

const HELP = `Usage: npm run study -- [--seeds 42,123,456] [--output runs/study] [--publish]

  --seeds N,N   a run of every paradigm for each seed
  --output D    everything that is made; the same command goes on with what is there
  --publish     also write data/results and figures/paper`;

/** @returns the values; ends this process after --help or an argument that there is not */
function readArguments() {
  try {
    const { values: given } = parseArgs({
      options: {
        seeds: { type: 'string', default: '42,123,456' },
        output: { type: 'string', default: 'runs/study' },
        publish: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    });
    if (!given.help) return given;
    console.log(HELP);
  } catch (error) {
    console.error(`study: ${error.message}\n${HELP}`);
    process.exit(2);
  }
  return process.exit(0);
}

const values = readArguments();
const seeds = values.seeds.split(',').map(Number);
if (!seeds.every((seed) => Number.isSafeInteger(seed) && seed >= 0)) {
  console.error(`--seeds is "${values.seeds}"; expected integers >= 0, such as 42,123,456`);
  process.exit(2);
}
const at = (...parts) => path.join(values.output, ...parts);
const SAMPLE = 'data/world/sample.jsonl';
const TEST_TWEETS = 300;
/** To each of them, beside a greedy one. */
const REPLIES = 10;
/** Seed of the held-out tweets that only this comparison sees. */
const TEST_SEED = 7;
/**
 * A reply passes when it is as good, by the world's truth, as the best tenth of what people wrote; beside it stand the best
 * quarter and the best twentieth: a model may be better by one and worse by another.
 */
const BEST_SHARES = [0.1, 0.25, 0.05];

const interrupt = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'])
  process.on(signal, () => (interrupt.signal.aborted ? process.exit(130) : interrupt.abort()));

/** Runs a command as a terminal would. Ends this process when it fails. */
async function grpolab(...argv) {
  console.error(`== grpolab ${argv.join(' ')}`);
  const { stdin, stdout, stderr } = process;
  const code = await main(argv, { stdin, stdout, stderr, signal: interrupt.signal });
  if (code !== 0 || interrupt.signal.aborted) process.exit(interrupt.signal.aborted ? 130 : code);
}

/** Held-out tweets with their replies; none whose text the evaluations during training see. */
async function writeTestData(file) {
  const known = new Set();
  for await (const { value } of data.readRecords('data/world/heldout.jsonl')) known.add(value.tweet);
  const records = [];
  const tweets = new Map();
  for (let index = 0; tweets.size < TEST_TWEETS; index++) {
    const replies = data.labelledReplies(TEST_SEED, 'heldout', index).map(({ record }) => record);
    const [{ tweet, tweet_id: id }] = replies;
    if (known.has(tweet)) continue;
    known.add(tweet);
    tweets.set(id, tweet);
    records.push(...replies);
  }
  await data.writeJsonl(file, records);
}

async function prepareData() {
  fs.mkdirSync(at('data'), { recursive: true });
  const clean = at('data/clean.jsonl');
  if (!fs.existsSync(clean)) await grpolab('clean', '--input', SAMPLE, '--output', clean);
  if (!fs.existsSync(at('data/split/phase_split_statistics.json')))
    await grpolab('split', '--input', clean, '--output-dir', at('data/split'));
  // What the loss is measured on is cleaned as what is trained on: else it rises while replies become better.
  const heldOut = at('data/heldout.jsonl');
  if (!fs.existsSync(heldOut))
    await grpolab('clean', '--input', 'data/world/heldout.jsonl', '--output', heldOut);
  if (!fs.existsSync(at('data/test.jsonl'))) await writeTestData(at('data/test.jsonl'));
  // On all records of the sample: what is dropped as a duplicate has likes, too.
  if (!fs.existsSync(at('reward/reward.json')))
    await grpolab('train-reward', '--data', SAMPLE, '--output', at('reward'));
}

async function trainSeed(seed) {
  const heldOut = ['--set', `data.eval=${at('data/heldout.jsonl')}`];
  const single = (config) => [
    ...['train', '--config', `configs/study/${config}.yaml`, '--seeds', String(seed), '--resume'],
    ...['--output', at(config), '--data', at('data/clean.jsonl'), ...heldOut],
  ];
  const phases = (config) => [
    ...['train', '--config', `configs/study/${config}.yaml`, '--phases', '1,2', '--seeds', String(seed)],
    ...['--resume', '--data', at('data/split'), '--output', at(config), ...heldOut],
    ...['--set', `phase1.${heldOut[1]}`],
  ];
  await grpolab(...single('baseline'));
  await grpolab(...single('polychromic'));
  await grpolab(...phases('grpo_from_baseline'));
  await grpolab(...phases('grpo_from_polychromic'));
}

/** The models of the comparison, a run a seed. */
function writeModels(file) {
  const adapter = (place) => (seed) => ({ model: 'data/model', adapter: at(place, `seed_${seed}`), seed });
  const models = {
    zero_shot: (seed) => ({ model: 'data/model', seed }),
    few_shot: (seed) => ({ model: 'data/model', shots: 3, seed }),
    baseline: adapter('baseline'),
    polychromic: adapter('polychromic'),
    grpo: adapter('grpo_from_baseline/phase2'),
    polychromic_grpo: adapter('grpo_from_polychromic/phase2'),
  };
  const lists = Object.entries(models).map(([name, of]) => [name, seeds.map(of)]);
  fs.writeFileSync(file, JSON.stringify({ models: Object.fromEntries(lists) }, null, 2));
}

await prepareData();
for (const seed of seeds) await trainSeed(seed);
writeModels(at('models.yaml'));
const people = await data.allRecords(at('data/test.jsonl'));
const best = BEST_SHARES.map((share) => study.qualityOfBest(people, share));
await grpolab(
  ...['evaluate', '--config', at('models.yaml'), '--test-data', at('data/test.jsonl')],
  ...['--examples', at('data/clean.jsonl'), '--learned', at('reward'), '--max-new-tokens', '48'],
  ...['--n', String(REPLIES), '--min-world-quality', String(best), '--output', at('evaluation'), '--resume'],
);

const runsOf = (place) => seeds.map((seed) => at(place, `seed_${seed}`));

/** What the figures are drawn from. */
function paperResults() {
  const { phase1, phase2 } = JSON.parse(
    fs.readFileSync(at('data/split/phase_split_statistics.json'), 'utf8'),
  );
  const { grpo: settings } = train.loadExperiment('configs/study/grpo_from_baseline.yaml');
  const grpo = (start) => ({
    phase1: runsOf(`grpo_from_${start}/phase1`),
    phase2: runsOf(`grpo_from_${start}/phase2`),
  });
  return {
    evaluation: evaluation.readEvaluation(at('evaluation')),
    overview: {
      records: fs.readFileSync(SAMPLE, 'utf8').trimEnd().split('\n').length,
      cleaned: phase1.count + phase2.count,
      ...{ phase1: phase1.count, phase2: phase2.count, heldOutTweets: TEST_TWEETS },
      ...{ groupSize: settings.n_generations, repliesPerTweet: REPLIES, seeds: seeds.length },
    },
    dynamics: study.dynamicsOf([
      { name: 'baseline', phase1: runsOf('baseline') },
      { name: 'polychromic', phase1: runsOf('polychromic') },
      { name: 'grpo', ...grpo('baseline') },
      { name: 'polychromic_grpo', ...grpo('polychromic') },
    ]),
    lora: study.loraOf('data/model', {
      baseline: runsOf('baseline'),
      polychromic: runsOf('polychromic'),
      grpo: runsOf('grpo_from_baseline/phase2'),
      polychromic_grpo: runsOf('grpo_from_polychromic/phase2'),
    }),
  };
}

const results = paperResults();
const places = [at('results'), ...(values.publish ? ['data/results'] : [])];
for (const place of places) {
  fs.mkdirSync(place, { recursive: true });
  await study.writePaperResults(results, place);
}
await grpolab('figures', '--results', at('results'), '--output', at('figures'));
if (values.publish) await grpolab('figures', '--results', 'data/results', '--output', 'figures/paper');
console.error(`results: ${places.join(', ')}`);
