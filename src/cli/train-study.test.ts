import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { jsonLines, parseLines, runCli, temporaryDirectory } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { lockRun } from '../train/run-lock';
import { loadExperiment } from '../train/config';
import { seedDirectory } from '../train/phases';

const model = goldenPath('tiny-qwen3', 'tied-f32');

const records = Array.from({ length: 8 }, (_, i) => ({
  tweet_id: `t${i}`,
  tweet: `My plant number ${i} wilted again.`,
  reply: 'Did you water it this week?',
}));

/** A directory with a warm start, GRPO from it, and a split of the data. */
function study(): { config: string; split: string; root: string } {
  const root = temporaryDirectory();
  const split = join(root, 'split');
  mkdirSync(split);
  writeFileSync(join(split, 'train_phase1_sft.jsonl'), jsonLines(records.slice(0, 4)));
  writeFileSync(join(split, 'train_phase2_grpo.jsonl'), jsonLines(records.slice(4)));
  const common = `model: ${model}\ndata: { train: ${join(split, 'train_phase1_sft.jsonl')} }\ntraining: { max_steps: 2, batch_size: 2, gradient_accumulation_steps: 1, learning_rate: 1.0e-3, warmup_ratio: 0 }\n`;
  writeFileSync(
    join(root, 'warm.yaml'),
    `method: polychromic\n${common}output_dir: ${join(root, 'warm', 'seed_42')}\npolychromic: { max_new_tokens: 4, every: 1 }\n`,
  );
  const config = join(root, 'grpo.yaml');
  writeFileSync(
    config,
    `method: grpo\nwarm_start: warm.yaml\n${common}output_dir: ${join(root, 'grpo')}\ngrpo: { n_generations: 3, max_new_tokens: 4, diversity_weight: 0.2, diversity_distance: distinct_2 }\n`,
  );
  return { config, split, root };
}

interface Runs {
  runs: { name: string; directory: string; steps: number; last: Record<string, number> }[];
}

describe('grpolab train --phases --seeds', () => {
  it('trains phase 1 and phase 2 from it for every seed, on the parts of a split', async () => {
    const { config, split, root } = study();
    const output = join(root, 'out');
    const argv = ['train', '--config', config, '--phases', '1,2', '--seeds', '3,5', '--data', split];
    const more = ['--output', output, '--set', 'phase1.training.max_steps=1', '--json', '--quiet'];
    const { code, stdout } = await runCli([...argv, ...more]);
    expect(code).toBe(0);
    const [{ runs }] = parseLines<Runs>(stdout);
    expect(runs.map(({ name, steps }) => [name, steps])).toEqual([
      ['phase 1, seed 3', 1],
      ['phase 2, seed 3', 2],
      ['phase 1, seed 5', 1],
      ['phase 2, seed 5', 2],
    ]);
    for (const seed of [3, 5]) {
      const resolved = (phase: number): Record<string, unknown> =>
        parse(
          readFileSync(join(output, `phase${phase}`, `seed_${seed}`, 'config.resolved.yaml'), 'utf8'),
        ) as Record<string, unknown>;
      expect(resolved(1)).toMatchObject({ method: 'polychromic', seed });
      expect(resolved(1).data).toMatchObject({ train: join(split, 'train_phase1_sft.jsonl') });
      expect(resolved(2).data).toMatchObject({ train: join(split, 'train_phase2_grpo.jsonl') });
      expect(resolved(2).checkpoint_path).toBe(join(output, 'phase1', `seed_${seed}`));
    }
    expect(runs[1].last['train/diversity']).toBeTypeOf('number');
    // Everything has ended: resuming all of it does nothing and says so.
    const again = await runCli([...argv, ...more, '--resume']);
    expect(again.code).toBe(0);
    expect(again.stderr.match(/there is nothing to resume/g)).toHaveLength(4);
  });

  it('trains phase 2 alone from a phase 1 that is there', async () => {
    const { config } = study();
    expect((await runCli(['train', '--config', config, '--phases', '1', '--quiet'])).code).toBe(0);
    const { code, stdout } = await runCli(['train', '--config', config, '--phases', '2', '--quiet']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^phase 2, seed 42: 2 steps; adapter and logs in .*grpo.seed_42\n$/);
  });

  it('trains one experiment for several seeds, in directories that differ in the seed', async () => {
    const { root } = study();
    const { code, stdout } = await runCli([
      'train',
      '--config',
      join(root, 'warm.yaml'),
      '--seeds',
      '1,2',
      '--quiet',
    ]);
    expect(code).toBe(0);
    expect(stdout.match(/warm.seed_[12]$/gm)).toHaveLength(2);
    const [a, b] = [1, 2].map((seed) =>
      readFileSync(join(root, 'warm', `seed_${seed}`, 'adapter_model.safetensors')),
    );
    expect(a.equals(b)).toBe(false);
  });

  it('refuses a phase 1 that has not ended, and phases that would write to one place', async () => {
    const { config, root } = study();
    await runCli(['train', '--config', config, '--phases', '1', '--quiet']);
    const state = join(root, 'warm', 'seed_42', 'trainer_state.json');
    writeFileSync(state, readFileSync(state, 'utf8').replace('"interrupted": false', '"interrupted": true'));
    const early = await runCli(['train', '--config', config, '--phases', '2', '--quiet']);
    expect([early.code, early.stderr]).toEqual([
      2,
      expect.stringContaining('phase 1 has not ended there, and phase 2 starts from it'),
    ]);
    const same = await runCli([
      'train',
      '--config',
      config,
      '--phases',
      '1,2',
      '--set',
      `output_dir=${join(root, 'warm')}`,
    ]);
    expect([same.code, same.stderr]).toEqual([2, expect.stringContaining('both phases would write to')]);
    const other = await runCli([
      'train',
      '--config',
      config,
      '--phases',
      '1,2',
      '--set',
      'lora.r=2',
      '--dry-run',
    ]);
    expect([other.code, other.stderr]).toEqual([
      2,
      expect.stringContaining('lora.r is 2, but the adapter in checkpoint_path has 16'),
    ]);
  });

  it.each([
    [['--phases', '3'], /--phases is "3"; expected 1, 2 or 1,2/],
    [['--phases', '1,1'], /--phases is "1,1"/],
    [['--phases', '1,2', '--seeds', '1,x'], /--seeds is "1,x"; expected different integers/],
    [['--phases', '1,2', '--adapter', 'x'], /--adapter has no use with --phases/],
    [
      ['--phases', '1,2', '--data', '.'],
      /\.: has no train_phase1_sft.jsonl; expected a directory that grpolab split wrote/,
    ],
    [['--phases', '2'], /warm.seed_42: phase 1 has not ended there/],
    [['--price-per-hour', '2'], /--price-per-hour belongs to --dry-run/],
  ])('refuses %j in one line', async (extra, message) => {
    const { config } = study();
    const { code, stderr } = await runCli(['train', '--config', config, '--quiet', ...extra]);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });

  it('says what is missing when the file names no warm start', async () => {
    const { root } = study();
    const { code, stderr } = await runCli(['train', '--config', join(root, 'warm.yaml'), '--phases', '1,2']);
    expect([code, stderr]).toEqual([2, expect.stringContaining('names no warm_start')]);
  });

  it('puts a seed in the place of the one that a directory names', () => {
    expect(['runs/a', 'runs/a/seed_42', 'runs/a/seed_42/'].map((name) => seedDirectory(name, 7))).toEqual([
      'runs/a/seed_7',
      'runs/a/seed_7',
      'runs/a/seed_7',
    ]);
  });
});

