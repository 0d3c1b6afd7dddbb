/**
 * From logits to a drawn token, in tensors: temperature, top-k, top-p, min-p, inverse CDF. Everything here has static
 * shapes and reads no values, so it can be part of a compiled decode step.
 */
import { gatherRows, pickPerRow } from '../model/ops';
import { ConfigError, ShapeError } from '../runtime/errors';
import type { Tensor } from '../runtime/tf';
import { backend, floatAttribute, intAttribute, tf } from '../runtime/tf';

/** Which tokens may be drawn, and how likely. */
export interface Truncation {
  /** Divides the logits; 0 takes the likeliest token (the first of equal ones). */
  temperature: number;
  /** Keep the logits that are at least the k-th largest; 0 or absent keeps all. */
  topK?: number;
  /** Keep the smallest set of likeliest tokens whose probabilities sum to at least this; 1 or absent keeps all. */
  topP?: number;
  /** Keep tokens at least this many times as probable as the likeliest; 0 or absent keeps all. */
  minP?: number;
}

/** Tokens drawn for every row, with three log-probabilities each (as in `Completion`). */
export type DrawnTokens = {
  /** [B] int32. */
  ids: Tensor;
  /** [B] at temperature 1 over the whole vocabulary. */
  logProbs: Tensor;
  /** [B] of logits / temperature over the whole vocabulary; at temperature 0 those of the limit, which are 0. */
  temperedLogProbs: Tensor;
  /** [B] of the distribution that was drawn from. */
  drawLogProbs: Tensor;
};

/** The top-p threshold is found to 2^-20 nats of logits / temperature, the spacing of float32 numbers between 8 and 16. */
const RESOLUTION_BITS = 20;

/** Width of the blocks of the two-level cumulative sum. */
const BLOCK = 512;

function checkTruncation({ temperature, topK = 0, topP = 1, minP = 0 }: Truncation): void {
  if (!(temperature >= 0 && temperature < Infinity))
    throw new ConfigError(`temperature is ${temperature}; expected a number >= 0`);
  if (!Number.isInteger(topK) || topK < 0)
    throw new ConfigError(`topK is ${topK}; expected an integer >= 0 (0 keeps all tokens)`);
  if (!(topP > 0 && topP <= 1))
    throw new ConfigError(`topP is ${topP}; expected a number above 0 and at most 1 (1 keeps all tokens)`);
  if (!(minP >= 0 && minP <= 1)) throw new ConfigError(`minP is ${minP}; expected a number in 0..1`);
}

/**
 * The largest threshold t on z, up to the resolution, with sum of masses over {z >= t} >= topP * sum of masses.
 *
 * Found by bisection instead of sorting: tokens below exp(z) = (1 - topP) / V cannot together hold the 1 - topP that may
 * be cut, so t lies between -range and 0, for range the power of two above log(V / (1 - topP)); every candidate is then a
 * multiple of 2^-20 that float32 holds exactly. Tokens less than one resolution apart at the threshold are all kept,
 * equal ones above all, of which transformers keeps only as many as are needed, in the order of its sort.
 *
 * The binding's op (`drawOwn`) computes the same from sums over the digits of z, in double precision.
 *
 * @param z       [B, V] logits / temperature minus the row's maximum
 * @param masses  [B, V] exp(z), or 0 for tokens that are out already
 * @returns       [B, 1]
 */
function nucleusThreshold(z: Tensor, masses: Tensor, topP: number): Tensor {
  const vocabulary = z.shape[1] as number;
  const rangeBits = Math.max(0, Math.ceil(Math.log2(Math.log(vocabulary / (1 - topP)))));
  const needed = tf.mul(tf.sum(masses, 1, true), topP); // [B, 1]
  let threshold: Tensor = tf.fill([z.shape[0], 1], -(2 ** rangeBits));
  const zeros = tf.zerosLike(masses);
  for (let bit = rangeBits - 1; bit >= -RESOLUTION_BITS; bit--) {
    const candidate = tf.add(threshold, 2 ** bit);
    const sum = tf.sum(tf.where(tf.greaterEqual(z, candidate), masses, zeros), 1, true);
    threshold = tf.where(tf.greaterEqual(sum, needed), candidate, threshold);
  }
  return threshold;
}

/**
 * Probabilities after temperature, top-k, top-p and min-p, in this order (that of transformers' generate), each acting
 * on what the one before left, renormalised at the end.
 *
 * @param logits  [B, V]; -Infinity excludes a token
 * @returns       [B, V]; rows sum to 1
 * @throws ConfigError  when a setting is out of range
 */
export function truncatedDistribution(logits: Tensor, truncation: Truncation): Tensor {
  checkTruncation(truncation);
  const { temperature, topK = 0, topP = 1, minP = 0 } = truncation;
  const vocabulary = logits.shape[1] as number;
  return tf.tidy(() => {
    if (temperature === 0) return tf.cast(tf.oneHot(tf.argMax(logits, 1).toInt(), vocabulary), 'float32');
    const scaled = temperature === 1 ? logits : tf.div(logits, temperature);
    const z = tf.sub(scaled, tf.max(scaled, 1, true));
    let masses: Tensor = tf.exp(z); // the likeliest token has 1
    const keep = (condition: Tensor): void => {
      masses = tf.where(condition, masses, tf.zerosLike(masses));
    };
    if (topK > 0 && topK < vocabulary) {
      const { values } = tf.topk(z, topK, true);
      keep(tf.greaterEqual(z, tf.slice(values, [0, topK - 1], [-1, 1])));
    }
    if (topP < 1) keep(tf.greaterEqual(z, nucleusThreshold(z, masses, topP)));
    if (minP > 0) keep(tf.greaterEqual(masses, minP));
    return tf.div(masses, tf.sum(masses, 1, true));
  });
}

