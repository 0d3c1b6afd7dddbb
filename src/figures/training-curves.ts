/** The course of an SFT + GRPO run: one small panel a quantity, each with its own scale. */
import { z } from 'zod';
import { ShapeError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import type { FigureSpec, JsonObject, Trace } from './spec';
import { axis, baseLayout, FIGURE_WIDTH, gridCells, panelTitle, styleOf, withOpacity } from './theme';
import type { Cell, ModelStyle } from './theme';

const sftRowSchema = z.strictObject({
  step: z.int().nonnegative(),
  /** nats a reply token */
  loss: z.number(),
});

const grpoRowSchema = z.strictObject({
  step: z.int().nonnegative(),
  /** mean over the completions of the step */
  reward: z.number(),
  /** mean over the groups of the standard deviation inside a group */
  rewardStd: z.number().nonnegative(),
  /** mean over completions of the k3 estimate summed over their tokens, nats */
  kl: z.number(),
  /** mean, tokens */
  completionLength: z.number().nonnegative(),
});

/** The rows of a run's metrics, one an optimiser step; a phase that did not run is left out or empty. */
export const trainingCurvesSchema = z.strictObject({
  sft: z.array(sftRowSchema).default([]),
  grpo: z.array(grpoRowSchema).default([]),
});

export type TrainingCurves = z.input<typeof trainingCurvesSchema>;
type GrpoRow = z.infer<typeof grpoRowSchema>;

/** One quantity over the steps of its phase. */
interface Panel {
  readonly title: string;
  readonly explanation: string;
  readonly axisTitle: string;
  readonly unit: string;
  readonly phase: 'SFT' | 'GRPO';
  readonly style: ModelStyle;
  readonly steps: readonly number[];
  readonly values: readonly number[];
  /** half the height of the band around the line */
  readonly spread?: readonly number[];
  readonly fromZero: boolean;
}

function grpoPanels(rows: readonly GrpoRow[]): Panel[] {
  const common = { phase: 'GRPO', style: styleOf('grpo'), steps: rows.map(({ step }) => step) } as const;
  return [
    {
      ...common,
      title: 'Reward',
      explanation: 'line: batch mean; band: ± 1 std within groups',
      axisTitle: 'reward',
      unit: '0 to 1',
      values: rows.map(({ reward }) => reward),
      spread: rows.map(({ rewardStd }) => rewardStd),
      fromZero: false,
    },
    {
      ...common,
      title: 'KL to the reference',
      explanation: 'mean over completions, k3 estimate',
      axisTitle: 'KL',
      unit: 'nats per completion',
      values: rows.map(({ kl }) => kl),
      fromZero: true,
    },
    {
      ...common,
      title: 'Completion length',
      explanation: 'mean over completions',
      axisTitle: 'length',
      unit: 'tokens',
      values: rows.map(({ completionLength }) => completionLength),
      fromZero: true,
    },
  ];
}

function panelsOf(curves: z.output<typeof trainingCurvesSchema>): Panel[] {
  const { sft, grpo } = curves;
  const sftPanel: Panel = {
    title: 'SFT loss',
    explanation: 'mean over reply tokens',
    axisTitle: 'loss',
    unit: 'nats per token',
    phase: 'SFT',
    style: styleOf('baseline'),
    steps: sft.map(({ step }) => step),
    values: sft.map(({ loss }) => loss),
    fromZero: false,
  };
  return [...(sft.length > 0 ? [sftPanel] : []), ...(grpo.length > 0 ? grpoPanels(grpo) : [])];
}

/** Beyond this many points markers touch each other and hide the line. */
const MOST_MARKERS = 40;

function panelTraces(panel: Panel, suffix: string): Trace[] {
  const { steps, values, spread, style } = panel;
  const axes = { xaxis: `x${suffix}`, yaxis: `y${suffix}`, showlegend: false };
  const line: Trace = {
    type: 'scatter',
    mode: steps.length > MOST_MARKERS ? 'lines' : 'lines+markers',
    name: panel.title,
    x: steps,
    y: values,
    line: { color: style.color, width: 2 },
    marker: { color: style.color, symbol: style.marker, size: 5 },
    ...axes,
  };
  if (spread === undefined) return [line];
  const band: Trace = {
    type: 'scatter',
    mode: 'lines',
    name: '± 1 std',
    x: [...steps, ...[...steps].reverse()],
    y: [
      ...values.map((value, i) => value + spread[i]),
      ...values.map((value, i) => value - spread[i]).reverse(),
    ],
    fill: 'toself',
    fillcolor: withOpacity(style.color, 0.18),
    line: { width: 0, color: style.color },
    ...axes,
  };
  return [band, line];
}

/** The panels of one phase have the same steps, so the same range. */
function stepRange(panel: Panel): [number, number] {
  const first = panel.steps[0];
  const last = panel.steps[panel.steps.length - 1];
  const margin = Math.max(0.5, 0.03 * (last - first));
  return [first - margin, last + margin];
}

function panelAxes(panel: Panel, cell: Cell, suffix: string): JsonObject {
  return {
    [`xaxis${suffix}`]: axis(`${panel.phase} optimiser step`, '', {
      domain: cell.x,
      anchor: `y${suffix}`,
      range: stepRange(panel),
      nticks: 7,
      tickformat: ',d',
    }),
    [`yaxis${suffix}`]: axis(panel.axisTitle, panel.unit, {
      domain: cell.y,
      anchor: `x${suffix}`,
      rangemode: panel.fromZero ? 'tozero' : 'normal',
      nticks: 6,
    }),
  };
}

function requireRisingSteps(panel: Panel): void {
  const at = panel.steps.findIndex((step, i) => i > 0 && step <= panel.steps[i - 1]);
  if (at >= 0) {
    throw new ShapeError(
      `${panel.phase} step ${panel.steps[at]} follows step ${panel.steps[at - 1]}; expected rising steps.`,
    );
  }
}

/**
 * Small multiples of a run: the loss of SFT, then reward (with its spread inside groups), KL and completion length of
 * GRPO. The panels of a phase share their step axis's range; no panel has two scales.
 *
 * @throws ShapeError   when there is no row, or steps do not rise
 * @throws ConfigError  naming a field that is missing, unknown or not a finite number
 */
export function drawTrainingCurves(curves: TrainingCurves): FigureSpec {
  const panels = panelsOf(parseStrict(trainingCurvesSchema, curves, 'training curves'));
  if (panels.length === 0)
    throw new ShapeError('training curves of no row; expected at least one step of a phase.');
  panels.forEach(requireRisingSteps);
  const columns = panels.length === 1 ? 1 : 2;
  const rows = Math.ceil(panels.length / columns);
  const size = { width: FIGURE_WIDTH, height: rows === 1 ? 304 : 544 };
  const cells = gridCells(rows, columns, { x: 0.15, y: 0.28 });
  const suffix = (index: number): string => (index === 0 ? '' : String(index + 1));
  const layout = baseLayout(size, {
    annotations: panels.flatMap((panel, i) => panelTitle(cells[i], panel.title, panel.explanation)),
    ...Object.assign({}, ...panels.map((panel, i) => panelAxes(panel, cells[i], suffix(i)))),
  });
  const data = panels.flatMap((panel, i) => panelTraces(panel, suffix(i)));
  return { kind: 'training-curves', ...size, data, layout };
}
