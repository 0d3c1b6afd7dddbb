/** `grpolab small-test`: the whole study on 100 examples: split, SFT warm start, GRPO, before and after on held-out prompts. */
import path from 'node:path';
import { z } from 'zod';
import { readRecords } from '../data/records';
import type { TweetRecord } from '../data/records';
import { splitPhases } from '../data/split';
import { writeSplit } from '../data/split-files';
import { worldQuality } from '../data/world-law';
import { compareEvaluations, evaluateReplies } from '../eval/replies';
import type { MeasuredChange, ReplyEvaluation } from '../eval/replies';
import { exportFigures } from '../figures/export';
import { smallTestFigures } from '../figures/small-test';
import { loadReward } from '../rewards/config';
import { tweetPrompts } from '../rewards/replies';
import type { TweetPrompt } from '../rewards/replies';
import type { Reward } from '../rewards/reward';
import { DataError } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory, strictJson } from '../runtime/files';
import { Progress, formatDuration } from '../runtime/progress';
import { Random } from '../runtime/random';
import { experimentSchema } from '../train/config';
import type { LoopResult, StepRecord } from '../train/loop';
import { runExperiment } from '../train/run';
import type { RunHooks, RunResult } from '../train/run';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter, notify } from './io';
import { openModelDirectory } from './open-model';
import { criteriaOf, reportLines } from './small-test-report';

/** Examples that the study's small test trains on. */
const trainingExamples = 100;
/** Held-out prompts, at most. */
const heldOutPrompts = 160;

/** Sizes of the two phases; `--short` trains a third as long. */
const sizes = {
  full: { sftEpochs: 3, grpoSteps: 60, generations: 4 },
  short: { sftEpochs: 1, grpoSteps: 12, generations: 2 },
};

export interface SmallTestResult {
  model: string;
  data: string;
  seed: number;
  n: { training: number; phase1: number; phase2: number; heldOut: number };
  before: ReplyEvaluation;
  after: ReplyEvaluation;
  changes: MeasuredChange[];
  grpo: LoopResult;
  degraded: readonly string[];
  seconds: number;
}

async function collect(file: string, io: Io): Promise<TweetRecord[]> {
  const records: TweetRecord[] = [];
  for await (const { value } of readRecords(file, { stdin: io.stdin })) records.push(value);
  return records;
}

/**
 * Training records and held-out ones. Held out: the evaluation file, else the tweets after the first 100 records that
 * training does not see, else a fifth of the tweets.
 */
export function holdOut(
  records: readonly TweetRecord[],
  evaluation: readonly TweetRecord[] | undefined,
  seed: number,
): { training: TweetRecord[]; heldOut: TweetRecord[] } {
  const first = records.slice(0, trainingExamples);
  if (evaluation !== undefined) return { training: first, heldOut: [...evaluation] };
  const seen = new Set(first.map(({ tweet_id: id }) => id));
  const texts = new Set(first.map(({ tweet }) => tweet));
  const rest = records.slice(trainingExamples).filter((r) => !seen.has(r.tweet_id) && !texts.has(r.tweet));
  if (rest.length > 0) return { training: first, heldOut: rest };
  const tweets = new Random(seed, 'hold out').shuffle([...seen]);
  const held = new Set(tweets.slice(0, Math.ceil(tweets.length / 5)));
  return {
    training: first.filter(({ tweet_id: id }) => !held.has(id)),
    heldOut: first.filter(({ tweet_id: id }) => held.has(id)),
  };
}

/** One training phase with its progress bar. */
async function phase(
  label: string,
  config: unknown,
  hooks: RunHooks,
  args: Arguments,
  io: Io,
  note: (record: StepRecord) => string,
): Promise<RunResult> {
  const progress = new Progress({ label, unit: 'steps', stream: io.stderr, quiet: args.flag('quiet') });
  let last = '';
  try {
    const result = await runExperiment(experimentSchema.parse(config), {
      ...hooks,
      signal: io.signal,
      notify: (line) => notify(io, line),
      onStep: (record, totalSteps) => {
        progress.total = totalSteps;
        last = note(record);
        progress.update(record.step, last);
      },
    });
    progress.finish(last);
    checkInterrupt(io);
    return result;
  } finally {
    progress.close();
  }
}

interface Settings {
  model: string;
  output: string;
  seed: number;
  size: (typeof sizes)['full'];
  training: Record<string, unknown>;
}

/** The shipped model is small and young: it takes a higher rate than the study's 8B settings. */
function experiment(
  method: 'sft' | 'grpo',
  { model, output, seed, size, training }: Settings,
): z.input<typeof experimentSchema> {
  const common = {
    method,
    model,
    seed,
    data: { train: 'split' },
    output_dir: path.join(output, method),
  } as const;
  if (method === 'sft')
    return {
      ...common,
      training: {
        ...training,
        epochs: size.sftEpochs,
        batch_size: 8,
        gradient_accumulation_steps: 1,
        learning_rate: 2e-4,
        eval_steps: 0,
      },
    };
  return {
    ...common,
    checkpoint_path: path.join(output, 'sft'),
    training: {
      ...training,
      max_steps: size.grpoSteps,
      ...{
        batch_size: 8,
        gradient_accumulation_steps: 1,
        learning_rate: 1e-3,
        warmup_ratio: 0.05,
        eval_steps: 0,
      },
    },
    grpo: { n_generations: 8, temperature: 1, top_p: 1, max_new_tokens: 48, kl_coeff: 0.05 },
  };
}

