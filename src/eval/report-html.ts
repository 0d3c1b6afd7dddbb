/** An evaluation as one HTML page: tables, and replies of all models side by side. */
import {
  comparisonTable,
  judgeLegend,
  judgeTable,
  legend,
  metricRows,
  metricTable,
  reasonsOf,
} from './report';
import type { Evaluation } from './suite';

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escape = (text: string): string => text.replace(/[&<>"]/g, (mark) => ENTITIES[mark]);

const STYLE = `
  body { font: 15px/1.5 "Open Sans", Helvetica, Arial, sans-serif; color: #222; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
  table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
  th, td { padding: 4px 10px; border-bottom: 1px solid #e4e4e4; text-align: right; vertical-align: top; white-space: nowrap; }
  th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #5f5f5f; }
  .best { font-weight: bold; } .replies td { white-space: normal; text-align: left; } .reward { color: #5f5f5f; font-size: 12px; }
`;

function tableHtml(
  [head, ...rows]: readonly (readonly string[])[],
  isBest: (row: number, column: number) => boolean,
): string {
  const cells = (row: readonly string[], r: number): string =>
    row.map((cell, c) => `<td${isBest(r, c) ? ' class="best"' : ''}>${escape(cell)}</td>`).join('');
  const body = rows.map((row, r) => `<tr>${cells(row, r)}</tr>`).join('\n');
  return `<table><thead><tr>${head.map((cell) => `<th>${escape(cell)}</th>`).join('')}</tr></thead>\n<tbody>${body}</tbody></table>`;
}

function repliesHtml({ samples, models }: Evaluation): string {
  const names = Object.keys(models);
  const cell = (replies: readonly { text: string; reward: number }[]): string =>
    replies
      .map(({ text, reward }) => `${escape(text)} <span class="reward">${reward.toFixed(2)}</span>`)
      .join('<br>');
  const rows = samples.map(
    ({ tweet, replies }) =>
      `<tr><td>${escape(tweet)}</td>${names.map((name) => `<td>${cell(replies[name])}</td>`).join('')}</tr>`,
  );
  const head = ['Tweet', ...names].map((name) => `<th>${escape(name)}</th>`).join('');
  return `<table class="replies"><thead><tr>${head}</tr></thead><tbody>${rows.join('\n')}</tbody></table>`;
}

/** The page: it asks nothing of any server. */
export function evaluationHtml(evaluation: Evaluation): string {
  const names = Object.keys(evaluation.models);
  const rows = metricRows(evaluation);
  const isBest = (row: number, column: number): boolean => rows[row].winner === names[column - 1];
  const judge = judgeTable(evaluation);
  const reasons = reasonsOf(rows).map((reason) => `<li>${escape(reason)}</li>`);
  return [
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>',
    `<meta name="viewport" content="width=device-width"><style>${STYLE}</style></head><body>`,
    '<h1>Evaluation</h1>',
    `<ul>${legend(evaluation)
      .map((line) => `<li>${escape(line)}</li>`)
      .join('')}</ul>`,
    tableHtml(metricTable(evaluation), isBest),
    ...(reasons.length === 0
      ? []
      : ['<p>A dash is a value that does not exist:</p>', `<ul>${reasons.join('')}</ul>`]),
    ...(evaluation.comparisons.length === 0
      ? []
      : ['<h2>Comparisons</h2>', tableHtml(comparisonTable(evaluation), () => false)]),
    ...(judge === null
      ? []
      : ['<h2>Judge</h2>', `<p>${escape(judgeLegend(evaluation))}</p>`, tableHtml(judge, () => false)]),
    '<h2>Replies</h2><p>Sampled replies with their reward.</p>',
    repliesHtml(evaluation),
    '</body></html>\n',
  ].join('\n');
}
