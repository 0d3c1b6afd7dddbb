/**
 * Supervised fine-tuning: cross-entropy on the reply's tokens and its end-of-turn token, nothing on the prompt; the mean
 * is over the reply tokens of the whole accumulated batch, not a mean of means.
 */
import type { Policy } from '../policy/policy';
import type { SftTrainingExample } from '../rewards/replies';
import { Course } from './loop';
import type { LoopHooks, LoopResult, OptimiserSettings } from './loop';
import { chunks, planRun } from './schedule';
import type { PlanSettings, StepPlan } from './schedule';

/** What `trainSft` needs: the optimiser, and how examples become steps. */
export type SftSettings = OptimiserSettings & PlanSettings;

/**
 * Trains the policy on the examples.
 * Logs `train/loss` (nats a token), `train/learning_rate`, `train/grad_norm`, `train/tokens`, `train/seconds`.
 * @throws NumericError  after three steps in a row without a finite gradient
 */
export async function trainSft(
  policy: Policy,
  examples: readonly SftTrainingExample[],
  settings: SftSettings,
  hooks: LoopHooks = {},
): Promise<LoopResult> {
  const { totalSteps, steps } = planRun(examples.length, settings);
  const course = new Course(policy, settings, totalSteps, hooks);
  for await (const { step, items } of course.left(steps)) {
    const begin = performance.now();
    const { loss, totalTokens } = await accumulateSft(policy, examples, items, settings);
    const ids = items.map(({ index }) => examples[index].id);
    const { gradNorm, learningRate, skipped } = await course.update(step, ids);
    const ended = await course.end({
      step,
      'train/loss': loss,
      'train/learning_rate': learningRate,
      'train/grad_norm': gradNorm,
      'train/skipped': Number(skipped),
      'train/tokens': totalTokens,
      'train/seconds': (performance.now() - begin) / 1000,
    });
    if (ended !== null) return ended;
  }
  return course.result();
}

/** Adds the gradient of a whole step's cross-entropy, micro-batch by micro-batch. @returns the loss, nats a token */
export async function accumulateSft(
  policy: Policy,
  examples: readonly SftTrainingExample[],
  items: StepPlan['items'],
  { batchSize, seed }: SftSettings,
): Promise<{ loss: number; totalTokens: number }> {
  const totalTokens = items.reduce((sum, { index }) => sum + examples[index].completionIds.length, 0);
  const microBatches = chunks(items, batchSize);
  let loss = 0;
  for (const part of microBatches) {
    const groups = part.map(({ index, visit }) => ({
      dropoutKey: { seed, example: examples[index].id, visit },
      promptIds: examples[index].promptIds,
      rows: [{ tokenIds: examples[index].completionIds }],
    }));
    const batch = { groups, totalRows: items.length, totalTokens, totalMicroBatches: microBatches.length };
    loss += (await policy.forwardBackward(batch, { kind: 'cross_entropy' })).loss;
  }
  return { loss, totalTokens };
}

/** Mean negative log-likelihood (nats a token) of the examples' replies. */
export async function sftLoss(policy: Policy, examples: readonly SftTrainingExample[]): Promise<number> {
  const rows = await policy.logProbs(
    examples.map(({ promptIds, completionIds }) => ({ promptIds, completionIds })),
  );
  const tokens = rows.reduce((sum, row) => sum + row.length, 0);
  return -rows.reduce((sum, row) => row.reduce((a, b) => a + b, sum), 0) / tokens;
}
