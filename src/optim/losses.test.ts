import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { compile } from '../runtime/compile';
import type { ExecutionMode } from '../runtime/compile';
import { ConfigError, ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import type { Tensor } from '../runtime/tf';
import type { GrpoLoss, Loss, LossBatch } from './losses';
import { detach, evaluateLoss, evaluateLossGradient, lossMetricNames } from './losses';

const numTensors = tf.memory().numTensors;
afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));

/** A micro-batch in plain numbers. */
interface Rows {
  logProbs: number[][];
  mask: number[][];
  weights: number[][];
  advantages: number[];
  old: number[][] | null;
  reference: number[][] | null;
  totals: { rows: number; tokens: number; microBatches: number };
}

function tensorsOf(rows: Rows): LossBatch {
  return {
    mask: tf.tensor2d(rows.mask, undefined, 'float32'),
    weights: tf.tensor2d(rows.weights),
    advantages: tf.tensor1d(rows.advantages),
    oldLogProbs: rows.old && tf.tensor2d(rows.old),
    referenceLogProbs: rows.reference && tf.tensor2d(rows.reference),
    totalRows: tf.scalar(rows.totals.rows),
    totalTokens: tf.scalar(rows.totals.tokens),
    totalMicroBatches: tf.scalar(rows.totals.microBatches),
  };
}

interface Evaluated {
  loss: number;
  metrics: Record<string, number>;
  coefficients: number[][];
}

