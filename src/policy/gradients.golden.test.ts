import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { goldenPath, readGolden } from '../../test/golden';
import { fullLogits, largestDifference, relativeDifference, transpose } from '../../test/golden-model';
import { openSafetensors } from '../model/safetensors';
import { openModelWeights } from '../model/model-weights';
import type { ExecutionMode } from '../runtime/compile';
import type { GrpoLoss } from '../optim/losses';
import { tf } from '../runtime/tf';
import { LocalPolicy } from './local';
import type { MicroBatch, TrainingGroup } from './policy';

interface LoraGolden {
  base: string;
  input_ids: number[];
  logprobs_adapter: number[];
  merged_weights: Record<string, { shape: number[]; sum: number; sum_squares: number; corner: number[][] }>;
  sft: {
    input_ids: number[][];
    attention_mask: number[][];
    labels: number[][];
    loss: number;
    per_row_reply_logprobs: number[][];
    supervised_tokens: number;
    micro_batch_losses_divided_by_num_items: number[];
    grad_norm_total: number;
  };
  adamw: {
    runs: {
      name: string;
      lr: number;
      betas: [number, number];
      eps: number;
      weight_decay: number;
      clip_norm: number;
      steps: { loss_before_step: number; grad_norm_before_clip: number }[];
      loss_after_3_steps: number;
    }[];
  };
}

interface GrpoCase {
  name: string;
  args: Record<string, unknown>;
  loss_type: GrpoLoss['type'];
  uses: { old: string | null; ref: string | null; advantages: string };
  loss: number;
  metrics: Record<string, number>;
  grad_norm_total: number;
}

interface GrpoGolden {
  adapter: string;
  base: string;
  num_generations: number;
  max_completion_length: number;
  prompt_ids: number[][];
  prompt_mask: number[][];
  completion_ids: number[][];
  completion_mask: number[][];
  num_items_in_batch: number;
  entropies: number[][];
  logprobs: number[][];
  ref_logprobs: number[][];
  advantages: Record<string, { advantages: number[] }>;
  cases: GrpoCase[];
  gradient_accumulation: {
    loss_type: string;
    micro_batches: number;
    rows_per_micro_batch: number;
    losses: number[];
    grad_norm_total: number;
  }[];
}

const lora = readGolden<LoraGolden>('lora', 'lora.json');
const grpo = readGolden<GrpoGolden>('lora', 'grpo.json');
const perRow = grpo as unknown as Record<string, number[][]>;

const open: LocalPolicy[] = [];
function load(mode?: ExecutionMode): LocalPolicy {
  const policy = LocalPolicy.load({
    modelDirectory: goldenPath(lora.base),
    adapterDirectory: goldenPath(grpo.adapter),
    mode,
  });
  open.push(policy);
  return policy;
}
afterEach(() => open.splice(0).forEach((policy) => policy.dispose()));

/** Compares every factor's pending gradient with the file's ([r, in] and [out, r] there). */
function expectGradients(policy: LocalPolicy, file: string, prefix: string): void {
  const reference = openSafetensors(goldenPath(file));
  const gradients = policy.pendingGradients();
  const names = [...reference.tensors.keys()].filter((name) => name.startsWith(prefix));
  const own = names.filter((name) => name.slice(prefix.length).startsWith('layers.'));
  expect(gradients.size).toBe(own.length);
  for (const name of own) {
    const { shape, values } = gradients.get(name.slice(prefix.length)) as {
      shape: number[];
      values: Float32Array;
    };
    const expected = reference.read(name);
    expect(relativeDifference(transpose(values, shape[0], shape[1]), expected), name).toBeLessThan(1e-4);
  }
  reference.close();
}

function totalNorm(policy: LocalPolicy): number {
  let sum = 0;
  for (const { values } of policy.pendingGradients().values())
    for (const value of values) sum += value * value;
  return Math.sqrt(sum);
}

