// Thousands of optimiser steps on the tiny model, SFT and GRPO by turns, in one process: tensors and memory must not grow.
// Tries are steps.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { golden, library } from './library.mjs';
import { emptyCounts } from './runs.mjs';

/** Steps of one loop before the other has its turn. */
const TURN = 50;
/** Growth of the resident memory over the second half, %. */
const BOUND = 1;

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

/** Lines of the child: what it measured after each turn of both loops. */
async function measure(tries, progress) {
  const script = [fileURLToPath(import.meta.url), String(tries)];
  const child = spawn(process.execPath, ['--expose-gc', ...script], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (data) => (stderr = (stderr + data).slice(-2000)));
  const ended = new Promise((done) => child.on('close', (code, signal) => done({ code, signal, stderr })));
  const rows = [];
  for await (const line of createInterface({ input: child.stdout })) {
    rows.push(JSON.parse(line));
    progress(rows.at(-1).step, tries);
  }
  return { rows, ...(await ended) };
}

export async function run({ tries, progress, note, fail }) {
  const { rows, code, signal, stderr } = await measure(tries, progress);
  const counts = emptyCounts();
  const steps = rows.at(-1)?.step ?? 0;
  const spoil = (kind, why) => {
    counts[kind]++;
    fail(counts[kind], kind, why);
  };
  if (code !== 0) spoil('crashes', `${signal ?? code} after step ${steps}: ${stderr}`);
  // The first turns meet shapes of batches for the first time.
  const later = rows.slice(Math.min(4, rows.length >> 1));
  const tensors = [...new Set(later.map((row) => row.tensors))];
  if (tensors.length > 1) spoil('wrong', `the number of tensors went over ${tensors.join(', ')}`);
  const half = rows.slice(rows.length >> 1).map(({ rss }) => rss);
  const tenth = Math.max(1, Math.floor(half.length / 10));
  const growth = (100 * (mean(half.slice(-tenth)) - mean(half.slice(0, tenth)))) / mean(half.slice(0, tenth));
  // A few steps say nothing about memory.
  if (rows.length >= 20 && growth >= BOUND)
    spoil('wrong', `memory grew by ${growth.toFixed(2)} % over the second half`);
  counts.accepted = steps;
  note(
    `${tensors.join(', ')} tensors throughout; resident memory ${(half.at(-1) / 2 ** 20).toFixed(0)} MiB, ${growth.toFixed(2)} % more over the second half`,
  );
  return { tries: steps, ...counts };
}

/** The child: one policy, trained by both loops in turn. */
async function child(tries) {
  const { tf } = library('runtime/tf');
  const { LocalPolicy } = library('policy/local');
  const { trainSft } = library('train/sft');
  const { trainGrpo } = library('train/grpo');
  const { Random } = library('runtime/random');
  const lora = {
    r: 4,
    lora_alpha: 8,
    lora_dropout: 0.1,
    use_rslora: false,
    target_modules: ['q_proj', 'v_proj', 'down_proj'],
  };
  const policy = LocalPolicy.load({
    ...{ modelDirectory: golden('tiny-qwen3', 'tied-f32'), lora: { base_model_name_or_path: null, ...lora } },
  });
  policy.freezeReference();
  const random = new Random(5, 'soak');
  const ids = (length) => Array.from({ length }, () => random.integer(600));
  const examples = Array.from({ length: 32 }, (_, i) => ({
    id: `e${i}`,
    promptIds: ids(4 + (i % 12)),
    completionIds: ids(2 + (i % 7)),
  }));
  const prompts = examples.map(({ id, promptIds }) => ({ id, tokenIds: promptIds }));
  const score = (pairs) =>
    Promise.resolve(
      pairs.map(({ completion }) => ({ total: (completion.tokenIds[0] % 7) / 7, components: {} })),
    );
  for (let [step, turn] = [0, Math.min(TURN, Math.ceil(tries / 8))]; step < tries;) {
    const settings = settingsOf(step, turn);
    await trainSft(policy, examples, settings);
    await trainGrpo(policy, prompts, score, { ...settings, ...GRPO });
    step += 2 * turn;
    globalThis.gc();
    console.log(JSON.stringify({ step, tensors: tf.memory().numTensors, rss: process.memoryUsage().rss }));
  }
}

function settingsOf(step, maxSteps) {
  return {
    ...{
      learningRate: 1e-4,
      schedule: 'constant_with_warmup',
      warmupRatio: 0,
      betas: [0.9, 0.999],
      eps: 1e-8,
    },
    ...{ weightDecay: 0.01, clipNorm: 1, epochs: 1, maxSteps, batchSize: 2, accumulation: 1, seed: step },
  };
}

const GRPO = {
  ...{
    groupSize: 2,
    temperature: 0.8,
    topP: 0.9,
    topK: 0,
    maxNewTokens: 4,
    minNewTokens: 0,
    lossTemperature: 0.8,
  },
  ...{
    numIterations: 1,
    advantageScale: 'group',
    advantageClip: 10,
    maskTruncated: false,
    maxResamples: 0,
    diversityWeight: 0,
  },
  loss: {
    ...{ kind: 'grpo', type: 'grpo', epsilonLow: 0.2, epsilonHigh: 0.2, beta: 0.1, klBiasCorrection: true },
    ...{ ratioLevel: 'token', maxCompletionLength: 4 },
  },
};

if (process.argv[1] === fileURLToPath(import.meta.url)) await child(Number(process.argv[2]));
