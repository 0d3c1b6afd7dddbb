/** An evaluation as tables: rows that Markdown, CSV, LaTeX and HTML are made from. */
import type { Comparison } from './comparisons';
import type { ModelEvaluation, SeededMetric } from './model-evaluation';
import type { Evaluation } from './suite';

/** A line of the main table: one metric of all models. */
export interface MetricRow {
  metric: string;
  /** which is better, of models that are compared by it; null where neither is */
  better: 'higher' | 'lower' | null;
  values: SeededMetric[];
  /** the model with the best value; null where several have it, or there is nothing to win */
  winner: string | null;
  /** the winner differs from every other model that was tested on this metric, after correction */
  isClear: boolean;
}

type Better = MetricRow['better'];
type Pick = (model: ModelEvaluation) => SeededMetric;

type Definition = [string, Better, Pick, Comparison['metric'] | null];

/** Of an evaluation that an earlier build made. */
const ABSENT: SeededMetric = { value: null, reason: 'not measured when the evaluation was made' };
const replyNats: Pick = ({ reply_nats_per_token: metric }) => metric ?? ABSENT;

/** Metrics of the main table with the comparison that decides whether a winner is clear. */
function definitions({ settings: { k, other_quality: others }, models }: Evaluation): Definition[] {
  const known = Object.values(models).filter(({ perplexity }) => perplexity.value !== null);
  const isOneTokenizer = new Set(known.map((model) => model.reference_tokens)).size === 1;
  const passes = k.map((size): Definition => [
    `Pass@${size}`,
    'higher',
    (model) => model.pass_at_k[size],
    `pass@${size}`,
  ]);
  const otherPasses = others.flatMap((check, i) =>
    k.map((size): Definition => [
      `Pass@${size}, check ${i + 2}`,
      'higher',
      (model) => model.other_checks[check][size],
      null,
    ]),
  );
  const most = k[k.length - 1];
  return [
    ...passes,
    ...otherPasses,
    ['Reward', 'higher', (model) => model.reward, 'reward'],
    ['Engagement (learned reward)', 'higher', (model) => model.engagement, 'engagement'],
    ["World quality (the world's truth)", 'higher', (model) => model.world_quality, 'world_quality'],
    ['Greedy: reward', 'higher', (model) => model.greedy.reward, null],
    ['Greedy: world quality', 'higher', (model) => model.greedy.world_quality, null],
    ['Self-BLEU', 'lower', (model) => model.self_bleu, 'self_bleu'],
    ['Distinct-1', 'higher', (model) => model.distinct[1], null],
    ['Distinct-2', 'higher', (model) => model.distinct[2], null],
    ['Distinct-3', 'higher', (model) => model.distinct[3], null],
    ['Distinct-2 of a tweet', 'higher', (model) => model.distinct_2_of_a_tweet, 'distinct_2_of_a_tweet'],
    ['Semantic diversity', 'higher', (model) => model.semantic_diversity, 'semantic_diversity'],
    ['Token entropy, nats', 'higher', (model) => model.token_entropy, null],
    ['ROUGE-1', 'higher', (model) => model.rouge[1], null],
    ['ROUGE-2', 'higher', (model) => model.rouge[2], null],
    ['ROUGE-L', 'higher', (model) => model.rouge.L, 'rouge_L'],
    ['Perplexity of references', isOneTokenizer ? 'lower' : null, (model) => model.perplexity, null],
    ['Nats per token of replies', null, replyNats, null],
    [`USQ@${most}, reward selects`, 'higher', (model) => model.usq_at_k.reward[String(most)], null],
    [`USQ@${most}, longest`, 'higher', (model) => model.usq_at_k.longest[String(most)], null],
    [`DER@${most}`, 'higher', (model) => model.der_at_k[String(most)], null],
    ['Collapse point, k', 'higher', (model) => model.collapse_point, null],
    ['Characters', null, (model) => model.characters, null],
  ];
}

/**
 * Whether the winner was tested against all others on a metric and differs from each, to its own side: a test is of
 * values by tweet, which may say otherwise than a metric of all replies together.
 */
