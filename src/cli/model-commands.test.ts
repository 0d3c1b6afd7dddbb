import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { copyModel, jsonLines, parseLines, runCli, temporaryDirectory } from '../../test/cli';
import { promptIds } from '../model/chat';
import { loadTokenizer } from '../model/tokenizer';
import { LocalPolicy } from '../policy/local';
import type { DoctorReport, ModelReport } from './doctor-report';
import { reportLines } from './doctor';
import { Interrupted } from './io';

const model = 'test/golden/tiny-qwen3/tied-bf16';
const adapter = 'test/golden/lora/adapter';
const adapterBase = 'test/golden/tiny-qwen3/untied-f32';

interface Line {
  id?: string;
  tweet_id?: string;
  generations: { text: string; token_ids: number[]; log_probs: number[] }[];
}

const generate = async (lines: readonly unknown[], ...options: string[]): Promise<Line[]> => {
  const argv = ['generate', '--model', model, '--input', '-', '--json', '--quiet', '--max-new-tokens', '8'];
  const { code, stdout, stderr } = await runCli([...argv, '--n', '3', ...options], jsonLines(lines));
  expect([code, stderr]).toEqual([0, '']);
  return parseLines<Line>(stdout);
};
const tokens = (line: Line): number[][] => line.generations.map(({ token_ids: ids }) => ids);

