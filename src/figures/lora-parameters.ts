/** What training changed in the weights: size and effective rank of every module's s B A over the layers, models compared. */
import type { z } from 'zod';
import { parseStrict } from '../runtime/strict';
import type { Missing } from './captions';
import { footnotes, missingLines, plain } from './captions';
import type { LoraParameters } from './lora-summary';
import { LORA_TARGETS } from '../model/peft';
import { loraParametersSchema } from './lora-summary';
import type { LinePoint } from './model-traces';
import { legendEntry, legendLabels, modelBand, modelLegend, modelLine, onPanel } from './model-traces';
import { counted, requireRising, seedNote } from './result-shapes';
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
  stylesOf,
} from './theme';
import { rangeOf } from './training-panels';

type Data = z.output<typeof loraParametersSchema>;
type Model = Data['models'][number];
type Module = (typeof LORA_TARGETS)[number];

const MEASURES = [
  { key: 'norm', title: 'norm', axis: '‖<i>s</i> BA‖<sub>F</sub>', unit: 'weight units' },
  { key: 'effectiveRank', title: 'effective rank', axis: 'effective rank', unit: 'directions' },
] as const;

type MeasureKey = (typeof MEASURES)[number]['key'];

/** One module over the layers. */
function linePoints({ modules }: Model, module: Module, key: MeasureKey): LinePoint[] {
  return modules
    .filter((one) => one.module === module)
    .map((one) => {
      const { layer: x, [key]: mean } = one;
      return mean.value === null ? { x, y: null } : { x, y: mean.value, interval: mean.band };
    });
}

/** The modules that any model adapts, in the order of a layer. */
function modulesOf({ models }: Data): Module[] {
  const present = new Set(models.flatMap(({ modules }) => modules.map(({ module }) => module)));
  return LORA_TARGETS.filter((module) => present.has(module));
}

function requireLayers({ models }: Data): void {
  for (const model of models)
    for (const module of LORA_TARGETS) {
      const layers = linePoints(model, module, 'norm').map(({ x }) => x);
      requireRising(`${model.name}, ${module}: layer`, layers);
    }
}

/** `layer 0 q_proj, layer 1 q_proj`, or how many of how many. */
function placesText(places: readonly string[], all: number): string {
  if (places.length === all) return 'all modules';
  return places.length > 3 ? `${places.length} of ${counted(all, 'module')}` : places.join(', ');
}

function missing({ models }: Data, styles: readonly ModelStyle[]): Missing[] {
  return models.flatMap(({ modules }, i) =>
    MEASURES.flatMap(({ key, title }) => {
      const none = modules.flatMap((one) => {
        const { layer, module, [key]: mean } = one;
        return mean.value === null ? [{ place: `layer ${layer} ${module}`, reason: mean.reason }] : [];
      });
      return [...new Set(none.map(({ reason }) => reason))].map((reason) => {
        const places = none.filter((one) => one.reason === reason).map(({ place }) => place);
        return { what: `${title} of ${styles[i].label}, ${placesText(places, modules.length)}`, reason };
      });
    }),
  );
}

/** Panels are narrow: few markers, thin lines. */
const LOOK = { markers: 5, markerSize: 5.5, width: 1.6 };

function panelTraces(data: Data, styles: readonly ModelStyle[], module: Module, key: MeasureKey): Trace[] {
  const drawn = data.models.map((model, i) => {
    const label = plain(styles[i].label);
    const points = linePoints(model, module, key);
    return {
      bands: modelBand(styles[i], label, points),
      line: { ...modelLine(styles[i], label, points, LOOK), showlegend: false },
    };
  });
  return [...drawn.flatMap(({ bands }) => bands), ...drawn.map(({ line }) => line)];
}

/** r of every model as a dotted line, which no effective rank passes. */
function rankTraces({ models }: Data, [first, last]: readonly number[]): Trace[] {
  return [...new Set(models.map(({ rank }) => rank))].map((rank) => ({
    type: 'scatter',
    mode: 'lines',
    name: `rank ${rank}`,
    x: [first, last],
    y: [rank, rank],
    line: { color: FAINT_INK, width: 1.2, dash: 'dot' },
    hoverinfo: 'skip',
    showlegend: false,
  }));
}

/** From zero to the largest value with its band, the same in all panels of a row. */
function rowRange({ models }: Data, key: MeasureKey): [number, number] {
  const values = models.flatMap(({ modules, rank }) => [
    ...(key === 'effectiveRank' ? [rank] : []),
    ...modules.flatMap(({ [key]: mean }) => (mean.value === null ? [] : [mean.value, ...(mean.band ?? [])])),
  ]);
  const [, high] = rangeOf([0, ...values]);
  // A marker at zero is whole.
  return high === 0 ? [-0.04, 1] : [-0.04 * high, 1.06 * high];
}

function layerTicks(last: number): number[] {
  if (last <= 3) return Array.from({ length: last + 1 }, (_, i) => i);
  return last % 2 === 0 || last > 12 ? [0, Math.round(last / 2), last] : [0, last];
}

function suffixOf(index: number): string {
  return index === 0 ? '' : String(index + 1);
}

interface Panel {
  readonly cell: Cell;
  readonly index: number;
  readonly firstColumn: boolean;
  readonly lastRow: boolean;
}

