// Development only: trains the shipped checkpoint (data/model) from scratch on the embedded world's pretraining part,
// with this library. Needs the build and data/model's configuration and tokenizer.
// usage: node scripts/pretrain.mjs [--steps 3000] [--output data/model] [--seed 1]
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';

const require = createRequire(import.meta.url);
const { LocalPolicy } = require('../dist/policy/local.js');
const { readModelConfig } = require('../dist/model/config.js');
const { randomWeights, fileTensors } = require('../dist/model/load.js');
const { loadTokenizer } = require('../dist/model/tokenizer.js');
const { sftExample } = require('../dist/model/chat.js');
const { writeSafetensors } = require('../dist/model/safetensors-writer.js');
const { labelledReplies } = require('../dist/data/world.js');
const { learningRateAt } = require('../dist/optim/schedule.js');

const { values } = parseArgs({
  options: {
    steps: { type: 'string', default: '3000' },
    output: { type: 'string', default: 'data/model' },
    seed: { type: 'string', default: '1' },
  },
});
const totalSteps = Number(values.steps);
const seed = Number(values.seed);
const source = 'data/model';
const tweetsPerStep = 24;
const replyCap = 4;
const schedule = { kind: 'cosine', learningRate: 3e-3, totalSteps, warmupSteps: 100 };

const config = readModelConfig(source);
const tokenizer = await loadTokenizer(source);
const weights = randomWeights(config, seed, { residual: true, kind: 'variable' });
const policy = new LocalPolicy(config, weights, null, { trainable: 'all' });

/** The tweet's prompt with its replies: loss on the replies. */
function groupOf(part, index) {
  const examples = labelledReplies(7, part, index)
    .slice(0, replyCap)
    .map(({ record }) => sftExample(tokenizer, record.tweet, record.reply, 256));
  return {
    promptIds: examples[0].promptIds,
    rows: examples.map(({ completionIds }) => ({ tokenIds: completionIds })),
  };
}

/** The whole text as one completion: teaches the words of tweets too. */
function textOf({ promptIds, rows }) {
  return {
    promptIds: promptIds.slice(0, 1),
    rows: [{ tokenIds: [...promptIds.slice(1), ...rows[0].tokenIds] }],
  };
}

const rowTokens = (groups) =>
  groups.flatMap((g) => g.rows).reduce((sum, row) => sum + row.tokenIds.length, 0);

async function save() {
  await writeSafetensors(path.join(values.output, 'model.safetensors'), fileTensors(config, weights), {
    dtype: 'BF16',
    metadata: { format: 'pt' },
  });
}

async function heldOutLoss() {
  const sequences = Array.from({ length: 100 }, (_, i) => groupOf('heldout', i)).flatMap(
    ({ promptIds, rows }) => rows.map(({ tokenIds }) => ({ promptIds, completionIds: tokenIds })),
  );
  const rows = await policy.logProbs(sequences);
  const tokens = rows.reduce((sum, row) => sum + row.length, 0);
  return -rows.reduce((sum, row) => row.reduce((a, b) => a + b, sum), 0) / tokens;
}

const begin = Date.now();
let next = 0;
for (let step = 1; step <= totalSteps; step++) {
  const groups = Array.from({ length: tweetsPerStep }, () => groupOf('pretrain', next++));
  const texts = step % 2 === 0 ? groups.slice(0, 12).map(textOf) : [];
  const totals = {
    totalRows: 1,
    totalTokens: rowTokens(groups) + rowTokens(texts),
    totalMicroBatches: texts.length > 0 ? 2 : 1,
  };
  let { loss } = await policy.forwardBackward({ groups, ...totals }, { kind: 'cross_entropy' });
  const replyLoss = (loss * totals.totalTokens) / rowTokens(groups);
  if (texts.length > 0)
    loss += (await policy.forwardBackward({ groups: texts, ...totals }, { kind: 'cross_entropy' })).loss;
  const { gradNorm } = await policy.optimStep({
    learningRate: learningRateAt(schedule, step),
    betas: [0.9, 0.95],
    weightDecay: 0.05,
    clipNorm: 1,
  });
  if (step % 50 === 0 || step === 1) {
    const seconds = (Date.now() - begin) / 1000;
    const rest = step % 500 === 0 ? ` held-out ${(await heldOutLoss()).toFixed(3)}` : '';
    console.log(
      `step ${step}/${totalSteps} reply loss ${replyLoss.toFixed(3)} grad ${gradNorm.toFixed(2)} ${(seconds / step).toFixed(3)} s/step${rest}`,
    );
  }
  if (step % 500 === 0 || step === totalSteps) await save();
}
