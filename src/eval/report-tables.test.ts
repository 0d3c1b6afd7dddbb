import { parse } from 'csv-parse/sync';
import { beforeAll, describe, expect, it } from 'vitest';
import { options, repliesOf } from '../../test/evaluation-task';
import type { JudgeReport } from './judge-models';
import type { SeededMetric } from './model-evaluation';
import {
  evaluationCsv,
  evaluationLatex,
  evaluationMarkdown,
  judgeLegend,
  judgeTable,
  metricRows,
  metricText,
  reasonsOf,
} from './report';
import { evaluationHtml } from './report-html';
import { evaluateModels } from './suite';
import type { Evaluation } from './suite';

const [good, poor] = ['a fine reply #0.8', 'a poor reply #0.2'];
const passing = (c: number): string[] => Array.from({ length: 4 }, (_, i) => (i < c ? good : poor));
let evaluation: Evaluation;
beforeAll(async () => {
  const models = [
    // Pass@k rises by 1/4 with every reply, not at all, and by 1/12.
    repliesOf('rising', [passing(1), passing(1), passing(1)]),
    repliesOf('flat', [passing(4), passing(4), passing(0)]),
    repliesOf('between', [passing(1), passing(4), passing(4)]),
  ];
  evaluation = await evaluateModels(models, { ...options, k: [1, 4], resamples: 200 });
});

const rowOf = (of: Evaluation, metric: string) => {
  const row = metricRows(of).find((one) => one.metric === metric);
  if (row === undefined) throw new Error(`no row ${metric}`);
  return row;
};
const BEYOND: SeededMetric = { value: null, reason: 'not reached', beyond: 4 };
const at = (value: number, beyond?: number): SeededMetric => ({
  ...{ value, ci: [value, 4] },
  ...(beyond !== undefined && { beyond }),
});
/** Sets the collapse point of the models, in their order. */
function withPoints(...points: SeededMetric[]): Evaluation {
  const changed = structuredClone(evaluation);
  Object.values(changed.models).forEach((model, i) => (model.collapse_point = points[i]));
  return changed;
}
/** The cells of a line of a Markdown table. */
const cellsOf = (text: string, start: string): string[] =>
  text
    .split('\n')
    .filter((line) => line.startsWith(`| ${start}`))
    .flatMap((line) => line.slice(2, -2).split(' | '));

describe('a collapse point beyond the last k', () => {
  it.each([
    ['the larger one where no other reaches so far', [BEYOND, at(3), at(4)], 'rising'],
    ['unknown beside a larger one of more replies', [BEYOND, at(8), at(2)], null],
    ['shared between two', [BEYOND, BEYOND, at(2)], null],
    [
      'not compared with what does not exist',
      [BEYOND, { value: null, reason: 'one reply' }, at(2)],
      'rising',
    ],
  ])('is %s', (_, points, winner) => {
    expect(rowOf(withPoints(...(points as SeededMetric[])), 'Collapse point, k').winner).toBe(winner);
  });

  it('is what comes of replies of which each adds something', () => {
    const { rising, flat } = evaluation.models;
    expect(rising.collapse_point).toMatchObject({ value: null, beyond: 4 });
    expect(flat.collapse_point).toEqual({ value: 2, ci: [2, 2] });
  });

  it.each([
    ['beyond 4', BEYOND, '> 4'],
    ['with an end beyond 4', at(3, 4), '3.000 [3.000, > 4]'],
    ['that is known', at(3), '3.000 [3.000, 4.000]'],
    ['that cannot be', { value: null, reason: 'one reply' } as SeededMetric, '–'],
  ])('stands in a cell as what is known of it: %s', (_, metric, text) => {
    expect(metricText(metric)).toBe(text);
  });

  it.each<[string, SeededMetric[], string | null]>([
    ['wins against what was reached', [at(3), BEYOND, at(4, 4)], 'flat'],
    ['wins against what does not exist', [BEYOND, at(2), { value: null, reason: 'one reply' }], 'rising'],
    ['is shared by two, of whom neither wins', [BEYOND, at(3), BEYOND], null],
    ['is shared by all', [BEYOND, BEYOND, BEYOND], null],
    ['is not that of an interval alone', [at(3, 4), at(4), at(2)], 'flat'],
  ])('%s', (_, points, winner) => {
    const row = rowOf(withPoints(...points), 'Collapse point, k');
    expect([row.winner, row.isClear]).toEqual([winner, false]);
  });

  it('is no missing value: its reason is not listed beside dashes', () => {
    const changed = withPoints(BEYOND, at(2), { value: null, reason: 'one reply a tweet' });
    const reasons = reasonsOf(metricRows(changed)).filter((line) => line.startsWith('Collapse'));
    expect(reasons).toEqual(['Collapse point, k: one reply a tweet']);
  });

  it('leaves Markdown, LaTeX and HTML whole', () => {
    const changed = withPoints(BEYOND, at(3, 4), at(2));
    const cells = ['> 4', '3.000 [3.000, > 4]', '2.000 [2.000, 4.000]'];
    const markdown = cellsOf(evaluationMarkdown(changed), 'Collapse point, k ↑');
    expect(markdown).toEqual(['Collapse point, k ↑', ...cells, 'rising']);
    const latex = evaluationLatex(changed)
      .split('\n')
      .find((line) => line.startsWith('Collapse'));
    expect(latex).toBe(
      'Collapse point, k $\\uparrow$ & \\textbf{$>$ 4} & 3.000 [3.000, $>$ 4] & 2.000 [2.000, 4.000] \\\\',
    );
    const html = evaluationHtml(changed);
    expect(html).toContain(
      '<td>Collapse point, k ↑</td><td class="best">&gt; 4</td><td>3.000 [3.000, &gt; 4]</td>',
    );
    expect(html).not.toMatch(/> 4[<\]]/);
  });

  it('leaves the CSV a table of numbers', () => {
    const text = evaluationCsv(withPoints(BEYOND, at(3, 4), at(2)));
    const lines = (parse(text, { columns: true }) as Record<string, string>[]).filter(({ metric }) =>
      metric.startsWith('Collapse'),
    );
    expect(lines.map((line) => [line.value, line.ci_low, line.ci_high])).toEqual([
      ['', '', ''],
      ['3', '3', '4'],
      ['2', '2', '4'],
    ]);
  });
});