function panelAxes(
  panel: Panel,
  measure: (typeof MEASURES)[number],
  ranges: { x: readonly number[]; y: readonly number[] },
  lastLayer: number,
): JsonObject {
  const { cell, index, firstColumn, lastRow } = panel;
  const suffix = suffixOf(index);
  return {
    [`xaxis${suffix}`]: axis('', '', {
      ...{ domain: cell.x, anchor: `y${suffix}`, range: ranges.x, showgrid: false },
      ...{ tickvals: layerTicks(lastLayer), tickangle: 0, showticklabels: lastRow },
    }),
    [`yaxis${suffix}`]: axis(firstColumn ? measure.axis : '', firstColumn ? measure.unit : '', {
      ...{ domain: cell.y, anchor: `x${suffix}`, range: ranges.y, nticks: 6 },
      ...{ showticklabels: firstColumn, ticks: firstColumn ? 'outside' : '' },
    }),
  };
}

/** The modules' names above the columns, and over them the part of the layer that they belong to. */
function headings(modules: readonly Module[], cells: readonly Cell[]) {
  const middle = { xanchor: 'center', font: { size: FONT_SIZE.tick, color: INK } };
  const names = modules.map((module, i) =>
    note(`<b>${module}</b>`, (cells[i].x[0] + cells[i].x[1]) / 2, 1, { ...middle, yshift: 3 }),
  );
  const attention = modules.filter((module) => /^[qkvo]_/.test(module)).length;
  const groups = [
    { name: 'attention', cells: cells.slice(0, attention) },
    { name: 'feed-forward', cells: cells.slice(attention, modules.length) },
  ].filter((group) => group.cells.length > 0);
  const spans = groups.map((group) => ({
    name: group.name,
    x0: group.cells[0].x[0],
    x1: group.cells[group.cells.length - 1].x[1],
  }));
  const shapes = spans.map(({ x0, x1 }) => ({
    ...{ type: 'line', xref: 'paper', x0, x1, line: { color: FAINT_INK, width: 1 } },
    ...{ yref: 'paper', ysizemode: 'pixel', yanchor: 1, y0: 24, y1: 24 },
  }));
  const titles = spans.map(({ name, x0, x1 }) => note(name, (x0 + x1) / 2, 1, { ...middle, yshift: 25 }));
  return { shapes, annotations: [...names, ...titles] };
}

const PANEL_HEIGHT = 168;
const ROW_GAP = 26;
const COLUMN_GAP = 0.016;

function footnoteLines(data: Data, styles: readonly ModelStyle[]): string[] {
  const labelled = data.models.map(({ seeds }, i) => ({ label: styles[i].label, seeds }));
  const ranks = [...new Set(data.models.map(({ rank }) => rank))].join(', ');
  return [
    seedNote(labelled, data.band),
    `Dotted: rank r of the adapters (${ranks}), the largest effective rank that they can have.`,
    ...missingLines(missing(data, styles)),
  ];
}

function layoutOf(
  data: Data,
  styles: readonly ModelStyle[],
  modules: readonly Module[],
  entries: readonly Trace[],
) {
  const inner = 2 * PANEL_HEIGHT + ROW_GAP;
  const cells = gridCells(2, modules.length, { x: COLUMN_GAP, y: ROW_GAP / inner });
  const legend = modelLegend(legendLabels(entries), FIGURE_WIDTH - 84);
  const notes = footnotes(footnoteLines(data, styles), 50, 60);
  const margin = { l: 68, r: 16, t: 52 + legend.height, b: 52 + notes.height };
  const size = { width: FIGURE_WIDTH, height: inner + margin.t + margin.b };
  const lastLayer = Math.max(1, ...data.models.flatMap((model) => model.modules.map(({ layer }) => layer)));
  const x = [-0.06 * lastLayer, 1.06 * lastLayer];
  const axes = MEASURES.flatMap((measure, row) =>
    modules.map((_, column) => {
      const index = row * modules.length + column;
      const panel = { cell: cells[index], index, firstColumn: column === 0, lastRow: row === 1 };
      return panelAxes(panel, measure, { x, y: rowRange(data, measure.key) }, lastLayer);
    }),
  );
  const heads = headings(modules, cells);
  const layer = note('layer (index from 0)', 0.5, 0, {
    ...{ xanchor: 'center', yanchor: 'top', yshift: -24, font: { size: FONT_SIZE.label, color: INK } },
  });
  const layout = baseLayout(size, {
    margin,
    ...legend.layout,
    shapes: heads.shapes,
    annotations: [...heads.annotations, layer, ...notes.annotations],
    ...Object.assign({}, ...axes),
  });
  return { size, layout, x };
}

/**
 * A column a module, over the layers: above ||s B A||_F, below the effective rank, each row with one scale; a line a model
 * with the band over its seeds. Lines, not heat maps: the models lie over each other, told apart by marker and dash too.
 * What has no value leaves a gap and is named below with its reason.
 *
 * @throws ShapeError   when the layers of a module do not rise
 * @throws ConfigError  naming a field that is missing, unknown or not a finite number
 */
export function drawLoraParameters(data: LoraParameters): FigureSpec {
  const full = parseStrict(loraParametersSchema, data, 'LoRA parameters');
  requireLayers(full);
  const styles = stylesOf(full.models.map(({ name }) => name));
  const modules = modulesOf(full);
  const entries = styles.map((style) => legendEntry(style, true));
  const { size, layout, x } = layoutOf(full, styles, modules, entries);
  const traces = MEASURES.flatMap(({ key }, row) =>
    modules.flatMap((module, column) => {
      const ranks = key === 'effectiveRank' ? rankTraces(full, x) : [];
      const suffix = suffixOf(row * modules.length + column);
      return [...ranks, ...panelTraces(full, styles, module, key)].map((trace) => onPanel(trace, suffix));
    }),
  );
  return { kind: 'lora-parameters', ...size, data: [...entries, ...traces], layout };
}