interface DryRun {
  checks: { name: string; ok: boolean; detail: string }[];
  totalSteps: number;
  stepSeconds: number[];
  etaSeconds: number;
  cost: number;
}

describe('grpolab train --dry-run', () => {
  it('lists what a run will do, measures three steps, and writes nothing', async () => {
    const { config, root } = study();
    const before = readdirSync(root).sort();
    const set = ['--set', 'training.max_steps=600', '--set', 'training.learning_rate=1e-4'];
    const argv = [
      'train',
      '--config',
      config,
      '--dry-run',
      '--price-per-hour',
      '3.6',
      '--json',
      '--quiet',
      ...set,
    ];
    const { code, stdout } = await runCli([...argv, '--adapter', ...(await warmStart(root))]);
    expect(code).toBe(0);
    const [report] = parseLines<DryRun>(stdout);
    expect(report.checks.map(({ name }) => name)).toEqual([
      'config',
      'data',
      'model',
      'start',
      'reward',
      'device',
      'output',
      'disk',
      'memory',
      'steps',
    ]);
    expect(report.checks.every(({ ok }) => ok)).toBe(true);
    expect(report.totalSteps).toBe(600);
    expect(report.stepSeconds).toHaveLength(3);
    const middle = report.stepSeconds.slice().sort((a, b) => a - b)[1];
    expect(report.etaSeconds).toBeCloseTo(600 * middle, 9);
    expect(report.cost).toBeCloseTo(report.etaSeconds / 1000, 9);
    expect(readdirSync(root).sort()).toEqual([...before, 'warm'].sort());
  });

  it('fails, without measuring, when the output holds a run', async () => {
    const { root } = study();
    await warmStart(root);
    const argv = [
      'train',
      '--config',
      join(root, 'warm.yaml'),
      '--output',
      join(root, 'warm', 'seed_1'),
      '--dry-run',
    ];
    const { code, stdout } = await runCli([...argv, '--quiet']);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^FAIL output {3}.*holds a run already; --resume it/m);
    expect(stdout).not.toContain('a step measured');
  });

  it('says of a run that has ended that there is nothing to resume', async () => {
    const { root } = study();
    const [output] = await warmStart(root);
    const argv = ['train', '--config', join(root, 'warm.yaml'), '--output', output, '--dry-run', '--resume'];
    const { code, stdout, stderr } = await runCli([...argv, '--quiet']);
    expect([code, stdout]).toEqual([0, '']);
    expect(stderr).toContain('the run has ended after step 2; there is nothing to resume');
  });

  it('covers both phases before the first has been trained', async () => {
    const { config, root } = study();
    const { code, stdout } = await runCli([
      'train',
      '--config',
      config,
      '--phases',
      '1,2',
      '--dry-run',
      '--quiet',
    ]);
    expect(code).toBe(0);
    expect(stdout.match(/a step measured/g)).toHaveLength(2);
    expect(existsSync(join(root, 'warm'))).toBe(false);
  });

  async function warmStart(root: string): Promise<[string]> {
    await runCli(['train', '--config', join(root, 'warm.yaml'), '--seeds', '1', '--quiet']);
    return [join(root, 'warm', 'seed_1')];
  }
});