function evaluate(loss: Loss, rows: Rows): Evaluated {
  const value = tf.tidy(() => evaluateLossGradient(loss, tf.tensor2d(rows.logProbs), tensorsOf(rows)));
  const metrics = Object.entries(value.metrics).map(([key, tensor]) => [key, tensor.dataSync()[0]]);
  const result = {
    loss: value.loss.dataSync()[0],
    metrics: Object.fromEntries(metrics) as Record<string, number>,
    coefficients: value.coefficients.arraySync() as number[][],
  };
  tf.dispose(value);
  return result;
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const clip = (x: number, low: number, high: number): number => Math.min(high, Math.max(low, x));

/** The losses once more, token by token in double precision. `base` holds the values of everything that is detached. */
function lossInDouble(loss: Loss, rows: Rows, base: Rows): number {
  const { mask, logProbs, totals } = rows;
  const counted = (f: (b: number, t: number) => number): number[] =>
    mask.map((row, b) => sum(row.map((m, t) => (m === 1 ? f(b, t) : 0))));
  if (loss.kind === 'cross_entropy') return -sum(counted((b, t) => logProbs[b][t])) / totals.tokens;
  if (loss.kind === 'weighted') return -sum(counted((b, t) => rows.weights[b][t] * logProbs[b][t]));
  const ratio = ({ logProbs: now }: Rows, b: number, t: number): number => {
    const old = rows.old ?? base.logProbs;
    if (loss.ratioLevel === 'token') return Math.exp(now[b][t] - old[b][t]);
    const differences = now[b].flatMap((value, s) => (mask[b][s] === 1 ? [value - old[b][s]] : []));
    return Math.exp(sum(differences) / differences.length);
  };
  const perToken = (b: number, t: number): number => {
    const [r, a] = [ratio(rows, b, t), rows.advantages[b]];
    const clipped = clip(r, 1 - loss.epsilonLow, 1 + loss.epsilonHigh) * a;
    let value = -Math.min(Math.min(r, loss.delta ?? Infinity) * a, clipped);
    if (loss.type === 'cispo') value = -Math.min(ratio(base, b, t), loss.epsilonHigh) * a * logProbs[b][t];
    if (rows.reference === null) return value;
    const d = rows.reference[b][t] - logProbs[b][t];
    return value + loss.beta * (Math.exp(d) - d - 1) * (loss.klBiasCorrection ? r : 1);
  };
  const rowSums = counted(perToken);
  const lengths = mask.map(sum);
  switch (loss.type) {
    case 'grpo':
      return sum(rowSums.map((value, b) => value / Math.max(1, lengths[b]))) / totals.rows;
    case 'dr_grpo':
      return sum(rowSums) / (totals.rows * loss.maxCompletionLength);
    case 'bnpo':
      return sum(rowSums) / sum(lengths) / totals.microBatches;
    case 'dapo':
    case 'cispo':
      return sum(rowSums) / totals.tokens;
  }
}

const grpo: GrpoLoss = {
  kind: 'grpo',
  type: 'grpo',
  epsilonLow: 0.2,
  epsilonHigh: 0.3,
  beta: 0.1,
  klBiasCorrection: true,
  ratioLevel: 'token',
  maxCompletionLength: 9,
};

const LENGTHS = [5, 1, 3, 4];

function randomRows(seed: number, offPolicy: boolean): Rows {
  const random = new Random(seed, 'losses');
  const width = Math.max(...LENGTHS);
  const matrix = (draw: () => number): number[][] =>
    LENGTHS.map(() => Array.from({ length: width }, () => Math.fround(draw())));
  const logProbs = matrix(() => -3 * random.uniform());
  const near = (scale: number): number[][] =>
    logProbs.map((row) => row.map((value) => Math.fround(value + scale * random.normal())));
  return {
    logProbs,
    mask: LENGTHS.map((length) => Array.from({ length: width }, (_, t) => (t < length ? 1 : 0))),
    weights: matrix(() => random.normal()),
    advantages: LENGTHS.map(() => Math.fround(random.normal())),
    old: offPolicy ? near(0.4) : null,
    reference: near(0.5),
    totals: { rows: 6, tokens: sum(LENGTHS) + 5, microBatches: 2 },
  };
}

const types: GrpoLoss['type'][] = ['grpo', 'dr_grpo', 'bnpo', 'dapo', 'cispo'];
const grpoVariants: GrpoLoss[] = types.flatMap((type) => [
  { ...grpo, type },
  { ...grpo, type, klBiasCorrection: false, delta: 1.5 },
  { ...grpo, type, ratioLevel: 'sequence' as const, epsilonLow: 0.05, epsilonHigh: 0.05 },
]);
const variants: [string, Loss][] = [
  ['cross_entropy', { kind: 'cross_entropy' }],
  ['weighted', { kind: 'weighted' }],
  ...grpoVariants.map((loss): [string, Loss] => [JSON.stringify(loss), loss]),
];

describe('evaluateLossGradient', () => {
  it.each(variants)('equals a double-precision formula and its finite differences: %s', (_name, loss) => {
    for (const offPolicy of [true, false]) {
      const rows = randomRows(offPolicy ? 1 : 2, offPolicy);
      const { loss: value, coefficients } = evaluate(loss, rows);
      expect(Math.abs(value - lossInDouble(loss, rows, rows))).toBeLessThan(1e-5);
      const step = 1e-6;
      const at = (b: number, t: number, delta: number): number => {
        const logProbs = rows.logProbs.map((row) => row.slice());
        logProbs[b][t] += delta;
        return lossInDouble(loss, { ...rows, logProbs }, rows);
      };
      coefficients.forEach((row, b) =>
        row.forEach((c, t) => {
          const difference = (at(b, t, step) - at(b, t, -step)) / (2 * step);
          expect(Math.abs(c - difference)).toBeLessThan(2e-5);
        }),
      );
    }
  });

  it.each<ExecutionMode>(['eager', 'graph', 'xla'])('can be compiled (%s)', (mode) => {
    const rows = randomRows(3, true);
    const expected = evaluate(grpo, rows);
    const batch = tensorsOf(rows);
    const x = tf.tensor2d(rows.logProbs);
    const fn = compile(
      'loss',
      (logProbs, mask, totalTokens) => {
        const value = evaluateLossGradient(grpo, logProbs, { ...batch, mask, totalTokens });
        return [value.loss, value.coefficients, ...Object.values(value.metrics)];
      },
      { mode },
    );
    const results = fn(x, batch.mask, batch.totalTokens);
    const [loss, coefficients, ...metrics] = results.map((result) => Array.from(result.dataSync()));
    expect(loss[0]).toBeCloseTo(expected.loss, 5);
    expected.coefficients.flat().forEach((c, i) => expect(coefficients[i]).toBeCloseTo(c, 5));
    Object.values(expected.metrics).forEach((m, i) => expect(metrics[i][0]).toBeCloseTo(m, 5));
    tf.dispose([x, results, Object.values(batch) as Tensor[]]);
    fn.dispose();
  });

  it.each(variants)('is not touched by values that are masked out, finite or not: %s', (_name, loss) => {
    const rows = randomRows(4, true);
    const spoil = (matrix: number[][], by: number): number[][] =>
      matrix.map((row, b) => row.map((value, t) => (rows.mask[b][t] === 1 ? value : by)));
    const expected = evaluate(loss, rows);
    for (const junk of [-Infinity, NaN, 1e30]) {
      const got = evaluate(loss, {
        ...rows,
        logProbs: spoil(rows.logProbs, junk),
        weights: spoil(rows.weights, junk),
        old: spoil(rows.old as number[][], 0),
        reference: spoil(rows.reference as number[][], 5),
      });
      expect(got).toEqual(expected);
    }
  });
});

describe('a GRPO loss', () => {
  const splitTypes = types.filter((type) => type !== 'bnpo');

  it.each(splitTypes)('of type %s is the sum of its micro-batches, and so are its metrics', (type) => {
    const rows = randomRows(5, true);
    const whole = evaluate({ ...grpo, type }, rows);
    const parts = [0, 1, 2, 3].map((b) =>
      evaluate(
        { ...grpo, type },
        {
          ...rows,
          logProbs: [rows.logProbs[b]],
          mask: [rows.mask[b]],
          weights: [rows.weights[b]],
          advantages: [rows.advantages[b]],
          old: [(rows.old as number[][])[b]],
          reference: [(rows.reference as number[][])[b]],
        },
      ),
    );
    expect(Math.abs(sum(parts.map((part) => part.loss)) - whole.loss)).toBeLessThan(1e-6);
    for (const [key, value] of Object.entries(whole.metrics))
      expect(Math.abs(sum(parts.map((part) => part.metrics[key])) - value), key).toBeLessThan(1e-6);
    parts.forEach((part, b) =>
      part.coefficients[0].forEach((c, t) => expect(c).toBeCloseTo(whole.coefficients[b][t], 6)),
    );
  });

  it.each(types)('of type %s is policy_loss + beta * kl_loss', (type) => {
    const { loss, metrics } = evaluate({ ...grpo, type, beta: 0.37 }, randomRows(6, true));
    expect(loss).toBeCloseTo(metrics.policy_loss + 0.37 * metrics.kl_loss, 5);
  });

  it('has KL metrics >= 0, and 0 when policy and reference agree', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 1e6 }), fc.boolean(), (seed, klBiasCorrection) => {
        const rows = randomRows(seed, true);
        const loss = { ...grpo, klBiasCorrection };
        const { metrics } = evaluate(loss, rows);
        const equal = evaluate(loss, { ...rows, reference: rows.logProbs }).metrics;
        for (const key of ['kl_loss', 'kl_per_token', 'kl_per_completion']) {
          expect(metrics[key]).toBeGreaterThan(0);
          expect(equal[key]).toBe(0);
        }
      }),
      { numRuns: 20, seed: 1 },
    );
  });

  it('measures kl_per_completion as the mean over rows of the summed k3, without the ratio', () => {
    const rows = randomRows(7, true);
    const k3 = rows.mask.map((row, b) =>
      sum(
        row.map((m, t) => {
          const d = (rows.reference as number[][])[b][t] - rows.logProbs[b][t];
          return m * (Math.exp(d) - d - 1);
        }),
      ),
    );
    const expected = sum(k3) / rows.totals.rows;
    expect(evaluate(grpo, rows).metrics.kl_per_completion).toBeCloseTo(expected, 5);
    expect(evaluate({ ...grpo, beta: 0 }, rows).metrics.kl_per_completion).toBeCloseTo(expected, 5);
  });

  it('is 0 on policy with centred advantages, beta 0 and type grpo, while its gradient is not', () => {
    const rows = { ...randomRows(8, false), advantages: [1, -1, 0.5, -0.5] };
    const { loss, coefficients } = evaluate({ ...grpo, beta: 0 }, rows);
    expect(Math.abs(loss)).toBeLessThan(1e-7);
    coefficients.forEach((row, b) =>
      row.forEach((c, t) => {
        const expected = (-rows.advantages[b] * rows.mask[b][t]) / LENGTHS[b] / rows.totals.rows;
        expect(c).toBeCloseTo(expected, 7);
      }),
    );
  });

  it('gives no gradient to a token whose ratio is clipped', () => {
    const rows = randomRows(9, true);
    rows.logProbs[0][0] = (rows.old as number[][])[0][0] + 1;
    rows.advantages[0] = 1;
    const { coefficients, metrics } = evaluate({ ...grpo, beta: 0 }, rows);
    expect(coefficients[0][0]).toBe(0);
    expect(metrics.clip_fraction_high).toBeGreaterThan(0);
  });

  it('needs a reference when beta is above 0', () => {
    const rows = { ...randomRows(10, true), reference: null };
    expect(() => evaluate(grpo, rows)).toThrow(ConfigError);
    expect(Object.keys(evaluate({ ...grpo, beta: 0 }, rows).metrics)).not.toContain('kl_loss');
  });
});

