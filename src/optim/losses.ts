/**
 * Training losses as functions of the log-probabilities of the completion tokens. A loss is a description (plain data),
 * so that it can be logged, configured and sent to a remote engine; `evaluateLoss` is its one meaning.
 *
 * The totals in a batch are those of the whole optimiser step. What is returned for a micro-batch is its *share*: shares
 * of all micro-batches add up to the value of the step, for the loss and for every metric.
 */
import { ConfigError, ShapeError } from '../runtime/errors';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';

/** Negative log-likelihood of the counted tokens, a mean over the tokens of the whole step. */
export interface CrossEntropyLoss {
  kind: 'cross_entropy';
}

/** Credit-weighted log-likelihood: weights are credits, so a token of positive weight becomes likelier. */
export interface WeightedLoss {
  kind: 'weighted';
}

/** The GRPO family. */
export interface GrpoLoss {
  kind: 'grpo';
  /**
   * Aggregation of the per-token loss l over N rows:
   * `grpo` mean over rows of the row's token mean; `dr_grpo` sum / (N * maxCompletionLength); `dapo` sum / tokens of the
   * step; `bnpo` sum / tokens of the micro-batch / micro-batches, the only one that depends on how a step is split;
   * `cispo` aggregates as dapo, with -A * detach(min(ratio, epsilonHigh)) * log pi in place of the clipped surrogate.
   */
  type: 'grpo' | 'dr_grpo' | 'bnpo' | 'dapo' | 'cispo';
  /** The ratio is clipped below 1 - epsilonLow. Without use in cispo. */
  epsilonLow: number;
  /** The ratio is clipped above 1 + epsilonHigh; in cispo above epsilonHigh itself. */
  epsilonHigh: number;
  /** Upper bound of the unclipped ratio (two-sided clipping); absent: none. Without use in cispo. */
  delta?: number;
  /** Weight of the KL term; > 0 needs the reference's log-probabilities. */
  beta: number;
  /** Multiplies k3 by the ratio: its gradient is then that of KL(policy || reference), without it of KL(reference || policy). */
  klBiasCorrection: boolean;
  /** `token`: a ratio for each token; `sequence`: one for a row, exp of the mean log-ratio of its tokens (GSPO). */
  ratioLevel: 'token' | 'sequence';
  /** The constant length of dr_grpo. */
  maxCompletionLength: number;
}

/** A loss as data, which can be logged, configured and sent; `evaluateLoss` gives it meaning. */
export type Loss = CrossEntropyLoss | WeightedLoss | GrpoLoss;

/** What the losses of a micro-batch need beside the log-probabilities. Values where the mask is 0 have no effect. */
export interface LossBatch {
  /** [B, T] 1 for tokens that count, 0 for others. */
  mask: Tensor;
  /** [B, T] credits of a `weighted` loss. */
  weights: Tensor;
  /** [B] advantages of a `grpo` loss. */
  advantages: Tensor;
  /** [B, T] log-probabilities under the sampling policy; null: those of this very pass, as constants. */
  oldLogProbs: Tensor | null;
  /** [B, T] log-probabilities under the reference; null: no KL term and no KL metrics. */
  referenceLogProbs: Tensor | null;
  /** Scalars: rows, counted tokens and micro-batches of the whole step. */
  totalRows: Tensor;
  totalTokens: Tensor;
  totalMicroBatches: Tensor;
}

/** A micro-batch's share of the step's loss, and of its diagnostics. */
export type LossValue = {
  /** Scalar. */
  loss: Tensor;
  /** Scalars; for `grpo` those of `grpoLoss`, none for other kinds. */
  metrics: Record<string, Tensor>;
};

/** The same value, with a gradient of zero. */
export function detach(x: Tensor): Tensor {
  return tf.customGrad((value) => ({
    value: (value as Tensor).clone(),
    gradFunc: (dy: Tensor) => tf.zerosLike(dy),
  }))(x);
}

/** x where the mask is 1, and 0 elsewhere even if x is not finite there; so is the gradient. */
function masked(x: Tensor, mask: Tensor): Tensor {
  return tf.where(tf.greater(mask, 0), x, tf.zerosLike(x));
}

function requireShape(name: string, tensor: Tensor, shape: readonly number[]): void {
  if (tensor.shape.join() !== shape.join())
    throw new ShapeError(`${name} has shape [${tensor.shape.join()}]; expected [${shape.join()}]`);
}

/** log(policy / sampling policy), 0 where masked. @returns [B, T], or [B, 1] at sequence level */
function logRatios(loss: GrpoLoss, logProbs: Tensor, batch: LossBatch): Tensor {
  const old = batch.oldLogProbs ?? detach(logProbs);
  const perToken = masked(tf.sub(logProbs, old), batch.mask);
  if (loss.ratioLevel === 'token') return perToken;
  const tokens = tf.maximum(tf.sum(batch.mask, 1, true), 1); // [B, 1]
  return tf.div(tf.sum(perToken, 1, true), tokens);
}

