/**
 * GRPO (DeepSeekMath, arXiv 2402.03300), one optimiser step: sample G completions for each prompt, reward each, centre
 * and scale rewards inside the group, update the policy with a clipped ratio and a KL penalty to the frozen warm start.
 *
 * Departures from the paper, all settable: log-probabilities are those of logits / temperature, the distribution that was
 * sampled (as TRL); the KL estimate is multiplied by the ratio, so that its gradient is that of KL(policy || reference)
 * (as TRL); advantages are clipped to +-10. Off by default: groups without signal are drawn again (dynamic sampling), and
 * the diversity of a group is a reward of the whole of it (polychromic GRPO).
 */
import { groupAdvantages } from '../optim/advantages';
import type { AdvantageScale } from '../optim/advantages';
import type { GrpoLoss } from '../optim/losses';
import type {
  Completion,
  ForwardBackwardResult,
  Policy,
  Prompt,
  RolloutGroup,
  TrainingGroup,
} from '../policy/policy';
import type { ScoreCompletions } from '../rewards/replies';
import type { RewardResult } from '../rewards/reward';
import { Course, Stopwatch } from './loop';
import type { LoopHooks, LoopResult, OptimiserSettings } from './loop';
import { checkDiversity, collectRollouts, rolloutMetrics } from './rollouts';
import type { MeasureDiversity, RolloutSettings } from './rollouts';
import { chunks, planRun } from './schedule';
import type { PlanSettings } from './schedule';

export interface GrpoSettings extends OptimiserSettings, PlanSettings, RolloutSettings {
  /** Temperature of the log-probabilities in the loss; TRL's is the sampling temperature. */
  lossTemperature: number;
  /** Updates on each batch of rollouts. */
  numIterations: number;
  advantageScale: AdvantageScale;
  advantageClip: number;
  /** Completions without an end token do not count in the loss. */
  maskTruncated: boolean;
  loss: GrpoLoss;
}

/** Rollouts that one step trained on, with their rewards, for the samples file. */
export interface ScoredRollouts {
  step: number;
  groups: RolloutGroup[];
  scores: RewardResult[][];
  /** The first draw of each prompt, when groups without signal were drawn again. */
  first: RolloutGroup[];
}

export interface GrpoHooks extends LoopHooks {
  onRollouts?: (rollouts: ScoredRollouts) => void | Promise<void>;
  /** Needed when `diversityWeight` is not 0. */
  diversity?: MeasureDiversity;
}

/**
 * Trains the policy on the prompts. The policy's reference must have been frozen when `loss.beta` > 0.
 * @throws ConfigError   when a diversity weight has no measure of diversity, or groups are too small for it
 * @throws NumericError  when a reward or diversity is not finite, or three gradients in a row are not
 */
export async function trainGrpo(
  policy: Policy,
  prompts: readonly Prompt[],
  score: ScoreCompletions,
  settings: GrpoSettings,
  hooks: GrpoHooks = {},
): Promise<LoopResult> {
  const judges = { score, diversity: hooks.diversity };
  checkDiversity(settings, judges);
  const { totalSteps, steps } = planRun(prompts.length, settings);
  const course = new Course(policy, settings, totalSteps, hooks);
  for await (const { step, items } of course.left(steps)) {
    const watch = new Stopwatch();
    const begin = performance.now();
    // 1. Sample G completions for each prompt, and reward each; draw groups without signal again.
    const batch = items.map(({ index, visit }) => ({ ...prompts[index], visit }));
    const rollouts = await collectRollouts(policy, batch, judges, settings, watch);
    const groups = rollouts.last.map(({ group }) => group);
    await hooks.onRollouts?.({
      ...{ step, groups, scores: rollouts.last.map(({ scores }) => scores) },
      first: rollouts.first.map(({ group }) => group),
    });
    // 2. Compare each with its group.
    const advantages = groupAdvantages(
      rollouts.last.map(({ signals }) => signals),
      { scale: settings.advantageScale, clip: settings.advantageClip },
    );
    // 3. Log-probabilities under the reference.
    const reference =
      settings.loss.beta > 0
        ? await watch.measure('reference', () => referenceLogProbs(policy, groups, settings))
        : null;
    // 4. Update, numIterations times; from the second on the ratio is to the log-probabilities of the first.
    let old: Float32Array[][] | null = null;
    const results: ForwardBackwardResult[] = [];
    let update: Awaited<ReturnType<Course['update']>> | undefined;
    let skipped = 0;
    for (let iteration = 0; iteration < settings.numIterations; iteration++) {
      const training = groups.map((group, g) =>
        trainingGroup(group, advantages[g], reference?.[g], old?.[g], settings),
      );
      const passes = await watch.measure('forward_backward', () => accumulate(policy, training, settings));
      results.push(...passes);
      old ??= passes.flatMap((pass) => pass.logProbs);
      const ids = batch.map(({ id }) => id);
      update = await watch.measure('optimizer', () => course.update(step, ids));
      skipped += Number(update.skipped);
    }
    const seconds = (performance.now() - begin) / 1000;
    const result = await course.end({
      step,
      ...rolloutMetrics(rollouts),
      ...lossMetrics(results, groups, settings),
      'train/learning_rate': update?.learningRate ?? 0,
      'train/grad_norm': update?.gradNorm ?? 0,
      'train/skipped': skipped,
      'train/seconds': seconds,
      'train/tokens_per_second': rollouts.tokens / seconds,
      ...Object.fromEntries(Object.entries(watch.seconds).map(([name, value]) => [`seconds/${name}`, value])),
    });
    if (result !== null) return result;
  }
  return course.result();
}

