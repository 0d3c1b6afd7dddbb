/**
 * GRPO (DeepSeekMath, arXiv 2402.03300), one optimiser step: sample G completions for each prompt, reward each, centre
 * and scale rewards inside the group, update the policy with a clipped ratio and a KL penalty to the frozen warm start.
 *
 * Departures from the paper, all settable: log-probabilities are those of logits / temperature, the distribution that was
 * sampled (as TRL); the KL estimate is multiplied by the ratio, so that its gradient is that of KL(policy || reference)
 * (as TRL); advantages are clipped to +-10.
 */
import { groupAdvantages, hasNoSignal } from '../optim/advantages';
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
import { NumericError } from '../runtime/errors';
import { evaluateWhenDue, meanOf, Stopwatch, Updater } from './loop';
import type { LoopHooks, LoopResult, OptimiserSettings, StepRecord } from './loop';
import { chunks, countSteps, planSteps } from './schedule';

export interface GrpoSettings extends OptimiserSettings {
  epochs: number;
  /** Replaces the number of steps that the epochs make. */
  maxSteps?: number;
  /** Prompts of a micro-batch. */
  batchSize: number;
  /** Micro-batches of an optimiser step. */
  accumulation: number;
  /** G, completions a prompt. */
  groupSize: number;
  temperature: number;
  topP: number;
  topK: number;
  maxNewTokens: number;
  minNewTokens: number;
  /** Tokens that end a completion; default: the policy's own. */
  stopTokenIds?: readonly number[];
  /** Temperature of the log-probabilities in the loss; TRL's is the sampling temperature. */
  lossTemperature: number;
  /** Updates on each batch of rollouts. */
  numIterations: number;
  advantageScale: AdvantageScale;
  advantageClip: number;
  /** Completions without an end token do not count in the loss. */
  maskTruncated: boolean;
  loss: GrpoLoss;
  seed: number;
}

/** Rollouts of one step with their rewards, for the samples file. */
export interface ScoredRollouts {
  step: number;
  groups: RolloutGroup[];
  scores: RewardResult[][];
}

/** Trains the policy on the prompts. The policy's reference must have been frozen when `loss.beta` > 0. */
export async function trainGrpo(
  policy: Policy,
  prompts: readonly Prompt[],
  score: ScoreCompletions,
  settings: GrpoSettings,
  hooks: LoopHooks & { onRollouts?: (rollouts: ScoredRollouts) => void | Promise<void> } = {},
): Promise<LoopResult> {
  const perStep = settings.batchSize * settings.accumulation;
  const totalSteps = countSteps(prompts.length, perStep, settings.epochs, settings.maxSteps);
  const limit = settings.maxSteps === undefined ? Math.ceil(prompts.length * settings.epochs) : Infinity;
  const updater = new Updater(policy, settings, totalSteps);
  const history: StepRecord[] = [];
  const report = async (record: StepRecord): Promise<void> => {
    history.push(record);
    await hooks.onStep?.(record, totalSteps);
  };
  const first = await evaluateWhenDue(hooks, 0, false);
  if (Object.keys(first).length > 0) await report({ step: 0, ...first });
  for (const { step, items } of planSteps(prompts.length, perStep, totalSteps, settings.seed, limit)) {
    const watch = new Stopwatch();
    const begin = performance.now();
    // 1. Sample G completions for each prompt.
    const batch = items.map(({ index, visit }) => ({ ...prompts[index], visit }));
    const groups = await watch.measure('generate', () =>
      policy.sample(batch, { ...settings, stream: 'rollout' }),
    );
    // 2. Reward each, and compare it with its group.
    const scores = await watch.measure('reward', () => scoreGroups(groups, score));
    const rewards = scores.map((group) => group.map(({ total }) => total));
    const advantages = groupAdvantages(rewards, {
      scale: settings.advantageScale,
      clip: settings.advantageClip,
    });
    await hooks.onRollouts?.({ step, groups, scores });
    // 3. Log-probabilities under the reference.
    const reference =
      settings.loss.beta > 0
        ? await watch.measure('reference', () => referenceLogProbs(policy, groups, settings))
        : null;
    // 4. Update, numIterations times; from the second on the ratio is to the log-probabilities of the first.
    let old: Float32Array[][] | null = null;
    const results: ForwardBackwardResult[] = [];
    let update: Awaited<ReturnType<Updater['update']>> | undefined;
    for (let iteration = 0; iteration < settings.numIterations; iteration++) {
      const training = groups.map((group, g) =>
        trainingGroup(group, advantages[g], reference?.[g], old?.[g], settings),
      );
      const passes = await watch.measure('forward_backward', () => accumulate(policy, training, settings));
      results.push(...passes);
      old ??= passes.flatMap((pass) => pass.logProbs);
      update = await watch.measure('optimizer', () => updater.update(step));
      if (update.skipped)
        hooks.onSkipped?.(
          step,
          batch.map(({ id }) => id),
        );
    }
    const last = step === totalSteps || hooks.signal?.aborted === true;
    await report({
      step,
      ...rolloutMetrics(groups, scores, rewards),
      ...lossMetrics(results, groups, settings),
      'train/learning_rate': update?.learningRate ?? 0,
      'train/grad_norm': update?.gradNorm ?? 0,
      'train/skipped': Number(update?.skipped ?? false),
      'train/seconds': (performance.now() - begin) / 1000,
      ...Object.fromEntries(Object.entries(watch.seconds).map(([name, value]) => [`seconds/${name}`, value])),
      ...(await evaluateWhenDue(hooks, step, last)),
    });
    if (last) return { steps: step, history, interrupted: step < totalSteps };
  }
  return { steps: totalSteps, history, interrupted: false };
}

