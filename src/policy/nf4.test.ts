/** Policies with base weights in NF4 against float32 ones on the dequantised weights: they differ by rounding only. */
import { describe, expect, it } from 'vitest';
import { largestDifference, relativeDifference } from '../../test/golden-model';
import { toBfloat16 } from '../model/half-precision';
import { buildWeights } from '../model/load';
import type { TensorReader, WeightOptions } from '../model/load';
import { LoraAdapter } from '../model/lora';
import { dequantizeNf4, quantizeNf4 } from '../model/nf4';
import { LORA_TARGETS } from '../model/peft';
import type { ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import { binding, tf } from '../runtime/tf';
import { LocalPolicy } from './local';

const config = {
  ...{ modelType: 'qwen3' as const, dtype: 'float32', vocabSize: 50, hiddenSize: 64, intermediateSize: 128 },
  ...{ numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, headDim: 32, rmsNormEps: 1e-6 },
  ...{ ropeTheta: 1e4, maxPositionEmbeddings: 128, eosTokenIds: [1], padTokenId: 0 },
};

const read: TensorReader = (name, shape) => {
  const random = new Random(1, 'nf4 policy', name);
  const draw = (): number => random.normal() * 0.2 + (name.includes('norm') ? 1 : 0);
  return Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, draw);
};

/** The weights as they are after quantisation. */
const readDequantised: TensorReader = (name, shape) => {
  const values = read(name, shape);
  if (name.includes('norm')) return values;
  if (name.includes('_proj')) return dequantizeNf4(quantizeNf4(values, shape as [number, number]));
  return new Float32Array(Uint32Array.from(values, (value) => toBfloat16(value) << 16).buffer);
};

function policyOf(
  tied: boolean,
  reader: TensorReader,
  weights: WeightOptions,
  mode: ExecutionMode = 'graph',
): LocalPolicy {
  const model = { ...config, tieWordEmbeddings: tied };
  const settings = { base_model_name_or_path: null, r: 4, lora_alpha: 8, lora_dropout: 0, use_rslora: false };
  const adapter = LoraAdapter.create(model, { ...settings, target_modules: [...LORA_TARGETS] }, 1);
  for (const [name, factor] of adapter.named().filter(([each]) => each.endsWith('lora_B'))) {
    const random = new Random(2, name);
    const values = Float32Array.from({ length: factor.size }, () => 0.1 * random.normal());
    tf.tidy(() => factor.assign(tf.tensor(values, factor.shape)));
  }
  return new LocalPolicy(model, buildWeights(model, reader, weights), adapter, { mode });
}

const sequences = [7, 12, 30].map((length, i) => ({
  promptIds: Array.from({ length }, (_, t) => (7 * t + i) % 50),
  completionIds: Array.from({ length: 5 + i }, (_, t) => (11 * t + 3 * i + 2) % 50),
}));

async function numbersOf(
  policy: LocalPolicy,
): Promise<{ logProbs: Float32Array; gradients: Float32Array[] }> {
  const logProbs = (await policy.logProbs(sequences)).flatMap((row) => [...row]);
  const groups = sequences.map((s) => ({ promptIds: s.promptIds, rows: [{ tokenIds: s.completionIds }] }));
  const totals = { totalRows: 3, totalTokens: 18, totalMicroBatches: 1 };
  await policy.forwardBackward({ groups, ...totals }, { kind: 'cross_entropy' });
  const gradients = [...policy.pendingGradients().values()].map(({ values }) => values);
  return { logProbs: Float32Array.from(logProbs), gradients };
}

describe.each([true, false])('a policy with weights in NF4 (tied %s)', (tied) => {
  it.each(['graph', 'eager'] as const)(
    'is the float32 policy on the dequantised weights (%s)',
    async (mode) => {
      const before = [tf.memory().numTensors, binding.getNumOfTensors()];
      const [reference, policy] = [
        policyOf(tied, readDequantised, {}),
        policyOf(tied, read, { dtype: 'nf4' }, mode),
      ];
      const [expected, found] = [await numbersOf(reference), await numbersOf(policy)];
      expect(largestDifference(found.logProbs, expected.logProbs)).toBeLessThan(1e-4);
      found.gradients.forEach((gradient, i) =>
        expect(relativeDifference(gradient, expected.gradients[i])).toBeLessThan(1e-4),
      );
      [reference, policy].forEach((each) => each.dispose());
      expect([tf.memory().numTensors, binding.getNumOfTensors()]).toEqual(before);
    },
  );

  it('samples from the distribution that it trains', async () => {
    const policy = policyOf(tied, read, { dtype: 'nf4' });
    const prompts = sequences.map(({ promptIds }, i) => ({ id: `${i}`, tokenIds: promptIds }));
    const options = { groupSize: 12, temperature: 0.8, topP: 1, maxNewTokens: 6, seed: 3 };
    const groups = await policy.sample(prompts, options);
    const drawn = groups.flatMap(({ prompt, completions }) =>
      completions.map((completion) => ({ promptIds: prompt.tokenIds, ...completion })),
    );
    const asked = drawn.map(({ promptIds, tokenIds }) => ({ promptIds, completionIds: tokenIds }));
    const expected = await policy.logProbs(asked, { temperature: 0.8 });
    const all = (rows: readonly ArrayLike<number>[]): Float32Array =>
      Float32Array.from(rows.flatMap((row) => Array.from(row)));
    const told = drawn.map(({ temperedLogProbs }) => temperedLogProbs);
    expect(largestDifference(all(told), all(expected))).toBeLessThan(1e-4);
    policy.dispose();
  });
});
