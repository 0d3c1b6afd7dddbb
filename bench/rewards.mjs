// How well rewards part good replies from bad ones: node bench/rewards.mjs [heuristic sharp FILE.yaml DIR ...]
// On held-out tweets of the embedded world: AUC of its engaging strategies against the others, Spearman with the true
// worth. On data/labelled-pairs.jsonl: AUC of good against bad. Intervals: 95 %, bootstrap over tweets.
import { data, metrics, rewards } from '../dist/index.js';

const TWEETS = 1000;
const ENGAGING = new Set(['specific', 'question', 'joke', 'anecdote', 'disagree']);

/** Rows by tweet: what a bootstrap over tweets resamples. */
function byTweet(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(row.tweet_id, [...(groups.get(row.tweet_id) ?? []), row]);
  return [...groups.values()];
}

function auc(groups) {
  const rows = groups.flat();
  const scores = (isGood) => rows.filter((row) => row.good === isGood).map(({ score }) => score);
  return metrics.areaUnderCurve(scores(true), scores(false));
}

function correlation(groups) {
  const rows = groups.flat();
  return metrics.spearman(
    rows.map(({ score }) => score),
    rows.map(({ worth }) => worth),
  );
}

function show(estimate) {
  const [low, high] = estimate.interval.map((bound) => bound.toFixed(3));
  return `${estimate.value.toFixed(3)} [${low}, ${high}]`;
}

const world = Array.from({ length: TWEETS }, (_, i) => data.labelledReplies(1, 'heldout', i))
  .flat()
  .map(({ record, strategy, worth }) => ({ ...record, worth, good: ENGAGING.has(strategy) }));
const labelled = [];
for await (const { value } of data.readRecords('data/labelled-pairs.jsonl')) {
  labelled.push({ ...value, good: value.label === 'good' });
}

const names = process.argv.length > 2 ? process.argv.slice(2) : ['heuristic', 'sharp'];
const heads = ['world AUC', 'world Spearman', 'labelled AUC', 'mean good - bad'];
console.log(`${world.length} replies to ${TWEETS} held-out tweets; ${labelled.length} labelled pairs`);
console.log(['reward'.padEnd(16), ...heads.map((head) => head.padEnd(22)), 'pairs/s'].join(' '));
for (const name of names) {
  const reward = await rewards.loadReward(name);
  const started = performance.now();
  for (const rows of [world, labelled]) {
    const results = await reward.scoreBatch(rows);
    rows.forEach((row, i) => (row.score = results[i].total));
  }
  const rate = (1000 * (world.length + labelled.length)) / (performance.now() - started);
  const [worldGroups, pairGroups] = [byTweet(world), byTweet(labelled)];
  const cells = [
    show(metrics.clusterBootstrap(worldGroups, auc, { seed: 1 })),
    show(metrics.clusterBootstrap(worldGroups, correlation, { seed: 1 })),
    show(metrics.clusterBootstrap(pairGroups, auc, { seed: 1 })),
  ];
  const meanScore = (isGood) =>
    metrics.mean(labelled.filter(({ good }) => good === isGood).map(({ score }) => score));
  const difference = (meanScore(true) - meanScore(false)).toFixed(3);
  const line = [name.padEnd(16), ...cells.map((cell) => cell.padEnd(22)), difference.padEnd(22)];
  console.log([...line, Math.round(rate)].join(' '));
}
