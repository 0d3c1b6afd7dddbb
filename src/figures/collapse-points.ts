/** Where more replies stop to help: the first k at which Pass@k hardly grows, one bar a model. */
import { z } from 'zod';
import { parseStrict } from '../runtime/strict';
import { plain, wrap } from './captions';
import { intervalBar } from './model-traces';
import { estimateSchema, intervalNote, modelsOf, percentOf, samplingFields } from './result-shapes';
import type { FigureSpec, JsonObject, Trace } from './spec';
import type { ModelStyle } from './theme';
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
  withOpacity,
} from './theme';

const modelSchema = z.strictObject({
  name: z.string().min(1),
  collapse: estimateSchema,
  /** k = n was too few replies: for the collapse point (value null), or for the upper end of its interval (n, then) */
  beyond: z.boolean().default(false),
});

export const collapsePointsSchema = z
  .strictObject({
    ...samplingFields,
    /** largest k: the replies drawn for a tweet */
    n: z.int().positive(),
    /** Pass@k grows by less than this for one more reply */
    slope: z.number().positive().default(0.01),
    models: modelsOf(modelSchema),
  })
  .superRefine(({ n, models }, context) => {
    for (const [i, { name, collapse, beyond }] of models.entries()) {
      if (collapse.value === null) continue;
      const fits = collapse.value <= n && (beyond ? collapse.ci[1] === n : collapse.ci[1] <= n);
      const expected = beyond ? `an interval that ends at n = ${n}, as beyond is true` : `k up to n = ${n}`;
      const message = `${name}: ${collapse.value} [${collapse.ci.join(', ')}]; expected ${expected}`;
      if (!fits) context.addIssue({ code: 'custom', path: ['models', i, 'collapse'], message });
    }
  });

/** The first k at which Pass@k hardly grows, of every model. */
export type CollapsePoints = z.input<typeof collapsePointsSchema>;
type Data = z.output<typeof collapsePointsSchema>;
type Model = Data['models'][number];

/** Of a row: two lines of a reason fit in an open bar. */
const BAR = 0.62;

function bar(style: ModelStyle, row: number, length: number): Trace {
  const [top, bottom] = [row - BAR / 2, row + BAR / 2];
  return {
    type: 'scatter',
    mode: 'lines',
    name: `${plain(style.label)}, bar`,
    x: [0, length, length, 0, 0],
    y: [top, top, bottom, bottom, top],
    fill: 'toself',
    fillcolor: withOpacity(style.color, 0.28),
    line: { color: style.color, width: 1.5 },
  };
}

/** Only the long sides of a bar, dashed, and an arrow head at its open end. */
function openBar(style: ModelStyle, row: number, n: number): Trace[] {
  const [top, bottom] = [row - BAR / 2, row + BAR / 2];
  const name = `${plain(style.label)}, beyond n`;
  const sides: Trace = {
    type: 'scatter',
    mode: 'lines',
    name,
    x: [0, n, null, 0, n],
    y: [top, top, null, bottom, bottom],
    line: { color: style.color, width: 1.5, dash: '5px 3px' },
  };
  const marker = { color: style.color, symbol: 'triangle-right', size: 12 };
  return [sides, { type: 'scatter', mode: 'markers', name, x: [n], y: [row], marker }];
}

/** The bar to the value with its interval and the model's marker; the open bar to n; or nothing. */
function modelTraces({ collapse, beyond }: Model, style: ModelStyle, row: number, n: number): Trace[] {
  if (collapse.value === null) return beyond ? openBar(style, row, n) : [];
  const name = `${plain(style.label)}, interval`;
  const interval = intervalBar('x', collapse.ci, row, { color: INK, name, openEnd: beyond });
  const marker: Trace = {
    type: 'scatter',
    mode: 'markers',
    name: plain(style.label),
    x: [collapse.value],
    y: [row],
    marker: { color: style.color, symbol: style.marker, size: 10, line: { color: '#FFFFFF', width: 1 } },
  };
  return [bar(style, row, collapse.value), interval, marker];
}