describe('evaluateLoss', () => {
  it.each(variants)('gives the metrics that lossMetricNames names: %s', (_name, loss) => {
    const rows = randomRows(14, true);
    expect(Object.keys(evaluate(loss, rows).metrics)).toEqual(lossMetricNames(loss, true));
    const without = loss.kind === 'grpo' ? { ...loss, beta: 0 } : loss;
    const { metrics } = evaluate(without, { ...rows, reference: null });
    expect(Object.keys(metrics)).toEqual(lossMetricNames(loss, false));
  });

  it('names the tensor that does not fit', () => {
    const rows = randomRows(11, true);
    expect(() => evaluate(grpo, { ...rows, advantages: [1] })).toThrow(ShapeError);
    expect(() => evaluate(grpo, { ...rows, advantages: [1] })).toThrow(
      /advantages has shape \[1\]; expected \[4\]/,
    );
    expect(() => evaluate({ kind: 'cross_entropy' }, { ...rows, mask: [[1]] })).toThrow(/mask/);
  });

  it('raises the likelihood of tokens with positive weight when it is minimised', () => {
    const rows = randomRows(12, true);
    const { coefficients } = evaluate({ kind: 'weighted' }, rows);
    coefficients.forEach((row, b) =>
      row.forEach((c, t) => expect(c).toBeCloseTo(-rows.weights[b][t] * rows.mask[b][t], 6)),
    );
  });

  it('gives what it returns and keeps nothing else', () => {
    const rows = randomRows(13, true);
    const batch = tensorsOf(rows);
    const x = tf.tensor2d(rows.logProbs);
    const before = tf.memory().numTensors;
    const value = evaluateLoss(grpo, x, batch);
    expect(tf.memory().numTensors).toBe(before + 1 + Object.keys(value.metrics).length);
    tf.dispose([x, value, Object.values(batch) as Tensor[]]);
  });
});

describe('detach', () => {
  it('keeps the value and stops the gradient', () => {
    tf.tidy(() => {
      const x = tf.tensor1d([2, 3]);
      const gradient = tf.grad((y: Tensor) => tf.sum(tf.mul(y, detach(y))))(x);
      expect([Array.from(detach(x).dataSync()), Array.from(gradient.dataSync())]).toEqual([
        [2, 3],
        [2, 3],
      ]);
    });
  });
});
