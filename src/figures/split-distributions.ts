/** The splitter's chart: how engagement and reply length are distributed in the two phases. */
import { outline } from './histogram';
import type { FigureSpec, JsonObject, Trace } from './spec';
import type { Distribution, Sample, SplitSummary } from './split-summary';
import {
  axis,
  baseLayout,
  FAINT_INK,
  FIGURE_WIDTH,
  gridCells,
  note,
  panelTitle,
  styleOf,
  withOpacity,
} from './theme';
import type { Cell } from './theme';

/** Where values stand on the drawn axis: as they are, or as powers of ten with zero in a slot of its own on the left. */
interface Scale {
  readonly position: (value: number) => number;
  readonly edges: readonly number[];
  /** The slot of the zeros, when there are any. */
  readonly zeroSlot?: readonly [number, number];
  readonly ticks: JsonObject;
}

function decadeTicks(positions: readonly number[], zero: number | undefined): JsonObject {
  const first = Math.ceil(positions[0] - 1e-9);
  const last = Math.floor(positions[positions.length - 1] + 1e-9);
  const every = Math.max(1, Math.ceil((last - first) / 5));
  const powers = Array.from({ length: Math.floor((last - first) / every) + 1 }, (_, i) => first + i * every);
  const zeros = zero === undefined ? [] : [zero];
  const label = (power: number): string =>
    Math.abs(power) <= 3 ? String(Number(`1e${power}`)) : `10<sup>${power}</sup>`;
  return { tickvals: [...zeros, ...powers], ticktext: [...zeros.map(() => '0'), ...powers.map(label)] };
}

function scaleOf(distribution: Distribution): Scale {
  const { edges, scale, phase1, phase2 } = distribution;
  if (scale === 'linear') return { position: (value) => value, edges, ticks: {} };
  const positions = edges.map(Math.log10);
  const width = positions[1] - positions[0];
  const hasZeros = phase1.zeros + phase2.zeros > 0;
  const zeroSlot = [positions[0] - 2.5 * width, positions[0] - 1.5 * width] as const;
  const zero = (zeroSlot[0] + zeroSlot[1]) / 2;
  return {
    position: (value) => (value > 0 ? Math.log10(value) : zero),
    edges: positions,
    ...(hasZeros ? { zeroSlot } : {}),
    ticks: decadeTicks(positions, hasZeros ? zero : undefined),
  };
}

const PHASES = [
  { key: 'phase1', title: 'Phase 1, SFT', short: 'Phase 1', style: styleOf('baseline') },
  { key: 'phase2', title: 'Phase 2, GRPO', short: 'Phase 2', style: styleOf('grpo') },
] as const;

type Phase = (typeof PHASES)[number];

function histogramTrace(sample: Sample, scale: Scale, phase: Phase, suffix: string): Trace {
  const { color, dash } = phase.style;
  const percent = (count: number): number => (100 * count) / sample.n;
  const bins = outline(scale.edges, sample.counts.map(percent));
  const zeros =
    scale.zeroSlot === undefined ? { x: [], y: [] } : outline(scale.zeroSlot, [percent(sample.zeros)]);
  const gap = scale.zeroSlot === undefined ? [] : [null];
  return {
    type: 'scatter',
    mode: 'lines',
    name: `${phase.title} (n = ${sample.n.toLocaleString('en-US')} replies)`,
    x: [...zeros.x, ...gap, ...bins.x],
    y: [...zeros.y, ...gap, ...bins.y],
    line: { color, dash: dash === 'solid' ? dash : '4px 3px', width: 2, shape: 'hv' },
    fill: 'tozeroy',
    fillcolor: withOpacity(color, 0.12),
    xaxis: `x${suffix}`,
    yaxis: `y${suffix}`,
    showlegend: suffix === '',
  };
}

function boxTraces(sample: Sample, scale: Scale, phase: Phase, axes: JsonObject): Trace[] {
  const { color, marker } = phase.style;
  const at = (value: number): number[] => [scale.position(value)];
  const box: Trace = {
    type: 'box',
    orientation: 'h',
    name: phase.short,
    y: [phase.short],
    lowerfence: at(sample.p5),
    q1: at(sample.q1),
    median: at(sample.median),
    q3: at(sample.q3),
    upperfence: at(sample.p95),
    line: { color, width: 1.5 },
    fillcolor: withOpacity(color, 0.12),
    width: 0.5,
    showlegend: false,
    ...axes,
  };
  const points: Trace = {
    type: 'scatter',
    mode: 'markers',
    x: [sample.min, sample.mean, sample.max].map(scale.position),
    y: [phase.short, phase.short, phase.short],
    marker: { color, symbol: ['line-ns-open', marker, 'line-ns-open'], size: [8, 7, 8], opacity: 1 },
    showlegend: false,
    ...axes,
  };
  return [box, points];
}

