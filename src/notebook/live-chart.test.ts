import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { curvesOfMetrics, trainingPanels } from '../figures/training-panels';
import type { MetricsRow, TrainingCurves } from '../figures/training-panels';
import { liveChartSvg, progressText, roundTicks } from './live-chart';
import type { RunProgress } from './live-chart';

interface Element {
  name: string;
  attributes: Record<string, string>;
  children: Element[];
  /** its own and that of its children */
  text: string;
}

const ENTITIES: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" };

function unescape(text: string): string {
  expect(text).not.toMatch(/[<>]/);
  return text.replace(/&([^;&\s]*);?/g, (whole, name: string) => {
    expect(ENTITIES, `${whole} in ${text}`).toHaveProperty([name]);
    return ENTITIES[name];
  });
}

/** The root of an XML text, strictly: quoted attributes, each once, balanced tags, known entities, one root. */
function parseXml(xml: string): Element {
  const root: Element = { name: '', attributes: {}, children: [], text: '' };
  const open = [root];
  for (const [token] of xml.matchAll(/<[^>]*>|[^<]+/g)) {
    const parent = open[open.length - 1];
    if (!token.startsWith('<')) {
      for (const element of open) element.text += unescape(token);
      continue;
    }
    const closing = /^<\/(\w+)>$/.exec(token);
    if (closing !== null) {
      expect(closing[1]).toBe(open.pop()?.name);
      continue;
    }
    const [, name, list, slash] = /^<(\w+)((?: [\w-]+="[^"<]*")*)(\/?)>$/.exec(token) ?? [];
    expect(name, token).toBeDefined();
    const element: Element = { name, attributes: {}, children: [], text: '' };
    for (const [, key, value] of list.matchAll(/([\w-]+)="([^"]*)"/g)) {
      expect(element.attributes, token).not.toHaveProperty([key]);
      element.attributes[key] = unescape(value);
    }
    parent.children.push(element);
    if (slash === '') open.push(element);
  }
  expect(open).toEqual([root]);
  expect([root.children.length, root.text]).toEqual([1, root.children[0].text]);
  return root.children[0];
}

const find = (element: Element, name: string): Element[] =>
  element.children.flatMap((child) => [...(child.name === name ? [child] : []), ...find(child, name)]);

const running = (over: Partial<RunProgress> = {}): RunProgress => ({
  ...{ title: 'GRPO', step: 3, totalSteps: 60, seconds: 6, before: 0 },
  ...over,
});

interface Drawn {
  svg: string;
  root: Element;
  /** one a panel */
  groups: Element[];
}

/** Draws and reads a chart: it is XML, and every number in it is one. */
function draw(curves: TrainingCurves, progress: RunProgress = running()): Drawn {
  const svg = liveChartSvg(trainingPanels(curves), progress);
  expect(svg).not.toMatch(/NaN|Infinity|undefined|null/);
  const root = parseXml(svg);
  expect(root.name).toBe('svg');
  expect(root.attributes.xmlns).toBe('http://www.w3.org/2000/svg');
  return { svg, root, groups: find(root, 'g') };
}

/** The points of a line or polygon. */
const pointsOf = ({ attributes }: Element): [number, number][] =>
  attributes.points.split(' ').map((point) => point.split(',').map(Number) as [number, number]);

/** Labels of the value axis, from the bottom up. */
const valueLabels = (group: Element): string[] =>
  find(group, 'text')
    .filter(({ attributes }) => attributes['text-anchor'] === 'end' && attributes.dy !== undefined)
    .map(({ text }) => text);

const stepLabels = (group: Element): string[] =>
  find(group, 'text')
    .filter(({ attributes }) => attributes['text-anchor'] === 'middle')
    .map(({ text }) => text);

const lossOf = (values: readonly number[]): TrainingCurves => ({
  sft: values.map((loss, i) => ({ step: i + 1, loss })),
});

const grpoRow = (step: number) => ({
  ...{ step, reward: 0.5, rewardStd: 0.1, kl: 0.2, entropy: 2, completionLength: 12 },
});

