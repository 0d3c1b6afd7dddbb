/** How a reward scores good and bad replies: their two histograms, and below them those of the same rewards after a change. */
import { z } from 'zod';
import { mean } from '../metrics/statistics';
import { ShapeError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { plain } from './captions';
import { binCounts, histogramBins, linearEdges, outline } from './histogram';
import type { FigureSpec, JsonObject, Trace } from './spec';
import { axis, baseLayout, FIGURE_WIDTH, gridCells, OKABE_ITO, panelTitle, withOpacity } from './theme';
import type { Cell } from './theme';

const sideSchema = z.strictObject({
  n: z.int().positive(),
  /** replies in each bin */
  counts: z.array(z.int().nonnegative()),
  mean: z.number(),
});

const rewardSchema = z.strictObject({
  name: z.string().min(1),
  /** area under the ROC curve of good against bad */
  auc: z.number().min(0).max(1),
  /** bootstrap interval of the AUC over tweets */
  interval: z.tuple([z.number(), z.number()]),
  good: sideSchema,
  bad: sideSchema,
});

/** Counts over common edges, whose size does not grow with the number of replies. */
export const scoreDistributionsSchema = z.strictObject({
  /** of the intervals */
  level: z.number().gt(0).lt(1).default(0.95),
  /** of the bins, total score */
  edges: z.array(z.number()).min(2),
  /** one reward, or the same one before and after a change */
  rewards: z.array(rewardSchema).min(1).max(2),
});

/** What one or two rewards say of good and of bad replies. */
export type ScoreDistributions = z.input<typeof scoreDistributionsSchema>;
type Distributions = z.output<typeof scoreDistributionsSchema>;
type RewardPanel = z.output<typeof rewardSchema>;
type Side = z.output<typeof sideSchema>;

/** A reward's scores of labelled replies, and how well they part them. */
export interface ScoredReward {
  readonly name: string;
  readonly scored: readonly { readonly label: 'good' | 'bad'; readonly total: number }[];
  readonly separation: {
    readonly auc: { readonly value: number; readonly interval: readonly [number, number] };
  };
}

function totalsOf({ name, scored }: ScoredReward, label: 'good' | 'bad'): number[] {
  const totals = scored.filter((row) => row.label === label).map(({ total }) => total);
  if (totals.length === 0) throw new ShapeError(`${name}: no ${label} reply; expected at least 1.`);
  if (totals.every(Number.isFinite)) return totals;
  throw new ShapeError(`${name}: a score is not finite; expected numbers only.`);
}

/**
 * The data of the figure: counts of good and bad replies in bins that are the same for all rewards.
 *
 * @param rewards  one or two, each with its scored replies and what `rewardSeparation` says of them
 * @param level    of the intervals, default 0.95
 * @throws ShapeError  when there is no reward or more than two, a side is empty, or a score is not finite
 */
export function summariseScores(rewards: readonly ScoredReward[], level = 0.95): ScoreDistributions {
  if (rewards.length < 1 || rewards.length > 2) {
    throw new ShapeError(`scores of ${rewards.length} rewards; expected 1, or 2: before and after a change.`);
  }
  const sides = rewards.map((reward) => ({
    good: totalsOf(reward, 'good'),
    bad: totalsOf(reward, 'bad'),
  }));
  const all = sides.flatMap(({ good, bad }) => [...good, ...bad]);
  const [low, high] = all.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
  const edges = linearEdges(low, high, histogramBins(Math.ceil(all.length / rewards.length)));
  const sideOf = (totals: readonly number[]): Side => ({
    n: totals.length,
    counts: binCounts(totals, edges),
    mean: mean(totals),
  });
  return {
    level,
    edges,
    rewards: rewards.map(({ name, separation: { auc } }, i) => {
      const { good, bad } = sides[i];
      const interval: [number, number] = [...auc.interval];
      return { name, auc: auc.value, interval, good: sideOf(good), bad: sideOf(bad) };
    }),
  };
}

/** `meanAt`: where the marker of the mean stands, in heights of the tallest bin; two means may be equal. */
const SIDES = [
  { key: 'good', color: OKABE_ITO.blue, marker: 'circle', dash: 'solid', meanAt: 1.17 },
  { key: 'bad', color: OKABE_ITO.vermillion, marker: 'diamond', dash: '5px 3px', meanAt: 1.08 },
] as const;

/** Percent of the side's replies in each bin. */
function shares({ n, counts }: Side): number[] {
  return counts.map((count) => (100 * count) / n);
}

/** The histogram's line from its first to its last reply, not along the axis beside them. */
function outlineOf(side: Side, edges: readonly number[]): { x: number[]; y: number[] } {
  const filled = side.counts.flatMap((count, bin) => (count > 0 ? [bin] : []));
  const [first, last] = [filled[0], filled[filled.length - 1]];
  return outline(edges.slice(first, last + 2), shares(side).slice(first, last + 1));
}

function panelTraces(panel: RewardPanel, edges: readonly number[], tallest: number, suffix: string): Trace[] {
  const axes = { xaxis: `x${suffix}`, yaxis: `y${suffix}` };
  return SIDES.flatMap(({ key, color, marker, dash, meanAt }): Trace[] => [
    {
      type: 'scatter',
      mode: 'lines',
      name: `${key} replies`,
      ...outlineOf(panel[key], edges),
      line: { color, dash, width: 2, shape: 'hv' },
      fill: 'tozeroy',
      fillcolor: withOpacity(color, 0.12),
      showlegend: suffix === '',
      ...axes,
    },
    {
      type: 'scatter',
      mode: 'markers',
      name: `mean of ${key} replies`,
      x: [panel[key].mean],
      y: [meanAt * tallest],
      marker: { color, symbol: marker, size: 9 },
      showlegend: suffix === '',
      ...axes,
    },
  ]);
}

function explanation({ auc, interval: [low, high], good, bad }: RewardPanel, level: number): string {
  const percent = Number((100 * level).toPrecision(6));
  const n = (side: Side): string => side.n.toLocaleString('en-US');
  const interval = `${percent} % bootstrap interval over tweets [${low.toFixed(3)}, ${high.toFixed(3)}]`;
  return `AUC ${auc.toFixed(3)}, ${interval}; n = ${n(good)} good, ${n(bad)} bad`;
}

function panelAxes(cell: Cell, edges: readonly number[], tallest: number, suffix: string): JsonObject {
  const [first, last] = [edges[0], edges[edges.length - 1]];
  const margin = 0.02 * (last - first);
  return {
    [`xaxis${suffix}`]: axis('total score', '', {
      domain: cell.x,
      anchor: `y${suffix}`,
      range: [first - margin, last + margin],
      nticks: 11,
    }),
    [`yaxis${suffix}`]: axis('share of replies', '%', {
      domain: cell.y,
      anchor: `x${suffix}`,
      range: [0, 1.24 * tallest],
      nticks: 6,
    }),
  };
}

function requireBins({ edges, rewards }: Distributions): void {
  const at = edges.findIndex((edge, i) => i > 0 && edge <= edges[i - 1]);
  if (at > 0) throw new ShapeError(`edge ${edges[at]} follows ${edges[at - 1]}; expected rising edges.`);
  for (const { name, ...panel } of rewards) {
    for (const { key } of SIDES) {
      const { n, counts } = panel[key];
      const sum = counts.reduce((total, count) => total + count, 0);
      if (counts.length === edges.length - 1 && sum === n) continue;
      throw new ShapeError(
        `${name}: ${counts.length} bins with ${sum} ${key} replies; expected ${edges.length - 1} with ${n}.`,
      );
    }
  }
}

/**
 * A panel a reward: the histograms of the total score of good and of bad replies, each in percent of its side, with
 * their means as markers on top; all panels have the same axes. The AUC with its interval and n stand above a panel.
 *
 * @throws ShapeError   when edges do not rise, or counts do not fit them or n
 * @throws ConfigError  naming a field that is missing, unknown or out of range
 */
export function drawScoreDistributions(data: ScoreDistributions): FigureSpec {
  const distributions = parseStrict(scoreDistributionsSchema, data, 'score distributions');
  requireBins(distributions);
  const { edges, rewards, level } = distributions;
  const tallest = Math.max(...rewards.flatMap(({ good, bad }) => [...shares(good), ...shares(bad)]));
  const size = { width: FIGURE_WIDTH, height: rewards.length === 1 ? 336 : 592 };
  const cells = gridCells(rewards.length, 1, { x: 0, y: 0.26 });
  const suffix = (index: number): string => (index === 0 ? '' : String(index + 1));
  const layout = baseLayout(size, {
    margin: { l: 64, r: 16, t: 88, b: 56 },
    showlegend: true,
    annotations: rewards.flatMap((panel, i) =>
      panelTitle(cells[i], plain(panel.name), explanation(panel, level)),
    ),
    ...Object.assign({}, ...cells.map((cell, i) => panelAxes(cell, edges, tallest, suffix(i)))),
  });
  const traces = rewards.flatMap((panel, i) => panelTraces(panel, edges, tallest, suffix(i)));
  return { kind: 'score-distributions', ...size, data: traces, layout };
}