/** Evaluates the warm start or the trained policy on the held-out prompts, with a progress bar. */
async function evaluate(
  label: string,
  run: RunResult,
  prompts: readonly TweetPrompt[],
  reward: Reward,
  generations: number,
  isWorld: boolean,
  args: Arguments,
  io: Io,
): Promise<ReplyEvaluation> {
  const progress = new Progress({
    label,
    unit: 'prompts',
    total: prompts.length,
    stream: io.stderr,
    quiet: args.flag('quiet'),
  });
  try {
    const result = await evaluateReplies(run.policy, prompts, run.tokenizer, reward, {
      ...{ generations, temperature: 0.8, topP: 0.9, maxNewTokens: 48, seed: 7, signal: io.signal },
      examiner: isWorld ? (tweet, reply) => worldQuality(tweet, reply).total : undefined,
      onProgress: (share) => progress.update(share * prompts.length),
    });
    progress.finish(`reward ${result.reward.toFixed(3)}`);
    return result;
  } finally {
    progress.close();
  }
}

function figuresOf(sft: LoopResult, grpo: LoopResult, changes: readonly MeasuredChange[]) {
  return smallTestFigures({
    curves: {
      sft: sft.history.filter((r) => 'train/loss' in r).map((r) => ({ step: r.step, loss: r['train/loss'] })),
      grpo: grpo.history
        .filter((r) => 'train/avg_reward' in r)
        .map((r) => ({
          step: r.step,
          reward: r['train/avg_reward'],
          rewardStd: r['train/reward_std'],
          kl: r['train/kl_penalty'],
          completionLength: r['train/completion_tokens'],
        })),
    },
    change: {
      measures: changes.map(({ name, before, after, difference, interval }) => ({
        name,
        before,
        after,
        difference,
        interval,
      })),
    },
  });
}

/** @returns 0, or 1 when a criterion fails */
export async function smallTest(args: Arguments, io: Io): Promise<number> {
  const begin = Date.now();
  const [output, data, seed] = [
    args.required('output'),
    args.required('data'),
    args.integer('seed', { min: 0 }),
  ];
  const short = args.flag('short');
  const size = short ? sizes.short : sizes.full;
  const model = await openModelDirectory(args, io);
  const evaluationFile = args.text('eval-data');
  const records = await collect(data, io);
  const { training, heldOut } = holdOut(
    records,
    evaluationFile === undefined ? undefined : await collect(evaluationFile, io),
    seed,
  );
  if (training.length < 4)
    throw new DataError(`${data}: ${training.length} records to train on; expected at least 4`);
  const isWorld = !args.given('data') && evaluationFile === undefined;
  await ensureDirectory(output);
  const split = splitPhases(training, { seed });
  await writeSplit(split, path.join(output, 'split'));
  for (const notice of split.statistics.notices) notify(io, `notice: ${notice}`);
  const reward = await loadReward(args.required('reward'));
  for (const degraded of reward.degraded) notify(io, `notice: ${degraded}`);
  const settings = { model, output, seed, size, training: {} };

  const sft = await phase(
    'SFT warm start',
    experiment('sft', settings),
    { train: split.phase1 },
    args,
    io,
    (r) => `loss ${(r['train/loss'] ?? NaN).toFixed(3)}`,
  );
  const prompts = tweetPrompts(heldOut, sft.tokenizer, 512).slice(0, heldOutPrompts);
  if (prompts.length < 2)
    throw new DataError(`${evaluationFile ?? data}: ${prompts.length} held-out tweets; expected at least 2`);
  sft.policy.freezeReference();
  const before = await evaluate('evaluate before', sft, prompts, reward, size.generations, isWorld, args, io);
  sft.policy.dispose();
  const grpo = await phase(
    'GRPO',
    experiment('grpo', settings),
    { train: split.phase2, reward },
    args,
    io,
    (r) =>
      `reward ${(r['train/avg_reward'] ?? NaN).toFixed(3)} KL ${(r['train/kl_penalty'] ?? NaN).toFixed(2)}`,
  );
  const after = await evaluate('evaluate after', grpo, prompts, reward, size.generations, isWorld, args, io);
  grpo.policy.dispose();

  const result: SmallTestResult = {
    ...{ model, data, seed, before, after, grpo, degraded: reward.degraded },
    n: {
      training: training.length,
      phase1: split.phase1.length,
      phase2: split.phase2.length,
      heldOut: prompts.length,
    },
    changes: compareEvaluations(before, after, seed),
    seconds: (Date.now() - begin) / 1000,
  };
  const figures = await exportFigures(figuresOf(sft, grpo, result.changes), output);
  for (const notice of [...figures.notices, figures.reason ?? '']) if (notice !== '') notify(io, notice);
  const criteria = criteriaOf(result, short);
  const lines = reportLines(result, criteria, figures.files);
  await atomicWriteFile(path.join(output, 'result.json'), `${strictJson({ ...result, criteria }, 2)}\n`);
  await atomicWriteFile(path.join(output, 'report.md'), `${lines.join('\n')}\n`);
  const writer = new LineWriter(io.stdout);
  if (args.flag('json')) await writer.line(strictJson({ ...result, criteria, figures: figures.files }));
  else
    for (const line of [...lines, '', `${formatDuration(result.seconds)} in all; everything is in ${output}`])
      await writer.line(line);
  await writer.flush();
  return criteria.some(({ passed }) => !passed) ? 1 : 0;
}
