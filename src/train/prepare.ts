/** From an experiment to a loop that is ready to run: data, model, tokenizer, reward, and the method's own parts. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { readModelConfig } from '../model/config';
import type { ModelConfig } from '../model/config';
import { resolveModel, WITHOUT_WEIGHTS } from '../model/hub';
import type { DownloadProgress } from '../model/hub';
import type { OnLoad } from '../model/load';
import { readAdapterConfig } from '../model/peft';
import { loadTokenizerOf } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import { LocalPolicy } from '../policy/local';
import type { Completion, RunPolicy } from '../policy/policy';
import { TinkerPolicy } from '../policy/tinker';
import { readTinkerState } from '../policy/tinker-checkpoint';
import { readKey } from '../rewards/chat-request';
import { loadReward, openEmbedder } from '../rewards/config';
import type { Embedder } from '../rewards/embeddings';
import { promptScorer } from '../rewards/replies';
import type { ScoreCompletions, SftTrainingExample } from '../rewards/replies';
import type { Reward } from '../rewards/reward';
import { ConfigError } from '../runtime/errors';
import {
  adapterConfig,
  distanceOf,
  grpoSettings,
  polychromicSettings,
  sftSettings,
  withCheckpoint,
} from './config';
import type { Experiment } from './experiment-schema';
import { trainGrpo } from './grpo';
import type { ScoredRollouts } from './grpo';
import { evaluateHeldOut } from './held-out';
import { meanOf } from './loop';
import type { LoopHooks, LoopResult, StepRecord } from './loop';
import { ownTask } from './own-task';
import {
  distinct2,
  oneMinusSelfBleu,
  semanticDistances,
  semanticDiversity,
  trainPolychromic,
} from './polychromic';
import { keepsSamples } from './rollouts';
import type { MeasureDiversity } from './rollouts';
import { planRun } from './schedule';
import { sftLoss, trainSft } from './sft';
import { readTaskRecords, replyTask, taskExamples, taskPrompts, taskRecords } from './task';
import type { Task, TaskPrompt, TaskRecord } from './task';

/** What a caller may give in place of what an experiment names, and be told of. */
export interface PrepareOptions {
  notify?: (line: string) => void;
  /** told of downloads from the hub */
  onDownload?: (progress: DownloadProgress) => void;
  /** told of how much of the model has been read */
  onLoad?: OnLoad;
  signal?: AbortSignal;
  /** Records instead of those of `data.train` and `data.eval`, as their lines have them. */
  train?: readonly object[];
  evaluation?: readonly object[];
  /** A reward instead of the one that `reward` names; for replies to tweets. */
  reward?: Reward;
}

/** Where a run's replies go. */
export interface SampleSink {
  sample(value: unknown): void;
  text(step: number, tag: string, markdown: string): void;
}

/** What a run works on, all checked before anything is written. */
export interface Prepared {
  experiment: Experiment;
  modelDirectory: string;
  modelConfig: ModelConfig;
  tokenizer: Tokenizer;
  stopTokenIds: number[];
  task: Task;
  records: readonly TaskRecord[];
  evaluation: readonly TaskRecord[];
  embedder: Embedder;
}

/** A loop with all that it needs but where its output goes. */
export interface Work {
  totalSteps: number;
  /** prompts or examples */
  count: number;
  run: (sink: SampleSink, hooks: LoopHooks) => Promise<LoopResult>;
}

/** Replies to tweets, or the task that the experiment describes. */
async function openTask(experiment: Experiment, options: PrepareOptions): Promise<Task> {
  const { reward, signal, notify: onNotice, onDownload } = options;
  if (experiment.task === undefined)
    return replyTask(reward ?? (await loadReward(experiment.reward, { signal, onNotice, onDownload })));
  if (reward !== undefined)
    throw new ConfigError(
      'a reward on (tweet, reply) was given to a task of its own; expected task.reward alone. Remove one of them.',
    );
  return ownTask(experiment.task, experiment.method !== 'grpo');
}

