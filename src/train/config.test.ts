import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { LORA_TARGETS } from '../model/peft';
import { ConfigError } from '../runtime/errors';
import {
  adapterConfig,
  grpoSettings,
  loadExperiment,
  parseExperiment,
  polychromicSettings,
  withCheckpoint,
} from './config';

const folder = mkdtempSync(join(tmpdir(), 'config-'));
afterAll(() => rmSync(folder, { recursive: true }));

const data = { train: 'records.jsonl' };

describe('the defaults', () => {
  it("are the study's, by method", () => {
    const of = (method: string) => parseExperiment({ method, data }).training;
    expect(of('sft')).toMatchObject({ epochs: 2, batch_size: 4, gradient_accumulation_steps: 4 });
    expect(of('sft')).toMatchObject({ learning_rate: 2e-4, warmup_ratio: 0.03, early_stopping_patience: 3 });
    expect(of('polychromic')).toMatchObject({
      batch_size: 2,
      gradient_accumulation_steps: 8,
      learning_rate: 2e-4,
    });
    expect(of('grpo')).toMatchObject({ epochs: 3, batch_size: 2, gradient_accumulation_steps: 8 });
    expect(of('grpo')).toMatchObject({ learning_rate: 1e-5, warmup_ratio: 0.05, early_stopping_patience: 5 });
    expect(of('grpo')).toMatchObject({
      save_steps: 50,
      eval_steps: 50,
      save_total_limit: 3,
      max_grad_norm: 1,
    });
  });

  it('of polychromic and GRPO reach the loops', () => {
    expect(polychromicSettings(parseExperiment({ method: 'polychromic', data }))).toMatchObject({
      ...{ lambda: 0.3, generations: 3, temperature: 0.9, topP: 1 },
      ...{ diversityEvery: 5, diversityExamples: 4, credit: 'leave_one_out' },
    });
    expect(grpoSettings(parseExperiment({ method: 'grpo', data }))).toMatchObject({
      ...{ groupSize: 4, temperature: 0.8, lossTemperature: 0.8, topP: 0.9, maxNewTokens: 100 },
      ...{ maxResamples: 0, diversityWeight: 0, numIterations: 1 },
      loss: { beta: 0.1, type: 'grpo', epsilonLow: 0.2, epsilonHigh: 0.2 },
    });
  });
});

describe('what contradicts itself', () => {
  it.each([
    ['sft', { grpo: {} }, /grpo: belongs to method: grpo/],
    ['grpo', { polychromic: {} }, /polychromic: belongs to method: polychromic/],
    ['polychromic', { polychromic: { top_p: 0.9 } }, /polychromic.top_p: is 0.9; expected 1/],
    ['polychromic', { polychromic: { credit: 'pairs', distance: 'distinct_2' } }, /no mean over pairs/],
    [
      'grpo',
      { grpo: { n_generations: 2, diversity_weight: 0.1 } },
      /grpo.n_generations: is 2; diversity_weight needs/,
    ],
    ['grpo', { grpo: { delta: 1.1 } }, /grpo.delta: is 1.1; expected more than 1 \+ epsilon_high \(1.2\)/],
    [
      'grpo',
      { grpo: { loss_type: 'cispo' } },
      /grpo.epsilon_high: is missing; cispo bounds the ratio itself/,
    ],
    [
      'grpo',
      { grpo: { min_new_tokens: 9, max_new_tokens: 8 } },
      /grpo.min_new_tokens: is 9, above max_new_tokens/,
    ],
    [
      'sft',
      { matmul_precision: 'bfloat16' },
      /matmul_precision: is bfloat16, but dtype is float32; .* needs weights in bfloat16 or nf4: set dtype/,
    ],
    ['sft', { dtype: 'bfloat16', matmul_precision: 'float16' }, /matmul_precision is "float16": .*bfloat16/],
    ['grpo', { grpo: { kl_coef: 0.1 } }, /unknown key "grpo.kl_coef"; did you mean "kl_coeff"/],
  ])('is refused in one line that says what to do (%s, %j)', (method, part, message) => {
    const parse = (): unknown => parseExperiment({ method, data, ...part });
    expect(parse).toThrow(ConfigError);
    expect(parse).toThrow(message);
  });

  it('but cispo with its bound, and a two-sided clip above the other one, are accepted', () => {
    const of = (grpo: object) => grpoSettings(parseExperiment({ method: 'grpo', data, grpo })).loss;
    expect(of({ loss_type: 'cispo', epsilon_high: 5 })).toMatchObject({ type: 'cispo', epsilonHigh: 5 });
    expect(of({ delta: 4 })).toMatchObject({ delta: 4 });
  });

  it('but products in bfloat16 with weights in fewer bits are accepted; without the key they are in float32', () => {
    const of = (own: object) => parseExperiment({ method: 'sft', data, ...own }).matmul_precision;
    expect([of({}), of({ dtype: 'bfloat16' })]).toEqual(['float32', 'float32']);
    for (const dtype of ['bfloat16', 'nf4'])
      expect(of({ dtype, matmul_precision: 'bfloat16' })).toBe('bfloat16');
  });

  it('is found in the adapter of a checkpoint too, whatever the order of its modules', () => {
    const lora = { r: 8, alpha: 16, dropout: 0.1, target_modules: ['q_proj', 'v_proj'] };
    const experiment = parseExperiment({ method: 'sft', data, lora });
    const stored = adapterConfig(experiment);
    const reversed = { ...stored, target_modules: ['v_proj', 'q_proj'] };
    expect(withCheckpoint(experiment, reversed).lora?.r).toBe(8);
    expect(() => withCheckpoint(experiment, { ...stored, target_modules: [...LORA_TARGETS] })).toThrow(
      /lora.target_modules is q_proj, v_proj, but the adapter in checkpoint_path has/,
    );
    expect(() => withCheckpoint(experiment, { ...stored, r: 4 })).toThrow('lora.r is 8, but');
  });
});

describe('loadExperiment', () => {
  it('merges bases, then overrides, and finds the warm start beside the file', () => {
    const write = (name: string, text: string): string => {
      writeFileSync(join(folder, name), text);
      return join(folder, name);
    };
    write(
      'base.yaml',
      'method: grpo\ndata: { train: a.jsonl }\ngrpo: { n_generations: 6, kl_coeff: 0.2 }\nseed: 1\n',
    );
    const file = write('own.yaml', '_base_: base.yaml\nwarm_start: warm.yaml\ngrpo: { kl_coeff: 0.3 }\n');
    const experiment = loadExperiment(file, ['seed=9', 'grpo.temperature=1.0']);
    expect(experiment.grpo).toMatchObject({ n_generations: 6, kl_coeff: 0.3, temperature: 1 });
    expect([experiment.seed, experiment.warm_start]).toEqual([9, join(folder, 'warm.yaml')]);
    const [base, warm] = [join(folder, 'base.yaml'), join(folder, 'elsewhere', 'warm.yaml')];
    const whole = loadExperiment(write('whole.yaml', `_base_: ${base}\nwarm_start: ${warm}\n`));
    expect([whole.seed, whole.warm_start]).toEqual([1, warm]);
  });
});
