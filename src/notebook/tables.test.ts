import { EventEmitter } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { dataFrame, showTable } from './tables';
import type { Frame, Row, TableOptions } from './tables';

const KERNEL = Symbol.for('grpolab.kernel');
const shown: Record<string, string>[] = [];

beforeEach(() => {
  shown.length = 0;
  const show = (data: Record<string, string>): number => shown.push(data);
  Object.assign(globalThis, { [KERNEL]: { interrupts: new EventEmitter(), display: show } });
});
afterEach(() => Reflect.deleteProperty(globalThis, KERNEL));

/** What a table shows: HTML, and lines of text. */
function tableOf(given: readonly Row[] | Frame, options?: TableOptions): { html: string; plain: string[] } {
  showTable(given, options);
  const data = shown[shown.length - 1];
  expect(Object.keys(data).sort()).toEqual(['text/html', 'text/plain']);
  return { html: data['text/html'], plain: data['text/plain'].split('\n') };
}

/** The texts of the cells, row by row, heads first. */
function cellsOf(html: string): string[][] {
  return [...html.matchAll(/<tr>(.*?)<\/tr>/gs)].map(([, row]) =>
    [...row.matchAll(/<t[hd][^>]*>(.*?)<\/t[hd]>/gs)].map(([, text]) => text),
  );
}