describe('an adapter, against PEFT', () => {
  it('gives the same logits and log-probabilities', async () => {
    const policy = load();
    const ids = lora.input_ids;
    const logits = fullLogits(policy, [ids], [ids.map(() => 1)], [ids.map((_, i) => i)]);
    const file = openSafetensors(goldenPath('lora/forward-logits.safetensors'));
    expect(largestDifference(logits, file.read('logits.adapter'))).toBeLessThan(2e-5);
    file.close();
    const [logProbs] = await policy.logProbs([{ promptIds: ids.slice(0, 1), completionIds: ids.slice(1) }]);
    expect(largestDifference(logProbs, lora.logprobs_adapter)).toBeLessThan(2e-5);
  });

  it('merges into the same weights, and the merged checkpoint computes the same', async () => {
    const policy = load();
    const directory = mkdtempSync(path.join(tmpdir(), 'grpolab-merge-'));
    try {
      await policy.saveMerged(directory);
      const files = openModelWeights(directory);
      for (const [name, expected] of Object.entries(lora.merged_weights)) {
        const values = files.read(`model.${name}.weight`);
        const [, columns] = expected.shape;
        const sum = values.reduce((a, b) => a + b, 0);
        const squares = values.reduce((a, b) => a + b * b, 0);
        expect(Math.abs(sum - expected.sum)).toBeLessThan(1e-3);
        expect(Math.abs(squares / expected.sum_squares - 1)).toBeLessThan(1e-5);
        expected.corner.forEach((row, i) =>
          row.forEach((value, j) => expect(Math.abs(values[i * columns + j] - value)).toBeLessThan(1e-6)),
        );
      }
      files.close();
      const merged = LocalPolicy.load({ modelDirectory: directory });
      open.push(merged);
      const ids = lora.input_ids;
      const logits = [policy, merged].map((p) =>
        fullLogits(p, [ids], [ids.map(() => 1)], [ids.map((_, i) => i)]),
      );
      expect(largestDifference(logits[0], logits[1])).toBeLessThan(5e-5);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

function sftGroups(): TrainingGroup[] {
  const { input_ids: ids, labels, attention_mask: mask } = lora.sft;
  return ids.map((row, i) => {
    const length = mask[i].lastIndexOf(1) + 1;
    const start = labels[i].findIndex((label) => label >= 0);
    const end = labels[i].reduce((last, label, t) => (label >= 0 ? t : last), 0) + 1;
    return { promptIds: row.slice(0, start), rows: [{ tokenIds: row.slice(start, Math.min(length, end)) }] };
  });
}

describe('SFT, against transformers and PEFT', () => {
  const totals = { totalRows: lora.sft.input_ids.length, totalTokens: lora.sft.supervised_tokens };

  it.each(['graph', 'eager', 'xla'] as const)(
    'gives the same loss, log-probabilities and gradients (%s)',
    async (mode) => {
      const policy = load(mode);
      const batch: MicroBatch = { groups: sftGroups(), ...totals, totalMicroBatches: 1 };
      const result = await policy.forwardBackward(batch, { kind: 'cross_entropy' });
      expect(Math.abs(result.loss - lora.sft.loss)).toBeLessThan(1e-5);
      result.logProbs.forEach(([row], i) =>
        expect(largestDifference(row, lora.sft.per_row_reply_logprobs[i])).toBeLessThan(2e-5),
      );
      expectGradients(policy, 'lora/grads-sft.safetensors', '');
    },
  );

  it('does not depend on how a step is split into micro-batches', async () => {
    const policy = load();
    const losses: number[] = [];
    for (const group of sftGroups()) {
      const batch = { groups: [group], ...totals, totalMicroBatches: 3 };
      losses.push((await policy.forwardBackward(batch, { kind: 'cross_entropy' })).loss);
    }
    expect(largestDifference(losses, lora.sft.micro_batch_losses_divided_by_num_items)).toBeLessThan(1e-5);
    expectGradients(policy, 'lora/grads-sft.safetensors', '');
  });

  it.each(lora.adamw.runs.map((run) => [run.name, run] as const))(
    'takes the same AdamW steps (%s)',
    async (name, run) => {
      const policy = load();
      const batch: MicroBatch = { groups: sftGroups(), ...totals, totalMicroBatches: 1 };
      const file = openSafetensors(goldenPath('lora/adamw.safetensors'));
      for (const [index, step] of run.steps.entries()) {
        const { loss } = await policy.forwardBackward(batch, { kind: 'cross_entropy' });
        expect(Math.abs(loss - step.loss_before_step)).toBeLessThan(2e-4);
        const { gradNorm } = await policy.optimStep({
          learningRate: run.lr,
          betas: run.betas,
          eps: run.eps,
          weightDecay: run.weight_decay,
          clipNorm: run.clip_norm,
        });
        expect(Math.abs(gradNorm / step.grad_norm_before_clip - 1)).toBeLessThan(2e-4);
        const prefix = `${name}.step${index + 1}.`;
        for (const [parameter, variable] of policy.adapter?.named() ?? []) {
          if (!file.tensors.has(prefix + parameter)) continue;
          const values = tf.transpose(variable).dataSync();
          expect(relativeDifference(values, file.read(prefix + parameter)), parameter).toBeLessThan(1e-4);
        }
      }
      file.close();
      const last = await policy.forwardBackward(batch, { kind: 'cross_entropy' });
      expect(Math.abs(last.loss - run.loss_after_3_steps)).toBeLessThan(5e-4);
    },
  );
});

/** TRL's arguments as our loss description; TRL's own defaults where a case is silent. */
function lossOf({ loss_type: type, args }: GrpoCase): GrpoLoss {
  const number = (name: string, otherwise: number): number => (args[name] as number | undefined) ?? otherwise;
  const epsilon = number('epsilon', 0.2);
  return {
    kind: 'grpo',
    type,
    epsilonLow: epsilon,
    epsilonHigh: number('epsilon_high', epsilon),
    delta: args.delta as number | undefined,
    beta: number('beta', 0),
    klBiasCorrection: (args.use_bias_correction_kl as boolean | undefined) ?? true,
    ratioLevel: args.importance_sampling_level === 'sequence' ? 'sequence' : 'token',
    maxCompletionLength: grpo.max_completion_length,
  };
}

/** The golden rollouts as groups, with what a case uses. Prompts are shared when `shared`. */
function grpoGroups({ uses, args }: GrpoCase, shared: boolean): TrainingGroup[] {
  const beta = (args.beta as number | undefined) ?? 0;
  const advantages = grpo.advantages[uses.advantages].advantages;
  const rows = grpo.completion_ids.map((ids, i) => {
    const length = grpo.completion_mask[i].reduce((a, b) => a + b, 0);
    return {
      tokenIds: ids.slice(0, length),
      advantage: advantages[i],
      oldLogProbs: uses.old === null ? undefined : perRow[uses.old][i].slice(0, length),
      referenceLogProbs: uses.ref === null || beta === 0 ? undefined : perRow[uses.ref][i].slice(0, length),
    };
  });
  const size = shared ? grpo.num_generations : 1;
  return Array.from({ length: rows.length / size }, (_, g) => ({
    promptIds: grpo.prompt_ids[g * size].filter((_, t) => grpo.prompt_mask[g * size][t] === 1),
    rows: rows.slice(g * size, (g + 1) * size),
  }));
}

const totals = { totalRows: grpo.completion_ids.length, totalTokens: grpo.num_items_in_batch };
const stored = new Set(
  [...openSafetensors(goldenPath('lora/grads-grpo.safetensors')).tensors.keys()].map(
    (name) => name.split('.layers')[0],
  ),
);

describe.each([true, false])('GRPO, against TRL (prompt shared: %s)', (shared) => {
  it.each(grpo.cases.map((c) => [c.name, c] as const))(
    '%s gives the same loss and gradients',
    async (name, c) => {
      const policy = load();
      const batch = { groups: grpoGroups(c, shared), ...totals, totalMicroBatches: 1 };
      const result = await policy.forwardBackward(batch, lossOf(c), {
        temperature: (c.args.temperature as number) ?? 1,
      });
      expect(Math.abs(result.loss - c.loss)).toBeLessThan(2e-5);
      expect(Math.abs(totalNorm(policy) / c.grad_norm_total - 1)).toBeLessThan(1e-4);
      if (stored.has(name)) expectGradients(policy, 'lora/grads-grpo.safetensors', `${name}.`);
      expect(stored.size).toBeGreaterThan(0);
    },
  );

  it('gives the same log-probabilities, entropies and reference', async () => {
    const policy = load();
    const [c] = grpo.cases;
    const groups = grpoGroups(c, shared);
    const result = await policy.forwardBackward({ groups, ...totals, totalMicroBatches: 1 }, lossOf(c));
    const sequences = groups.flatMap(({ promptIds, rows }) =>
      rows.map(({ tokenIds }) => ({ promptIds, completionIds: tokenIds })),
    );
    const reference = await policy.logProbs(sequences, { of: 'reference' });
    sequences.forEach(({ completionIds: { length } }, i) => {
      expect(largestDifference(result.logProbs.flat()[i], grpo.logprobs[i].slice(0, length))).toBeLessThan(
        2e-5,
      );
      expect(largestDifference(result.entropies.flat()[i], grpo.entropies[i].slice(0, length))).toBeLessThan(
        2e-5,
      );
      expect(largestDifference(reference[i], grpo.ref_logprobs[i].slice(0, length))).toBeLessThan(2e-5);
    });
  });

  it.each(grpo.gradient_accumulation.map((a) => [a.loss_type, a] as const))(
    'accumulates micro-batches as TRL does (%s)',
    async (type, expected) => {
      const policy = load();
      const c = grpo.cases.find((one) => one.name === type) as GrpoCase;
      const groups = grpoGroups(c, shared);
      const size = groups.length / expected.micro_batches;
      const losses: number[] = [];
      for (let i = 0; i < expected.micro_batches; i++) {
        const part = groups.slice(i * size, (i + 1) * size);
        const batch = { groups: part, ...totals, totalMicroBatches: expected.micro_batches };
        losses.push((await policy.forwardBackward(batch, lossOf(c))).loss);
      }
      expect(largestDifference(losses, expected.losses)).toBeLessThan(2e-5);
      expect(Math.abs(totalNorm(policy) / expected.grad_norm_total - 1)).toBeLessThan(1e-4);
    },
  );
});
