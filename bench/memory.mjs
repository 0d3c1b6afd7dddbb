// Peak memory and seconds of a GRPO step: layers kept or recomputed, and the output layer in chunks or at once. Every
// configuration runs in a fresh process, on random weights of its own making. Needs the build.
// usage: node bench/memory.mjs --help
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const USAGE = `usage: node bench/memory.mjs [--part layers|vocabulary|all] [--steps 5] [--dropout 0] [--json]
  --part P     layers: recomputation off and on (8 layers, hidden 512); vocabulary: the output layer of 151,936 tokens
               in chunks and at once (2 layers, hidden 256)
  --steps N    measured steps, after one that compiles
  --dropout R  of the adapter's inputs
  --json       one JSON object a configuration`;

const LAYERS = { numHiddenLayers: 8, hiddenSize: 512, intermediateSize: 1536, vocabSize: 2048 };
const VOCABULARY = { numHiddenLayers: 2, hiddenSize: 256, intermediateSize: 768, vocabSize: 151_936 };
const LONG = { P: 2, G: 8, Tp: 256, Tc: 64 };
const STUDY = { P: 2, G: 4, Tp: 96, Tc: 100 };
const PARTS = {
  layers: [
    { name: 'layers kept', model: LAYERS, shape: LONG },
    { name: 'layers recomputed', model: LAYERS, shape: LONG, gradientCheckpointing: true },
  ],
  vocabulary: [
    { name: 'vocabulary in chunks', model: VOCABULARY, shape: STUDY, sample: true },
    { name: 'vocabulary at once', model: VOCABULARY, shape: STUDY, sample: true, whole: true },
  ],
};

const loss = (shape) => ({
  ...{ kind: 'grpo', type: 'dapo', epsilonLow: 0.2, epsilonHigh: 0.2, beta: 0.1, klBiasCorrection: true },
  ...{ ratioLevel: 'token', maxCompletionLength: shape.Tc },
});

/** A policy on weights that repeat a block of normal draws: a large vocabulary is filled in a moment. */
function randomPolicy(require, { model, dropout, gradientCheckpointing }) {
  const { buildWeights } = require('../dist/model/load.js');
  const { LoraAdapter } = require('../dist/model/lora.js');
  const { LORA_TARGETS } = require('../dist/model/peft.js');
  const { LocalPolicy } = require('../dist/policy/local.js');
  const { Random } = require('../dist/runtime/random.js');
  const config = {
    ...{ modelType: 'qwen3', numAttentionHeads: model.hiddenSize / 64, headDim: 64 },
    ...{ numKeyValueHeads: model.hiddenSize / 128, rmsNormEps: 1e-6, ropeTheta: 1e6 },
    ...{ maxPositionEmbeddings: 4096, tieWordEmbeddings: true, dtype: 'float32' },
    ...{ eosTokenIds: [1], padTokenId: 0 },
    ...model,
  };
  const random = new Random(1, 'bench');
  const block = Float32Array.from({ length: 65_537 }, () => 0.02 * random.normal());
  const weights = buildWeights(config, (name, dims) => {
    const values = new Float32Array(dims.reduce((a, b) => a * b, 1));
    if (name.includes('norm')) return values.fill(1);
    for (let at = 0; at < values.length; at += block.length)
      values.set(block.subarray(0, Math.min(block.length, values.length - at)), at);
    return values;
  });
  const lora = {
    ...{ base_model_name_or_path: null, r: 16, lora_alpha: 16, lora_dropout: dropout, use_rslora: false },
    target_modules: [...LORA_TARGETS],
  };
  const adapter = LoraAdapter.create(config, lora, 1);
  return new LocalPolicy(config, weights, adapter, { gradientCheckpointing });
}

/** Prompts with completions: sampled ones, or random tokens. */
async function makeGroups(policy, { shape, sample }, random, step) {
  const { P, G, Tp, Tc } = shape;
  const ids = (n) => Array.from({ length: n }, () => random.integer(policy.config.vocabSize));
  const prompts = Array.from({ length: P }, (_, p) => ({ id: `${step} ${p}`, tokenIds: ids(Tp) }));
  if (!sample) return prompts.map((prompt) => ({ prompt, tokens: Array.from({ length: G }, () => ids(Tc)) }));
  const options = { groupSize: G, temperature: 0.8, topP: 0.9, maxNewTokens: Tc, minNewTokens: Tc };
  const rollouts = await policy.sample(prompts, { ...options, seed: step, stopTokenIds: [] });
  return rollouts.map(({ prompt, completions }) => ({
    prompt,
    tokens: completions.map(({ tokenIds }) => tokenIds),
  }));
}