describe('roundTicks', () => {
  /** ±m x 10^e, and 0 now and then. */
  const anyNumber = fc
    .tuple(
      fc.constantFrom(-1, 0, 1, 1),
      fc.double({ min: 1, max: 10, noNaN: true }),
      fc.integer({ min: -300, max: 300 }),
    )
    .map(([sign, m, e]) => sign * m * 10 ** e);
  const counts = fc.constantFrom(3, 4, 5);

  it('covers any two numbers by few round numbers, from tiny to huge and on both sides of 0', () => {
    fc.assert(
      fc.property(anyNumber, anyNumber, counts, (a, b, about) => {
        const [low, high] = [Math.min(a, b), Math.max(a, b)];
        const ticks = roundTicks(low, high, about);
        const step = ticks[1] - ticks[0];
        const [first, last] = [ticks[0], ticks[ticks.length - 1]];
        expect(first).toBeLessThanOrEqual(low + 1e-6 * step);
        expect(last).toBeGreaterThanOrEqual(high - 1e-6 * step);
        // No tick more than needed, and no fewer than two.
        if (high > low) expect(first + step * (1 + 1e-6)).toBeGreaterThan(low);
        expect(ticks.length).toBeGreaterThanOrEqual(2);
        expect(ticks.length).toBeLessThanOrEqual(about + 2);
        const power = 10 ** Math.floor(Math.log10(step) + 1e-6);
        expect(
          [1, 2, 5].some((m) => Math.abs(step / power - m) < 1e-3),
          `step ${step}`,
        ).toBe(true);
        ticks.forEach((tick, i) => {
          if (i > 0) expect((tick - ticks[i - 1]) / step).toBeCloseTo(1, 3);
          expect(Math.abs(tick / step - Math.round(tick / step))).toBeLessThan(1e-3);
        });
      }),
      { numRuns: 500 },
    );
  });

  it('gives numbers that differ where values differ by rounding alone', () => {
    fc.assert(
      fc.property(anyNumber, fc.integer({ min: 0, max: 8 }), (value, ulps) => {
        const near = value * (1 + ulps * Number.EPSILON);
        const [low, high] = [Math.min(value, near), Math.max(value, near)];
        const ticks = roundTicks(low, high);
        expect(ticks.every((tick, i) => i === 0 || tick > ticks[i - 1])).toBe(true);
        const slack = 1e-9 * Math.abs(value);
        expect(ticks[0]).toBeLessThanOrEqual(low + slack);
        expect(ticks[ticks.length - 1]).toBeGreaterThanOrEqual(high - slack);
        expect(ticks.length).toBeLessThan(8);
      }),
    );
  });

  it.each<[number, number, number[]]>([
    [1, 2, [1, 1.5, 2]],
    [-0.3, 0.9, [-0.5, 0, 0.5, 1]],
    [0, 1, [0, 0.5, 1]],
    [0, 60, [0, 20, 40, 60]],
    [-7, -7, [-8, -6]],
    [0, 0, [0, 0.5]],
    [0, 3e-9, [0, 1e-9, 2e-9, 3e-9]],
  ])('gives for %d to %d what a person would write', (low, high, expected) => {
    const ticks = roundTicks(low, high);
    expect(ticks).toHaveLength(expected.length);
    expected.forEach((tick, i) => expect(ticks[i]).toBeCloseTo(tick, 12));
  });
});