function isClear(
  winner: string,
  others: readonly string[],
  metric: Comparison['metric'] | null,
  sign: number,
  comparisons: readonly Comparison[],
): boolean {
  if (metric === null || others.length === 0) return false;
  const beats = (other: string, { a, b, difference }: Comparison): boolean =>
    (b === winner && a === other && sign * difference > 0) ||
    (a === winner && b === other && sign * difference < 0);
  return others.every((other) =>
    comparisons.some((one) => one.metric === metric && one.significant && beats(other, one)),
  );
}

/**
 * The values that exist. One that lies beyond a model's last k is larger than any that was reached up to there; where
 * another model has a larger one, which of them is the larger is not known: then both are NaN, and none wins.
 */
function knownValues(
  names: readonly string[],
  values: readonly SeededMetric[],
): { name: string; value: number }[] {
  const largest = Math.max(...values.map(({ value }) => value ?? -Infinity));
  const shortest = Math.min(
    ...values.map(({ value, beyond }) => (value === null ? (beyond ?? Infinity) : Infinity)),
  );
  return names.flatMap((name, i) => {
    const { value, beyond } = values[i];
    if (value === null && beyond === undefined) return [];
    if (value !== null) return [{ name, value: value > shortest ? NaN : value }];
    return [{ name, value: largest > shortest ? NaN : Infinity }];
  });
}

/** The main table. A metric that no model has is left out. */
export function metricRows(evaluation: Evaluation): MetricRow[] {
  const { models, comparisons } = evaluation;
  const names = Object.keys(models);
  return definitions(evaluation).flatMap(([metric, better, pick, tested]) => {
    const values = names.map((name) => pick(models[name]));
    const known = knownValues(names, values);
    if (known.length === 0) return [];
    const sign = better === 'lower' ? -1 : 1;
    const best = known.reduce((a, b) => (sign * b.value > sign * a.value ? b : a));
    const isShared = known.filter(({ value }) => value === best.value).length > 1;
    const isUnknown = known.some(({ value }) => Number.isNaN(value));
    const winner = better === null || isShared || isUnknown || known.length < 2 ? null : best.name;
    const others = known.map(({ name }) => name).filter((name) => name !== winner);
    return [
      {
        metric,
        better,
        values,
        winner,
        isClear: winner !== null && isClear(winner, others, tested, sign, comparisons),
      },
    ];
  });
}

const DIGITS = 3;

/** `0.612 [0.580, 0.643]`, with `± sd` where there are several seeds; a dash where the value does not exist. */
export function metricText(metric: SeededMetric): string {
  const { beyond } = metric;
  if (metric.value === null) return beyond === undefined ? '–' : `> ${beyond}`;
  const [low, end] = metric.ci.map((bound) => bound.toFixed(DIGITS));
  const high = beyond === undefined ? end : `> ${beyond}`;
  const sd = metric.seeds?.sd;
  const spread = sd === undefined || sd === null ? '' : ` ± ${sd.toFixed(DIGITS)}`;
  return `${metric.value.toFixed(DIGITS)} [${low}, ${high}]${spread}`;
}

/** Why values are dashes, each reason once. */
export function reasonsOf(rows: readonly MetricRow[]): string[] {
  const reasons = rows.flatMap(({ metric, values }) =>
    values.flatMap((value) =>
      value.value === null && value.beyond === undefined ? [`${metric}: ${value.reason}`] : [],
    ),
  );
  return [...new Set(reasons)];
}