function quantityTraces(distribution: Distribution, column: number): Trace[] {
  const scale = scaleOf(distribution);
  const suffix = column === 0 ? '' : String(column + 1);
  const axes = { xaxis: `x${suffix}`, yaxis: `y${column + 3}` };
  return PHASES.flatMap((phase) => [
    histogramTrace(distribution[phase.key], scale, phase, suffix),
    ...boxTraces(distribution[phase.key], scale, phase, axes),
  ]);
}

function testNote(distribution: Distribution): string {
  const { phase1, phase2 } = distribution;
  const [lowest, highest] = [Math.min(phase1.min, phase2.min), Math.max(phase1.max, phase2.max)];
  if (lowest === highest) return `every reply has the value ${lowest}`;
  if (distribution.ks === undefined) return '';
  const { statistic, pValue } = distribution.ks;
  const p = pValue < 0.001 ? 'p < 0.001' : `p = ${pValue.toFixed(3)}`;
  return `Kolmogorov–Smirnov D = ${statistic.toFixed(3)}, ${p}`;
}

const QUANTITIES = [
  { key: 'engagement', title: 'Engagement', axis: 'reply likes / tweet likes', unit: '' },
  { key: 'replyLength', title: 'Reply length', axis: 'reply length', unit: 'characters' },
] as const;

/** The tallest bin of both phases, percent. */
function highestShare({ phase1, phase2 }: Distribution): number {
  const tallest = ({ n, zeros, counts }: Sample): number => (100 * Math.max(zeros, ...counts)) / n;
  return Math.max(tallest(phase1), tallest(phase2));
}

/** The axes of one column: histogram above, box plot below, one x axis for both. */
function columnAxes(cell: Cell, distribution: Distribution, column: number): JsonObject {
  const quantity = QUANTITIES[column];
  const suffix = column === 0 ? '' : String(column + 1);
  const boxTop = cell.y[0] + 0.26 * (cell.y[1] - cell.y[0]);
  const histogramBottom = boxTop + 0.05;
  const x = `x${suffix}`;
  return {
    [`xaxis${suffix}`]: axis(quantity.axis, quantity.unit, {
      domain: cell.x,
      anchor: `y${column + 3}`,
      nticks: 6,
      ...scaleOf(distribution).ticks,
    }),
    [`yaxis${suffix}`]: axis(column === 0 ? 'share of replies' : '', column === 0 ? '%' : '', {
      domain: [histogramBottom, cell.y[1]],
      anchor: x,
      range: [0, 1.1 * highestShare(distribution)],
      nticks: 6,
    }),
    [`yaxis${column + 3}`]: axis('', '', {
      domain: [cell.y[0], boxTop],
      anchor: x,
      range: [1.6, -0.6],
      ticks: '',
      showgrid: false,
      showticklabels: column === 0,
    }),
  };
}

const BOX_LEGEND =
  'Box: quartiles and median; whiskers: 5th to 95th percentile; dot, square: mean; ticks: smallest, largest value.';

/** Histogram and box plot of engagement and reply length, both phases over each other. */
export function drawSplitDistributions(summary: SplitSummary): FigureSpec {
  const size = { width: FIGURE_WIDTH, height: 448 };
  const cells = gridCells(1, 2, { x: 0.1, y: 0 });
  const columns = QUANTITIES.map(({ key, title }, column) => {
    const distribution = summary[key];
    return {
      traces: quantityTraces(distribution, column),
      axes: columnAxes(cells[column], distribution, column),
      notes: panelTitle(cells[column], title, testNote(distribution)),
    };
  });
  const layout = baseLayout(size, {
    margin: { l: 72, r: 16, t: 84, b: 84 },
    showlegend: true,
    annotations: [
      ...columns.flatMap(({ notes }) => notes),
      note(BOX_LEGEND, 0, 0, { yanchor: 'top', yshift: -58, font: { size: 11, color: FAINT_INK } }),
    ],
    ...Object.assign({}, ...columns.map(({ axes }) => axes)),
  });
  return { kind: 'split-distributions', ...size, data: columns.flatMap(({ traces }) => traces), layout };
}