/** [groups][rows][T] under the frozen reference, at the loss's temperature. */
async function referenceLogProbs(
  policy: Policy,
  groups: readonly RolloutGroup[],
  { lossTemperature }: GrpoSettings,
): Promise<Float32Array[][]> {
  const sequences = groups.flatMap(({ prompt, completions }) =>
    completions.map(({ tokenIds }) => ({ promptIds: prompt.tokenIds, completionIds: tokenIds })),
  );
  const flat = await policy.logProbs(sequences, { of: 'reference', temperature: lossTemperature });
  let position = 0;
  return groups.map(({ completions }) => flat.slice(position, (position += completions.length)));
}

function trainingGroup(
  { prompt, completions }: RolloutGroup,
  advantages: readonly number[],
  reference: Float32Array[] | undefined,
  old: Float32Array[] | undefined,
  settings: GrpoSettings,
): TrainingGroup {
  const rows = completions.map((completion, i) => ({
    tokenIds: completion.tokenIds,
    mask: isCounted(completion, settings) ? undefined : new Float32Array(completion.tokenIds.length),
    advantage: advantages[i],
    oldLogProbs: old?.[i],
    referenceLogProbs: reference?.[i],
  }));
  return { promptIds: prompt.tokenIds, rows };
}

/** Forward and backward over all micro-batches of a step. */
async function accumulate(
  policy: Policy,
  training: readonly TrainingGroup[],
  { batchSize, loss, lossTemperature }: GrpoSettings,
): Promise<ForwardBackwardResult[]> {
  const rows = training.flatMap((group) => group.rows);
  const totalTokens = rows.reduce(
    (sum, { tokenIds, mask }) => sum + (mask === undefined ? tokenIds.length : 0),
    0,
  );
  const parts = chunks(training, batchSize);
  const results: ForwardBackwardResult[] = [];
  for (const groups of parts) {
    const batch = { groups, totalRows: rows.length, totalTokens, totalMicroBatches: parts.length };
    results.push(await policy.forwardBackward(batch, loss, { temperature: lossTemperature }));
  }
  return results;
}

/** Whether a completion counts in the loss. */
function isCounted({ finishReason }: Completion, { maskTruncated }: GrpoSettings): boolean {
  return !(maskTruncated && finishReason === 'length');
}

/**
 * Sums the micro-batches' shares; entropy is a mean over the tokens that count, the KL penalty over the completions that
 * count. All are of the rollouts trained on, so with dynamic sampling of the last draws, and of several iterations on
 * them the last is reported.
 */
function lossMetrics(
  results: readonly ForwardBackwardResult[],
  groups: readonly RolloutGroup[],
  settings: GrpoSettings,
): Record<string, number> {
  const last = results.slice(results.length - results.length / settings.numIterations);
  const sum = (name: string): number => last.reduce((total, { metrics }) => total + (metrics[name] ?? 0), 0);
  const counted = groups.flatMap(({ completions }) => completions.map((one) => isCounted(one, settings)));
  const rows = counted.filter(Boolean).length;
  // A server may not tell entropies.
  const entropies = last.some((result) => result.entropies === null)
    ? null
    : last.flatMap((result) => result.entropies?.flat() ?? []).filter((_, row) => counted[row]);
  const klLoss = sum('kl_loss');
  // cispo has no lower clipping, and so no shares by side.
  const sides = ['clip_fraction_low', 'clip_fraction_high'].filter(
    (name) => last[0].metrics[name] !== undefined,
  );
  return {
    'train/policy_loss': sum('policy_loss'),
    // Without a KL term there is no reference pass, and no KL to tell.
    ...(settings.loss.beta > 0 && {
      'train/kl_penalty': (sum('kl_per_completion') * counted.length) / Math.max(1, rows),
      'train/kl_per_token': sum('kl_per_token'),
    }),
    'train/total_loss': sum('policy_loss') + settings.loss.beta * klLoss,
    'train/clip_fraction': sum('clip_fraction'),
    ...Object.fromEntries(sides.map((name) => [`train/${name}`, sum(name)])),
    ...(entropies !== null && { 'train/entropy': meanEntropy(entropies) }),
  };
}

/** Nats a token. */
function meanEntropy(entropies: readonly Float32Array[]): number {
  const tokens = entropies.reduce((total, row) => total + row.length, 0);
  return entropies.reduce((total, row) => row.reduce((a, b) => a + b, total), 0) / Math.max(1, tokens);
}
