/** Everything the small test reads, opened and checked before anything is written. */
import { readRecords } from '../data/records';
import type { TweetRecord } from '../data/records';
import { splitPhases } from '../data/split';
import type { PhaseSplit } from '../data/split';
import { promptIds } from '../model/chat';
import { checkTensors, readModelConfig } from '../model/config';
import { openModelWeights } from '../model/model-weights';
import { loadTokenizerOf } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import { loadReward } from '../rewards/config';
import type { TweetPrompt } from '../rewards/replies';
import type { Reward } from '../rewards/reward';
import { DataError } from '../runtime/errors';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { notify } from './io';
import { openModelDirectory, withDownloadBar } from './open-model';
import { choosePrompts, FIFTH, holdOut } from './small-test-data';
import type { HeldOut } from './small-test-data';
import type { StudyFacts } from './small-test-report';
import {
  HELD_OUT_PROMPTS,
  isShipped,
  MAX_LENGTH,
  MAX_NEW_TOKENS,
  settingsOf,
  TRAINING_EXAMPLES,
} from './small-test-settings';
import type { Settings } from './small-test-settings';

/** Fewer records leave a phase with less than two. */
const LEAST_TRAINING = 4;

export interface Study {
  settings: Settings;
  reward: Reward;
  split: PhaseSplit<TweetRecord>;
  prompts: TweetPrompt[];
  /** Whether the tweets are the embedded world's, so that its law can examine replies. */
  isWorld: boolean;
  facts: StudyFacts;
  /** What a user should know before it starts. */
  notices: string[];
}

async function collect(file: string, io: Io): Promise<TweetRecord[]> {
  const records: TweetRecord[] = [];
  for await (const { value } of readRecords(file, { stdin: io.stdin })) records.push(value);
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

/** Reads and checks what the arguments name. @throws UsageError, ConfigError, DataError, CheckpointError */
export async function prepareStudy(args: Arguments, io: Io): Promise<Study> {
  const settings = settingsOf(args);
  const [data, evaluationFile] = [args.required('data'), args.text('eval-data')];
  const context = { signal: io.signal, onNotice: (line: string) => notify(io, line) };
  const reward = await withDownloadBar(args, io, (onDownload) =>
    loadReward(args.required('reward'), { ...context, onDownload }),
  );
  settings.model = await openModelDirectory(args, io);
  const model = await openModel(settings.model);
  const records = await collect(data, io);
  const evaluation = evaluationFile === undefined ? undefined : await collect(evaluationFile, io);
  const parts = holdOut(records, evaluation, settings.seed);
  checkTraining(parts.training, data, model);
  const { prompts, tooLong } = choosePrompts(parts, model.tokenizer, {
    count: HELD_OUT_PROMPTS,
    maxLength: model.promptLimit,
    file: evaluationFile ?? data,
  });
  const split = splitPhases(parts.training, { seed: settings.seed });
  return {
    ...{ settings, reward, split, prompts },
    isWorld: isShipped('data', data) && evaluationFile === undefined,
    facts: {
      model: args.required('model'),
      ...{ data, evaluationData: evaluationFile, settings },
      reward: reward.name,
      degraded: reward.degraded,
      heldOutFrom: parts.source,
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
