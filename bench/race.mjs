// Our steps beside those of TRL, PEFT and transformers, in turn on the same machine:
//   node bench/race.mjs --python PYTHON [--models S,M] [--cases grpo-4x4,grpo-2x8,sft,generate] [--dtypes float32]
//     [--matmul-precision float32] [--rounds 3] [--steps 5] [--warmup 2]
// Models are S, M or 0.6B (whose cases are grpo-2x4, sft-2x4), dtypes float32 or bfloat16, of the base weights on both sides; or
// bfloat16:float32, ours and theirs: the checkpoints are in bfloat16, so ours are the same numbers, and so is the arithmetic.
// --matmul-precision bfloat16 is of our products with weights in bfloat16: those of the other side are in bfloat16 anyway.
// PYTHON has torch, transformers, peft, trl and datasets. Each measurement is a process of its own; a table of medians, minima,
// ratios, peak memory and the bound by floating-point operations goes to standard output, all numbers to --output.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const CASES = {
  'grpo-4x4': { what: 'grpo', shape: { P: 4, G: 4, Tp: 96, Tc: 48 } },
  'grpo-2x8': { what: 'grpo', shape: { P: 2, G: 8, Tp: 256, Tc: 64 } },
  'grpo-2x4': { what: 'grpo', shape: { P: 2, G: 4, Tp: 64, Tc: 48 } },
  'sft-2x4': { what: 'sft', shape: { P: 2, G: 4, Tp: 64, Tc: 48 } },
  sft: { what: 'sft', shape: { P: 4, G: 1, Tp: 96, Tc: 48 } },
  generate: { what: 'generate', shape: { P: 16, G: 1, Tp: 96, Tc: 64 } },
};

const { values } = parseArgs({
  options: {
    python: { type: 'string' },
    models: { type: 'string', default: 'S' },
    cases: { type: 'string', default: 'grpo-4x4,grpo-2x8,sft,generate' },
    dtypes: { type: 'string', default: 'float32' },
    'matmul-precision': { type: 'string', default: 'float32' },
    rounds: { type: 'string', default: '3' },
    steps: { type: 'string', default: '5' },
    warmup: { type: 'string', default: '2' },
    output: { type: 'string', default: 'runs/race' },
  },
});
const cases = values.cases.split(',');
const dtypes = values.dtypes.split(',');
const precision = values['matmul-precision'];

/** What is wrong with the options; undefined where nothing is. */
function problemOf() {
  if (values.python === undefined) return '--python is missing; expected a Python with TRL';
  const unknown = cases.find((name) => !Object.hasOwn(CASES, name));
  if (unknown !== undefined)
    return `--cases has "${unknown}"; expected cases of ${Object.keys(CASES).join(', ')}`;
  if (!['float32', 'bfloat16'].includes(precision))
    return `--matmul-precision is "${precision}"; expected float32 or bfloat16`;
  const pairs = ['float32', 'bfloat16', 'bfloat16:float32'];
  const stranger = dtypes.find((pair) => !pairs.includes(pair));
  if (stranger !== undefined) return `--dtypes has "${stranger}"; expected ${pairs.join(', ')}`;
  if (precision === 'bfloat16' && !dtypes.includes('bfloat16'))
    return '--matmul-precision bfloat16 needs bfloat16 among --dtypes';
  return undefined;
}
const problem = problemOf();
if (problem !== undefined) {
  console.error(`race: ${problem}`);
  process.exit(2);
}
const [rounds, steps] = [Number(values.rounds), values.steps];
const directory = path.resolve(root, values.output);

/** The last line of a process's output, as JSON; its other output goes to standard error. */
function measure(command, argv) {
  const text = execFileSync(command, argv, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, OMP_NUM_THREADS: '2', MKL_NUM_THREADS: '2' },
  });
  return JSON.parse(text.trimEnd().split('\n').at(-1));
}

const median = (numbers) => {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
};

/**
 * Floating-point operations of a step, a multiply-add counted as two, with each prompt computed once a group. The backward
 * pass of frozen weights has one product for each of the forward pass, that of the adapter's two; attention counts half, since
 * it is causal.
 */
function operations({ what, shape: { P, G, Tp, Tc } }, config) {
  const {
    num_hidden_layers: layers,
    hidden_size: hidden,
    intermediate_size: ff,
    vocab_size: vocabulary,
  } = config;
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: dim } = config;
  const [q, kv] = [heads * dim, kvHeads * dim];
  const weights = layers * (2 * hidden * q + 2 * hidden * kv + 3 * hidden * ff);
  const adapter = 16 * layers * (2 * (hidden + q) + 2 * (hidden + kv) + 3 * (hidden + ff));
  const rows = P * G;
  const tokens = P * Tp + rows * Tc;
  // Query-key and value products over all pairs of tokens that see each other.
  const attention = 4 * layers * q * (P * Tp * (Tp / 2) + rows * Tc * (Tp + Tc / 2));
  const logits = 2 * rows * Tc * hidden * vocabulary;
  const base = 2 * tokens * weights;
  const forward = base + 2 * tokens * adapter + attention + logits;
  const backward = base + 4 * tokens * adapter + 2 * attention + logits;
  // The adapter is merged, or takes part: without it is the bound.
  const sampled = base + attention + logits;
  if (what === 'generate') return sampled;
  if (what === 'sft') return forward + backward;
  return sampled + (base + attention + logits) + forward + backward;
}

