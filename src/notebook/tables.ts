/** Tables in a notebook: rows of results, or a danfo DataFrame. */
import { createRequire } from 'node:module';
import type * as Danfo from 'danfojs-node';
import { ConfigError, messageOf } from '../runtime/errors';
import { escapeHtml } from './html';
import { display } from './kernel';

/** Values by column. */
export type Row = object;

/** What a danfo DataFrame is here: it is recognised by its shape, so that showing rows does not load danfo. */
export interface Frame {
  columns: string[];
  values: unknown;
  index: readonly (string | number)[];
}

/** How a table is shown. */
export interface TableOptions {
  caption?: string;
  /** of a number that is not whole; default 3 */
  digits?: number;
  /** rows that are shown; default 100 */
  limit?: number;
  /** Whether a cell's text may go on in a new line; default true. A wide table without is scrolled sideways. */
  wrap?: boolean;
}

interface Table {
  columns: readonly string[];
  rows: readonly (readonly unknown[])[];
  /** names of the rows; null when they are only counted */
  index: readonly string[] | null;
}

function isFrame(table: readonly Row[] | Frame): table is Frame {
  return !Array.isArray(table);
}

function tableOf(given: readonly Row[] | Frame): Table {
  if (isFrame(given)) {
    const isCounted = given.index.every((name, i) => name === i);
    return {
      columns: given.columns,
      // Those of a danfo Series are in no rows.
      rows: (given.values as unknown[]).map((row): unknown[] => (Array.isArray(row) ? row : [row])),
      index: isCounted ? null : given.index.map(String),
    };
  }
  const columns = [...new Set(given.flatMap((row) => Object.keys(row)))];
  const valueOf = (row: Row, column: string): unknown => (row as Record<string, unknown>)[column];
  return { columns, rows: given.map((row) => columns.map((column) => valueOf(row, column))), index: null };
}

/** An estimate with its interval, as the library's statistics give it. */
function isEstimate(value: object): value is { value: number; interval: readonly [number, number] } {
  return 'value' in value && 'interval' in value && Object.keys(value).length === 2;
}

const isMissing = (value: unknown): value is null | undefined =>
  value === null || value === undefined || Number.isNaN(value);

/** A value as a cell shows it: `–` for none, `[a, b]` for an interval, `x [a, b]` for an estimate. */
function cellText(value: unknown, digits: number): string {
  if (isMissing(value)) return '–';
  if (typeof value === 'number') {
    if (Number.isInteger(value)) return String(value);
    // What would read as zero is not zero.
    return Math.abs(value) < 0.5 * 10 ** -digits ? value.toExponential(1) : value.toFixed(digits);
  }
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (Array.isArray(value)) return `[${value.map((one) => cellText(one, digits)).join(', ')}]`;
  if (typeof value !== 'object') return String(value);
  if (isEstimate(value)) return `${cellText(value.value, digits)} ${cellText(value.interval, digits)}`;
  return JSON.stringify(value);
}

const isNumeric = (value: unknown): boolean => typeof value === 'number' || Array.isArray(value);

function htmlOf(
  { columns, rows, index }: Table,
  texts: readonly (readonly string[])[],
  notes: string[],
  wrap: boolean,
): string {
  const align = columns.map((_, column) =>
    rows.some((row) => isNumeric(row[column])) ? 'text-align:right' : 'text-align:left',
  );
  const head = columns.map((name, i) => `<th style="${align[i]}">${escapeHtml(name)}</th>`);
  const body = texts.map((cells, r) => {
    const name = index === null ? '' : `<th style="text-align:left">${escapeHtml(index[r])}</th>`;
    const data = cells.map(
      (text, i) =>
        `<td style="${align[i]};white-space:${wrap ? 'pre-wrap' : 'pre'}">${escapeHtml(text)}</td>`,
    );
    return `<tr>${name}${data.join('')}</tr>`;
  });
  const corner = index === null ? '' : '<th></th>';
  const [caption, more] = notes.map(escapeHtml);
  return (
    // A dollar sign in a tweet is no mathematics.
    `<div class="mathjax_ignore"${wrap ? '' : ' style="overflow-x:auto"'}><table>${caption === '' ? '' : `<caption style="text-align:left">${caption}</caption>`}` +
    `<thead><tr>${corner}${head.join('')}</tr></thead><tbody>${body.join('')}</tbody></table>` +
    `${more === '' ? '' : `<p>${more}</p>`}</div>`
  );
}

/** Columns of equal width, a line a row, for a frontend without HTML. */
function plainOf({ columns, index }: Table, texts: readonly (readonly string[])[], notes: string[]): string {
  const lines = [columns, ...texts].map((cells, r) =>
    (index === null ? cells : [r === 0 ? '' : index[r - 1], ...cells]).map((text) =>
      text.replace(/\s+/g, ' '),
    ),
  );
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => [...line[column]].length)));
  const body = lines.map((line) =>
    line
      .map((text, i) => text.padEnd(widths[i]))
      .join('  ')
      .trimEnd(),
  );
  return [notes[0], ...body, notes[1]].filter((line) => line !== '').join('\n');
}

/**
 * Shows rows, or a danfo DataFrame, as a table. Numbers that are not whole get `digits` decimals; what does not exist is
 * a dash.
 * @throws ConfigError  outside a notebook
 */
export function showTable(given: readonly Row[] | Frame, options: TableOptions = {}): void {
  const { caption = '', digits = 3, limit = 100, wrap = true } = options;
  const table = tableOf(given);
  const count = table.rows.length;
  const shown: Table = { ...table, rows: table.rows.slice(0, limit) };
  const texts = shown.rows.map((row) => row.map((value) => cellText(value, digits)));
  const notes = [caption, count > limit ? `${count - limit} more rows` : ''];
  display({ 'text/html': htmlOf(shown, texts, notes, wrap), 'text/plain': plainOf(shown, texts, notes) });
}

/** Missing values as danfo knows them: undefined among texts, NaN among others. It fails on null. */
function forDanfo(rows: readonly Row[]): object[] {
  const records = rows as readonly Record<string, unknown>[];
  const columns = [...new Set(records.flatMap((row) => Object.keys(row)))];
  const missing = (column: string): unknown => {
    const known = records.map((row) => row[column]).find((value) => !isMissing(value));
    return typeof known === 'string' || typeof known === 'object' ? undefined : NaN;
  };
  const empty = Object.fromEntries(columns.map((column) => [column, missing(column)]));
  return records.map((row) =>
    Object.fromEntries(columns.map((column) => [column, row[column] ?? empty[column]])),
  );
}

/**
 * Rows as a danfo DataFrame, for sorting, grouping and describing. Danfo is loaded here, not before: it takes a second.
 * Its own `describe` and `sortValues` take missing values for numbers (danfo 1.2): leave such columns out of the one, and
 * `dropNa` before the other.
 * @throws ConfigError  when danfo is not installed, or there are no rows
 */
export function dataFrame(rows: readonly Row[]): Danfo.DataFrame {
  if (rows.length === 0) throw new ConfigError('a data frame of no rows; expected at least one.');
  let danfo: typeof Danfo;
  try {
    danfo = createRequire(__filename)('danfojs-node') as typeof danfo;
  } catch (error) {
    throw new ConfigError(
      `danfojs-node cannot be loaded (${messageOf(error)}). Run \`npm run setup\`, or show the rows by showTable.`,
    );
  }
  return new danfo.DataFrame(forDanfo(rows));
}
