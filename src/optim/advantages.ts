/**
 * Advantages: how much better a completion is than its group. Plain numbers, no tensors.
 */
import { NumericError, ShapeError } from '../runtime/errors';

/** Added to the standard deviation, as TRL does. */
const EPSILON = 1e-4;
/** Below this standard deviation a group's rewards are equal but for rounding. */
const NO_SIGNAL = 1e-8;

/** `group`: divide by the group's standard deviation; `batch`: by that of all rewards; `none`: only centre. */
export type AdvantageScale = 'group' | 'batch' | 'none';

/** How advantages are scaled and clipped. */
export interface AdvantageOptions {
  /** Default `group`. */
  scale?: AdvantageScale;
  /** Advantages are clipped to ±clip; default 10. */
  clip?: number;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Standard deviation with divisor n - 1. */
export function sampleDeviation(values: readonly number[]): number {
  const centre = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - centre) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1));
}

function checkRewards(rewards: readonly (readonly number[])[]): void {
  rewards.forEach((group, index) => {
    if (group.length < 2)
      throw new ShapeError(
        `group ${index} has ${group.length} reward(s); expected at least 2, because an advantage is relative to the group`,
      );
    if (!group.every(Number.isFinite))
      throw new NumericError(`group ${index} has a reward that is not finite: ${group.join(', ')}`);
  });
}

/** True when the rewards (or other signals) of a group are all equal (standard deviation < 1e-8), so that it teaches nothing. */
export function hasNoSignal(group: readonly number[]): boolean {
  return sampleDeviation(group) < NO_SIGNAL;
}

/**
 * Group-relative advantages: A_i = (r_i - mean of its group) / (s + 1e-4), clipped to ±clip, with s the sample standard
 * deviation (divisor n - 1) of the group or, for `batch`, of all rewards; `none` does not divide.
 * A group without signal (standard deviation < 1e-8) gets zeros.
 *
 * @param rewards  [B][G]; groups may differ in size
 * @returns        [B][G]; every row sums to 0 before clipping
 * @throws ShapeError    when a group has fewer than 2 rewards
 * @throws NumericError  when a reward is not finite
 * Source: DeepSeekMath, arXiv 2402.03300 section 4.1; TRL 1.16 for 1e-4 and divisor. Ours: clip, exact zeros.
 */
export function groupAdvantages(
  rewards: readonly (readonly number[])[],
  { scale = 'group', clip = 10 }: AdvantageOptions = {},
): number[][] {
  checkRewards(rewards);
  const batchDeviation = scale === 'batch' ? sampleDeviation(rewards.flat()) : 0;
  return rewards.map((group) => {
    const deviation = sampleDeviation(group);
    if (deviation < NO_SIGNAL) return group.map(() => 0);
    const divisor = scale === 'none' ? 1 : (scale === 'group' ? deviation : batchDeviation) + EPSILON;
    const centre = mean(group);
    return group.map((reward) => Math.min(clip, Math.max(-clip, (reward - centre) / divisor)));
  });
}

/**
 * Rewards of a group with its diversity D as a reward of the whole set, as input of `groupAdvantages`:
 * s_i = r_i + w (G - 1) c_i, with leave-one-out credits c_i = D - D_without_i.
 *
 * The objective J = E[mean_i r_i + w D(y_1..y_G)] has the gradient E[(1/G) sum_i (r_i + w G c_i) grad log pi(y_i)], as
 * D_without_i does not depend on y_i. Subtracting the group's mean, which contains completion i itself, leaves
 * (G - 1)/G of the gradient of the rewards. Credits of a D that is a mean over pairs sum to 0, so their part would keep
 * its whole size: the factor G - 1 in place of G shrinks it alike. Unscaled, the expected gradient is then
 * (G - 1)/G grad J, so that w weighs D against the reward exactly; `leaveOneOut` of the same s_i gives grad J itself.
 * For another D (distinct-2, self-BLEU) centring also takes the mean credit, D less the mean of the D_without_i: the same
 * holds for J with the D of G - 1 completions in place of G.
 *
 * @param rewards  [G]
 * @param credits  [G], of the same completions
 * @returns        [G]
 * @throws ShapeError  when there are not as many credits as rewards
 * Source: derived here; the enumeration in the test proves it.
 */
export function withDiversity(
  rewards: readonly number[],
  credits: readonly number[],
  weight: number,
): number[] {
  if (credits.length !== rewards.length)
    throw new ShapeError(`${rewards.length} rewards have ${credits.length} credits; expected one for each`);
  return rewards.map((reward, i) => reward + weight * (rewards.length - 1) * credits[i]);
}

/**
 * Rewards minus the mean of the *other* rewards of the group: A_i = r_i - mean_{j != i} r_j = (r_i - mean) G / (G - 1).
 * The baseline does not depend on completion i, so (1/G) sum_i A_i grad log pi(y_i) is an unbiased estimate of grad E[r].
 *
 * @param rewards  [B][G]
 * @returns        [B][G]; every row sums to 0
 * @throws ShapeError    when a group has fewer than 2 rewards
 * @throws NumericError  when a reward is not finite
 * Source: Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019.
 */
export function leaveOneOut(rewards: readonly (readonly number[])[]): number[][] {
  checkRewards(rewards);
  return rewards.map((group) => {
    const centre = mean(group);
    return group.map((reward) => ((reward - centre) * group.length) / (group.length - 1));
  });
}
