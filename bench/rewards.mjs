// How well rewards part good replies from bad ones: node bench/rewards.mjs [heuristic sharp FILE.yaml DIR ...]
// On held-out tweets of the embedded world: AUC of its engaging strategies against the others, Spearman with the true
// worth. On data/labelled-pairs.jsonl: AUC of good against bad. Intervals: 95 %, bootstrap over tweets.
import { evaluation, metrics, rewards } from '../dist/index.js';

const TWEETS = 1000;

/** Rows by tweet: what a bootstrap over tweets resamples. */
function byTweet(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(row.tweet_id, [...(groups.get(row.tweet_id) ?? []), row]);
  return [...groups.values()];
}

function correlation(groups) {
  const rows = groups.flat();
  return metrics.spearman(
    rows.map(({ total }) => total),
    rows.map(({ worth }) => worth),
  );
}

function show(estimate) {
  const [low, high] = estimate.interval.map((bound) => bound.toFixed(3));
  return `${estimate.value.toFixed(3)} [${low}, ${high}]`;
}

const world = evaluation.worldLabelledPairs({ tweets: TWEETS });
const labelled = await evaluation.readLabelledPairs('data/labelled-pairs.jsonl');

const names = process.argv.length > 2 ? process.argv.slice(2) : ['heuristic', 'sharp'];
const heads = ['world AUC', 'world Spearman', 'labelled AUC', 'mean good - bad'];
console.log(`${world.length} replies to ${TWEETS} held-out tweets; ${labelled.length} labelled pairs`);
console.log(['reward'.padEnd(16), ...heads.map((head) => head.padEnd(22)), 'pairs/s'].join(' '));
for (const name of names) {
  const reward = await rewards.loadReward(name);
  const started = performance.now();
  const scoredWorld = await evaluation.scoreReplies(reward, world);
  const scoredPairs = await evaluation.scoreReplies(reward, labelled);
  const rate = (1000 * (world.length + labelled.length)) / (performance.now() - started);
  const pairs = evaluation.rewardSeparation(scoredPairs, { seed: 1 });
  const cells = [
    show(evaluation.rewardSeparation(scoredWorld, { seed: 1 }).auc),
    show(metrics.clusterBootstrap(byTweet(scoredWorld), correlation, { seed: 1 })),
    show(pairs.auc),
    pairs.difference.toFixed(3),
  ];
  console.log([name.padEnd(16), ...cells.map((cell) => cell.padEnd(22)), Math.round(rate)].join(' '));
}
