import { describe, expect, it } from 'vitest';
import { runCli } from '../../test/cli';
import { goldenPath } from '../../test/golden';

const model = goldenPath('tiny-qwen3', 'tied-f32');

interface BenchJson {
  step: { median_s: number; min_s: number; all_s: number[] };
  phases: Record<string, { median_s: number }>;
  tokens_per_s: number;
  peak_rss_bytes: number;
}

describe('grpolab bench', () => {
  it.each([
    ['grpo', ['generate', 'reference', 'forward_backward', 'optimizer']],
    ['sft', ['forward_backward', 'optimizer']],
    ['generate', ['generate']],
  ])('measures the phases of %s', async (what, phases) => {
    const argv = [
      'bench',
      '--what',
      what,
      '--model',
      model,
      '--shape',
      'P=2,G=2,Tp=8,Tc=4',
      '--steps',
      '2',
      '--json',
    ];
    const { code, stdout } = await runCli(argv);
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as BenchJson;
    expect(Object.keys(result.phases)).toEqual(phases);
    expect(result.step.all_s.length).toBe(2);
    expect(result.step.min_s).toBeGreaterThan(0);
    expect(result.tokens_per_s).toBeCloseTo(16 / result.step.median_s, 6);
  });

  it.each(['P=2', 'P=2,G=0,Tp=8,Tc=4', 'P=2,G=2,Tp=8,Tc=4,X=1'])('refuses the shape %s', async (shape) => {
    const { code, stderr } = await runCli(['bench', '--model', model, '--shape', shape]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/--shape/);
  });
});
