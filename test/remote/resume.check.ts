/** A run on a real server whose process is killed, and which goes on: see tinker.check.ts. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, expect, it } from 'vitest';

const { TINKER_URL: url = '', TINKER_MODEL: model = '' } = process.env;
const work = mkdtempSync(path.join(tmpdir(), 'grpolab-remote-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

type Row = Record<string, number>;

function metricsOf(output: string): Row[] {
  const file = path.join(output, 'metrics.jsonl');
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n');
  return lines.slice(0, -1).map((line) => JSON.parse(line) as Row);
}

/** Starts a run; `until` ends it by force as soon as so many rows are written. */
async function train(config: string, output: string, more: string[], until?: number): Promise<void> {
  const settings = {
    'policy.base_url': url,
    'data.max_examples': 32,
    'training.save_steps': 2,
    'training.eval_steps': 0,
    'evaluation.n_generations': 0,
  };
  const set = Object.entries(settings).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
  const args = [
    'bin/grpolab.mjs',
    'train',
    '--config',
    config,
    '--model',
    model,
    '--output',
    output,
    '--quiet',
  ];
  const child = spawn(process.execPath, [...args, ...set, ...more], { stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (text: Buffer) => (errors += text.toString()));
  const ended = once(child, 'exit') as Promise<[number | null]>;
  if (until === undefined) {
    const [code] = await ended;
    expect(code, errors).toBe(0);
    return;
  }
  while (metricsOf(output).length < until && child.exitCode === null) await delay(100);
  expect(child.exitCode, errors).toBeNull();
  child.kill('SIGKILL');
  await ended;
}

it('ends as a run that was not killed', async () => {
  const [warm, whole, killed] = ['warm', 'whole', 'killed'].map((name) => path.join(work, name));
  await train('configs/tinker_warmstart_small.yaml', warm, ['--set', 'training.max_steps=2']);
  const grpo = 'configs/tinker_grpo_small.yaml';
  const start = ['--adapter', warm, '--set', 'training.max_steps=6'];
  await train(grpo, whole, start);
  await train(grpo, killed, start, 3);
  expect(existsSync(path.join(killed, 'tinker-models.json'))).toBe(true);
  await train(grpo, killed, [...start, '--resume']);
  expect(existsSync(path.join(killed, 'tinker-models.json'))).toBe(false);
  const [a, b] = [metricsOf(whole), metricsOf(killed)];
  expect(b.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
  for (const [i, row] of a.entries()) {
    expect(b[i]['train/avg_reward']).toBe(row['train/avg_reward']);
    expect(b[i]['train/grad_norm']).toBeCloseTo(row['train/grad_norm'], 4);
  }
});