/** How to read the tables, in sentences. */
export function legend({ settings, models, degraded }: Evaluation): string[] {
  const [first] = Object.values(models);
  const seeds = Math.max(...Object.values(models).map((model) => model.seeds.length));
  const hasNats = Object.values(models).some((model) => replyNats(model).value !== null);
  return [
    `${first.n_tweets} tweets. In brackets: bootstrap ${100 * settings.level} % interval over tweets (${settings.resamples.toLocaleString('en-US')} resamples, percentile method; distinct-n and entropy: jackknife).${seeds > 1 ? ` After ±: standard deviation over ${seeds} seeds; values are means over seeds.` : ''}`,
    `A reply passes when it has ${settings.quality}.${settings.other_quality.map((check, i) => ` Check ${i + 2}: ${check}.`).join('')} DER and the collapse point are of the mean curve of Pass@k; "> n" is one that n replies do not reach.`,
    `Reward: ${settings.reward}.${settings.learned === null ? '' : ` Engagement: ${settings.learned}.`}`,
    "Self-BLEU, semantic diversity and distinct-2 of a tweet are of its replies that have words. Perplexity is per token of a model's own tokenizer, behind its own prompt.",
    ...(hasNats
      ? [
          'Nats per token of replies: how unlikely a model finds its own samples, before temperature and top-p; of a served model what the server reports.',
        ]
      : []),
    `Winner: the best value; ** marks one that differs from every other model by the paired t-test over tweets with p < 0.05 and |d| >= 0.3 (${settings.correction}).`,
    ...degraded.map((line) => `Note: ${line}.`),
  ];
}

/** Cells of the main table, its head first. */
export function metricTable(evaluation: Evaluation): string[][] {
  const names = Object.keys(evaluation.models);
  const several = names.length > 1;
  const rows = metricRows(evaluation).map(({ metric, better, values, winner, isClear: clear }) => [
    `${metric}${better === null ? '' : better === 'higher' ? ' ↑' : ' ↓'}`,
    ...values.map(metricText),
    ...(several ? [winner === null ? '–' : `${winner}${clear ? ' **' : ''}`] : []),
  ]);
  return [['Metric', ...names, ...(several ? ['Winner'] : [])], ...rows];
}