/** @throws ConfigError, DataError, CheckpointError  for whatever would stop the run later */
export async function prepare(experiment: Experiment, options: PrepareOptions): Promise<Prepared> {
  const { data } = experiment;
  const { train, evaluation: held, onDownload } = options;
  const task = await openTask(experiment, options);
  const embedder = await openEmbedder(experiment.embedding, '.', onDownload);
  const read = (file: string, limit?: number): Promise<TaskRecord[]> => readTaskRecords(task, file, limit);
  const records = train === undefined ? await read(data.train, data.max_examples) : taskRecords(task, train);
  const evaluation =
    held !== undefined
      ? taskRecords(task, held)
      : data.eval === undefined
        ? []
        : await read(data.eval, data.max_eval_examples);
  if (records.length === 0) throw new ConfigError(`${data.train}: there are no records to train on`);
  const { checkpoint_path: checkpoint, policy } = experiment;
  const isRemote = policy.type === 'tinker';
  const files = isRemote ? WITHOUT_WEIGHTS : undefined;
  const { signal, notify: onNotice } = options;
  const modelDirectory = await resolveModel(experiment.model, onDownload, { files, signal, onNotice });
  const config = readModelConfig(modelDirectory);
  const tokenizer = await loadTokenizerOf(modelDirectory, config);
  if (isRemote && checkpoint !== undefined) readTinkerState(checkpoint);
  return {
    experiment:
      checkpoint === undefined ? experiment : withCheckpoint(experiment, readAdapterConfig(checkpoint)),
    ...{ modelDirectory, modelConfig: config, tokenizer, task, records, evaluation, embedder },
    // SFT teaches the tokenizer's end of turn: it must end a completion, whatever the model's files say.
    stopTokenIds: [...new Set([...config.eosTokenIds, tokenizer.eosTokenId])],
  };
}

/** Who is told of what, and where a server's models are noted. */
export interface OpenPolicyOptions extends Pick<PrepareOptions, 'notify' | 'onLoad'> {
  /** Of a policy on a server: where its models are noted, see `ModelRegistry`. */
  registryFile?: string;
}

/**
 * The policy that an experiment starts with. The caller disposes it.
 * @throws CheckpointError           when model and adapter cannot be loaded
 * @throws ConfigError, RemoteError  when the server cannot be used
 */
export async function openPolicy(
  { experiment, modelDirectory, modelConfig, stopTokenIds }: Prepared,
  { notify, onLoad, registryFile }: OpenPolicyOptions = {},
): Promise<RunPolicy> {
  const { policy, seed, checkpoint_path: start, training, dtype, matmul_precision } = experiment;
  const lora = adapterConfig(experiment);
  if (policy.type === 'local')
    return LocalPolicy.load({
      ...{ modelDirectory, dtype, onLoad, stopTokenIds, seed, adapterDirectory: start, lora },
      matmulPrecision: matmul_precision,
      gradientCheckpointing: training.gradient_checkpointing,
    });
  const { base_url: baseUrl, base_model: baseModel, api_key_env: variable } = policy;
  const apiKey = readKey(variable, process.env);
  const connection = { baseUrl, apiKey, timeoutSeconds: policy.timeout_seconds, onNotice: notify };
  return TinkerPolicy.open({
    ...{ connection, baseModel, config: modelConfig, stopTokenIds, seed, rank: lora.r },
    ...{ checkpointDirectory: start, registryFile },
  });
}

/** The bytes of a file, or nothing where a name means something else (a built-in reward, a hub id). */
function bytesOf(...place: string[]): Buffer | string {
  const file = path.join(...place);
  // Of a path through a file, statSync throws all the same.
  return existsSync(file) && statSync(file).isFile() ? readFileSync(file) : '';
}

/**
 * What the run's numbers come from beside its settings, in one: records, the reward's module or file (not what such a file
 * names in turn), the adapter that it starts from, the model's configuration. A resumed run must have the same.
 */
export function dataHash({ task, records, evaluation, experiment, modelDirectory }: Prepared): string {
  const { reward = '', checkpoint_path: start } = experiment;
  const hash = createHash('sha256').update(task.code);
  hash.update(bytesOf(reward)).update(bytesOf(reward, 'reward.json'));
  if (start !== undefined) hash.update(bytesOf(start, 'adapter_model.safetensors'));
  hash.update(bytesOf(modelDirectory, 'config.json'));
  for (const part of [records, evaluation]) {
    for (const { id, fields } of part) hash.update(`${JSON.stringify([id, fields])}\n`);
    hash.update('\n');
  }
  return hash.digest('hex');
}

