// What parts that train have in common: a small experiment, the program in a process of its own, and the comparison of two runs.
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { golden, library, program } from './library.mjs';
import { KINDS } from './outcome.mjs';

export const emptyCounts = () => Object.fromEntries(KINDS.map((kind) => [kind, 0]));

const records = Array.from({ length: 16 }, (_, i) => ({
  tweet_id: `t${i}`,
  tweet: `My plant number ${i} wilted again.`,
  reply: i % 2 === 0 ? 'Did you water it this week?' : 'Oh no, that is sad.',
}));
export const jsonLines = (values) => values.map((value) => `${JSON.stringify(value)}\n`).join('');

/** An experiment on the tiny model that saves every step. @returns its file */
export function writeExperiment(directory, method, { steps = 6, more = '' } = {}) {
  mkdirSync(directory, { recursive: true });
  const [train, held] = ['train.jsonl', 'eval.jsonl'].map((name) => path.join(directory, name));
  writeFileSync(train, jsonLines(records.slice(0, 12)));
  writeFileSync(held, jsonLines(records.slice(12)));
  const file = path.join(directory, `${method}.yaml`);
  const grpo = method === 'grpo' ? 'grpo: { n_generations: 2, max_new_tokens: 6, num_iterations: 2 }\n' : '';
  writeFileSync(
    file,
    `method: ${method}
model: ${golden('tiny-qwen3', 'tied-f32')}
data: { train: ${train}, eval: ${held} }
lora: { r: 4, alpha: 8, dropout: 0.1 }
training:
  max_steps: ${steps}
  batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 1.0e-2
  eval_steps: 2
  save_steps: 1
evaluation: { n_generations: 2, max_new_tokens: 6 }
${grpo}${more}`,
  );
  return file;
}

export const trainArgs = (config, output, ...more) => [
  'train',
  '--config',
  config,
  '--output',
  output,
  '--quiet',
  ...more,
];

/**
 * Runs the program.
 * @param fate  killAfter: milliseconds; environment; shell: a line of bash before it; onStart gets the child
 */
export function runProgram(args, { killAfter, environment = {}, shell, onStart, limit = 120_000 } = {}) {
  const command = [process.execPath, program, ...args];
  const argv = shell === undefined ? command : ['bash', '-c', `${shell}; exec "$@"`, 'bash', ...command];
  const child = spawn(argv[0], argv.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  });
  onStart?.(child);
  const begin = performance.now();
  let [stdout, stderr, hung] = ['', '', false];
  child.stdout.on('data', (data) => (stdout += data));
  child.stderr.on('data', (data) => (stderr += data));
  const timers = [setTimeout(() => (hung = child.kill('SIGKILL')), limit)];
  if (killAfter !== undefined) timers.push(setTimeout(() => child.kill('SIGKILL'), killAfter));
  return new Promise((done) =>
    child.on('close', (code, signal) => {
      timers.forEach(clearTimeout);
      done({ code, signal, stdout, stderr, hung, milliseconds: performance.now() - begin });
    }),
  );
}

/** Rows of the metrics without what time and memory make of them. */
function metrics(directory) {
  return readFileSync(path.join(directory, 'metrics.jsonl'), 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const kept = Object.entries(JSON.parse(line)).filter(
        ([key]) => !/seconds|^system\/|per_second/.test(key),
      );
      return JSON.stringify(Object.fromEntries(kept));
    })
    .join('\n');
}

/** In what a run's directory differs from that of the same run undisturbed; null when in nothing. */
export function differenceOfRuns(directory, whole) {
  try {
    for (const name of ['adapter_model.safetensors', 'adapter_config.json', 'samples.jsonl'])
      if (!readFileSync(path.join(directory, name)).equals(readFileSync(path.join(whole, name))))
        return `other bytes in ${name}`;
    if (metrics(directory) !== metrics(whole)) return 'other metrics';
    const files = (place) =>
      readdirSync(place)
        .filter((name) => !name.startsWith('damaged-'))
        .sort()
        .join();
    return files(directory) === files(whole)
      ? null
      : `other files: ${files(directory)}, expected ${files(whole)}`;
  } catch (error) {
    return `an incomplete run: ${error.message}`;
  }
}

/**
 * Experiments of both methods, which tries use in turn, with an undisturbed run of each; of SFT alone for a single try.
 * @returns by method: config, whole, milliseconds
 */
export async function undisturbed(directory, tries) {
  const runs = {};
  for (const method of tries > 1 ? ['sft', 'grpo'] : ['sft']) {
    const config = writeExperiment(path.join(directory, method), method);
    const whole = path.join(directory, method, 'whole');
    const { code, stderr, milliseconds } = await runProgram(trainArgs(config, whole));
    if (code !== 0) throw new Error(`the undisturbed ${method} run ended with ${code}: ${stderr}`);
    runs[method] = { config, whole, milliseconds };
  }
  return runs;
}

export const randomOf = ({ seed, part }, ...more) =>
  new (library('runtime/random').Random)(seed, part, ...more);
