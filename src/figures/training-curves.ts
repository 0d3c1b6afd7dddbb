/** The course of an SFT + GRPO run: one small panel a quantity, each with its own scale. */
import { ShapeError } from '../runtime/errors';
import type { FigureSpec, JsonObject, Trace } from './spec';
import { axis, baseLayout, FIGURE_WIDTH, gridCells, panelTitle, withOpacity } from './theme';
import type { Cell } from './theme';
import { rangeOf, trainingPanels } from './training-panels';
import type { Panel, Series, TrainingCurves } from './training-panels';

/** Beyond this many points markers touch each other and hide the line. */
const MOST_MARKERS = 40;

function heldOutTrace({ title, style }: Panel, { steps, values }: Series, axes: JsonObject): Trace {
  return {
    type: 'scatter',
    mode: 'markers',
    name: `${title}, held out`,
    x: steps,
    y: values,
    marker: { color: '#FFFFFF', symbol: style.marker, size: 8, line: { color: style.color, width: 2 } },
    ...axes,
  };
}

function panelTraces(panel: Panel, suffix: string): Trace[] {
  const { steps, values, spread, style, heldOut } = panel;
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
  const lines = steps.length === 0 ? [] : [line];
  if (heldOut !== undefined) lines.push(heldOutTrace(panel, heldOut, axes));
  if (spread === undefined || steps.length === 0) return lines;
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
  return [band, ...lines];
}

/** The panels of one phase have the same range of steps. */
function stepRange(phase: Panel['phase'], panels: readonly Panel[]): [number, number] {
  const steps = panels
    .filter((panel) => panel.phase === phase)
    .flatMap((panel) => [...panel.steps, ...(panel.heldOut?.steps ?? [])]);
  const [first, last] = rangeOf(steps);
  const margin = Math.max(0.5, 0.03 * (last - first));
  return [first - margin, last + margin];
}

function panelAxes(panel: Panel, cell: Cell, suffix: string, range: [number, number]): JsonObject {
  return {
    [`xaxis${suffix}`]: axis(`${panel.phase} optimiser step`, '', {
      domain: cell.x,
      anchor: `y${suffix}`,
      range,
      // Of few steps plotly would draw halves, and round their labels.
      ...(range[1] - range[0] < 8 ? { dtick: 1 } : { nticks: 7 }),
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

/**
 * Small multiples of a run: loss and diversity of SFT, then reward (with its spread inside groups), KL, entropy and
 * completion length of GRPO, as far as the rows have them. The panels of a phase share their step axis's range; no panel
 * has two scales.
 *
 * @throws ShapeError   when there is no row, or steps do not rise
 * @throws ConfigError  naming a field that is missing, unknown or not a finite number
 */
export function drawTrainingCurves(curves: TrainingCurves): FigureSpec {
  const panels = trainingPanels(curves);
  if (panels.length === 0)
    throw new ShapeError('training curves of no row; expected at least one step of a phase.');
  const columns = panels.length === 1 ? 1 : 2;
  const rows = Math.ceil(panels.length / columns);
  const size = { width: FIGURE_WIDTH, height: 64 + 240 * rows };
  const cells = gridCells(rows, columns, { x: 0.15, y: rows === 3 ? 0.17 : 0.28 });
  const suffix = (index: number): string => (index === 0 ? '' : String(index + 1));
  const axes = panels.map((panel, i) =>
    panelAxes(panel, cells[i], suffix(i), stepRange(panel.phase, panels)),
  );
  const layout = baseLayout(size, {
    annotations: panels.flatMap((panel, i) => panelTitle(cells[i], panel.title, panel.explanation)),
    ...Object.assign({}, ...axes),
  });
  const data = panels.flatMap((panel, i) => panelTraces(panel, suffix(i)));
  return { kind: 'training-curves', ...size, data, layout };
}