/** The method's loop on its data. */
export function prepareWork(prepared: Prepared, policy: RunPolicy): Work {
  switch (prepared.experiment.method) {
    case 'sft':
      return prepareSft(prepared, policy);
    case 'polychromic':
      return preparePolychromic(prepared, policy);
    case 'grpo':
      return prepareGrpo(prepared, policy);
  }
}

/** How much there is to do, without a policy. */
export function countWork(prepared: Prepared): Pick<Work, 'totalSteps' | 'count'> {
  const { experiment, tokenizer, records } = prepared;
  const { length: count } =
    experiment.method === 'grpo'
      ? taskPrompts(records, tokenizer, experiment.training.max_length)
      : trainingExamples(prepared);
  return { totalSteps: planRun(count, sftSettings(experiment)).totalSteps, count };
}

/** No prompt with a completion may be longer than the model's positions. */
function requirePositions(
  { maxPositionEmbeddings }: ModelConfig,
  prompts: readonly (readonly number[])[],
  maxNewTokens: number,
): void {
  const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
  if (longest + maxNewTokens > maxPositionEmbeddings)
    throw new ConfigError(
      `a prompt of ${longest} tokens and max_new_tokens ${maxNewTokens} exceed the model's ${maxPositionEmbeddings} positions; lower max_new_tokens`,
    );
}

/** A completion's text, as the task sees it. */
function textOf({ task, tokenizer }: Prepared): (completion: Completion) => string {
  return (completion) => task.textOf(completion, tokenizer);
}

function scorerOf(prepared: Prepared, prompts: readonly TaskPrompt[]): ScoreCompletions {
  return promptScorer(prompts, textOf(prepared), (pairs) => prepared.task.score(pairs));
}

type Evaluate = (step: number) => Promise<Record<string, number>>;

/** Replies to fixed held-out prompts: reward and diversity; undefined when there are no prompts or none are asked for. */
function heldOutReplies(prepared: Prepared, policy: RunPolicy): ((sink: SampleSink) => Evaluate) | undefined {
  const { experiment, tokenizer, embedder, evaluation } = prepared;
  const { evaluation: settings, training, seed } = experiment;
  const prompts = taskPrompts(evaluation, tokenizer, training.max_length).slice(0, settings.max_prompts);
  if (prompts.length === 0 || settings.n_generations === 0) return undefined;
  requirePositions(
    prepared.modelConfig,
    prompts.map(({ tokenIds }) => tokenIds),
    settings.max_new_tokens,
  );
  const score = scorerOf(prepared, prompts);
  const sampling = {
    temperature: settings.temperature,
    topP: settings.top_p,
    maxNewTokens: settings.max_new_tokens,
  };
  const embed = (text: string): Promise<Float32Array> => embedder.embed(text);
  const options = { generations: settings.n_generations, settings: sampling, embed, seed };
  return (sink) => async (step) => {
    const { metrics, prompts: replies } = await evaluateHeldOut(
      policy,
      prompts,
      score,
      textOf(prepared),
      options,
    );
    replies.forEach(({ id, replies: own, rewards }) =>
      sink.sample({ step, evaluation: true, prompt_id: id, replies: own, rewards }),
    );
    sink.text(step, 'eval/replies', markdownOf(prompts, replies));
    return metrics;
  };
}

/** A few prompts with their replies, for TensorBoard. */
function markdownOf(
  prompts: readonly TaskPrompt[],
  replies: readonly { replies: string[]; rewards: number[] }[],
): string {
  return prompts
    .slice(0, 4)
    .map(({ record }, p) => {
      const lines = replies[p].replies.map((reply, i) => `- ${replies[p].rewards[i].toFixed(3)}: ${reply}`);
      return [`**${record.shown}**`, ...lines].join('\n');
    })
    .join('\n\n');
}

/** Cross-entropy of the held-out replies, and what the policy itself replies. */
function sftEvaluation(prepared: Prepared, policy: RunPolicy): ((sink: SampleSink) => Evaluate) | undefined {
  const { experiment, tokenizer, evaluation } = prepared;
  const held = taskExamples(evaluation, tokenizer, experiment.training.max_length);
  if (held.length === 0) return undefined;
  const replies = heldOutReplies(prepared, policy);
  return (sink) => async (step) => ({
    'eval/loss': await sftLoss(policy, held),
    ...(await replies?.(sink)(step)),
  });
}