/** Sampling (when asked), reference, forward and backward, update. @returns time of forward and backward */
async function runStep(policy, setup, random, step) {
  const { shape } = setup;
  const made = await makeGroups(policy, setup, random, step);
  const sequences = made.flatMap(({ prompt, tokens }) =>
    tokens.map((completionIds) => ({ promptIds: prompt.tokenIds, completionIds })),
  );
  const reference = await policy.logProbs(sequences, { of: 'reference', temperature: 0.8 });
  const groups = made.map(({ prompt, tokens }, p) => ({
    promptIds: prompt.tokenIds,
    dropoutKey: { seed: 1, example: prompt.id, visit: 0 },
    rows: tokens.map((tokenIds, g) => ({
      tokenIds,
      advantage: random.normal(),
      referenceLogProbs: reference[p * shape.G + g],
    })),
  }));
  const { P, G, Tc } = shape;
  const totals = { totalRows: P * G, totalTokens: P * G * Tc, totalMicroBatches: 1 };
  const start = performance.now();
  const cpuStart = process.cpuUsage();
  await policy.forwardBackward({ groups, ...totals }, loss(shape), { temperature: 0.8 });
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpuStart);
  await policy.optimStep({ learningRate: 1e-5, weightDecay: 0.01, clipNorm: 1 });
  return { seconds, cpuSeconds: (user + system) / 1e6 };
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];
}

/** One configuration, in this process. */
async function measure(setup) {
  const require = createRequire(import.meta.url);
  const memory = require('../dist/model/memory.js');
  if (setup.whole) memory.MAX_LOGITS = Infinity;
  const { Random } = require('../dist/runtime/random.js');
  const policy = randomPolicy(require, setup);
  policy.freezeReference();
  const random = new Random(2, 'bench');
  const before = process.resourceUsage().maxRSS * 1024;
  const times = [];
  for (let step = 0; step <= setup.steps; step++) times.push(await runStep(policy, setup, random, step));
  const peak = process.resourceUsage().maxRSS * 1024;
  const warm = times.slice(1);
  const plan = memory.planMemory(policy.config, setup.shape, 16, { recompute: setup.gradientCheckpointing });
  policy.dispose();
  const [seconds, cpuSeconds] = ['seconds', 'cpuSeconds'].map((key) => median(warm.map((time) => time[key])));
  return { before, peak, planned: plan.total, seconds, cpuSeconds };
}

function main() {
  const { values } = parseArgs({
    options: {
      part: { type: 'string', default: 'all' },
      steps: { type: 'string', default: '5' },
      dropout: { type: 'string', default: '0' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const steps = Number(values.steps);
  const dropout = Number(values.dropout);
  const names = values.part === 'all' ? Object.keys(PARTS) : [values.part];
  const good = steps >= 1 && Number.isInteger(steps) && dropout >= 0 && dropout < 1;
  if (values.help || !good || names.some((name) => PARTS[name] === undefined)) {
    console.error(USAGE);
    process.exit(values.help ? 0 : 2);
  }
  for (const setup of names.flatMap((name) => PARTS[name])) {
    const input = JSON.stringify({ ...setup, steps, dropout });
    const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url)], {
      env: { ...process.env, MEMORY_BENCH: input },
      stdio: ['ignore', 'pipe', 'inherit'],
      encoding: 'utf8',
    });
    if (child.status !== 0) throw new Error(`${setup.name}: failed with status ${child.status}`);
    const result = JSON.parse(child.stdout);
    if (values.json) console.log(JSON.stringify({ ...setup, ...result }));
    else
      console.log(
        `${setup.name.padEnd(22)} peak RSS ${(result.peak / 1e9).toFixed(2)} GB (before the first step ` +
          `${(result.before / 1e9).toFixed(2)}, planned ${(result.planned / 1e9).toFixed(2)}), ` +
          `forward and backward ${result.seconds.toFixed(2)} s (${result.cpuSeconds.toFixed(2)} s of all cores)`,
      );
  }
}

if (process.env.MEMORY_BENCH === undefined) main();
else console.log(JSON.stringify(await measure(JSON.parse(process.env.MEMORY_BENCH))));
