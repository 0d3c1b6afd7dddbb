/** One experiment from its description to a finished run directory. */
import { readModelConfig } from '../model/config';
import { resolveModel } from '../model/hub';
import type { DownloadProgress } from '../model/hub';
import { readAdapterConfig } from '../model/peft';
import { loadTokenizerOf } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import { readRecords } from '../data/records';
import { LocalPolicy } from '../policy/local';
import { loadReward } from '../rewards/config';
import { replyScorer, replyText, sftExamples, tweetPrompts } from '../rewards/replies';
import type { ReplyRecord } from '../rewards/replies';
import type { Reward } from '../rewards/reward';
import { ConfigError, messageOf, NumericError } from '../runtime/errors';
import { defaultMode } from '../runtime/compile';
import { binding, tf } from '../runtime/tf';
import { adapterConfig, grpoSettings, sftSettings, withCheckpoint } from './config';
import type { Experiment } from './config';
import { trainGrpo } from './grpo';
import type { ScoredRollouts } from './grpo';
import { meanOf } from './loop';
import type { LoopHooks, LoopResult, StepRecord } from './loop';
import { RunDirectory } from './run-directory';
import { sftLoss, trainSft } from './sft';

/** What a caller may give and watch. */
export interface RunHooks {
  onStep?: (record: StepRecord, totalSteps: number) => void;
  notify?: (line: string) => void;
  /** told of downloads from the hub */
  onDownload?: (progress: DownloadProgress) => void;
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

/** What a run works on, all checked before anything is written. */
interface Prepared {
  experiment: Experiment;
  modelDirectory: string;
  tokenizer: Tokenizer;
  stopTokenIds: number[];
  records: readonly ReplyRecord[];
  evaluation: readonly ReplyRecord[];
  reward: Reward;
}

async function prepare(experiment: Experiment, hooks: RunHooks): Promise<Prepared> {
  const { data } = experiment;
  const reward =
    hooks.reward ??
    (await loadReward(experiment.reward, {
      ...{ signal: hooks.signal, onNotice: hooks.notify, onDownload: hooks.onDownload },
    }));
  const records = hooks.train ?? (await collect(data.train, data.max_examples));
  const evaluation =
    hooks.evaluation ?? (data.eval === undefined ? [] : await collect(data.eval, data.max_eval_examples));
  if (records.length === 0) throw new ConfigError(`${data.train}: there are no records to train on`);
  const modelDirectory = await resolveModel(experiment.model, hooks.onDownload);
  const config = readModelConfig(modelDirectory);
  const tokenizer = await loadTokenizerOf(modelDirectory, config);
  const { checkpoint_path: checkpoint } = experiment;
  return {
    experiment:
      checkpoint === undefined ? experiment : withCheckpoint(experiment, readAdapterConfig(checkpoint)),
    ...{ modelDirectory, tokenizer, records, evaluation, reward },
    // SFT teaches the tokenizer's end of turn: it must end a completion, whatever the model's files say.
    stopTokenIds: [...new Set([...config.eosTokenIds, tokenizer.eosTokenId])],
  };
}

/**
 * Runs an experiment: `method: sft` or `grpo`, from `checkpoint_path` when given, else from a fresh adapter. The caller
 * disposes the policy of the result. Bad input is found before the run directory is touched.
 * @throws ConfigError, DataError, CheckpointError
 * @throws NumericError  after three steps in a row without a finite gradient; the adapter is saved as it was before them
 */
export async function runExperiment(given: Experiment, hooks: RunHooks = {}): Promise<RunResult> {
  const prepared = await prepare(given, hooks);
  const { experiment, modelDirectory, tokenizer, stopTokenIds } = prepared;
  const policy = LocalPolicy.load({
    ...{ modelDirectory, stopTokenIds, seed: experiment.seed },
    adapterDirectory: experiment.checkpoint_path,
    lora: adapterConfig(experiment),
  });
  try {
    const work = experiment.method === 'sft' ? prepareSft(prepared, policy) : prepareGrpo(prepared, policy);
    const run = await RunDirectory.open(experiment.output_dir, experiment, hooks.notify ?? (() => undefined));
    run.log(`${experiment.method} on ${prepared.records.length} records, model ${experiment.model}`);
    const device = binding.isUsingGpuDevice() ? 'gpu' : 'cpu';
    run.log(
      `TensorFlow ${binding.TF_Version} on ${device}, ${defaultMode()} mode, Node ${process.versions.node}`,
    );
    const degraded = experiment.method === 'grpo' ? prepared.reward.degraded : [];
    for (const name of degraded) run.log(`degraded: ${name}`);
    try {
      const result = await work(run, loopHooks(run, experiment, hooks));
      await run.finish(policy, experiment, result, degraded);
      return { ...result, directory: experiment.output_dir, policy, tokenizer };
    } catch (error) {
      run.log(`failed: ${messageOf(error)}`);
      if (error instanceof NumericError) await policy.save(experiment.output_dir);
      throw error;
    }
  } catch (error) {
    policy.dispose();
    throw error;
  }
}

function loopHooks(run: RunDirectory, { training }: Experiment, hooks: RunHooks): LoopHooks {
  return {
    onStep: (record, totalSteps) => {
      Object.assign(record, resources());
      run.metrics(record);
      hooks.onStep?.(record, totalSteps);
    },
    onSkipped: (step, ids) =>
      run.warn(`step ${step}: the gradient is not finite, the update is skipped; examples ${ids.join(', ')}`),
    signal: hooks.signal,
    evalEvery: training.eval_steps,
  };
}

type Work = (run: RunDirectory, hooks: LoopHooks) => Promise<LoopResult>;

function prepareSft({ experiment, records, evaluation, tokenizer }: Prepared, policy: LocalPolicy): Work {
  const { data, training } = experiment;
  const examples = sftExamples(records, tokenizer, training.max_length, data.train);
  const held = sftExamples(evaluation, tokenizer, training.max_length, data.eval);
  const evaluate = async (): Promise<Record<string, number>> => ({
    'eval/loss': await sftLoss(policy, held),
  });
  return (_run, hooks) =>
    trainSft(policy, examples, sftSettings(experiment), {
      ...hooks,
      evaluate: held.length > 0 ? evaluate : undefined,
    });
}

function prepareGrpo(prepared: Prepared, policy: LocalPolicy): Work {
  const { experiment, tokenizer, reward, records, evaluation } = prepared;
  const settings = grpoSettings(experiment);
  const { max_length: maxLength } = experiment.training;
  const prompts = tweetPrompts(records, tokenizer, maxLength);
  const held = tweetPrompts(evaluation, tokenizer, maxLength);
  const longest = [...prompts, ...held].reduce((most, { tokenIds }) => Math.max(most, tokenIds.length), 0);
  const { maxPositionEmbeddings } = policy.config;
  if (longest + settings.maxNewTokens > maxPositionEmbeddings)
    throw new ConfigError(
      `a prompt of ${longest} tokens and grpo.max_new_tokens ${settings.maxNewTokens} exceed the model's ${maxPositionEmbeddings} positions; lower max_new_tokens`,
    );
  const scoreHeld = replyScorer(held, tokenizer, reward);
  const evaluate = async (): Promise<Record<string, number>> => {
    const groups = await policy.sample(held, { ...settings, groupSize: 1, stream: 'evaluation' });
    const scores = await scoreHeld(
      groups.map(({ prompt, completions: [completion] }) => ({ prompt, completion })),
    );
    return { 'eval/reward': meanOf(scores.map(({ total }) => total)) };
  };
  policy.freezeReference();
  return (run, hooks) =>
    trainGrpo(policy, prompts, replyScorer(prompts, tokenizer, reward), settings, {
      ...hooks,
      ...sampleHooks(run, hooks, tokenizer),
      evaluate: held.length > 0 ? evaluate : undefined,
    });
}

/** Writes every rollout to the samples file, and adds the mean reply length to the metrics. */
function sampleHooks(run: RunDirectory, hooks: LoopHooks, tokenizer: Tokenizer) {
  const characters = new Map<number, number>();
  return {
    onRollouts: ({ step, groups, scores }: ScoredRollouts): void => {
      const replies = groups.map(({ completions }) => completions.map((one) => replyText(one, tokenizer)));
      characters.set(step, meanOf(replies.flat().map((reply) => [...reply].length)));
      groups.forEach(({ prompt }, g) =>
        run.sample({
          step,
          prompt_id: prompt.id,
          replies: replies[g],
          rewards: scores[g].map(({ total }) => total),
        }),
      );
    },
    onStep: (record: StepRecord, totalSteps: number): void | Promise<void> => {
      const length = characters.get(record.step);
      if (length !== undefined) record['train/reply_characters'] = length;
      return hooks.onStep?.(record, totalSteps);
    },
  };
}
