import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { runCli } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { LocalPolicy } from '../policy/local';

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

  it('takes the type of the base weights and recomputation, and says what loading took', async () => {
    const options = ['--dtype', 'bfloat16', '--recompute', '--steps', '1', '--warmup', '0'];
    const argv = ['bench', '--model', model, '--shape', 'P=1,G=2,Tp=8,Tc=4', ...options];
    const { stdout } = await runCli(argv);
    expect(stdout).toMatch(
      /^loaded in [\d.]+ s, peak RSS [\d.]+ GiB\ngrpo, .* weights in bfloat16, layers recomputed: /,
    );
    const json = JSON.parse((await runCli([...argv, '--json'])).stdout) as Record<string, unknown>;
    expect(json).toMatchObject({
      dtype: 'bfloat16',
      matmul_precision: 'float32',
      recompute: true,
      load: { seconds: expect.any(Number) as number },
    });
    const refused = await runCli([...argv.slice(0, 5), '--dtype', 'float16']);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(/--dtype is "float16"; expected float32, bfloat16, nf4/);
  });

  it('takes the precision of products, and says it', async () => {
    const load = vi.spyOn(LocalPolicy, 'load');
    onTestFinished(() => load.mockRestore());
    const weights = ['--dtype', 'bfloat16', '--matmul-precision', 'bfloat16'];
    const short = ['--shape', 'P=1,G=2,Tp=8,Tc=4', '--steps', '1', '--warmup', '0'];
    const argv = ['bench', '--model', model, ...short, ...weights];
    const { stdout } = await runCli(argv);
    expect(stdout).toMatch(/\ngrpo, .* weights in bfloat16, products in bfloat16: /);
    expect(load.mock.lastCall?.[0]).toMatchObject({ dtype: 'bfloat16', matmulPrecision: 'bfloat16' });
    const json = JSON.parse((await runCli([...argv, '--json'])).stdout) as Record<string, unknown>;
    expect(json).toMatchObject({ dtype: 'bfloat16', matmul_precision: 'bfloat16' });
  });

  it('tells where a step spends its time', async () => {
    const argv = ['bench', '--model', model, '--shape', 'P=2,G=2,Tp=8,Tc=4', '--steps', '1', '--profile'];
    const json = await runCli([...argv, '--json']);
    const { ops } = JSON.parse(json.stdout) as { ops: { op: string; count: number; seconds: number }[] };
    const named = new Map(ops.map((each) => [each.op, each]));
    // Tc tokens: one from the prefill, each other one from a step of decoding; one gradient of attention a layer.
    expect(named.get('GrpolabPrefill')?.count).toBe(1);
    expect(named.get('GrpolabDecode')?.count).toBe(3);
    expect(named.get('GrpolabAttentionGrad')?.count).toBe(3);
    for (const { seconds } of ops) expect(seconds >= 0 && seconds < 5).toBe(true);
    expect(ops.map(({ seconds }) => seconds)).toEqual(
      ops.map(({ seconds }) => seconds).sort((a, b) => b - a),
    );
    const text = await runCli(argv);
    expect(text.stdout).toMatch(/one step by op/);
    expect(text.stdout).toMatch(/^ {2}GrpolabDecode +3 +[\d.]+ ms +[\d.]+ %$/m);
  });

  it.each(['P=2', 'P=2,G=0,Tp=8,Tc=4', 'P=2,G=2,Tp=8,Tc=4,X=1'])('refuses the shape %s', async (shape) => {
    const { code, stderr } = await runCli(['bench', '--model', model, '--shape', shape]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/--shape/);
  });
});
