/** What runs on a GPU, on the CPU: the same numbers as there, without the binding's own ops, which a GPU does not have. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { largestDifference, relativeDifference } from '../../test/golden-model';
import { PanelMatrix } from '../model/matrix';
import { LORA_TARGETS } from '../model/peft';
import { profiled } from '../runtime/profile';
import type { Binding } from '../runtime/tf';
import { binding, tf } from '../runtime/tf';
import { LocalPolicy } from './local';
import type { LocalPolicyOptions } from './local';

const device = vi.hoisted(() => ({ isGpu: false, isReal: false }));
vi.mock('../runtime/tf', async (original) => {
  const real = await original<{ binding: Binding }>();
  device.isReal = real.binding.isUsingGpuDevice();
  const isUsingGpuDevice = { value: (): boolean => device.isGpu };
  return { ...real, binding: Object.create(real.binding, { isUsingGpuDevice }) as Binding };
});
afterEach(() => (device.isGpu = false));

const sequences = [9, 4].map((length, i) => ({
  promptIds: Array.from({ length }, (_, t) => 20 + ((37 * t + i) % 900)),
  completionIds: Array.from({ length: 6 - i }, (_, t) => 20 + ((53 * t + 7 * i) % 900)),
}));

/** Log-probabilities, gradients, and draws with their log-probabilities. */
async function numbersOf(policy: LocalPolicy) {
  const logProbs = (await policy.logProbs(sequences)).flatMap((row) => [...row]);
  const groups = sequences.map((s) => ({ promptIds: s.promptIds, rows: [{ tokenIds: s.completionIds }] }));
  const totals = { totalRows: 2, totalTokens: 11, totalMicroBatches: 1 };
  await policy.forwardBackward({ groups, ...totals }, { kind: 'cross_entropy' });
  const gradients = [...policy.pendingGradients().values()].flatMap(({ values }) => [...values]);
  const prompts = sequences.map(({ promptIds }, i) => ({ id: `prompt ${i}`, tokenIds: promptIds }));
  const options = { groupSize: 2, temperature: 0.8, topP: 0.9, maxNewTokens: 6, seed: 3 };
  const drawn = (await policy.sample(prompts, options)).flatMap(({ completions }) => completions);
  return {
    logProbs,
    gradients,
    tokens: drawn.map(({ tokenIds }) => tokenIds),
    drawLogProbs: drawn.flatMap((completion) => [...completion.logProbs]),
  };
}

async function measured(isGpu: boolean, options: Partial<LocalPolicyOptions>) {
  device.isGpu = isGpu;
  const common = { modelDirectory: 'data/model', stopTokenIds: [], seed: 1 };
  const settings = { base_model_name_or_path: null, lora_dropout: 0, use_rslora: false };
  const lora = { ...settings, r: 4, lora_alpha: 8, target_modules: [...LORA_TARGETS] };
  const policy = LocalPolicy.load({
    ...common,
    ...(options.trainable === 'all' ? {} : { lora }),
    ...options,
  });
  const { head } = policy.weights;
  const { result, ops } = await profiled(() => numbersOf(policy));
  policy.dispose();
  const own = ops.map(({ op }) => op).filter((op) => op.startsWith('Grpolab'));
  return { ...result, own, panels: head.matrix instanceof PanelMatrix ? head.matrix.panels.dtype : null };
}

const choices: Partial<LocalPolicyOptions>[] = [
  { dtype: 'float32', mergeForSampling: true },
  { dtype: 'float32', mergeForSampling: false },
  { dtype: 'float32', trainable: 'all' },
  { dtype: 'float32', gradientCheckpointing: true },
  { dtype: 'bfloat16' },
  { dtype: 'nf4' },
];

describe.skipIf(device.isReal).each(choices)('%j', (options) => {
  it('has the numbers that it has on a CPU', async () => {
    const before = [tf.memory().numTensors, binding.getNumOfTensors()];
    const cpu = await measured(false, options);
    const gpu = await measured(true, options);
    expect(cpu.own).not.toEqual([]);
    expect(gpu.own).toEqual([]);
    expect(gpu.panels).toBe(options.dtype === 'float32' ? null : 'float32');
    expect(largestDifference(gpu.logProbs, cpu.logProbs)).toBeLessThan(2e-5);
    expect(relativeDifference(gpu.gradients, cpu.gradients)).toBeLessThan(1e-4);
    expect(gpu.tokens).toEqual(cpu.tokens);
    expect(largestDifference(gpu.drawLogProbs, cpu.drawLogProbs)).toBeLessThan(2e-5);
    expect([tf.memory().numTensors, binding.getNumOfTensors()]).toEqual(before);
  });
});