describe('showTable', () => {
  it('shows rows by their names, in the order in which they come, and dashes for what is not there', () => {
    const rows = [
      { name: 'a', n: 1 },
      { n: 2, more: true },
      { name: null, more: undefined, n: NaN },
    ];
    expect(cellsOf(tableOf(rows).html)).toEqual([
      ['name', 'n', 'more'],
      ['a', '1', '–'],
      ['–', '2', 'yes'],
      ['–', '–', '–'],
    ]);
  });

  it.each<[string, unknown, string]>([
    ['a whole number', 1234567, '1234567'],
    ['a number', -0.12345, '-0.123'],
    ['a number of no end', Infinity, 'Infinity'],
    ['true', true, 'yes'],
    ['false', false, 'no'],
    ['zero', 0, '0'],
    ['an empty text', '', ''],
    ['an interval', [-0.05, 0.12345], '[-0.050, 0.123]'],
    ['an interval that could not be had', [null, NaN], '[–, –]'],
    ['an estimate', { value: 0.5123, interval: [0.4, 0.6123] }, '0.512 [0.400, 0.612]'],
    ['an object', { a: [1, 2] }, '{&quot;a&quot;:[1,2]}'],
  ])('shows %s as a reader takes it', (_name, value, expected) => {
    expect(cellsOf(tableOf([{ value }]).html)[1]).toEqual([expected]);
  });

  it('gives numbers the decimals that are asked for, inside intervals too', () => {
    const rows = [{ a: 0.00012, b: [1.5, 2], c: 3 }];
    expect(cellsOf(tableOf(rows, { digits: 5 }).html)[1]).toEqual(['0.00012', '[1.50000, 2]', '3']);
    expect(cellsOf(tableOf(rows, { digits: 0 }).html)[1]).toEqual(['1.2e-4', '[2, 2]', '3']);
  });

  it('leaves dollars in a tweet as they are', () => {
    expect(tableOf([{ tweet: 'I bought $TSLA at $200' }]).html).toMatch(/^<div class="mathjax_ignore">/);
  });

  it('puts numbers and intervals on the right, texts on the left, heads with their column', () => {
    const { html } = tableOf([
      { text: 'a', number: null, interval: null },
      { number: 1, interval: [1, 2] },
    ]);
    const sides = [...html.matchAll(/text-align:(\w+)/g)].map(([, side]) => side);
    expect(sides).toEqual(Array(3).fill(['left', 'right', 'right']).flat());
  });

  it('leaves nothing of a reply to be read as HTML', () => {
    const reply = '<img src=x onerror="alert(\'1\')"> & <b>';
    const { html, plain } = tableOf([{ [reply]: reply, other: { reply } }], { caption: reply });
    expect(html).not.toMatch(/<img|<b>|"alert|& /);
    const escaped = '&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt; &amp; &lt;b&gt;';
    const [head, [cell]] = cellsOf(html);
    expect([head, cell]).toEqual([[escaped, 'other'], escaped]);
    expect(html).toContain(`>${escaped}</caption>`);
    const frame = { columns: ['a'], values: [[1]], index: [reply] };
    expect(cellsOf(tableOf(frame).html)[1]).toEqual([escaped, '1']);
    // A frontend without HTML shows texts as they are.
    expect(plain.filter((line) => line.includes(reply))).toHaveLength(3);
  });

  it('shows at most so many rows, and tells how many more there are', () => {
    const rows = Array.from({ length: 250 }, (_, i) => ({ row: `r${i}` }));
    for (const [limit, expected] of [
      [undefined, 100],
      [3, 3],
    ] as const) {
      const { html, plain } = tableOf(rows, { limit });
      expect(cellsOf(html)).toHaveLength(expected + 1);
      expect(html).toContain(`<p>${250 - expected} more rows</p>`);
      expect(plain).toHaveLength(expected + 2);
      expect(plain.slice(-2)).toEqual([`r${expected - 1}`, `${250 - expected} more rows`]);
    }
    expect(tableOf(rows, { limit: 250 }).html).not.toContain('more rows');
  });

  it('has a text of aligned columns for a frontend without HTML, a line a row', () => {
    const rows = [
      { tweet: 'short', n: 1 },
      { tweet: 'of\n\ntwo lines 🙂', n: 12.5 },
    ];
    expect(tableOf(rows, { caption: 'Tweets' }).plain).toEqual([
      'Tweets',
      'tweet           n',
      'short           1',
      'of two lines 🙂  12.500',
    ]);
  });

  it('shows no rows as an empty table', () => {
    expect(cellsOf(tableOf([]).html)).toEqual([[]]);
    expect(tableOf([], { caption: 'None' }).plain).toEqual(['None']);
  });

  it('needs a notebook', () => {
    Reflect.deleteProperty(globalThis, KERNEL);
    expect(() => showTable([{ a: 1 }])).toThrow(ConfigError);
  });
});

describe('a danfo frame', () => {
  const rows = [
    { name: 'b', value: 3, passed: true, none: null },
    { name: null, value: null, passed: null, none: null },
    { name: 'a', value: -1.5, passed: false, none: null },
    { name: 'c', value: 2, passed: true, none: undefined },
    { value: 0.5 },
  ];
  const column = (frame: { column(name: string): { values: unknown } }, name: string): unknown[] =>
    frame.column(name).values as unknown[];

  it('has the rows, with what is missing known to danfo as missing', () => {
    const frame = dataFrame(rows);
    expect(frame.columns).toEqual(['name', 'value', 'passed', 'none']);
    expect(frame.shape).toEqual([5, 4]);
    expect(column(frame.isNa(), 'name')).toEqual([false, true, false, false, true]);
    expect(column(frame.isNa(), 'value')).toEqual([false, true, false, false, false]);
    expect(frame.dropNa().shape[0]).toBe(0);
    expect(frame.loc({ columns: ['name', 'value'] }).dropNa().values).toEqual([
      ['b', 3],
      ['a', -1.5],
      ['c', 2],
    ]);
  });

  it('is shown as rows are, with the names of its rows where they are not counted', () => {
    const frame = dataFrame(rows);
    expect(cellsOf(tableOf(frame).html)).toEqual(cellsOf(tableOf(rows).html));
    const known = dataFrame([3, -1.5, 2, 0.5].map((value) => ({ value })));
    const described = tableOf(known.describe());
    expect(cellsOf(described.html).slice(0, 3)).toEqual([
      ['', 'value'],
      ['count', '4'],
      ['mean', '1'],
    ]);
    expect(described.plain.slice(0, 3)).toEqual(['          value', 'count     4', 'mean      1']);
    const sorted = known.sortValues('value');
    expect(cellsOf(tableOf(sorted).html).map(([index]) => index)).toEqual(['', '1', '3', '2', '0']);
    expect(cellsOf(tableOf(sorted, { limit: 2 }).html)).toHaveLength(3);
    expect(cellsOf(tableOf(frame.column('value')).html)).toEqual(
      cellsOf(tableOf(frame.loc({ columns: ['value'] })).html),
    );
  });

  it('is described and sorted by danfo where nothing is missing', () => {
    const frame = dataFrame([
      { a: 1, b: 'x' },
      { a: 4, b: 'z' },
      { a: 2, b: 'y' },
    ]);
    expect(frame.describe().columns).toEqual(['a']);
    expect(frame.sortValues('a', { ascending: false }).column('b').values).toEqual(['z', 'y', 'x']);
  });

  it('is not made of no rows', () => {
    expect(() => dataFrame([])).toThrow(ConfigError);
    expect(() => dataFrame([])).toThrow(/no rows; expected at least one/);
  });
});
