/** One experiment from its description to a finished run directory. */
import { readModelConfig } from '../model/config';
import { resolveModel } from '../model/hub';
import { loadTokenizer } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import { readRecords } from '../data/records';
import { LocalPolicy } from '../policy/local';
import { loadReward } from '../rewards/config';
import { replyScorer, replyText, sftExamples, tweetPrompts } from '../rewards/replies';
import type { ReplyRecord } from '../rewards/replies';
import type { Reward } from '../rewards/reward';
import { ConfigError } from '../runtime/errors';
import { tf } from '../runtime/tf';
import { adapterConfig, grpoSettings, sftSettings } from './config';
import type { Experiment } from './config';
import { trainGrpo } from './grpo';
import type { ScoredRollouts } from './grpo';
import { meanOf } from './loop';
import type { LoopResult, StepRecord } from './loop';
import { RunDirectory } from './run-directory';
import { sftLoss, trainSft } from './sft';

/** What a caller may give and watch. */
export interface RunHooks {
  onStep?: (record: StepRecord, totalSteps: number) => void;
  notify?: (line: string) => void;
  signal?: AbortSignal;
  /** Records instead of those of `data.train` and `data.eval`. */
  train?: readonly ReplyRecord[];
  evaluation?: readonly ReplyRecord[];
  /** A reward instead of the one that `reward` names. */
  reward?: Reward;
}

export interface RunResult extends LoopResult {
  directory: string;
  policy: LocalPolicy;
  tokenizer: Tokenizer;
}

async function collect(file: string, limit = Infinity): Promise<ReplyRecord[]> {
  const records: ReplyRecord[] = [];
  for await (const { value } of readRecords(file)) {
    if (records.length >= limit) break;
    records.push(value);
  }
  return records;
}

/** Memory and tensors, for every row of the metrics. */
function resources(): Record<string, number> {
  return { 'system/tensors': tf.memory().numTensors, 'system/rss_bytes': process.memoryUsage().rss };
}

/**
 * Runs an experiment: `method: sft` or `grpo`, from `checkpoint_path` when given, else from a fresh adapter. The caller
 * disposes the policy of the result.
 * @throws ConfigError, DataError, CheckpointError  before anything is written where possible
 */
export async function runExperiment(experiment: Experiment, hooks: RunHooks = {}): Promise<RunResult> {
  const { data, training } = experiment;
  const modelDirectory = await resolveModel(experiment.model);
  const tokenizer = await loadTokenizer(modelDirectory);
  readModelConfig(modelDirectory);
  const records = hooks.train ?? (await collect(data.train, data.max_examples));
  const evaluation =
    hooks.evaluation ?? (data.eval === undefined ? [] : await collect(data.eval, data.max_eval_examples));
  if (records.length === 0) throw new ConfigError(`${data.train}: there are no records to train on`);
  const policy = LocalPolicy.load({
    modelDirectory,
    adapterDirectory: experiment.checkpoint_path,
    lora: adapterConfig(experiment),
    seed: experiment.seed,
  });
  try {
    const notify = hooks.notify ?? (() => undefined);
    const run = await RunDirectory.open(experiment.output_dir, experiment, notify);
    run.log(`${experiment.method} on ${records.length} records, model ${experiment.model}`);
    const onStep = (record: StepRecord, totalSteps: number): void => {
      Object.assign(record, resources());
      run.metrics(record);
      hooks.onStep?.(record, totalSteps);
    };
    const loopHooks = { onStep, signal: hooks.signal, evalEvery: training.eval_steps };
    let result: LoopResult;
    let degraded: readonly string[] = [];
    if (experiment.method === 'sft') {
      const examples = sftExamples(records, tokenizer, training.max_length, data.train);
      const held = sftExamples(evaluation, tokenizer, training.max_length, data.eval);
      const evaluate = async (): Promise<Record<string, number>> => ({
        'eval/loss': await sftLoss(policy, held),
      });
      result = await trainSft(policy, examples, sftSettings(experiment), {
        ...loopHooks,
        evaluate: held.length > 0 ? evaluate : undefined,
      });
    } else {
      const reward = hooks.reward ?? (await loadReward(experiment.reward));
      degraded = reward.degraded;
      for (const name of degraded) run.log(`degraded: ${name}`);
      policy.freezeReference();
      result = await runGrpo(experiment, policy, tokenizer, reward, records, evaluation, run, loopHooks);
    }
    await run.finish(policy, experiment, result, degraded);
    return { ...result, directory: experiment.output_dir, policy, tokenizer };
  } catch (error) {
    policy.dispose();
    throw error;
  }
}

async function runGrpo(
  experiment: Experiment,
  policy: LocalPolicy,
  tokenizer: Tokenizer,
  reward: Reward,
  records: readonly ReplyRecord[],
  evaluation: readonly ReplyRecord[],
  run: RunDirectory,
  hooks: {
    onStep: (record: StepRecord, totalSteps: number) => void;
    signal?: AbortSignal;
    evalEvery: number;
  },
): Promise<LoopResult> {
  const settings = grpoSettings(experiment);
  const maxLength = experiment.training.max_length;
  const prompts = tweetPrompts(records, tokenizer, maxLength);
  const held = tweetPrompts(evaluation, tokenizer, maxLength);
  const scoreHeld = replyScorer(held, tokenizer, reward);
  const evaluate = async (): Promise<Record<string, number>> => {
    const groups = await policy.sample(held, { ...settings, groupSize: 1, stream: 'evaluation' });
    const scores = await scoreHeld(
      groups.map(({ prompt, completions: [completion] }) => ({ prompt, completion })),
    );
    return { 'eval/reward': meanOf(scores.map(({ total }) => total)) };
  };
  const characters = new Map<number, number>();
  const onRollouts = ({ step, groups, scores }: ScoredRollouts): void => {
    const replies = groups.map(({ completions }) =>
      completions.map((completion) => replyText(completion, tokenizer)),
    );
    characters.set(step, meanOf(replies.flat().map((reply) => [...reply].length)));
    groups.forEach(({ prompt }, g) =>
      run.sample({
        step,
        prompt_id: prompt.id,
        replies: replies[g],
        rewards: scores[g].map(({ total }) => total),
      }),
    );
  };
  return trainGrpo(policy, prompts, replyScorer(prompts, tokenizer, reward), settings, {
    ...hooks,
    onStep: (record, totalSteps) => {
      const length = characters.get(record.step);
      if (length !== undefined) record['train/reply_characters'] = length;
      hooks.onStep(record, totalSteps);
    },
    onRollouts,
    evaluate: held.length > 0 ? evaluate : undefined,
  });
}
