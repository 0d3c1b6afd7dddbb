/** What the project expected of its three paradigms beside what was measured: targets are no measurements. */
import type { ModelEvaluation, SeededMetric } from '../eval/model-evaluation';
import { legend, markdownTable, metricTable, metricText } from '../eval/report';
import type { Evaluation } from '../eval/suite';

/** The models that the targets are of, in their order. */
const PARADIGMS = ['baseline', 'polychromic', 'grpo'] as const;

interface Target {
  metric: string;
  better: 'higher' | 'lower';
  /** of the paradigms, in their order */
  expected: readonly [number, number, number];
  pick: (model: ModelEvaluation) => SeededMetric;
}

const passAt = (k: number, expected: Target['expected']): Target => ({
  ...{ metric: `Pass@${k}`, better: 'higher', expected },
  pick: (model) => model.pass_at_k[k],
});

/** Source: the study's table of what it expected, before anything was run. */
const TARGETS: readonly Target[] = [
  passAt(1, [0.42, 0.4, 0.38]),
  passAt(5, [0.42, 0.55, 0.63]),
  passAt(10, [0.42, 0.61, 0.72]),
  { metric: 'Self-BLEU', better: 'lower', expected: [0.45, 0.28, 0.32], pick: (model) => model.self_bleu },
  {
    ...{ metric: 'Engagement', better: 'higher', expected: [0.45, 0.52, 0.68] },
    pick: (model) => model.engagement,
  },
];

/** A line of the table of expectations. */
export interface ExpectationRow {
  metric: string;
  better: 'higher' | 'lower';
  expected: number[];
  measured: SeededMetric[];
  expectedWinner: string;
  /** null where a value does not exist, or two share the best */
  measuredWinner: string | null;
  /** The measured order of the three is the expected one, equal targets in any order; null where a value does not exist. */
  orderHolds: boolean | null;
}

/** The name with the best value; null where it is shared. */
function bestOf(values: readonly number[], sign: number): string | null {
  const best = Math.max(...values.map((value) => sign * value));
  const places = values.flatMap((value, i) => (sign * value === best ? [i] : []));
  return places.length === 1 ? PARADIGMS[places[0]] : null;
}

function isSameOrder(expected: readonly number[], measured: readonly number[]): boolean {
  return expected.every((value, i) =>
    expected.every((other, j) => value <= other || measured[i] > measured[j]),
  );
}

/**
 * The targets beside an evaluation's values, a line a metric. Scales differ: the targets are of tweets of people, a
 * language model of 8 billion parameters and another check of quality; what can be compared is the order.
 * @returns null where the evaluation lacks one of the three paradigms
 */
export function expectationRows({ models }: Evaluation): ExpectationRow[] | null {
  if (!PARADIGMS.every((name) => Object.hasOwn(models, name))) return null;
  return TARGETS.map(({ metric, better, expected, pick }): ExpectationRow => {
    const measured = PARADIGMS.map((name) => pick(models[name]));
    const known = measured.flatMap(({ value }) => (value === null ? [] : [value]));
    const isKnown = known.length === PARADIGMS.length;
    const sign = better === 'lower' ? -1 : 1;
    return {
      ...{ metric, better, expected: [...expected], measured },
      expectedWinner: bestOf(expected, sign) ?? 'none',
      measuredWinner: isKnown ? bestOf(known, sign) : null,
      orderHolds: isKnown ? isSameOrder(expected, known) : null,
    };
  });
}

/** Cells of the table, its head first: of each paradigm the target, then the value. */
export function expectationTable(evaluation: Evaluation): string[][] | null {
  const rows = expectationRows(evaluation);
  if (rows === null) return null;
  const answer = (holds: boolean | null): string => (holds === null ? '–' : holds ? 'yes' : 'no');
  return [
    [
      'Metric',
      ...PARADIGMS.flatMap((name) => [`${name}: expected`, `${name}: measured`]),
      ...['Expected winner', 'Measured winner', 'Order held'],
    ],
    ...rows.map((row) => [
      `${row.metric} ${row.better === 'lower' ? '↓' : '↑'}`,
      ...row.expected.flatMap((value, i) => [value.toFixed(2), metricText(row.measured[i])]),
      ...[row.expectedWinner, row.measuredWinner ?? '–', answer(row.orderHolds)],
    ]),
  ];
}

/** The study's report in Markdown: the targets beside the values, then all metrics. */
export function studyReport(evaluation: Evaluation): string {
  const targets = expectationTable(evaluation);
  const expected =
    targets === null
      ? []
      : ['## Expected and measured', '', ...markdownTable(targets), '', '## All metrics', ''];
  return [
    '# The study on the embedded world',
    '',
    ...legend(evaluation).map((line) => `- ${line}`),
    '',
    ...expected,
    ...markdownTable(metricTable(evaluation)),
    '',
  ].join('\n');
}
