/** Losses of rows of tokens whose log-probabilities are known as numbers. */
import { evaluateLossGradient } from '../optim/losses';
import type { Loss } from '../optim/losses';
import { ConfigError, ShapeError } from '../runtime/errors';
import { tf } from '../runtime/tf';
import type { Tensor } from '../runtime/tf';
import type { MicroBatch, TrainingRow } from './policy';

/** Per-token values of all rows or of none as [B, T], filled up with zeros. @throws ShapeError for some rows only */
function optionalMatrix(
  rows: readonly TrainingRow[],
  width: number,
  key: 'oldLogProbs' | 'referenceLogProbs',
): Tensor | null {
  const given = rows.filter((row) => row[key] !== undefined).length;
  if (given === 0) return null;
  if (given < rows.length)
    throw new ShapeError(`${key} is given for ${given} of ${rows.length} rows; give it for all or for none`);
  return matrix(
    rows.map((row) => row[key] ?? []),
    width,
  );
}

/** @returns [B, T], filled up with zeros */
function matrix(rows: readonly ArrayLike<number>[], width: number): Tensor {
  const padded = rows.map((row) => Array.from({ length: width }, (_, t) => row[t] ?? 0));
  return tf.tensor2d(padded, [rows.length, width], 'float32');
}

/** A loss with what follows from it at the rows' log-probabilities. */
export interface RowLoss {
  /** The micro-batch's share of the step's loss. */
  value: number;
  metrics: Record<string, number>;
  /** [B][T] dL / d log pi(token t), filled up with zeros to the longest row. */
  coefficients: number[][];
}

/**
 * The loss of a micro-batch at given log-probabilities of its rows' tokens, for policies that do not compute it within a
 * graph: the gradient of every loss is the sum of c_t times the gradient of log pi(token t).
 * @throws ConfigError  when rows lack what the loss needs
 */
export function evaluateRows(batch: MicroBatch, loss: Loss, logProbs: readonly Float32Array[]): RowLoss {
  const rows = batch.groups.flatMap((group) => group.rows);
  const needed = loss.kind === 'weighted' ? 'weights' : loss.kind === 'grpo' ? 'advantage' : null;
  if (needed !== null && rows.some((row) => row[needed] === undefined))
    throw new ConfigError(`a row has no ${needed}; a ${loss.kind} loss needs it for every row`);
  const width = Math.max(1, ...rows.map(({ tokenIds }) => tokenIds.length));
  const result = tf.tidy(() =>
    evaluateLossGradient(loss, matrix(logProbs, width), {
      mask: matrix(
        rows.map(({ mask, tokenIds }) => mask ?? tokenIds.map(() => 1)),
        width,
      ),
      weights: matrix(
        rows.map(({ weights }) => weights ?? []),
        width,
      ),
      advantages: tf.tensor1d(rows.map(({ advantage }) => advantage ?? 0)),
      oldLogProbs: optionalMatrix(rows, width, 'oldLogProbs'),
      referenceLogProbs: optionalMatrix(rows, width, 'referenceLogProbs'),
      totalRows: tf.scalar(batch.totalRows),
      totalTokens: tf.scalar(batch.totalTokens),
      totalMicroBatches: tf.scalar(batch.totalMicroBatches),
    }),
  );
  const entries = Object.entries(result.metrics).map(([key, tensor]) => [key, tensor.dataSync()[0]]);
  const metrics = Object.fromEntries(entries) as Record<string, number>;
  const value = result.loss.dataSync()[0];
  const coefficients = result.coefficients.arraySync() as number[][];
  tf.dispose(result);
  return { value, metrics, coefficients };
}