describe('grpolab generate', () => {
  const lines = [
    { id: 'a', tweet: 'I love tea' },
    { id: 'b', tweet: 'I love tea' },
    { tweet_id: '7', prompt: 'What is tea?' },
    { prompt_ids: [5, 6, 7] },
  ];

  it('gives a line the same replies whatever other lines are there and in whatever order', async () => {
    const all = await generate(lines);
    const reversed = await generate([...lines].reverse());
    expect(reversed.reverse().map(tokens)).toEqual(all.map(tokens));
    for (const [i, line] of lines.entries())
      expect(tokens((await generate([line]))[0])).toEqual(tokens(all[i]));
  });

  it('draws anew for another id, another seed and another reply', async () => {
    const [a, b] = await generate(lines);
    const [other] = await generate(lines, '--seed', '1');
    expect(tokens(a)).not.toEqual(tokens(b));
    expect(tokens(a)).not.toEqual(tokens(other));
    expect(new Set(tokens(a).map(String)).size).toBe(3);
  });

  it('repeats the one greedy reply as often as it is told to', async () => {
    const [line] = await generate(lines.slice(0, 1), '--greedy');
    const [cold] = await generate(lines.slice(0, 1), '--temperature', '0');
    expect(new Set(tokens(line).map(String)).size).toBe(1);
    expect(tokens(line)).toHaveLength(3);
    expect(tokens(cold)).toEqual(tokens(line));
  });

  it("asks the study's question about a tweet, a user's message for a prompt, and continues a raw text", async () => {
    const tokenizer = await loadTokenizer(model);
    const messages = [{ role: 'user', content: 'What is tea?' }];
    const chat = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true, enableThinking: false });
    const greedy = ['--greedy', '--n', '1'];
    const same = async (line: object, ids: number[], ...options: string[]) => {
      const [a] = await generate([line], ...greedy, ...options);
      const [b] = await generate([{ prompt_ids: ids }], ...greedy);
      expect(a.generations[0].token_ids).toEqual(b.generations[0].token_ids);
      a.generations[0].log_probs.forEach((value, i) =>
        expect(value).toBeCloseTo(b.generations[0].log_probs[i], 4),
      );
    };
    await same({ tweet: 'I love tea' }, promptIds(tokenizer, 'I love tea'));
    await same({ prompt: 'What is tea?' }, chat);
    await same({ prompt: 'What is tea?' }, tokenizer.encode('What is tea?'), '--raw');
  });

  it('prints prompts and numbered replies without --json', async () => {
    const argv = ['generate', '--model', model, '--input', '-', '--n', '2', '--max-new-tokens', '4'];
    const { stdout } = await runCli(argv, jsonLines(lines.slice(0, 1)));
    expect(stdout).toMatch(/^\[1\] I love tea\n {2}1\. [^]*\n {2}2\. /);
  });

  it('takes the type of the base weights and the precision of their products', async () => {
    const load = vi.spyOn(LocalPolicy, 'load');
    onTestFinished(() => load.mockRestore());
    await generate(lines.slice(3));
    expect(load.mock.lastCall?.[0]).toMatchObject({ dtype: 'float32', matmulPrecision: 'float32' });
    await generate(lines.slice(3), '--dtype', 'bfloat16', '--matmul-precision', 'bfloat16');
    expect(load.mock.lastCall?.[0]).toMatchObject({ dtype: 'bfloat16', matmulPrecision: 'bfloat16' });
  });

  it('changes with an adapter', async () => {
    const argv = ['generate', '--model', adapterBase, '--input', '-', '--json', '--quiet', '--greedy'];
    const input = jsonLines([{ prompt_ids: [5, 6, 7] }]);
    const bare = await runCli(argv, input);
    const adapted = await runCli([...argv, '--adapter', adapter], input);
    expect(adapted.code).toBe(0);
    expect(adapted.stdout).not.toBe(bare.stdout);
  });

  it('stops in the middle of its work after Ctrl-C', async () => {
    const interrupt = new AbortController();
    const argv = ['generate', '--model', model, '--input', '-', '--quiet', '--max-new-tokens', '3000'];
    // Work for minutes, however fast the machine: replies of this model end at random, most of them early.
    const many = Array.from({ length: 300 }, () => lines).flat();
    const running = runCli([...argv, '--n', '64'], jsonLines(many), interrupt.signal);
    setTimeout(() => interrupt.abort(new Interrupted()), 500);
    const { code } = await running;
    expect(code).toBe(130);
  });

  it.each([
    [{}, 'tweet is missing; expected prompt_ids, prompt or tweet'],
    [{ prompt_ids: [] }, 'the prompt has no tokens'],
    [{ prompt_ids: [1, 640] }, 'prompt_ids[1] is 640; expected an integer in 0..639'],
    [{ prompt_ids: 'x' }, 'prompt_ids is "x"; expected a list of token ids'],
    [{ prompt_ids: new Array(4090).fill(1) }, 'the prompt with --max-new-tokens has 4189 tokens'],
  ])('refuses the line %j', async (line, message) => {
    const argv = ['generate', '--model', model, '--input', '-', '--json'];
    const { code, stdout, stderr } = await runCli(argv, jsonLines([line]));
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain(`stdin:1: ${message}`);
  });

  it.each([
    ['--n', '0'],
    ['--temperature', '-0.1'],
    ['--top-p', '0'],
    ['--top-p', '1.1'],
    ['--top-k', '2.5'],
    ['--max-new-tokens', 'many'],
    ['--seed', '-1'],
  ])('refuses %s %s', async (option, value) => {
    const argv = ['generate', '--model', model, '--input', '-', `${option}=${value}`];
    const { code, stderr } = await runCli(argv, jsonLines(lines));
    expect(code).toBe(2);
    expect(stderr).toContain(`${option} is "${value}"; expected`);
  });
});

