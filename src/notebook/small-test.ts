/** The small test in a notebook: its steps with charts and progress bars, each a cell that can be interrupted and run again. */
import type { ReplyEvaluation } from '../eval/replies';
import { smallTestResult } from '../study/result';
import { writeSmallTest } from '../study/output';
import type { WrittenSmallTest } from '../study/output';
import type { SmallTest } from '../study/prepare';
import { evaluateSmallTest as evaluateReplies, smallTestExperiment } from '../study/run';
import type { SmallTestMethod } from '../study/run';
import type { StepRecord } from '../train/loop';
import { withProgress } from './progress';
import { train } from './training';
import type { NotebookRun, NotebookTrainOptions } from './training';

/** With the seconds that it took, for the report. */
export interface Timed {
  seconds: number;
}

async function timed<T extends object>(work: () => Promise<T>): Promise<T & Timed> {
  const begin = performance.now();
  const result = await work();
  return { ...result, seconds: (performance.now() - begin) / 1000 };
}

/**
 * All steps of a run as the report takes them. Those of earlier processes are without their count of tensors: it says
 * nothing of this one's memory.
 */
function historyOf({ metrics, history }: NotebookRun): StepRecord[] {
  const own = new Set(history.map(({ step }) => step));
  return metrics.map((row) => {
    const values = Object.entries(row).map(([key, value]): [string, number] => [key, value ?? NaN]);
    const kept = values.filter(([key]) => key !== 'system/tensors' || own.has(Number(row.step)));
    return Object.fromEntries(kept) as StepRecord;
  });
}

/** Trains one phase under a live chart, as `train` does: interrupted, it is saved, and goes on when the cell is run again. */
export function trainSmallTest(
  method: SmallTestMethod,
  test: SmallTest,
  options: Pick<NotebookTrainOptions, 'again'> = {},
): Promise<NotebookRun & Timed> {
  const { split, reward } = test;
  return timed(async () => {
    const run = await train(smallTestExperiment(method, test), {
      ...{ ...options, reward, title: method === 'sft' ? 'SFT warm start' : 'GRPO' },
      train: method === 'sft' ? split.phase1 : split.phase2,
    });
    // Before GRPO, too, KL is that to the warm start.
    if (method === 'sft') run.policy.freezeReference();
    return { ...run, history: historyOf(run) };
  });
}

/** The replies of a phase's policy to the held-out tweets, scored, under a progress bar. */
export function evaluateSmallTest(
  label: string,
  run: NotebookRun,
  test: SmallTest,
): Promise<ReplyEvaluation & Timed> {
  const total = test.prompts.length;
  return timed(() =>
    withProgress({ label, total, unit: 'prompts' }, (progress, signal) =>
      evaluateReplies(run, test, { signal, onProgress: (share) => progress.update(share * total) }),
    ),
  );
}

/** What the four steps left. */
export interface SmallTestRuns {
  sft: NotebookRun & Timed;
  before: ReplyEvaluation & Timed;
  grpo: NotebookRun & Timed;
  after: ReplyEvaluation & Timed;
}

/** Compares before and after, judges by the study's criteria, and writes report, result and charts to the output directory. */
export async function finishSmallTest(
  test: SmallTest,
  { sft, before, grpo, after }: SmallTestRuns,
): Promise<WrittenSmallTest> {
  const seconds = {
    ...{ 'SFT warm start': sft.seconds, 'evaluate before': before.seconds },
    ...{ GRPO: grpo.seconds, 'evaluate after': after.seconds },
  };
  const evaluationOf = ({ seconds: _, ...evaluation }: ReplyEvaluation & Timed): ReplyEvaluation =>
    evaluation;
  return writeSmallTest(
    smallTestResult(test, {
      ...{ before: evaluationOf(before), after: evaluationOf(after), sft, grpo, seconds },
    }),
  );
}