/**
 * Per-token policy loss, before the KL term: -min(r A, clip(r, 1 - epsilonLow, 1 + epsilonHigh) A) with r bounded by
 * delta in its unclipped use; cispo: -A detach(min(r, epsilonHigh)) log pi.
 * @returns [B, T] or [B, 1], not masked
 */
function surrogate(loss: GrpoLoss, ratio: Tensor, advantages: Tensor, logProbs: Tensor): Tensor {
  if (loss.type === 'cispo')
    return tf.neg(tf.mul(tf.mul(detach(tf.minimum(ratio, loss.epsilonHigh)), advantages), logProbs));
  const clipped = tf.clipByValue(ratio, 1 - loss.epsilonLow, 1 + loss.epsilonHigh);
  const bounded = loss.delta === undefined ? ratio : tf.minimum(ratio, loss.delta);
  return tf.neg(tf.minimum(tf.mul(bounded, advantages), tf.mul(clipped, advantages)));
}

/** Sum over a micro-batch's per-token values [B, T] by the loss's type, divided by the step's normaliser. */
function aggregate(loss: GrpoLoss, perToken: Tensor, batch: LossBatch): Tensor {
  const { mask } = batch;
  const sum = tf.sum(perToken);
  switch (loss.type) {
    case 'grpo': {
      const rowMeans = tf.div(tf.sum(perToken, 1), tf.maximum(tf.sum(mask, 1), 1)); // [B]
      return tf.div(tf.sum(rowMeans), batch.totalRows);
    }
    case 'dr_grpo':
      return tf.div(sum, tf.mul(batch.totalRows, loss.maxCompletionLength));
    case 'bnpo':
      return tf.div(tf.div(sum, tf.maximum(tf.sum(mask), 1)), batch.totalMicroBatches);
    case 'dapo':
    case 'cispo':
      return tf.div(sum, tf.maximum(batch.totalTokens, 1));
  }
}

/**
 * Shares of tokens (rows, at sequence level) whose ratio was clipped where clipping takes the gradient away:
 * low: r < 1 - epsilonLow with A < 0; high: r > 1 + epsilonHigh with A > 0; region: either.
 * cispo has one: r > epsilonHigh with A > 0.
 */
function clipMetrics(
  loss: GrpoLoss,
  ratio: Tensor,
  advantages: Tensor,
  batch: LossBatch,
): Record<string, Tensor> {
  const isToken = loss.ratioLevel === 'token';
  const total = isToken ? tf.maximum(batch.totalTokens, 1) : batch.totalRows;
  const share = (condition: Tensor): Tensor => {
    const hits = tf.cast(condition, 'float32');
    return tf.div(tf.sum(isToken ? tf.mul(hits, batch.mask) : hits), total);
  };
  const isRaised = tf.greater(advantages, 0);
  if (loss.type === 'cispo')
    return { clip_fraction: share(tf.logicalAnd(tf.greater(ratio, loss.epsilonHigh), isRaised)) };
  const low = share(tf.logicalAnd(tf.less(ratio, 1 - loss.epsilonLow), tf.less(advantages, 0)));
  const high = share(tf.logicalAnd(tf.greater(ratio, 1 + loss.epsilonHigh), isRaised));
  return { clip_fraction_low: low, clip_fraction_high: high, clip_fraction: tf.add(low, high) };
}

/**
 * The GRPO family: aggregate(surrogate + beta * kl), with ratio r = exp(log pi - log pi_old), k3 = exp(d) - d - 1 for
 * d = log pi_ref - log pi, and kl = k3, or r * k3 with klBiasCorrection.
 *
 * Metrics, each this micro-batch's share of the step's value:
 * `policy_loss` aggregate(surrogate); `kl_loss` aggregate(kl), without beta, so loss = policy_loss + beta * kl_loss;
 * `kl_per_token` mean of kl over tokens (TRL's `kl`); `kl_per_completion` mean over rows of the sum of k3 over tokens,
 * without the ratio; `clip_fraction`, `clip_fraction_low`, `clip_fraction_high` (TRL's `clip_ratio/region_mean`,
 * `low_mean`, `high_mean`; of cispo only the first, TRL's `cispo_clip_ratio`).
 *
 * Source: TRL 1.16 GRPOTrainer; DeepSeekMath arXiv 2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, GSPO 2507.18071,
 * CISPO 2506.13585; k3: J. Schulman, "Approximating KL divergence", 2020.
 */