async function scoreGroups(
  groups: readonly RolloutGroup[],
  score: ScoreCompletions,
): Promise<RewardResult[][]> {
  const flat = await score(
    groups.flatMap(({ prompt, completions }) => completions.map((completion) => ({ prompt, completion }))),
  );
  const bad = flat.findIndex(({ total }) => !Number.isFinite(total));
  if (bad >= 0)
    throw new NumericError(`the reward of a completion is ${flat[bad].total}; expected a finite number`);
  let position = 0;
  return groups.map(({ completions }) => flat.slice(position, (position += completions.length)));
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

function rolloutMetrics(
  groups: readonly RolloutGroup[],
  scores: readonly RewardResult[][],
  rewards: readonly number[][],
): Record<string, number> {
  const completions = groups.flatMap((group) => group.completions);
  const flat = scores.flat();
  const spreads = rewards.map((group) => {
    const mean = meanOf(group);
    return Math.sqrt(group.reduce((sum, r) => sum + (r - mean) ** 2, 0) / Math.max(1, group.length - 1));
  });
  const components = Object.keys(flat[0]?.components ?? {});
  return {
    'train/avg_reward': meanOf(flat.map(({ total }) => total)),
    'train/reward_std': meanOf(spreads),
    'train/zero_signal_share': meanOf(rewards.map((group) => Number(hasNoSignal(group)))),
    ...Object.fromEntries(
      components.map((name) => [`reward/${name}`, meanOf(flat.map((one) => one.components[name]))]),
    ),
    'train/completion_tokens': meanOf(completions.map(({ tokenIds }) => tokenIds.length)),
    'train/truncated_share': meanOf(completions.map(({ finishReason }) => Number(finishReason === 'length'))),
  };
}

/** Whether a completion counts in the loss. */
function isCounted({ finishReason }: Completion, { maskTruncated }: GrpoSettings): boolean {
  return !(maskTruncated && finishReason === 'length');
}

/**
 * Sums the micro-batches' shares; entropy is a mean over the tokens that count, the KL penalty over the completions that
 * count. Of several iterations on the same rollouts, the last is reported.
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
  const entropies = last.flatMap((result) => result.entropies.flat()).filter((_, row) => counted[row]);
  const tokens = entropies.reduce((total, row) => total + row.length, 0);
  const klLoss = sum('kl_loss');
  return {
    'train/policy_loss': sum('policy_loss'),
    'train/kl_penalty': (sum('kl_per_completion') * counted.length) / Math.max(1, rows),
    'train/kl_per_token': sum('kl_per_token'),
    'train/total_loss': sum('policy_loss') + settings.loss.beta * klLoss,
    'train/clip_fraction': sum('clip_fraction'),
    'train/entropy':
      entropies.reduce((total, row) => row.reduce((a, b) => a + b, total), 0) / Math.max(1, tokens),
  };
}
