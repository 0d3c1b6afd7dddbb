/** What the project expected of its three paradigms beside what was measured: targets are no measurements. */
import type { ComparedMetric, Comparison } from '../eval/comparisons';
import type { ModelEvaluation, SeededMetric } from '../eval/model-evaluation';
import { legend, markdownTable, metricRows, metricTable, metricText, reasonsOf } from '../eval/report';
import type { Evaluation } from '../eval/suite';

/** The models that the targets are of, in their order. */
const PARADIGMS = ['baseline', 'polychromic', 'grpo'] as const;

interface Target {
  metric: string;
  /** what models are tested by */
  tested: ComparedMetric;
  better: 'higher' | 'lower';
  /** of the paradigms, in their order */
  expected: readonly [number, number, number];
  pick: (model: ModelEvaluation) => SeededMetric;
}

const passAt = (k: number, expected: Target['expected']): Target => ({
  ...{ metric: `Pass@${k}`, tested: `pass@${k}`, better: 'higher', expected },
  pick: (model) => model.pass_at_k[k],
});

/** Source: the reference study's table of what it expected of its paradigms; targets, never measured there. */
const TARGETS: readonly Target[] = [
  passAt(1, [0.42, 0.4, 0.38]),
  passAt(5, [0.42, 0.55, 0.63]),
  passAt(10, [0.42, 0.61, 0.72]),
  {
    ...{ metric: 'Self-BLEU', tested: 'self_bleu', better: 'lower', expected: [0.45, 0.28, 0.32] },
    pick: (model) => model.self_bleu,
  },
  {
    ...{ metric: 'Engagement', tested: 'engagement', better: 'higher', expected: [0.45, 0.52, 0.68] },
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
  /**
   * Of every two paradigms with different targets: `yes` where all differ significantly as expected, `no` where two differ
   * significantly the other way round, else `undecided`; null where a value does not exist.
   */
  orderHolds: 'yes' | 'no' | 'undecided' | null;
}

/** The name with the best value; null where it is shared. */
function bestOf(values: readonly number[], sign: number): string | null {
  const best = Math.max(...values.map((value) => sign * value));
  const places = values.flatMap((value, i) => (sign * value === best ? [i] : []));
  return places.length === 1 ? PARADIGMS[places[0]] : null;
}

/** Whether b's values are larger than a's beyond doubt: 1, smaller: -1, or neither: 0. */
function largerOf(comparisons: readonly Comparison[], metric: ComparedMetric, a: string, b: string): number {
  const found = comparisons.find(
    (one) => one.metric === metric && [one.a, one.b].includes(a) && [one.a, one.b].includes(b),
  );
  if (found?.significant !== true) return 0;
  return Math.sign(found.b === b ? found.difference : -found.difference);
}

/** The order is of values: which side is the better one is the same for targets and values. */
function orderOf(
  { tested, expected }: Target,
  comparisons: readonly Comparison[],
): 'yes' | 'no' | 'undecided' {
  const verdicts = PARADIGMS.flatMap((a, i) =>
    PARADIGMS.slice(i + 1).flatMap((b, j) => {
      const wanted = Math.sign(expected[i + 1 + j] - expected[i]);
      return wanted === 0 ? [] : [largerOf(comparisons, tested, a, b) * wanted];
    }),
  );
  if (verdicts.includes(-1)) return 'no';
  return verdicts.every((verdict) => verdict === 1) ? 'yes' : 'undecided';
}

/**
 * The targets beside an evaluation's values, a line a metric. Scales differ: the targets are of tweets of people, a
 * language model of 8 billion parameters and another check of quality; what can be compared is the order.
 * @returns null where the evaluation lacks one of the three paradigms
 */
export function expectationRows({ models, comparisons }: Evaluation): ExpectationRow[] | null {
  if (!PARADIGMS.every((name) => Object.hasOwn(models, name))) return null;
  return TARGETS.map((target): ExpectationRow => {
    const { metric, better, expected, pick } = target;
    const measured = PARADIGMS.map((name) => pick(models[name]));
    const known = measured.flatMap(({ value }) => (value === null ? [] : [value]));
    const isKnown = known.length === PARADIGMS.length;
    const sign = better === 'lower' ? -1 : 1;
    return {
      ...{ metric, better, expected: [...expected], measured },
      expectedWinner: bestOf(expected, sign) ?? 'none',
      measuredWinner: isKnown ? bestOf(known, sign) : null,
      orderHolds: isKnown ? orderOf(target, comparisons) : null,
    };
  });
}

/** Cells of the table, its head first: of each paradigm the target, then the value. */
export function expectationTable(evaluation: Evaluation): string[][] | null {
  const rows = expectationRows(evaluation);
  if (rows === null) return null;
  return [
    [
      'Metric',
      ...PARADIGMS.flatMap((name) => [`${name}: expected`, `${name}: measured`]),
      ...['Expected winner', 'Measured winner', 'Order held'],
    ],
    ...rows.map((row) => [
      `${row.metric} ${row.better === 'lower' ? '↓' : '↑'}`,
      ...row.expected.flatMap((value, i) => [value.toFixed(2), metricText(row.measured[i])]),
      ...[row.expectedWinner, row.measuredWinner ?? '–', row.orderHolds ?? '–'],
    ]),
  ];
}

const EXPECTED =
  'What the reference study expected, before anything was run, of a model of 8 billion parameters on tweets of people, by another check of quality: what can be compared is the order. It held (yes) where every two paradigms with different targets differ significantly as expected, and did not (no) where two differ significantly the other way round.';

/** The study's report in Markdown: the targets beside the values, then all metrics. */
export function studyReport(evaluation: Evaluation): string {
  const targets = expectationTable(evaluation);
  const expected =
    targets === null
      ? []
      : ['## Expected and measured', '', EXPECTED, '', ...markdownTable(targets), '', '## All metrics', ''];
  const reasons = reasonsOf(metricRows(evaluation)).map((reason) => `- A dash: ${reason}.`);
  return [
    '# The study on the embedded world',
    '',
    ...legend(evaluation).map((line) => `- ${line}`),
    '',
    ...expected,
    ...markdownTable(metricTable(evaluation)),
    '',
    ...(reasons.length === 0 ? [] : [...reasons, '']),
  ].join('\n');
}