describe('grpolab merge', () => {
  it.each([
    ['bf16', 'bfloat16', 2],
    ['f16', 'float16', 2],
    ['f32', 'float32', 4],
  ])('writes %s and says so in the configuration', async (dtype, name, bytes) => {
    const output = join(temporaryDirectory(), 'merged');
    const argv = ['merge', '--model', adapterBase, '--adapter', adapter, '--output', output];
    expect((await runCli([...argv, '--dtype', dtype])).code).toBe(0);
    const config = JSON.parse(readFileSync(join(output, 'config.json'), 'utf8')) as Record<string, unknown>;
    expect(config.torch_dtype ?? config.dtype).toBe(name);
    const size = readFileSync(join(output, 'model.safetensors')).length;
    const original = readFileSync(join(adapterBase, 'model.safetensors')).length;
    expect(size / original).toBeCloseTo(bytes / 4, 1);
    expect((await loadTokenizer(output)).encode('tea').length).toBeGreaterThan(0);
  });

  it('never overwrites: the output must be new or empty', async () => {
    const output = copyModel(model);
    const before = readFileSync(join(output, 'model.safetensors'));
    const argv = ['merge', '--model', adapterBase, '--adapter', adapter, '--output', output];
    const { code, stderr } = await runCli(argv);
    expect(code).toBe(2);
    expect(stderr).toContain('is not empty; expected a new or empty directory');
    expect(readFileSync(join(output, 'model.safetensors')).equals(before)).toBe(true);
    const file = join(temporaryDirectory(), 'file');
    writeFileSync(file, 'mine');
    expect((await runCli([...argv.slice(0, -1), file])).stderr).toContain('is not a directory');
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });
});

describe('grpolab doctor', () => {
  it('reports what is in force, each fallback with its reason, and whether a model fits', async () => {
    const { code, stdout } = await runCli(['doctor', '--model', model, '--json']);
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as DoctorReport;
    expect(report.versions.tensorflow).toMatch(/^2\./);
    expect(['cpu', 'gpu']).toContain(report.tensorflow.backend);
    expect(report.fallbacks.map(({ part }) => part)).toContain('embeddings');
    expect(report.fallbacks.every(({ reason }) => reason.length > 10)).toBe(true);
    expect(report.model).toMatchObject({ layers: 3, stored_dtypes: ['BF16'], fits: true });
    expect(report.model?.bytes.total).toBeGreaterThan(report.model?.bytes.weights as number);
    const text = reportLines(report).join('\n');
    expect(text).toContain('207,488 parameters');
    expect(text).toContain('available: fits');
    const small = {
      ...report,
      model: { ...(report.model as NonNullable<typeof report.model>), fits: false },
    };
    expect(reportLines(small).join('\n')).toContain('does NOT fit');
  });

  it("plans for a batch of one's own, by type of the weights, and says what would fit", async () => {
    const argv = ['doctor', '--model', model, '--shape', 'P=100000,G=8,Tp=512,Tc=512', '--rank', '8'];
    const { code, stdout } = await runCli([...argv, '--json']);
    expect(code).toBe(0);
    const { model: found } = JSON.parse(stdout) as { model: ModelReport };
    expect(found.step).toEqual({ P: 100_000, G: 8, Tp: 512, Tc: 512, rank: 8 });
    expect(found.fits).toBe(false);
    // Its feed-forward size is no multiple of 64: no nf4.
    expect(found.plans.map(({ dtype }) => dtype)).toEqual(['float32', 'float32', 'bfloat16', 'bfloat16']);
    const [kept, again] = found.plans;
    expect(kept).toEqual({ dtype: 'float32', recompute: false, total_bytes: found.bytes.total, fits: false });
    expect(again).toMatchObject({ dtype: 'float32', recompute: true });
    expect(again.total_bytes).toBeLessThan(kept.total_bytes);
    expect(found.advice).toMatch(/lower training\.batch_size \(\d+: /);
    const { stdout: text } = await runCli(argv);
    expect(text).toMatch(/^ +dtype +layers kept +recomputed \(training\.gradient_checkpointing\)$/m);
    expect(text).toMatch(/^ +bfloat16 +[\d.]+ TiB, does NOT fit +[\d.]+ TiB, does NOT fit$/m);
    expect(text).toMatch(/^to fit +.*lower training\.batch_size/m);
  });

  it.each([
    [['--shape', 'P=1,G=1,Tp=1,Tc=1'], '--shape needs --model'],
    [['--rank', '8'], '--rank needs --model'],
    [['--model', model, '--shape', 'P=2'], '--shape lacks G'],
    [['--model', model, '--rank', '0'], '--rank is "0"'],
  ])('refuses %j', async (argv, message) => {
    const { code, stderr } = await runCli(['doctor', ...argv]);
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
  });
});