describe('the live chart', () => {
  it('has its points where the scales say, and its axes labelled', () => {
    // Between 46 and 326 steps 1 to 5 of the run, between 146 and 24 the values 1 to 2.
    const { groups } = draw(
      { sft: [1, 3].map((step) => ({ step, loss: (step + 1) / 2 })) },
      running({ totalSteps: 5 }),
    );
    expect(groups).toHaveLength(1);
    const [line] = find(groups[0], 'polyline');
    expect(pointsOf(line)).toEqual([
      [46, 146],
      [186, 24],
    ]);
    const [dot] = find(groups[0], 'circle');
    expect([dot.attributes.cx, dot.attributes.cy].map(Number)).toEqual([186, 24]);
    expect(valueLabels(groups[0])).toEqual(['1.0', '1.5', '2.0']);
    expect(stepLabels(groups[0])).toEqual(['1', '2', '3', '4', '5']);
    const rules = find(groups[0], 'line').map(({ attributes }) => Number(attributes.y1));
    expect(rules).toEqual([146, 85, 24]);
  });

  it('names each quantity with its unit and its newest value', () => {
    const { groups } = draw({ sft: lossOf([3, 1.23456]).sft, grpo: [grpoRow(1), grpoRow(2)] });
    const texts = groups.map((group) => group.text);
    expect(texts).toHaveLength(5);
    ['SFT loss (nats per token)', 'Reward (0 to 1)', 'KL to the reference (nats per completion)'].forEach(
      (text, i) => expect(texts[i]).toContain(text),
    );
    const newest = groups.map((group) => find(group, 'text').at(-1)?.text);
    expect(newest).toEqual(['1.23', '0.500', '0.200', '2.00', '12.0']);
  });

  it('puts two panels side by side, the next below them, and all inside the picture', () => {
    const { root, groups } = draw({ sft: lossOf([3]).sft, grpo: [grpoRow(1)] });
    const places = groups.map(({ attributes }) =>
      (/^translate\((\d+) (\d+)\)$/.exec(attributes.transform) ?? []).slice(1).map(Number),
    );
    expect(new Set(places.map(String)).size).toBe(5);
    expect(places.map(([left]) => left > 0)).toEqual([false, true, false, true, false]);
    const tops = places.map(([, top]) => top);
    expect([tops[0] === tops[1], tops[1] < tops[2], tops[2] === tops[3], tops[3] < tops[4]]).toEqual(
      Array(4).fill(true),
    );
    // A panel is 334 wide and 182 high.
    expect(Number(root.attributes.height)).toBeGreaterThanOrEqual(tops[4] + 182);
    expect(Number(root.attributes.width)).toBeGreaterThanOrEqual(places[1][0] + 334);
  });

  it.each<[string, TrainingCurves]>([
    ['one step', lossOf([2.5])],
    ['the evaluation before the first step', { sftHeldOut: [{ step: 0, loss: 3 }] }],
    ['constant values', lossOf([0.25, 0.25, 0.25])],
    ['zeros', lossOf([0, 0])],
    ['values equal up to rounding', lossOf([0.6, 0.6 + 1e-16, 0.6 - 1e-16])],
    ['negative values', lossOf([-3, -2.5, -10])],
    ['tiny values', lossOf([1e-12, 3e-12])],
    ['huge values', lossOf([1e12, 3e12])],
    ['an SFT run', { ...lossOf([3, 2]), sftHeldOut: [0, 2].map((step) => ({ step, loss: 3 })) }],
    ['a GRPO run', { grpo: [1, 2, 9].map(grpoRow), grpoHeldOut: [{ step: 0, reward: 0.4 }] }],
  ])('draws %s inside its panel', (_name, curves) => {
    const { groups } = draw(curves);
    for (const group of groups) {
      const circles = find(group, 'circle').map(({ attributes }) =>
        [attributes.cx, attributes.cy].map(Number),
      );
      const lines = [...find(group, 'polyline'), ...find(group, 'polygon')].flatMap(pointsOf);
      expect(circles.length).toBeGreaterThan(0);
      for (const [x, y] of [...circles, ...lines]) {
        expect(x).toBeGreaterThanOrEqual(46);
        expect(x).toBeLessThanOrEqual(326);
        expect(y).toBeGreaterThanOrEqual(24);
        expect(y).toBeLessThanOrEqual(146);
      }
    }
  });

  it.each<[string, number[]]>([
    ['a KL of rounding errors', [0, 3e-9, 1e-8]],
    ['a loss near 2', [2.01, 2.02, 2.05]],
    ['large values', [1e6, 3e7]],
    ['a constant', [0.5, 0.5]],
  ])('tells the values on the axis of %s apart, in the room that there is', (_name, values) => {
    const labels = valueLabels(draw(lossOf(values)).groups[0]);
    expect(new Set(labels).size).toBe(labels.length);
    expect(labels.map(Number).every((value, i, all) => i === 0 || value > all[i - 1])).toBe(true);
    // 40 pixels at 12 pixels a letter.
    for (const label of labels) expect(label.length, label).toBeLessThanOrEqual(7);
  });

  it('passes over steps without a value', () => {
    const rows: MetricsRow[] = [1, 2, 3, 4].map((step) => ({
      step,
      'train/loss': step === 3 ? null : step,
      ...(step === 2 ? { 'train/diversity': 0.5 } : {}),
    }));
    const { groups } = draw(curvesOfMetrics(rows), running({ totalSteps: 4 }));
    const [loss, diversity] = groups.map((group) => pointsOf(find(group, 'polyline')[0]).map(([x]) => x));
    expect(loss).toEqual([46, 139.3, 326]);
    expect(diversity).toHaveLength(1);
  });

  it('shows held-out values as hollow dots on the scales of the line', () => {
    const { groups } = draw(
      {
        ...lossOf([2, 1]),
        sftHeldOut: [
          { step: 0, loss: 3 },
          { step: 2, loss: 1 },
        ],
      },
      running({ totalSteps: 2 }),
    );
    const hollow = find(groups[0], 'circle').filter(({ attributes }) => attributes.fill === '#FFFFFF');
    expect(hollow.map(({ attributes: { cx, cy } }) => [Number(cx), Number(cy)])).toEqual([
      [46, 24],
      [326, 146],
    ]);
    expect(pointsOf(find(groups[0], 'polyline')[0])).toEqual([
      [186, 85],
      [326, 146],
    ]);
  });

  it('draws the spread of the rewards around their line', () => {
    const grpo = [1, 2].map((step) => ({ ...grpoRow(step), reward: 0.5, rewardStd: 0.5 }));
    const { groups } = draw({ grpo }, running({ totalSteps: 2 }));
    const [band] = find(groups[0], 'polygon');
    expect(pointsOf(band)).toEqual([
      [46, 24],
      [326, 24],
      [326, 146],
      [46, 146],
    ]);
  });

  it('stays small however long the run is, and keeps its last point', () => {
    const rows = (n: number) =>
      Array.from({ length: n }, (_, i) => ({ ...grpoRow(i + 1), reward: (i % 7) / 7 }));
    const size = (n: number): number => {
      const { svg, groups } = draw({ grpo: rows(n) }, running({ step: n, totalSteps: n }));
      const points = pointsOf(find(groups[0], 'polyline')[0]);
      expect(points.length).toBeLessThanOrEqual(302);
      expect(points.at(-1)?.[0]).toBe(326);
      return svg.length;
    };
    expect(size(5_000)).toBeLessThan(50_000);
    expect(size(5_001)).toBeLessThan(50_000);
    expect(size(70_000)).toBeLessThan(50_000);
  });

  it('shows a title as it is, whatever its letters mean in XML', () => {
    const title = `a < b && "c" > 'd' </svg>`;
    const { root } = draw(lossOf([1]), running({ title }));
    expect(find(root, 'text')[0].text).toContain(title);
    expect(find(root, 'text')[0].text).toContain('step 3/60');
  });

  it('fills its bar by the share of the steps that are done', () => {
    const share = (progress: Partial<RunProgress>): number => {
      const [, whole, part] = find(draw(lossOf([1]), running(progress)).root, 'rect');
      return Number(part.attributes.width) / Number(whole.attributes.width);
    };
    expect(share({ step: 15 })).toBeCloseTo(0.25);
    expect(share({ step: 60 })).toBe(1);
    expect(share({ step: 61 })).toBe(1);
    expect(share({ step: 0 })).toBe(0);
    expect(share({ totalSteps: 0 })).toBe(0);
  });
});