const REASON_SIZE = 11;
/** Of a reason, pixels a character on average, a little more than that of Open Sans. */
const CHARACTER = 5.9;

/**
 * In the right margin the numbers; in the row of a model without a value the reason.
 * @param width  pixels of the plotting area
 */
function rowTexts({ collapse, beyond }: Model, row: number, n: number, width: number): JsonObject[] {
  const at = { yref: 'y', yanchor: 'middle', font: { size: FONT_SIZE.tick, color: INK } };
  const right = (text: string): JsonObject => note(text, 1, row, { ...at, xshift: 10 });
  if (collapse.value !== null) {
    const [low, high] = collapse.ci.map((k) => Number(k.toFixed(1)));
    const interval = `[${low}, ${beyond ? '> ' : ''}${high}]`;
    return [right(`<b>${Number(collapse.value.toFixed(1))}</b>  ${interval}`)];
  }
  const reason = beyond ? collapse.reason : `no value: ${collapse.reason}`;
  const lines = wrap(reason, Math.floor((width - 24) / CHARACTER)).map(plain);
  const font = { size: REASON_SIZE, color: INK };
  const inside = note(lines.join('<br>'), 0, row, { ...at, font, xshift: 8, bgcolor: '#FFFFFF' });
  return [right(beyond ? `<b>> ${n}</b>` : '–'), inside];
}

const ROW_HEIGHT = 48;

function axes(n: number, styles: readonly ModelStyle[]): JsonObject {
  return {
    xaxis: axis('collapse point k', 'replies per tweet', {
      range: [0, n * 1.02],
      ...(n <= 20 ? { dtick: n <= 12 ? 1 : 2 } : { nticks: 12 }),
    }),
    yaxis: {
      ...axis('', '', { range: [styles.length - 0.5, -0.5], ticks: '', showgrid: false }),
      tickvals: styles.map((_, i) => i),
      ticktext: styles.map(({ label }) => plain(label)),
    },
  };
}

/** Pixels that the longest name needs, within reason. */
function nameMargin(styles: readonly ModelStyle[]): number {
  const longest = Math.max(...styles.map(({ label }) => label.length));
  return Math.min(240, Math.max(72, 24 + 6.8 * longest));
}

/**
 * A bar a model to its collapse point, with the bootstrap interval as a capped bar over it; an open, dashed bar to n where
 * the point was not reached, and the reason in words. The numbers stand beside the bars.
 *
 * @throws ConfigError  naming a field that is missing, unknown, out of range or above n
 */
export function drawCollapsePoints(data: CollapsePoints): FigureSpec {
  const full = parseStrict(collapsePointsSchema, data, 'collapse points');
  const { models, n, slope, level } = full;
  const styles = stylesOf(models.map(({ name }) => name));
  const size = { width: FIGURE_WIDTH, height: 104 + ROW_HEIGHT * models.length };
  const margin = { l: nameMargin(styles), r: 108, t: 48, b: 56 };
  const [cell] = gridCells(1, 1, { x: 0, y: 0 });
  const title = `First k at which one more reply adds less than ${slope} to Pass@k`;
  const layout = baseLayout(size, {
    margin,
    annotations: [
      ...panelTitle({ ...cell, x: [0, 1] }, title, `lines with caps: ${intervalNote(full)}`),
      note(`k [${percentOf(level)}]`, 1, 1, {
        xshift: 10,
        yshift: 3,
        font: { size: FONT_SIZE.tick, color: FAINT_INK },
      }),
      ...models.flatMap((model, i) => rowTexts(model, i, n, size.width - margin.l - margin.r)),
    ],
    ...axes(n, styles),
  });
  const traces = models.flatMap((model, i) => modelTraces(model, styles[i], i, n));
  return { kind: 'collapse-points', ...size, data: traces, layout };
}