const signed = (value: number): string => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(DIGITS)}`;
const pText = (p: number | null): string => (p === null ? '–' : p < 0.001 ? '< 0.001' : p.toFixed(DIGITS));

/** Cells of the comparisons, their head first. */
export function comparisonTable({ comparisons }: Evaluation): string[][] {
  return [
    [
      'b against a',
      'Metric',
      'b − a',
      '95 % interval',
      'p (t)',
      'p (Holm)',
      'p (U)',
      "Cohen's d",
      "Cliff's delta",
      'Significant',
    ],
    ...comparisons.map((one) => [
      `${one.b} against ${one.a}`,
      one.metric,
      signed(one.difference),
      `[${one.ci.map(signed).join(', ')}]`,
      ...[pText(one.p), pText(one.p_holm), pText(one.p_mann_whitney)],
      one.d === null ? '–' : signed(one.d),
      `${signed(one.delta)} (${one.delta_size})`,
      one.significant ? 'yes' : 'no',
    ]),
  ];
}

/** Cells of the judge's table, its head first; null where no judge was asked. */
export function judgeTable({ judge }: Evaluation): string[][] | null {
  if (judge === null) return null;
  const criteria = Object.keys(judge.weights) as (keyof typeof judge.weights)[];
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  return [
    [
      ...['b against a', 'Tweets', 'b won / tie / lost', 'Win rate of b', '95 % interval'],
      ...criteria.map((each) => `${each}, a → b`),
      'First one won',
    ],
    ...judge.pairs.map(({ a, b, n, outcomes, win_rate: rate, criteria: grades, ...one }) => [
      ...[`${b} against ${a}`, String(n), `${outcomes.win} / ${outcomes.tie} / ${outcomes.loss}`],
      ...[percent(rate.value), `[${rate.ci.map(percent).join(', ')}]`],
      ...criteria.map((each) => `${grades[each].a.toFixed(2)} → ${grades[each].b.toFixed(2)}`),
      one.first_position_win_share === null ? '–' : percent(one.first_position_win_share),
    ]),
  ];
}

/** How to read the judge's table. */
export function judgeLegend({ judge }: Evaluation): string {
  const weights = Object.entries(judge?.weights ?? {}).map(([each, weight]) => `${weight} ${each}`);
  return `Judge: ${judge?.model ?? 'none'}. It grades both replies, in an order drawn at random, from 1 to 10 (${weights.join(', ')}); the higher mean wins, a tie is half a win. "First one won" is 50 % for a judge without a bias for a position.`;
}

/** Cells as a table in Markdown, the head first. */
export function markdownTable([head, ...rows]: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), `|${head.map(() => '---').join('|')}|`, ...rows.map(line)];
}

/** A text on one line that Markdown takes literally. */
const oneLine = (text: string): string => text.replace(/[\p{Cc}\s]+/gu, ' ').trim();

/** The report in Markdown. */
export function evaluationMarkdown(evaluation: Evaluation): string {
  const samples = evaluation.samples
    .slice(0, 5)
    .flatMap(({ tweet, replies }) => [
      '',
      `    tweet        ${oneLine(tweet)}`,
      ...Object.entries(replies).map(
        ([name, [first]]) => `    ${name.padEnd(12)} ${oneLine(first?.text ?? '')}`,
      ),
    ]);
  const reasons = reasonsOf(metricRows(evaluation)).map((reason) => `- ${reason}.`);
  const judge = judgeTable(evaluation);
  return [
    '# Evaluation',
    '',
    ...legend(evaluation).map((line) => `- ${line}`),
    '',
    ...markdownTable(metricTable(evaluation)),
    '',
    ...(reasons.length === 0 ? [] : ['A dash is a value that does not exist:', '', ...reasons, '']),
    ...(evaluation.comparisons.length === 0
      ? []
      : ['## Comparisons', '', ...markdownTable(comparisonTable(evaluation)), '']),
    ...(judge === null
      ? []
      : ['## Judge', '', `- ${judgeLegend(evaluation)}`, '', ...markdownTable(judge), '']),
    '## Replies',
    '',
    'The first sampled reply of each model:',
    ...samples,
    '',
  ].join('\n');
}

const csvCell = (text: string | number | null): string => {
  const cell = text === null ? '' : String(text);
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
};

/** One line a metric and model: `model,metric,value,ci_low,ci_high,beyond,seed_sd,n_seeds,n_tweets`; full precision. */
export function evaluationCsv(evaluation: Evaluation): string {
  const names = Object.keys(evaluation.models);
  const head = ['model', 'metric', 'value', 'ci_low', 'ci_high', 'beyond', 'seed_sd', 'n_seeds', 'n_tweets'];
  const rows = metricRows(evaluation).flatMap(({ metric, values }) =>
    values.map((value, i) => {
      const { n_tweets: tweets, seeds } = evaluation.models[names[i]];
      const [low, high] = value.value === null ? [null, null] : value.ci;
      const sd = value.seeds?.sd ?? null;
      return [names[i], metric, value.value, low, high, value.beyond ?? null, sd, seeds.length, tweets];
    }),
  );
  return `${[head, ...rows].map((row) => row.map(csvCell).join(',')).join('\n')}\n`;
}

const LATEX: Readonly<Record<string, string>> = {
  '\\': '\\textbackslash{}', '&': '\\&', '%': '\\%', $: '\\$', '#': '\\#', _: '\\_', '{': '\\{', '}': '\\}',
  '~': '\\textasciitilde{}', '^': '\\textasciicircum{}', '↑': '$\\uparrow$', '↓': '$\\downarrow$',
  '±': '$\\pm$', '–': '--', '−': '$-$', '|': '$|$', '<': '$<$', '>': '$>$',
}; // prettier-ignore

const latex = (text: string): string => text.replace(/[\\&%$#_{}~^↑↓±–−|<>]/g, (mark) => LATEX[mark]);

/** A `tabular` of the main table, the best value of a line in bold; needs no package. */
export function evaluationLatex(evaluation: Evaluation): string {
  const names = Object.keys(evaluation.models);
  const rows = metricRows(evaluation).map(({ metric, better, values, winner }) => {
    const cells = values.map((value, i) => {
      const text = latex(metricText(value));
      return names[i] === winner ? `\\textbf{${text}}` : text;
    });
    const arrow = better === null ? '' : better === 'higher' ? ' ↑' : ' ↓';
    return `${[latex(`${metric}${arrow}`), ...cells].join(' & ')} \\\\`;
  });
  return [
    ...legend(evaluation).map((line) => `% ${line}`),
    `\\begin{tabular}{l${'r'.repeat(names.length)}}`,
    '\\hline',
    `${['Metric', ...names].map(latex).join(' & ')} \\\\`,
    '\\hline',
    ...rows,
    '\\hline',
    '\\end{tabular}',
    '',
  ].join('\n');
}