function grpoLoss(loss: GrpoLoss, logProbs: Tensor, batch: LossBatch): LossValue {
  const { mask, referenceLogProbs } = batch;
  const advantages = tf.reshape(batch.advantages, [-1, 1]); // [B, 1]
  const ratio = tf.exp(logRatios(loss, logProbs, batch));
  const perToken = tf.mul(surrogate(loss, ratio, advantages, masked(logProbs, mask)), mask); // [B, T]
  const policyLoss = aggregate(loss, perToken, batch);
  const metrics: Record<string, Tensor> = {
    policy_loss: policyLoss,
    ...clipMetrics(loss, ratio, advantages, batch),
  };
  if (referenceLogProbs === null) return { loss: policyLoss.clone(), metrics };
  const difference = masked(tf.sub(referenceLogProbs, logProbs), mask);
  const k3 = tf.sub(tf.sub(tf.exp(difference), difference), 1); // 0 where masked
  const kl = loss.klBiasCorrection ? tf.mul(k3, ratio) : k3;
  metrics.kl_loss = aggregate(loss, kl, batch);
  metrics.kl_per_token = tf.div(tf.sum(kl), tf.maximum(batch.totalTokens, 1));
  metrics.kl_per_completion = tf.div(tf.sum(k3), batch.totalRows);
  const total = loss.beta === 0 ? policyLoss.clone() : tf.add(policyLoss, tf.mul(metrics.kl_loss, loss.beta));
  return { loss: total, metrics };
}

/** The names of a loss's metrics, in the order in which `evaluateLoss` gives them. */
export function lossMetricNames(loss: Loss, hasReference: boolean): string[] {
  if (loss.kind !== 'grpo') return [];
  const clipped = loss.type === 'cispo' ? [] : ['clip_fraction_low', 'clip_fraction_high'];
  const kl = hasReference ? ['kl_loss', 'kl_per_token', 'kl_per_completion'] : [];
  return ['policy_loss', ...clipped, 'clip_fraction', ...kl];
}

function checkBatch(loss: Loss, logProbs: Tensor, batch: LossBatch): void {
  const [rows] = logProbs.shape;
  requireShape('mask', batch.mask, logProbs.shape);
  if (loss.kind === 'weighted') requireShape('weights', batch.weights, logProbs.shape);
  if (loss.kind !== 'grpo') return;
  requireShape('advantages', batch.advantages, [rows]);
  if (batch.oldLogProbs !== null) requireShape('oldLogProbs', batch.oldLogProbs, logProbs.shape);
  if (batch.referenceLogProbs !== null)
    requireShape('referenceLogProbs', batch.referenceLogProbs, logProbs.shape);
  else if (loss.beta > 0)
    throw new ConfigError(
      `beta is ${loss.beta}, but the batch has no reference log-probabilities: give referenceLogProbs, or set beta to 0`,
    );
}

/**
 * A loss of a micro-batch. Static shapes and no value reads: it can be part of a compiled function.
 *
 * cross_entropy: -sum(mask * log pi) / totalTokens. weighted: -sum(mask * weights * log pi), with no normaliser: the
 * credits carry it. grpo: see `grpoLoss`.
 *
 * @param logProbs  [B, T] natural log-probabilities of the completion tokens
 * @throws ShapeError   when the batch's tensors do not fit logProbs
 * @throws ConfigError  when beta > 0 and there is no reference
 */
export function evaluateLoss(loss: Loss, logProbs: Tensor, batch: LossBatch): LossValue {
  checkBatch(loss, logProbs, batch);
  return tf.tidy(() => {
    switch (loss.kind) {
      case 'cross_entropy': {
        const sum = tf.sum(masked(logProbs, batch.mask));
        return { loss: tf.div(tf.neg(sum), tf.maximum(batch.totalTokens, 1)), metrics: {} };
      }
      case 'weighted': {
        const credited = tf.mul(masked(batch.weights, batch.mask), masked(logProbs, batch.mask));
        return { loss: tf.neg(tf.sum(credited)), metrics: {} };
      }
      case 'grpo':
        return grpoLoss(loss, logProbs, batch);
    }
  });
}

/**
 * A loss with its coefficients c = dL / d log pi: the gradient of every loss here is sum c_t * grad log pi(token t).
 * Traceable, as `evaluateLoss`.
 * @returns coefficients [B, T], 0 where the mask is 0
 */
export function evaluateLossGradient(
  loss: Loss,
  logProbs: Tensor,
  batch: LossBatch,
): LossValue & { coefficients: Tensor } {
  return tf.tidy(() => {
    // The forward pass of tf.grad frees all but the loss, so the metrics are evaluated beside it: [B, T] is small.
    const coefficients = tf.grad((x: Tensor) => evaluateLoss(loss, x, batch).loss)(logProbs);
    return { ...evaluateLoss(loss, logProbs, batch), coefficients };
  });
}