function trainingExamples({ experiment, records, tokenizer }: Prepared): SftTrainingExample[] {
  return taskExamples(records, tokenizer, experiment.training.max_length);
}

function prepareSft(prepared: Prepared, policy: RunPolicy): Work {
  const { experiment } = prepared;
  const examples = trainingExamples(prepared);
  const evaluation = sftEvaluation(prepared, policy);
  return {
    ...{ totalSteps: planRun(examples.length, sftSettings(experiment)).totalSteps, count: examples.length },
    run: (sink, hooks) =>
      trainSft(policy, examples, sftSettings(experiment), { ...hooks, evaluate: evaluation?.(sink) }),
  };
}

/** The diversity that an experiment's training pays for. */
function diversityOf(prepared: Prepared): MeasureDiversity {
  const { experiment, embedder } = prepared;
  const texts = textOf(prepared);
  switch (distanceOf(experiment)) {
    case 'semantic':
      return semanticDiversity(texts, (text) => embedder.embed(text));
    case 'self_bleu':
      return oneMinusSelfBleu(texts);
    case 'distinct_2':
      return distinct2(texts);
  }
}

function preparePolychromic(prepared: Prepared, policy: RunPolicy): Work {
  const { experiment, embedder } = prepared;
  const examples = trainingExamples(prepared);
  const evaluation = sftEvaluation(prepared, policy);
  const distances = semanticDistances(textOf(prepared), (text) => embedder.embed(text));
  requirePositions(
    prepared.modelConfig,
    examples.map(({ promptIds }) => promptIds),
    polychromicSettings(experiment).maxNewTokens,
  );
  return {
    ...{ totalSteps: planRun(examples.length, sftSettings(experiment)).totalSteps, count: examples.length },
    run: (sink, hooks) =>
      trainPolychromic(policy, examples, polychromicSettings(experiment), {
        ...hooks,
        ...{ diversity: diversityOf(prepared), distances, evaluate: evaluation?.(sink) },
      }),
  };
}

function prepareGrpo(prepared: Prepared, policy: RunPolicy): Work {
  const { experiment, tokenizer, records } = prepared;
  const settings = grpoSettings(experiment);
  const prompts = taskPrompts(records, tokenizer, experiment.training.max_length);
  requirePositions(
    prepared.modelConfig,
    prompts.map(({ tokenIds }) => tokenIds),
    settings.maxNewTokens,
  );
  const evaluation = heldOutReplies(prepared, policy);
  policy.freezeReference();
  return {
    ...{ totalSteps: planRun(prompts.length, settings).totalSteps, count: prompts.length },
    run: (sink, hooks) =>
      trainGrpo(policy, prompts, scorerOf(prepared, prompts), settings, {
        ...hooks,
        ...sampleHooks(sink, hooks, textOf(prepared), experiment.training.sample_steps),
        ...{ diversity: diversityOf(prepared), evaluate: evaluation?.(sink) },
      }),
  };
}

/** Writes rollouts to the samples file, and adds the mean reply length to the metrics. */
function sampleHooks(
  sink: SampleSink,
  hooks: LoopHooks,
  texts: (completion: Completion) => string,
  every: number,
) {
  const characters = new Map<number, number>();
  return {
    onRollouts: ({ step, groups, scores, first }: ScoredRollouts): void => {
      // Of the first draws, as all that describes the policy: those drawn again were chosen by their rewards.
      const drawn = first.flatMap(({ completions }) => completions.map(texts));
      characters.set(step, meanOf(drawn.map((reply) => [...reply].length)));
      const replies = groups.map(({ completions }) => completions.map(texts));
      if (!keepsSamples(step, every)) return;
      groups.forEach(({ prompt }, g) => {
        const rewards = scores[g].map(({ total }) => total);
        sink.sample({ step, prompt_id: prompt.id, replies: replies[g], rewards });
      });
    },
    onStep: (record: StepRecord, totalSteps: number): void | Promise<void> => {
      const length = characters.get(record.step);
      if (length !== undefined) record['train/reply_characters'] = length;
      return hooks.onStep?.(record, totalSteps);
    },
  };
}
