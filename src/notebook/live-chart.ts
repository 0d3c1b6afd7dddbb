/** The chart of a run in progress, as an SVG text: it needs nothing of the page that shows it, so it can move in place. */
import { rangeOf } from '../figures/training-panels';
import type { Panel } from '../figures/training-panels';
import { FAINT_INK, INK, withOpacity } from '../figures/theme';
import { formatDuration } from '../runtime/progress';
import { escapeHtml } from './html';

/** How far a run is. */
export interface RunProgress {
  /** such as `GRPO, seed 42` */
  title: string;
  step: number;
  /** 0: not known yet */
  totalSteps: number;
  /** since this process began */
  seconds: number;
  /** steps that an earlier process did */
  before: number;
  /** how it ended; absent while it runs */
  ended?: string;
}

const WIDTH = 680;
const HEADER = 46;
const PANEL = { width: 334, height: 182, left: 46, right: 8, top: 24, bottom: 36 } as const;
const GAP = 12;
const GRID = '#E4E4E4';

/** At most so many points of a line are drawn: more than a panel has pixels show nothing more. */
const MOST_POINTS = 300;

/**
 * Round numbers from at or below `low` to at or above `high`, a step of 1, 2 or 5 times a power of ten apart. Numbers that
 * differ by rounding errors alone are taken for one.
 */
export function roundTicks(low: number, high: number, about = 4): number[] {
  const largest = Math.max(Math.abs(low), Math.abs(high));
  const span = high - low > 1e-9 * largest ? high - low : largest || 1;
  const power = 10 ** Math.floor(Math.log10(span / about));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => span / one <= about) as number;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** With as many decimals as tell ticks apart; of an axis of tiny or huge numbers with a power of ten. */
function tickText(value: number, ticks: readonly number[]): string {
  const largest = Math.max(...ticks.map(Math.abs));
  if (largest < 1e-4 || largest >= 1e6)
    return value === 0 ? '0' : Number(value.toPrecision(6)).toExponential().replace('+', '');
  return value.toFixed(Math.min(6, Math.max(0, -Math.floor(Math.log10(ticks[1] - ticks[0]) + 1e-9))));
}

/** Every n-th point and the last one. */
function thinned<T>(points: readonly T[]): readonly T[] {
  const every = Math.ceil(points.length / MOST_POINTS);
  return every <= 1 ? points : points.filter((_, i) => i % every === 0 || i === points.length - 1);
}

interface Scales {
  x: (step: number) => number;
  y: (value: number) => number;
  ticks: { x: number[]; y: number[] };
}

function scalesOf(panel: Panel, lastStep: number): Scales {
  const { values, spread, heldOut, fromZero } = panel;
  const all = [
    ...values.map((value, i) => value - (spread?.[i] ?? 0)),
    ...values.map((value, i) => value + (spread?.[i] ?? 0)),
    ...(heldOut?.values ?? []),
    ...(fromZero ? [0] : []),
  ];
  const y = roundTicks(...rangeOf(all));
  const [low, high] = [y[0], y[y.length - 1]];
  const [first, newest] = rangeOf([...panel.steps, ...(heldOut?.steps ?? [])]);
  const last = Math.max(lastStep, newest);
  const { width, height, left, right, top, bottom } = PANEL;
  const across = (step: number): number =>
    left + ((width - left - right) * (step - first)) / Math.max(1, last - first);
  const x = roundTicks(first, last, 5).filter(
    (tick) => tick >= first && tick <= last && Number.isInteger(tick),
  );
  return {
    x: across,
    y: (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low),
    ticks: { x, y },
  };
}

function axesOf(panel: Panel, { x, y, ticks }: Scales): string {
  const { width, height, left, right, bottom } = PANEL;
  const rows = ticks.y.map((tick) => {
    const at = y(tick).toFixed(1);
    return (
      `<line x1="${left}" x2="${width - right}" y1="${at}" y2="${at}" stroke="${GRID}"/>` +
      `<text x="${left - 6}" y="${at}" dy="4" text-anchor="end">${tickText(tick, ticks.y)}</text>`
    );
  });
  const columns = ticks.x.map(
    (tick) =>
      `<text x="${x(tick).toFixed(1)}" y="${height - bottom + 16}" text-anchor="middle">${tick}</text>`,
  );
  const title =
    `<text x="2" y="13" fill="${INK}"><tspan font-weight="bold">${escapeHtml(panel.title)}</tspan>` +
    `<tspan fill="${FAINT_INK}" font-size="11"> (${escapeHtml(panel.unit)})</tspan></text>` +
    `<text x="${width - right}" y="${height - 1}" text-anchor="end" font-size="11">optimiser step</text>`;
  return title + rows.join('') + columns.join('');
}

