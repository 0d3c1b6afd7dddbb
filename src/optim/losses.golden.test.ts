import { afterAll, describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { tf } from '../runtime/tf';
import type { GrpoLoss, Loss, LossBatch } from './losses';
import { evaluateLoss } from './losses';

interface GoldenCase {
  name: string;
  args: {
    temperature?: number;
    beta?: number;
    use_bias_correction_kl?: boolean;
    epsilon?: number;
    epsilon_high?: number;
    delta?: number;
    importance_sampling_level?: 'token' | 'sequence';
  };
  loss_type: GrpoLoss['type'];
  uses: { old: string | null; ref: string; advantages: string };
  loss: number;
  metrics: Record<string, number>;
}

interface GoldenFile {
  max_completion_length: number;
  num_items_in_batch: number;
  completion_mask: number[][];
  advantages: Record<string, { advantages: number[] }>;
  cases: GoldenCase[];
  gradient_accumulation: {
    loss_type: GrpoLoss['type'];
    micro_batches: number;
    rows_per_micro_batch: number;
    losses: number[];
  }[];
  mask_truncated_completions: {
    completion_mask: number[][];
    num_items_in_batch: number;
    advantages: number[];
    loss_grpo: number;
  };
  trl_defaults: { beta: number; epsilon: number; use_bias_correction_kl: boolean };
}

const golden = readGolden<GoldenFile>('lora', 'grpo.json');
const matrices = golden as unknown as Record<string, number[][]>;

/** TRL's metric for each of ours. */
const metricNames: Record<string, string> = {
  kl_per_token: 'kl',
  clip_fraction_low: 'clip_ratio/low_mean',
  clip_fraction_high: 'clip_ratio/high_mean',
  clip_fraction: 'clip_ratio/region_mean',
};

interface Rows {
  logProbs: number[][];
  mask: number[][];
  advantages: number[];
  old: number[][] | null;
  reference: number[][] | null;
}

interface Totals {
  rows: number;
  tokens: number;
  microBatches: number;
}

function evaluate(loss: Loss, rows: Rows, totals: Totals): { loss: number; metrics: Record<string, number> } {
  const value = tf.tidy(() => {
    const batch: LossBatch = {
      mask: tf.tensor2d(rows.mask, undefined, 'float32'),
      weights: tf.zeros([rows.mask.length, rows.mask[0].length]),
      advantages: tf.tensor1d(rows.advantages),
      oldLogProbs: rows.old === null ? null : tf.tensor2d(rows.old),
      referenceLogProbs: rows.reference === null ? null : tf.tensor2d(rows.reference),
      totalRows: tf.scalar(totals.rows),
      totalTokens: tf.scalar(totals.tokens),
      totalMicroBatches: tf.scalar(totals.microBatches),
    };
    return evaluateLoss(loss, tf.tensor2d(rows.logProbs), batch);
  });
  const metrics = Object.entries(value.metrics).map(([key, tensor]) => [key, tensor.dataSync()[0]]);
  const result = {
    loss: value.loss.dataSync()[0],
    metrics: Object.fromEntries(metrics) as Record<string, number>,
  };
  tf.dispose(value);
  return result;
}

function lossOf({ args, loss_type }: Pick<GoldenCase, 'args' | 'loss_type'>): GrpoLoss {
  const defaults = golden.trl_defaults;
  const epsilon = args.epsilon ?? defaults.epsilon;
  return {
    kind: 'grpo',
    type: loss_type,
    epsilonLow: epsilon,
    epsilonHigh: args.epsilon_high ?? epsilon,
    delta: args.delta,
    beta: args.beta ?? defaults.beta,
    klBiasCorrection: args.use_bias_correction_kl ?? defaults.use_bias_correction_kl,
    ratioLevel: args.importance_sampling_level ?? 'token',
    maxCompletionLength: golden.max_completion_length,
  };
}

function rowsOf({ args, uses }: Pick<GoldenCase, 'args' | 'uses'>): Rows {
  const temperature = args.temperature ?? 1;
  return {
    logProbs: matrices[temperature === 1 ? 'logprobs' : `logprobs_temperature_${temperature}`],
    mask: golden.completion_mask,
    advantages: golden.advantages[uses.advantages].advantages,
    old: uses.old === null ? null : matrices[uses.old],
    reference: lossOf({ args, loss_type: 'grpo' }).beta === 0 ? null : matrices[uses.ref],
  };
}

function slice(rows: Rows, from: number, to: number): Rows {
  return {
    logProbs: rows.logProbs.slice(from, to),
    mask: rows.mask.slice(from, to),
    advantages: rows.advantages.slice(from, to),
    old: rows.old?.slice(from, to) ?? null,
    reference: rows.reference?.slice(from, to) ?? null,
  };
}

const numTensors = tf.memory().numTensors;
afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));
const whole: Totals = {
  rows: golden.completion_mask.length,
  tokens: golden.num_items_in_batch,
  microBatches: 1,
};

describe('evaluateLoss against TRL', () => {
  it.each(golden.cases.map((example) => [example.name, example] as const))(
    '%s: loss and metrics',
    (_name, example) => {
      const loss = lossOf(example);
      const value = evaluate(loss, rowsOf(example), whole);
      expect(Math.abs(value.loss - example.loss)).toBeLessThan(1e-5);
      let compared = 0;
      for (const [ours, metric] of Object.entries(value.metrics)) {
        const theirs =
          loss.type === 'cispo' && ours === 'clip_fraction' ? 'cispo_clip_ratio' : metricNames[ours];
        if (theirs === undefined) continue;
        expect(Math.abs(metric - example.metrics[theirs]), ours).toBeLessThan(1e-5);
        compared++;
      }
      const known = ['kl', 'cispo_clip_ratio', ...Object.values(metricNames).slice(1)];
      expect(compared).toBe(Object.keys(example.metrics).filter((key) => known.includes(key)).length);
    },
  );

  /** The options with which the file's accumulation and truncation cases were made: those of the case named `grpo`. */
  const plain = golden.cases.find(({ name }) => name === 'grpo') as GoldenCase;

  it.each(golden.gradient_accumulation.map((example) => [example.loss_type, example] as const))(
    '%s in micro-batches: each share of the loss',
    (type, example) => {
      const loss = lossOf({ args: plain.args, loss_type: type });
      const totals = { ...whole, microBatches: example.micro_batches };
      example.losses.forEach((expected, i) => {
        const from = i * example.rows_per_micro_batch;
        const rows = slice(rowsOf(plain), from, from + example.rows_per_micro_batch);
        expect(Math.abs(evaluate(loss, rows, totals).loss - expected)).toBeLessThan(1e-5);
      });
    },
  );

  it('truncated completions that are masked out still count as rows', () => {
    const truncated = golden.mask_truncated_completions;
    const rows = { ...rowsOf(plain), mask: truncated.completion_mask, advantages: truncated.advantages };
    const totals = { ...whole, tokens: truncated.num_items_in_batch };
    expect(Math.abs(evaluate(lossOf(plain), rows, totals).loss - truncated.loss_grpo)).toBeLessThan(1e-5);
  });
});
