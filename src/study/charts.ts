/** The small test's charts: its results in the figures' terms. */
import { IMAGE_FORMATS } from '../figures/export';
import { smallTestFigures } from '../figures/small-test';
import type { Figure } from '../figures/spec';
import type { LoopResult, StepRecord } from '../train/loop';
import type { SmallTestResult } from './result';

/** Every file that the charts can leave in the output directory. */
export function chartFiles(): string[] {
  return ['training_curves', 'before_after'].flatMap((name) =>
    ['json', ...IMAGE_FORMATS].map((format) => `${name}.${format}`),
  );
}

/** Rows of a phase as a chart has them, without steps whose gradient was not finite. */
function finiteRows<T extends Record<string, number>>(
  { history }: LoopResult,
  pick: (row: StepRecord) => T,
): T[] {
  return history.map(pick).filter((row) => Object.values(row).every(Number.isFinite));
}

/** The course of both phases, and the change of each measure on the held-out prompts. */
export function chartsOf({
  sft,
  grpo,
  changes,
}: Pick<SmallTestResult, 'sft' | 'grpo' | 'changes'>): Figure[] {
  return smallTestFigures({
    curves: {
      sft: finiteRows(sft, (row) => ({ step: row.step, loss: row['train/loss'] })),
      grpo: finiteRows(grpo, (row) => ({
        step: row.step,
        reward: row['train/avg_reward'],
        rewardStd: row['train/reward_std'],
        kl: row['train/kl_penalty'],
        completionLength: row['train/completion_tokens'],
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