function modelOf(name) {
  const model = path.join(directory, 'models', name);
  if (!fs.existsSync(path.join(model, 'model.safetensors')))
    execFileSync(process.execPath, [path.join(root, 'bench/random-model.mjs'), name, model], {
      stdio: 'inherit',
    });
  return model;
}

function race(modelName, caseName, dtypes) {
  const [dtype, theirDtype = dtype] = dtypes.split(':');
  const model = modelOf(modelName);
  const one = CASES[caseName];
  // Weights in float32 are multiplied in float32.
  const products = theirDtype === 'bfloat16' ? precision : 'float32';
  const shape = Object.entries(one.shape)
    .map((entry) => entry.join('='))
    .join();
  const [ours, theirs] = [[], []];
  for (let round = 0; round < rounds; round++) {
    console.error(
      `${modelName} ${caseName} ${dtypes}, our products ${products}: round ${round + 1} of ${rounds}`,
    );
    const common = [
      ...['--model', model, '--what', one.what, '--shape', shape],
      ...['--steps', steps, '--warmup', values.warmup],
    ];
    ours.push(
      measure(process.execPath, [
        ...[path.join(root, 'bin/grpolab.mjs'), 'bench', ...common, '--dtype', dtype],
        ...(products === 'float32' ? [] : ['--matmul-precision', products]),
        ...['--json', '--quiet'],
      ]),
    );
    theirs.push(
      measure(values.python, [path.join(root, 'bench/trl_steps.py'), ...common, '--dtype', theirDtype]),
    );
  }
  const config = JSON.parse(fs.readFileSync(path.join(model, 'config.json'), 'utf8'));
  const gemm = Math.max(...theirs.map(({ gemm_gflops: speed }) => speed));
  const bound = operations(one, config) / gemm / 1e9;
  const [our, their] = [
    ours.flatMap(({ step }) => step.all_s),
    theirs.flatMap(({ step_s: seconds }) => seconds),
  ];
  const phases = Object.fromEntries(
    Object.keys(ours[0].phases).map((name) => [
      name,
      median(ours.flatMap(({ phases: all }) => all[name].all_s)),
    ]),
  );
  const peak = (runs) => Math.max(...runs.map(({ peak_rss_bytes: bytes }) => bytes));
  return {
    ...{ model: modelName, case: caseName, dtype: dtypes, matmul_precision: products, shape },
    ...{ rounds, steps: Number(steps), mode: ours[0].mode },
    ours: { median_s: median(our), min_s: Math.min(...our), all_s: our, peak_rss_bytes: peak(ours), phases },
    theirs: {
      median_s: median(their),
      min_s: Math.min(...their),
      all_s: their,
      peak_rss_bytes: peak(theirs),
    },
    ...{ ratio: median(their) / median(our), ratio_of_minima: Math.min(...their) / Math.min(...our) },
    ...{
      gemm_gflops: gemm,
      bound_s: bound,
      ours_over_bound: median(our) / bound,
      versions: theirs[0].versions,
    },
  };
}

fs.mkdirSync(directory, { recursive: true });
const results = [];
const machine = { cpu: os.cpus()[0].model, cores: os.cpus().length, node: process.version };
for (const name of values.models.split(','))
  for (const [each, dtype] of cases.flatMap((one) => dtypes.map((dtype) => [one, dtype]))) {
    results.push(race(name, each, dtype));
    fs.writeFileSync(path.join(directory, 'race.json'), `${JSON.stringify({ machine, results }, null, 2)}\n`);
  }
const gib = (bytes) => (bytes / 2 ** 30).toFixed(2);
const line = (one) =>
  [
    ...[one.model, one.case, one.dtype, one.matmul_precision, one.shape],
    ...[one.ours.median_s.toFixed(3), one.ours.min_s.toFixed(3)],
    ...[one.theirs.median_s.toFixed(3), one.theirs.min_s.toFixed(3)],
    ...[
      one.ratio.toFixed(2),
      one.ratio_of_minima.toFixed(2),
      `${gib(one.ours.peak_rss_bytes)} / ${gib(one.theirs.peak_rss_bytes)}`,
    ],
    ...[one.bound_s.toFixed(3), one.ours_over_bound.toFixed(1)],
  ].join(' | ');
console.log(
  `${machine.cpu}, ${machine.cores} cores, Node ${machine.node}; ${JSON.stringify(results[0].versions)}; ${rounds} rounds of ${steps} steps in turn\n`,
);
console.log(
  '| model | case | weights | our products | shape | ours, s | min | theirs, s | min | theirs / ours | of minima | peak GiB ' +
    '| bound, s | ours / bound |',
);
console.log(`|${'---|'.repeat(14)}`);
for (const one of results) console.log(`| ${line(one)} |`);