describe('progressText', () => {
  it.each<[string, Partial<RunProgress>, string]>([
    ['before the first step', { step: 0, seconds: 4 }, 'step 0/60'],
    ['after the first step', { step: 1, seconds: 2 }, 'step 1/60, 2.0 s a step, 1:58 left'],
    ['in the middle', { step: 20, seconds: 10 }, 'step 20/60, 0.50 s a step, 0:20 left'],
    ['at the last step', { step: 60, seconds: 60 }, 'step 60/60, 1.0 s a step, 0:00 left'],
    ['with long steps', { step: 2, seconds: 247, totalSteps: 12 }, 'step 2/12, 124 s a step, 20:35 left'],
    ['of a length not known', { step: 3, seconds: 3, totalSteps: 0 }, 'step 3, 1.0 s a step'],
    [
      'that goes on from an earlier process',
      { step: 12, before: 10, seconds: 4, totalSteps: 20 },
      'step 12/20, 2.0 s a step, 0:16 left, resumed after step 10',
    ],
    [
      'that has ended',
      { step: 60, seconds: 30, ended: 'finished' },
      'finished after step 60/60, 0.50 s a step',
    ],
    [
      'that was stopped early, resumed',
      { step: 30, before: 20, seconds: 20, ended: 'stopped early' },
      'stopped early after step 30/60, 2.0 s a step, resumed after step 20',
    ],
    [
      'whose steps an earlier process did',
      { step: 60, before: 60, seconds: 1, ended: 'already finished' },
      'already finished after step 60/60',
    ],
  ])('tells of a run %s', (_name, over, expected) => {
    expect(progressText(running(over))).toBe(expected);
  });
});