const criterion = (a: number, b: number): { a: number; b: number } => ({ a, b });
const JUDGE: JudgeReport = {
  model: 'big <judge> | 70B',
  weights: { engagement: 0.4, relevance: 0.3, creativity: 0.2, naturalness: 0.1 },
  pairs: [
    {
      ...{ a: 'rising', b: 'flat', n: 3, outcomes: { win: 2, tie: 0, loss: 1 } },
      win_rate: { value: 2 / 3, ci: [0.125, 1] },
      criteria: {
        ...{ engagement: criterion(5, 7.25), relevance: criterion(6, 6.5) },
        ...{ creativity: criterion(1, 10), naturalness: criterion(8.333, 8) },
      },
      first_position_win_share: 1 / 3,
    },
    {
      ...{ a: 'flat', b: 'between', n: 3, outcomes: { win: 0, tie: 3, loss: 0 } },
      win_rate: { value: 0.5, ci: [0.5, 0.5] },
      criteria: {
        ...{ engagement: criterion(5, 5), relevance: criterion(5, 5) },
        ...{ creativity: criterion(5, 5), naturalness: criterion(5, 5) },
      },
      first_position_win_share: null,
    },
  ],
};

describe("the judge's table", () => {
  const ROWS = [
    [
      ...['flat against rising', '3', '2 / 0 / 1', '66.7 %', '[12.5 %, 100.0 %]'],
      ...['5.00 → 7.25', '6.00 → 6.50', '1.00 → 10.00', '8.33 → 8.00', '33.3 %'],
    ],
    [
      ...['between against flat', '3', '0 / 3 / 0', '50.0 %', '[50.0 %, 50.0 %]'],
      ...['5.00 → 5.00', '5.00 → 5.00', '5.00 → 5.00', '5.00 → 5.00', '–'],
    ],
  ];

  it('has a line of every two models that were judged, and none where no judge was asked', () => {
    expect(judgeTable(evaluation)).toBeNull();
    const [head, ...rows] = judgeTable({ ...evaluation, judge: JUDGE }) ?? [];
    expect(rows).toEqual(ROWS);
    expect(head).toHaveLength(10);
    expect(head.slice(5, 9)).toEqual([
      ...['engagement, a → b', 'relevance, a → b', 'creativity, a → b', 'naturalness, a → b'],
    ]);
  });

  it('says who judged, by what weights, and how to read it', () => {
    const text = judgeLegend({ ...evaluation, judge: JUDGE });
    expect(text).toContain('Judge: big <judge> | 70B.');
    expect(text).toContain('(0.4 engagement, 0.3 relevance, 0.2 creativity, 0.1 naturalness)');
    expect(text).toMatch(/order drawn at random.*a tie is half a win.*50 % for a judge without a bias/);
  });

  it('stands in the Markdown report under a heading of its own', () => {
    const text = evaluationMarkdown({ ...evaluation, judge: JUDGE });
    const lines = text.slice(text.indexOf('## Judge'), text.indexOf('## Replies')).split('\n');
    const table = lines.filter((line) => line.startsWith('|'));
    expect(table).toHaveLength(4);
    for (const line of table) expect(line.split(/(?<!\\)\|/)).toHaveLength(12);
    expect(cellsOf(text, 'flat against rising | 3 |')).toEqual(ROWS[0]);
    expect(lines).toContain(`- ${judgeLegend({ ...evaluation, judge: JUDGE })}`);
    expect(evaluationMarkdown(evaluation)).not.toContain('## Judge');
  });

  it('stands in the HTML report as text, every tag closed', () => {
    const changed = { ...evaluation, judge: structuredClone(JUDGE) };
    changed.judge.pairs[0].b = '<b>flat</b>';
    const html = evaluationHtml(changed);
    expect(html).toContain('<h2>Judge</h2>\n<p>Judge: big &lt;judge&gt; | 70B.');
    expect(html).toContain('<td>&lt;b&gt;flat&lt;/b&gt; against rising</td><td>3</td><td>2 / 0 / 1</td>');
    expect(html).not.toMatch(/<judge>|<b>/);
    for (const tag of ['table', 'tr', 'td', 'th', 'p', 'h2'])
      expect(html.split(`<${tag}>`).length + html.split(`<${tag} `).length - 1, tag).toBe(
        html.split(`</${tag}>`).length,
      );
    expect(evaluationHtml(evaluation)).not.toContain('Judge');
  });
});
