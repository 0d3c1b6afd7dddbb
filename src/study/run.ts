/** The steps of a small test that compute: a phase of training, and the replies to the held-out tweets. */
import path from 'node:path';
import { worldQuality } from '../data/world-law';
import { evaluateReplies } from '../eval/replies';
import type { ReplyEvaluation, ReplyEvaluationOptions } from '../eval/replies';
import { parseExperiment } from '../train/config';
import type { Experiment } from '../train/experiment-schema';
import { runExperiment } from '../train/run';
import type { RunHooks, RunResult } from '../train/run';
import type { SmallTest } from './prepare';
import { MAX_LENGTH, MAX_NEW_TOKENS } from './settings';

/** SFT is the warm start, GRPO goes on from it. */
export type SmallTestMethod = 'sft' | 'grpo';

/**
 * The experiment of a phase, in `<output>/sft` or `<output>/grpo`; GRPO starts from the adapter that SFT left. Whoever runs
 * it gives `train` (`split.phase1` for SFT, `split.phase2` for GRPO) and `reward` with it, as `trainSmallTest` does.
 */
export function smallTestExperiment(
  method: SmallTestMethod,
  { settings }: Pick<SmallTest, 'settings'>,
): Experiment {
  const { model, output, seed, sftEpochs, grpoSteps, learningRate } = settings;
  const training = { batch_size: 8, gradient_accumulation_steps: 1, eval_steps: 0, max_length: MAX_LENGTH };
  const common = {
    ...{ method, model, seed },
    data: { train: 'split' },
    output_dir: path.join(output, method),
  };
  if (method === 'sft')
    return parseExperiment({ ...common, training: { ...training, epochs: sftEpochs, learning_rate: 2e-4 } });
  return parseExperiment({
    ...common,
    checkpoint_path: path.join(output, 'sft'),
    training: { ...training, max_steps: grpoSteps, learning_rate: learningRate, warmup_ratio: 0.05 },
    grpo: { n_generations: 8, temperature: 1, top_p: 1, max_new_tokens: MAX_NEW_TOKENS, kl_coeff: 0.05 },
  });
}

/**
 * Trains one phase. After SFT the policy is its own reference: the KL of an evaluation is that to the warm start before
 * GRPO as after it. (With a runner of your own, call `policy.freezeReference()` on what SFT left.)
 *
 * @param hooks  as those of `runExperiment`: `overwrite` or `resume` where the directory may hold a run
 * @returns      the run; the caller disposes its policy
 * @throws ConfigError, DataError, CheckpointError, NumericError  as `runExperiment`
 */
export async function trainSmallTest(
  method: SmallTestMethod,
  test: Pick<SmallTest, 'settings' | 'split' | 'reward'>,
  hooks: Omit<RunHooks, 'train' | 'evaluation' | 'reward'> = {},
): Promise<RunResult> {
  const { split, reward } = test;
  const train = method === 'sft' ? split.phase1 : split.phase2;
  const run = await runExperiment(smallTestExperiment(method, test), { ...hooks, train, reward });
  if (method === 'sft') run.policy.freezeReference();
  return run;
}

/**
 * A policy's replies to the held-out tweets, scored by the test's reward and, where the tweets are the embedded world's, by
 * its law. Draws depend on the seed and the tweet only: the policies before and after GRPO are compared in pairs.
 *
 * @param run  its policy's reference is the warm start: `trainSmallTest` has made it so
 * @throws the reason of `signal` when it is aborted
 */
export function evaluateSmallTest(
  { policy, tokenizer }: Pick<RunResult, 'policy' | 'tokenizer'>,
  { prompts, reward, isWorld, settings }: Pick<SmallTest, 'prompts' | 'reward' | 'isWorld' | 'settings'>,
  { signal, onProgress }: Pick<ReplyEvaluationOptions, 'signal' | 'onProgress'> = {},
): Promise<ReplyEvaluation> {
  const { generations, seed } = settings;
  return evaluateReplies(policy, prompts, tokenizer, reward, {
    ...{ generations, temperature: 0.8, topP: 0.9, maxNewTokens: MAX_NEW_TOKENS, seed, signal, onProgress },
    examiner: isWorld ? (tweet, reply) => worldQuality(tweet, reply).total : undefined,
  });
}
