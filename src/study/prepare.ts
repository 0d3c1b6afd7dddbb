/** Everything the small test reads, opened and checked before anything is written. */
import type { Readable } from 'node:stream';
import type { z } from 'zod';
import { readRecords } from '../data/records';
import type { TweetRecord } from '../data/records';
import { splitPhases } from '../data/split';
import type { PhaseSplit } from '../data/split';
import { promptIds } from '../model/chat';
import { checkTensors, readModelConfig } from '../model/config';
import { resolveModel } from '../model/hub';
import type { DownloadProgress } from '../model/hub';
import { openModelWeights } from '../model/model-weights';
import { loadTokenizerOf } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import { loadReward } from '../rewards/config';
import type { TweetPrompt } from '../rewards/replies';
import type { Reward } from '../rewards/reward';
import { DataError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { choosePrompts, FIFTH, holdOut } from './data';
import type { HeldOut } from './data';
import { settingsOf, smallTestSchema } from './options';
import type { SmallTestOptions, SmallTestSettings } from './options';
import { HELD_OUT_PROMPTS, isShipped, MAX_LENGTH, MAX_NEW_TOKENS, TRAINING_EXAMPLES } from './settings';

/** Fewer records leave a phase with less than two. */
const LEAST_TRAINING = 4;

/** What was decided before the training began. */
export interface StudyFacts {
  /** As it was named: a directory or a hub id. */
  model: string;
  data: string;
  evaluationData?: string;
  settings: SmallTestSettings;
  /** The reward's name. */
  reward: string;
  degraded: readonly string[];
  /** Where the held-out tweets come from, in words. */
  heldOutFrom: string;
  n: {
    training: number;
    phase1: number;
    phase2: number;
    /** Held-out prompts. */
    heldOut: number;
    /** Held-out records left out because training has their tweet. */
    dropped: number;
    /** Held-out tweets left out because their prompt is too long. */
    tooLong: number;
  };
}

/** A small test that is ready to run: its steps take what they need from it. */
export interface SmallTest {
  settings: SmallTestSettings;
  /** What GRPO trains on and the evaluations measure. The caller disposes it. */
  reward: Reward;
  /** What each phase trains on: `phase1` SFT, `phase2` GRPO. */
  split: PhaseSplit<TweetRecord>;
  /** The held-out tweets. */
  prompts: TweetPrompt[];
  /** Whether the tweets are the embedded world's, so that its law can examine replies. */
  isWorld: boolean;
  facts: StudyFacts;
  /** What a user should know before it starts, a line each. */
  notices: string[];
}

/** What reading may need, and whom it tells. */
export interface OpenContext {
  /** ends the requests of a reward that asks a service */
  signal?: AbortSignal;
  /** gets the lines of such a reward, also later, while it scores */
  notify?: (line: string) => void;
  /** told of downloads from the hub */
  onDownload?: (progress: DownloadProgress) => void;
  /** What `-` reads, default the process's standard input. */
  stdin?: Readable;
}

async function collect(file: string, { stdin }: OpenContext): Promise<TweetRecord[]> {
  const records: TweetRecord[] = [];
  for await (const { value } of readRecords(file, { stdin })) records.push(value);
  return records;
}

interface OpenedModel {
  tokenizer: Tokenizer;
  /** A prompt must have fewer tokens, so that a reply has room in training and among the model's positions. */
  promptLimit: number;
}

/** Checks configuration, names and shapes of the weights, and the tokenizer; the weights themselves are not read. */
async function openModel(directory: string): Promise<OpenedModel> {
  const config = readModelConfig(directory);
  const weights = openModelWeights(directory);
  try {
    const tensors = [...weights.tensors].map(([name, { shape }]) => ({ name, shape }));
    checkTensors(config, tensors, directory);
  } finally {
    weights.close();
  }
  const tokenizer = await loadTokenizerOf(directory, config);
  return {
    tokenizer,
    promptLimit: Math.min(MAX_LENGTH, config.maxPositionEmbeddings - MAX_NEW_TOKENS + 1),
  };
}

/** @throws DataError  when there is too little to train on, or a prompt is too long */
function checkTraining(
  training: readonly TweetRecord[],
  file: string,
  { tokenizer, promptLimit }: OpenedModel,
): void {
  if (training.length < LEAST_TRAINING)
    throw new DataError(
      `${file}: ${training.length} records to train on; expected at least ${LEAST_TRAINING}. Bring more records.`,
    );
  for (const { tweet_id: id, tweet } of training) {
    const { length } = promptIds(tokenizer, tweet);
    if (length >= promptLimit)
      throw new DataError(
        `${file}: the prompt of tweet ${id} has ${length} tokens; expected fewer than ${promptLimit}. Remove its records.`,
      );
  }
}

function noticesOf({ source, dropped }: HeldOut, tooLong: number, promptLimit: number): string[] {
  return [
    ...(dropped > 0
      ? [`${dropped} held-out records are left out: their tweets are in the training data`]
      : []),
    ...(source === FIFTH
      ? [
          `fewer than 2 other tweets follow the first ${TRAINING_EXAMPLES} records: ${FIFTH} is held out instead`,
        ]
      : []),
    ...(tooLong > 0
      ? [`${tooLong} held-out tweets are left out: their prompts have ${promptLimit} tokens or more`]
      : []),
  ];
}

/** @param reward  open already */
async function readSmallTest(
  options: z.output<typeof smallTestSchema>,
  reward: Reward,
  context: OpenContext,
): Promise<SmallTest> {
  const { data, evaluationData } = options;
  const settings = settingsOf(options, await resolveModel(options.model, context.onDownload));
  const model = await openModel(settings.model);
  const records = await collect(data, context);
  const evaluation = evaluationData === undefined ? undefined : await collect(evaluationData, context);
  const parts = holdOut(records, evaluation, settings.seed);
  checkTraining(parts.training, data, model);
  const { prompts, tooLong } = choosePrompts(parts, model.tokenizer, {
    count: HELD_OUT_PROMPTS,
    maxLength: model.promptLimit,
    file: evaluationData ?? data,
  });
  const split = splitPhases(parts.training, { seed: settings.seed });
  return {
    ...{ settings, reward, split, prompts },
    isWorld: isShipped('data', data) && evaluationData === undefined,
    facts: {
      ...{ model: options.model, data, evaluationData, settings },
      ...{ reward: reward.name, degraded: reward.degraded, heldOutFrom: parts.source },
      n: {
        ...{ training: parts.training.length, heldOut: prompts.length },
        ...{ phase1: split.phase1.length, phase2: split.phase2.length },
        ...{ dropped: parts.dropped, tooLong },
      },
    },
    notices: [
      ...noticesOf(parts, tooLong, model.promptLimit),
      ...split.statistics.notices,
      ...reward.degraded,
    ],
  };
}

/**
 * Reads and checks all that a small test needs: model, reward, data; parts them into training and held-out tweets, and the
 * training into its phases. Nothing is written.
 *
 * @param given  what is left out has the defaults of `smallTestSchema`
 * @throws ConfigError      an option that is unknown or out of its range, or a reward that cannot be opened
 * @throws DataError        a bad line, too little to train on or to hold out, or a training prompt that is too long
 * @throws CheckpointError  no such model, or a damaged one
 */
export async function openSmallTest(
  given: SmallTestOptions = {},
  context: OpenContext = {},
): Promise<SmallTest> {
  const options = parseStrict(smallTestSchema, given, 'small test');
  const { signal, notify: onNotice, onDownload } = context;
  if (typeof options.reward !== 'string') return readSmallTest(options, options.reward, context);
  const reward = await loadReward(options.reward, { signal, onNotice, onDownload });
  try {
    return await readSmallTest(options, reward, context);
  } catch (error) {
    reward.dispose?.();
    throw error;
  }
}
