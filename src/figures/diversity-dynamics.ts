/** How the diversity of each model's replies changes over the steps of the two-phase run. */
import { z } from 'zod';
import { ShapeError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import type { Missing } from './captions';
import { emptyPanel, footnotes, missingLines, plain } from './captions';
import type { LinePoint } from './model-traces';
import { legendEntry, legendLabels, modelBand, modelLegend, modelLine, onPanel } from './model-traces';
import { bandSchema, counted, modelsOf, seedMeanSchema, seedNote } from './result-shapes';
import type { FigureSpec, JsonObject, Trace } from './spec';
import type { Cell, ModelStyle } from './theme';
import {
  axis,
  baseLayout,
  FAINT_INK,
  FIGURE_WIDTH,
  FONT_SIZE,
  gridCells,
  INK,
  note,
  panelTitle,
  stylesOf,
} from './theme';
import { rangeOf } from './training-panels';

const pointSchema = z.strictObject({
  /** of the whole run: phase 2 goes on counting where phase 1 ended */
  step: z.int().nonnegative(),
  phase: z.union([z.literal(1), z.literal(2)]),
  selfBleu: seedMeanSchema.optional(),
  distinct2: seedMeanSchema.optional(),
  semantic: seedMeanSchema.optional(),
});

export const diversityDynamicsSchema = z.strictObject({
  /** the last step of phase 1 */
  boundary: z.int().nonnegative(),
  band: bandSchema,
  models: modelsOf(
    z.strictObject({
      name: z.string().min(1),
      seeds: z.int().positive(),
      points: z.array(pointSchema).min(1),
    }),
  ),
});

/** Diversity of every model's replies over the steps of both phases. */
export type DiversityDynamics = z.input<typeof diversityDynamicsSchema>;
type Data = z.output<typeof diversityDynamicsSchema>;
type Model = Data['models'][number];

const MEASURES = [
  { key: 'selfBleu', title: 'Self-BLEU', better: 'lower is more diverse', axis: 'self-BLEU', unit: '0 to 1' },
  {
    key: 'distinct2',
    title: 'Distinct-2',
    better: 'higher is more diverse',
    axis: 'distinct-2',
    unit: '0 to 1',
  },
  {
    key: 'semantic',
    title: 'Semantic diversity',
    better: 'higher is more diverse; mean over pairs of replies to a tweet',
    axis: 'cosine distance',
    unit: '0 to 2',
  },
] as const;

type Measure = (typeof MEASURES)[number];

/** The points that a measure was taken at. */
function linePoints({ points }: Model, { key }: Measure): LinePoint[] {
  return points.flatMap((point) => {
    const { step: x, [key]: mean } = point;
    if (mean === undefined) return [];
    return [mean.value === null ? { x, y: null } : { x, y: mean.value, interval: mean.band }];
  });
}

/** @throws ShapeError when steps go back, or a phase lies on the wrong side of the boundary */
function requirePhases({ boundary, models }: Data): void {
  for (const { name, points } of models) {
    const hasSecond = points.some(({ phase }) => phase === 2);
    points.forEach(({ step, phase }, i) => {
      const before = points[i - 1];
      const back = before !== undefined && (step < before.step || phase < before.phase);
      const again = before !== undefined && step === before.step && phase === before.phase;
      if (back || again)
        throw new ShapeError(
          `${name}: step ${step} of phase ${phase} follows step ${before.step} of phase ${before.phase}; expected rising steps.`,
        );
      // A model without a second phase may go on with the first.
      if ((phase === 2 && step < boundary) || (phase === 1 && hasSecond && step > boundary))
        throw new ShapeError(
          `${name}: step ${step} of phase ${phase} is on the wrong side of the boundary at step ${boundary}.`,
        );
    });
  }
}

function missing({ models }: Data, styles: readonly ModelStyle[]): Missing[] {
  return models.flatMap(({ points }, i) =>
    MEASURES.flatMap(({ key, title }) => {
      const none = points.flatMap((point) => {
        const { step, [key]: mean } = point;
        return mean?.value === null ? [{ step, reason: mean.reason }] : [];
      });
      return [...new Set(none.map(({ reason }) => reason))].map((reason) => {
        const steps = none.filter((one) => one.reason === reason).map(({ step }) => step);
        const at = steps.length > 4 ? `${counted(steps.length, 'step')}` : `step ${steps.join(', ')}`;
        return { what: `${title} of ${styles[i].label} at ${at}`, reason };
      });
    }),
  );
}

/** Bands of all models, then their lines: no band lies over a line. */
function panelTraces({ models }: Data, styles: readonly ModelStyle[], measure: Measure): Trace[] {
  const drawn = models.map((model, i) => ({
    points: linePoints(model, measure),
    style: styles[i],
    label: plain(styles[i].label),
  }));
  return [
    ...drawn.flatMap(({ points, style, label }) => modelBand(style, label, points)),
    ...drawn.map(({ points, style, label }) => modelLine(style, label, points)),
  ].map((trace) => ({ ...trace, showlegend: false }));
}

function hasValue(model: Model, measures: readonly Measure[] = MEASURES): boolean {
  return measures.some((measure) => linePoints(model, measure).some(({ y }) => y !== null));
}

/** The measures of which no model has a value. */
function emptyMeasures({ models }: Data): Measure[] {
  return MEASURES.filter((measure) => !models.some((model) => hasValue(model, [measure])));
}

/** Of the steps' range, the share to the right of the boundary that the name of phase 2 needs. */
const NAME_SHARE = 0.19;

/** What stands left and right of the boundary: its step on the side with more room. */
function phaseNames(boundary: number, [first, last]: readonly number[]): { left: string; right: string } {
  const step = boundary.toLocaleString('en-US');
  const share = (last - boundary) / (last - first);
  if (share > 0.5) return { left: '<b>Phase 1: SFT</b>', right: `<b>Phase 2: GRPO</b> after step ${step}` };
  const left = `<b>Phase 1: SFT</b> up to step ${step}`;
  if (share > NAME_SHARE) return { left, right: '<b>Phase 2: GRPO</b>' };
  return { left: `${left}, then <b>phase 2: GRPO</b>`, right: '' };
}

/** The line of the boundary in every panel, and above the first one the phases' names on both sides of it. */
function phaseMarks(boundary: number, range: readonly number[]) {
  const names = phaseNames(boundary, range);
  const font = { size: FONT_SIZE.tick, color: INK };
  const place = { xref: 'x', yshift: 26, font };
  const upright = { type: 'line', x0: boundary, x1: boundary, layer: 'below' };
  const lines = MEASURES.map((_, i) => ({
    ...{ ...upright, xref: `x${suffixOf(i)}`, yref: `y${suffixOf(i)} domain`, y0: 0, y1: 1 },
    line: { color: FAINT_INK, width: 1.2, dash: '5px 3px' },
  }));
  const stem = {
    ...{ ...upright, xref: 'x', yref: 'paper', ysizemode: 'pixel', yanchor: 1, y0: 0, y1: 44 },
    line: { color: FAINT_INK, width: 1.2 },
  };
  const annotations = [
    note(names.left, boundary, 1, { ...place, xanchor: 'right', xshift: -6 }),
    note(names.right, boundary, 1, { ...place, xanchor: 'left', xshift: 6 }),
  ];
  return { shapes: [...lines, stem], annotations: annotations.filter(({ text }) => text !== '') };
}

function panelAxes(cell: Cell, index: number, range: readonly number[], empty: boolean): JsonObject {
  const measure = MEASURES[index];
  const suffix = suffixOf(index);
  const lowest = index === MEASURES.length - 1;
  return {
    [`xaxis${suffix}`]: axis(lowest ? 'optimiser step of the whole run' : '', '', {
      ...{ domain: cell.x, anchor: `y${suffix}`, range, nticks: 8, tickformat: ',d', showgrid: false },
      showticklabels: lowest,
    }),
    [`yaxis${suffix}`]: axis(measure.axis, measure.unit, {
      ...{ domain: cell.y, anchor: `x${suffix}`, nticks: 5, ...(empty ? { range: [0, 1] } : {}) },
    }),
  };
}

function suffixOf(index: number): string {
  return index === 0 ? '' : String(index + 1);
}

const PANEL_HEIGHT = 158;
const PANEL_GAP = 36;

function stepRange({ boundary, models }: Data): [number, number] {
  const steps = models.flatMap(({ points }) => points.map(({ step }) => step));
  const [first, last] = rangeOf([boundary, ...steps]);
  const margin = 0.02 * (last - first) || 0.5;
  return [first - margin, last + margin];
}

function titles(cell: Cell, { title, better }: Measure): JsonObject {
  const text = `<b>${title}</b>  <span style="color:${FAINT_INK};font-size:${FONT_SIZE.tick}px">${better}</span>`;
  return { ...panelTitle(cell, '', '')[0], text };
}

/**
 * Three panels over the same steps: self-BLEU, distinct-2 and semantic diversity; a line a model, the band over its seeds,
 * and the line at which phase 1 ends. What has no value leaves a gap and is named below with its reason.
 *
 * @throws ShapeError   when a model's steps do not rise, or lie on the wrong side of the boundary
 * @throws ConfigError  naming a field that is missing, unknown or not a finite number
 */
export function drawDiversityDynamics(data: DiversityDynamics): FigureSpec {
  const full = parseStrict(diversityDynamicsSchema, data, 'diversity dynamics');
  requirePhases(full);
  const styles = stylesOf(full.models.map(({ name }) => name));
  const entries = full.models.map((model, i) => legendEntry(styles[i], hasValue(model)));
  const legend = modelLegend(legendLabels(entries), FIGURE_WIDTH - 88);
  const labelled = full.models.map(({ seeds }, i) => ({ label: styles[i].label, seeds }));
  const notes = footnotes([seedNote(labelled, full.band), ...missingLines(missing(full, styles))], 50, 56);
  const inner = 3 * PANEL_HEIGHT + 2 * PANEL_GAP;
  const margin = { l: 72, r: 16, t: 52 + legend.height, b: 52 + notes.height };
  const size = { width: FIGURE_WIDTH, height: inner + margin.t + margin.b };
  const cells = gridCells(3, 1, { x: 0, y: PANEL_GAP / inner });
  const range = stepRange(full);
  const none = emptyMeasures(full);
  const marks = phaseMarks(full.boundary, range);
  const layout = baseLayout(size, {
    margin,
    ...legend.layout,
    shapes: marks.shapes,
    annotations: [
      ...MEASURES.map((measure, i) => titles(cells[i], measure)),
      ...none.map((measure) => emptyPanel(cells[MEASURES.indexOf(measure)], 'no value')),
      ...marks.annotations,
      ...notes.annotations,
    ],
    ...Object.assign({}, ...cells.map((cell, i) => panelAxes(cell, i, range, none.includes(MEASURES[i])))),
  });
  const traces = MEASURES.flatMap((measure, i) =>
    panelTraces(full, styles, measure).map((trace) => onPanel(trace, suffixOf(i))),
  );
  return { kind: 'diversity-dynamics', ...size, data: [...entries, ...traces], layout };
}