function marksOf({ steps, values, spread, heldOut, style }: Panel, { x, y }: Scales): string {
  const at = (step: number, value: number): string => `${x(step).toFixed(1)},${y(value).toFixed(1)}`;
  const indices = thinned(steps.map((_, i) => i));
  const line = indices.map((i) => at(steps[i], values[i])).join(' ');
  const upper = indices.map((i) => at(steps[i], values[i] + (spread?.[i] ?? 0)));
  const lower = [...indices].reverse().map((i) => at(steps[i], values[i] - (spread?.[i] ?? 0)));
  const band =
    spread === undefined
      ? ''
      : `<polygon points="${[...upper, ...lower].join(' ')}" fill="${withOpacity(style.color, 0.18)}"/>`;
  const last = steps.length - 1;
  const dot =
    last < 0
      ? ''
      : `<circle cx="${x(steps[last]).toFixed(1)}" cy="${y(values[last]).toFixed(1)}" r="3.5" fill="${style.color}"/>`;
  const hollow = (heldOut?.steps ?? []).map((step, i) => {
    const value = heldOut?.values[i] ?? 0;
    return `<circle cx="${x(step).toFixed(1)}" cy="${y(value).toFixed(1)}" r="4" fill="#FFFFFF" stroke="${style.color}" stroke-width="2"/>`;
  });
  const drawn =
    line === '' ? '' : `<polyline points="${line}" fill="none" stroke="${style.color}" stroke-width="2"/>`;
  return band + drawn + dot + hollow.join('');
}

/** The newest value of a panel, at its upper right. */
function latestOf({ values, style }: Panel): string {
  const value = values[values.length - 1] as number | undefined;
  if (value === undefined) return '';
  const text = Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
  return `<text x="${PANEL.width - PANEL.right}" y="13" text-anchor="end" font-weight="bold" fill="${style.color}">${text}</text>`;
}

/** `step 12/60, 0.42 s a step, 0:20 left` */
export function progressText({ step, totalSteps, seconds, before, ended }: RunProgress): string {
  const done = step - before;
  const each = done > 0 ? seconds / done : 0;
  const total = totalSteps > 0 ? `/${totalSteps}` : '';
  const rate = done > 0 ? `, ${each < 100 ? each.toPrecision(2) : each.toFixed(0)} s a step` : '';
  const resumed = before > 0 && done > 0 ? `, resumed after step ${before}` : '';
  if (ended !== undefined) return `${ended} after step ${step}${total}${rate}${resumed}`;
  const left = done > 0 && totalSteps > 0 ? `, ${formatDuration(each * (totalSteps - step))} left` : '';
  return `step ${step}${total}${rate}${left}${resumed}`;
}

function headerOf(progress: RunProgress): string {
  const { title, step, totalSteps } = progress;
  const share = totalSteps > 0 ? Math.min(1, step / totalSteps) : 0;
  return (
    `<text x="2" y="15" font-size="14" fill="${INK}"><tspan font-weight="bold">${escapeHtml(title)}</tspan>` +
    `<tspan fill="${FAINT_INK}">  ${escapeHtml(progressText(progress))}</tspan></text>` +
    `<rect x="0" y="24" width="${WIDTH}" height="6" rx="3" fill="${GRID}"/>` +
    `<rect x="0" y="24" width="${(WIDTH * share).toFixed(1)}" height="6" rx="3" fill="${INK}"/>`
  );
}

/**
 * A progress bar with the time that is left, and a small panel a quantity: its course so far, its newest value, held-out
 * values as hollow dots. The step axis is as long as the run, so a line grows from left to right.
 */
export function liveChartSvg(panels: readonly Panel[], progress: RunProgress): string {
  const rows = Math.ceil(panels.length / 2);
  const height = HEADER + rows * (PANEL.height + GAP);
  const cells = panels.map((panel, i) => {
    const scales = scalesOf(panel, progress.totalSteps);
    const [left, top] = [(i % 2) * (PANEL.width + GAP), HEADER + Math.floor(i / 2) * (PANEL.height + GAP)];
    const content = axesOf(panel, scales) + marksOf(panel, scales) + latestOf(panel);
    return `<g transform="translate(${left} ${top})">${content}</g>`;
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="-6 -4 ${WIDTH + 12} ${height + 4}"` +
    ` font-family="Open Sans, Helvetica, Arial, sans-serif" font-size="12" fill="${FAINT_INK}">` +
    `<rect x="-6" y="-4" width="${WIDTH + 12}" height="${height + 4}" fill="#FFFFFF"/>` +
    `${headerOf(progress)}${cells.join('')}</svg>`
  );
}