/**
 * Column of every row where the cumulative sum first exceeds the target, among columns of positive mass. When rounding
 * leaves none (target at or above the last sum), the last column of positive mass.
 * @param masses, cumulative  [B, N]  @param targets [B, 1]  @returns [B] int32
 */
function firstAbove(masses: Tensor, cumulative: Tensor, targets: Tensor): Tensor {
  const n = masses.shape[1] as number;
  const column = tf.range(0, n);
  const score = tf.where(tf.greater(cumulative, targets), tf.sub(2 * n, column), column);
  return tf.argMax(tf.where(tf.greater(masses, 0), score, tf.fill([1, 1], -1)), 1).toInt();
}

/**
 * One token a row by the inverse of the cumulative distribution in token order: the smallest i with
 * p_0 + ... + p_i > u * sum of p. A token of probability 0 is never drawn, whatever u and rounding.
 *
 * The sum runs in two levels, over blocks of 512 tokens and inside one block: a float32 running sum over a vocabulary of
 * 150,000 could be off by 150,000 roundings (1e-2 at worst), this one by some 800 (5e-5 at worst, about 1e-6 typically).
 *
 * @param probabilities  [B, V], >= 0, with a positive sum in every row
 * @param uniforms       [B] in [0, 1]
 * @returns              [B] int32
 * @throws ShapeError  when there is not one uniform number a row
 */
export function drawTokens(probabilities: Tensor, uniforms: Tensor): Tensor {
  const [rows, vocabulary] = probabilities.shape;
  if (uniforms.shape.length !== 1 || uniforms.shape[0] !== rows)
    throw new ShapeError(`uniforms have shape [${uniforms.shape.join()}]; expected [${rows}], one a row`);
  return tf.tidy(() => {
    const width = Math.min(BLOCK, vocabulary);
    const blocks = Math.ceil(vocabulary / width);
    const padding = blocks * width - vocabulary;
    const padded = padding === 0 ? probabilities : tf.pad(probabilities, [[0, 0], [0, padding]]); // prettier-ignore
    const blockSums = tf.sum(tf.reshape(padded, [rows, blocks, width]), 2); // [B, blocks]
    const sumsBefore = tf.cumsum(blockSums, 1, true);
    const sumsThrough = tf.add(sumsBefore, blockSums);
    const total = tf.slice(sumsThrough, [0, blocks - 1], [-1, 1]);
    const targets = tf.mul(tf.reshape(uniforms, [rows, 1]), total);
    const block = firstAbove(blockSums, sumsThrough, targets);
    const blockOffsets = tf.range(0, rows * blocks, blocks, 'int32');
    const inBlock = gatherRows(tf.reshape(padded, [-1, width]), tf.add(blockOffsets, block).toInt()); // [B, width]
    const rest = tf.sub(targets, tf.reshape(pickPerRow(sumsBefore, block), [rows, 1]));
    const within = firstAbove(inBlock, tf.cumsum(inBlock, 1), rest);
    return tf.add(tf.mul(block, tf.scalar(width, 'int32')), within).toInt();
  });
}

/** log softmax of logits at one token a row. @returns [B] */
function logProbsAt(logits: Tensor, ids: Tensor): Tensor {
  return tf.sub(pickPerRow(logits, ids), tf.logSumExp(logits, 1));
}

/**
 * Draws one token a row and tells its log-probabilities.
 *
 * @param logits    [B, V]
 * @param uniforms  [B] in [0, 1]; not used at temperature 0
 * @param bias      [V] or [B, V], added to the logits for the draw only (-Infinity bans a token); null: none
 */
export function sampleTokens(
  logits: Tensor,
  uniforms: Tensor,
  truncation: Truncation,
  bias: Tensor | null = null,
): DrawnTokens {
  const { temperature } = truncation;
  return tf.tidy(() => {
    const probabilities = truncatedDistribution(bias === null ? logits : tf.add(logits, bias), truncation);
    const ids = temperature === 0 ? tf.argMax(probabilities, 1).toInt() : drawTokens(probabilities, uniforms);
    const logProbs = logProbsAt(logits, ids);
    let temperedLogProbs = logProbs.clone();
    if (temperature === 0) temperedLogProbs = tf.zerosLike(logProbs);
    else if (temperature !== 1) temperedLogProbs = logProbsAt(tf.div(logits, temperature), ids);
    return { ids, logProbs, temperedLogProbs, drawLogProbs: tf.log(pickPerRow(probabilities, ids)) };
  });
}

/**
 * As `sampleTokens`, by one op of the binding, on a CPU: sums in double precision, no tensors of [B, V] between.
 *
 * @param logits    [R, V]; row b draws from row floor(b R / B)
 * @param uniforms  [B]
 * @param bias      [V], or [0] for none
 * @returns [4, B] the fields of `DrawnTokens`, in their order
 */
export function drawOwn(logits: Tensor, uniforms: Tensor, truncation: Truncation, bias: Tensor): Tensor {
  checkTruncation(truncation);
  const { temperature, topK = 0, topP = 1, minP = 0 } = truncation;
  const attributes = [
    floatAttribute('temperature', temperature),
    intAttribute('top_k', topK),
    floatAttribute('top_p', topP),
    floatAttribute('min_p', minP),
  ];
  return backend.executeSingleOutput('GrpolabSample', attributes, [logits, uniforms, bias]);
}