describe('a run directory', () => {
  it('that holds a run is not overwritten, and is resumed only with the same settings and data', async () => {
    const { root, split } = study();
    const [file, output] = [join(root, 'warm.yaml'), join(root, 'run')];
    const argv = ['train', '--config', file, '--output', output, '--quiet'];
    expect((await runCli(argv)).code).toBe(0);
    const refused = await runCli(argv);
    expect([refused.code, refused.stderr]).toEqual([
      2,
      expect.stringContaining('holds a run already. Resume it (--resume), or give another output directory'),
    ]);
    rmSync(join(output, 'trainer_state.json')); // as if it had been killed before its end
    const changed = await runCli([...argv, '--resume', '--set', 'training.learning_rate=1']);
    expect([changed.code, changed.stderr]).toEqual([
      2,
      expect.stringContaining('training.learning_rate is not what the run began with'),
    ]);
    writeFileSync(join(split, 'train_phase1_sft.jsonl'), jsonLines(records.slice(1, 5)));
    const other = await runCli([...argv, '--resume']);
    expect([other.code, other.stderr]).toEqual([2, expect.stringContaining('the training data is not what')]);
  });

  it('that holds what others have written is left alone', async () => {
    const { root } = study();
    for (const make of [
      (d: string) => mkdirSync(join(d, 'checkpoint-500'), { recursive: true }),
      (d: string) => mkdirSync(join(d, 'tb', 'mine'), { recursive: true }),
      (d: string) => writeFileSync(join(d, 'samples.jsonl'), 'mine'),
    ]) {
      const output = temporaryDirectory();
      make(output);
      const before = readdirSync(output, { recursive: true });
      const { code, stderr } = await runCli([
        'train',
        '--config',
        join(root, 'warm.yaml'),
        '--output',
        output,
      ]);
      expect([code, stderr]).toEqual([2, expect.stringContaining('holds a run already')]);
      expect(readdirSync(output, { recursive: true })).toEqual(before);
    }
  });

  it('whose metrics end in half a line, or are gone, is resumed with a warning', async () => {
    const { root } = study();
    const [file, output] = [join(root, 'warm.yaml'), join(root, 'run')];
    const argv = ['train', '--config', file, '--output', output, '--quiet', '--set', 'training.save_steps=1'];
    await runCli(argv);
    rmSync(join(output, 'trainer_state.json'));
    const metrics = join(output, 'metrics.jsonl');
    const [first, second] = readFileSync(metrics, 'utf8').split('\n');
    writeFileSync(metrics, `${first}\n${second.slice(0, 9)}`);
    rmSync(join(output, 'samples.jsonl'));
    const { code, stderr } = await runCli([...argv, '--resume']);
    expect([code, stderr]).toEqual([0, expect.stringContaining('rows are missing from it')]);
    expect(readFileSync(metrics, 'utf8')).toBe(`${first}\n`);
  });

  it('belongs to one process at a time', async () => {
    const { root } = study();
    const output = join(root, 'run');
    mkdirSync(output);
    const lock = await lockRun(output);
    const { code, stderr } = await runCli([
      'train',
      '--config',
      join(root, 'warm.yaml'),
      '--output',
      output,
      '--quiet',
    ]);
    lock.release();
    expect([code, stderr]).toEqual([
      2,
      expect.stringContaining('another run of this process is training here'),
    ]);
  });
});

describe('the experiments in configs/', () => {
  const files = readdirSync('configs').filter((name) => name.endsWith('.yaml'));

  it.each(files.filter((name) => name !== 'small.yaml'))('%s is a whole experiment', (name) => {
    const experiment = loadExperiment(join('configs', name));
    const isSmall = name.includes('small');
    expect(experiment.model).toBe(isSmall ? 'data/model' : 'Qwen/Qwen3-8B');
    if (experiment.warm_start !== undefined) {
      expect(loadExperiment(experiment.warm_start).output_dir).toBe(experiment.checkpoint_path);
    }
    if (experiment.method === 'grpo') expect(experiment.warm_start).toBeDefined();
  });

  it("have the study's names", () => {
    for (const name of [
      ...['baseline', 'baseline_warmstart', 'polychromic_0.3', 'polychromic_warmstart'],
      ...['grpo_from_baseline', 'grpo_from_polychromic', 'polychromic_grpo'],
    ]) {
      expect(files).toContain(`${name}.yaml`);
    }
  });
});
