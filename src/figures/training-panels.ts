/** The quantities that a training run is watched by: from the rows of its metrics to panels that a chart can draw. */
import { z } from 'zod';
import { ShapeError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { styleOf } from './theme';
import type { ModelStyle } from './theme';

const step = z.int().nonnegative();

const sftRowSchema = z.strictObject({
  step,
  /** nats a reply token */
  loss: z.number(),
  /** of the policy's own completions, in [0, 1]; polychromic only, in the steps that measure it */
  diversity: z.number().optional(),
});

const grpoRowSchema = z.strictObject({
  step,
  /** mean over the completions of the step */
  reward: z.number(),
  /** mean over the groups of the standard deviation inside a group */
  rewardStd: z.number().nonnegative(),
  /** mean over completions of the k3 estimate summed over their tokens, nats; absent without a reference */
  kl: z.number().optional(),
  /** mean over tokens, nats */
  entropy: z.number().optional(),
  /** mean, tokens */
  completionLength: z.number().nonnegative(),
});

/** The rows of a run's metrics, one an optimiser step; a phase that did not run is left out or empty. */
export const trainingCurvesSchema = z.strictObject({
  sft: z.array(sftRowSchema).default([]),
  grpo: z.array(grpoRowSchema).default([]),
  /** on held-out data: loss in nats a reply token */
  sftHeldOut: z.array(z.strictObject({ step, loss: z.number() })).default([]),
  /** on held-out data: mean reward */
  grpoHeldOut: z.array(z.strictObject({ step, reward: z.number() })).default([]),
});

/** The metrics of a run by step: of SFT, of GRPO, and on held-out data. */
export type TrainingCurves = z.input<typeof trainingCurvesSchema>;
type Curves = z.output<typeof trainingCurvesSchema>;

/** Values at some steps. */
export interface Series {
  readonly steps: readonly number[];
  readonly values: readonly number[];
}

/** One quantity over the steps of its phase. */
export interface Panel extends Series {
  readonly title: string;
  readonly explanation: string;
  readonly axisTitle: string;
  readonly unit: string;
  readonly phase: 'SFT' | 'GRPO';
  readonly style: ModelStyle;
  /** half the height of the band around the line */
  readonly spread?: readonly number[];
  /** the same quantity on held-out data */
  readonly heldOut?: Series;
  readonly fromZero: boolean;
}

/** The smallest and the largest of any number of values: more than a call takes arguments. */
export function rangeOf(values: readonly number[]): [number, number] {
  return values.reduce<[number, number]>(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
}

/** The rows that have a value, as steps and values. */
function seriesOf<T extends { step: number }>(
  rows: readonly T[],
  value: (row: T) => number | undefined,
): Series {
  const pairs = rows.flatMap((row) => {
    const own = value(row);
    return own === undefined ? [] : [{ step: row.step, own }];
  });
  return { steps: pairs.map((pair) => pair.step), values: pairs.map(({ own }) => own) };
}

function grpoPanels({ grpo: rows, grpoHeldOut }: Curves): Panel[] {
  const common = { phase: 'GRPO', style: styleOf('grpo') } as const;
  const heldOut = grpoHeldOut.length === 0 ? undefined : seriesOf(grpoHeldOut, ({ reward }) => reward);
  return [
    {
      ...common,
      ...seriesOf(rows, ({ reward }) => reward),
      title: 'Reward',
      explanation: heldOut
        ? 'band: ± 1 std in groups; hollow: held out'
        : 'line: batch mean; band: ± 1 std within groups',
      axisTitle: 'reward',
      unit: '0 to 1',
      spread: rows.map(({ rewardStd }) => rewardStd),
      heldOut,
      fromZero: false,
    },
    {
      ...common,
      ...seriesOf(rows, ({ kl }) => kl),
      title: 'KL to the reference',
      explanation: 'mean over completions, k3 estimate',
      axisTitle: 'KL',
      unit: 'nats per completion',
      fromZero: true,
    },
    {
      ...common,
      ...seriesOf(rows, ({ entropy }) => entropy),
      title: 'Entropy',
      explanation: 'mean over completion tokens',
      axisTitle: 'entropy',
      unit: 'nats per token',
      fromZero: true,
    },
    {
      ...common,
      ...seriesOf(rows, ({ completionLength }) => completionLength),
      title: 'Completion length',
      explanation: 'mean over completions',
      axisTitle: 'length',
      unit: 'tokens',
      fromZero: true,
    },
  ];
}

function sftPanels({ sft, sftHeldOut }: Curves): Panel[] {
  const common = { phase: 'SFT', style: styleOf('baseline') } as const;
  const heldOut = sftHeldOut.length === 0 ? undefined : seriesOf(sftHeldOut, ({ loss }) => loss);
  return [
    {
      ...common,
      ...seriesOf(sft, ({ loss }) => loss),
      title: 'SFT loss',
      explanation: `mean over reply tokens${heldOut ? '; hollow: held out' : ''}`,
      axisTitle: 'loss',
      unit: 'nats per token',
      heldOut,
      fromZero: false,
    },
    {
      ...common,
      ...seriesOf(sft, ({ diversity }) => diversity),
      title: 'Diversity',
      explanation: 'of own completions, where measured',
      axisTitle: 'diversity',
      unit: '0 to 1',
      fromZero: false,
    },
  ];
}

function requireRisingSteps({ phase, steps }: Pick<Panel, 'phase' | 'steps'>): void {
  const at = steps.findIndex((here, i) => i > 0 && here <= steps[i - 1]);
  if (at >= 0)
    throw new ShapeError(`${phase} step ${steps[at]} follows step ${steps[at - 1]}; expected rising steps.`);
}

/**
 * The panels of a run, those of SFT first; a quantity without a value has none.
 *
 * @throws ShapeError   when steps do not rise
 * @throws ConfigError  naming a field that is missing, unknown or not a finite number
 */
export function trainingPanels(curves: TrainingCurves): Panel[] {
  const full = parseStrict(trainingCurvesSchema, curves, 'training curves');
  const panels = [...sftPanels(full), ...grpoPanels(full)].filter(
    ({ steps, heldOut }) => steps.length > 0 || heldOut !== undefined,
  );
  for (const panel of panels) {
    requireRisingSteps(panel);
    requireRisingSteps({ phase: panel.phase, steps: panel.heldOut?.steps ?? [] });
  }
  return panels;
}

/** A row of `metrics.jsonl`: values by path; null or not finite where a step had none. */
export type MetricsRow = Readonly<Record<string, number | null>>;

/** Rows with all of the needed values, in the names of a chart; what a row lacks of the others is left out. */
function pick(
  rows: readonly MetricsRow[],
  needed: Readonly<Record<string, string>>,
  others: Readonly<Record<string, string>> = {},
): Record<string, number>[] {
  const isThere = (value: unknown): value is number => Number.isFinite(value);
  return rows
    .filter((row) => Object.values(needed).every((key) => isThere(row[key])))
    .map((row) =>
      Object.fromEntries(
        Object.entries({ step: 'step', ...needed, ...others }).flatMap(([name, key]) => {
          const value = row[key];
          return isThere(value) ? [[name, value]] : [];
        }),
      ),
    );
}

/** What a chart needs of a run's metrics, whatever the method of the run. */
export function curvesOfMetrics(rows: readonly MetricsRow[]): TrainingCurves {
  const curves = {
    sft: pick(rows, { loss: 'train/loss' }, { diversity: 'train/diversity' }),
    grpo: pick(
      rows,
      {
        ...{ reward: 'train/avg_reward', rewardStd: 'train/reward_std' },
        completionLength: 'train/completion_tokens',
      },
      { kl: 'train/kl_penalty', entropy: 'train/entropy' },
    ),
    sftHeldOut: pick(rows, { loss: 'eval/loss' }),
    grpoHeldOut: pick(
      rows.filter((row) => row['eval/loss'] === undefined),
      { reward: 'eval/reward' },
    ),
  };
  return trainingCurvesSchema.parse(curves);
}
