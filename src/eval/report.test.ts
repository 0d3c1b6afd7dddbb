import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'csv-parse/sync';
import { beforeAll, describe, expect, it } from 'vitest';
import { temporaryDirectory, temporaryFile } from '../../test/cli';
import { options, repliesOf } from '../../test/evaluation-task';
import { DataError } from '../runtime/errors';
import { Random } from '../runtime/random';
import type { Comparison } from './comparisons';
import type { SeededMetric } from './model-evaluation';
import { evaluationCsv, evaluationLatex, evaluationMarkdown, metricRows, metricText } from './report';
import { evaluationHtml } from './report-html';
import { evaluateModels } from './suite';
import type { Evaluation } from './suite';
import { readEvaluation, writeEvaluation } from './write-evaluation';

const random = new Random(5, 'report');
const rows = (lift: number): string[][] =>
  Array.from({ length: 10 }, () =>
    Array.from({ length: 4 }, () => {
      const words = ['tea', 'milk', 'rain', 'boat', 'cloud'].filter(() => random.uniform() < 0.7);
      return `${words.join(' ')} and ${random.integer(9)} more #${(random.uniform() * 0.5 + lift).toFixed(3)}`;
    }),
  );

/** Three models, the last one with two seeds. */
const models = [
  repliesOf('base', rows(0.05)),
  repliesOf('better', rows(0.3)),
  repliesOf('best', rows(0.5), { seed: 1 }),
  repliesOf('best', rows(0.5), { seed: 2 }),
];
let evaluation: Evaluation;
beforeAll(async () => {
  evaluation = await evaluateModels(models, { ...options, k: [1, 4] });
});

/** A copy of the evaluation that a test may change. */
const copy = (): Evaluation => structuredClone(evaluation);
const rowOf = (of: Evaluation, metric: string) => {
  const row = metricRows(of).find((one) => one.metric === metric);
  if (row === undefined) throw new Error(`no row ${metric}`);
  return row;
};
/** Sets a metric of the models, in their order. */
function withRewards(...values: (number | null)[]): Evaluation {
  const changed = copy();
  Object.values(changed.models).forEach((model, i) => {
    const value = values[i];
    model.reward = value === null ? { value, reason: 'none' } : { value, ci: [value - 1, value + 1] };
  });
  return changed;
}
/** Sets whether a comparison of rewards is significant, and which of the two is higher. */
function withSignificant(of: Evaluation, significant: (a: string, b: string) => boolean): Evaluation {
  for (const one of of.comparisons.filter(({ metric }) => metric === 'reward')) {
    one.significant = significant(one.a, one.b);
    const [low, high] = [one.a, one.b].map((name) => of.models[name].reward.value as number);
    one.difference = high - low;
  }
  return of;
}

/** The cells of the first table of a Markdown text that starts with a head. */
function markdownCells(text: string, head: string): string[][] {
  const lines = text.split('\n');
  const start = lines.findIndex((line) => line.startsWith(`| ${head}`));
  const end = lines.findIndex((line, i) => i > start && !line.startsWith('|'));
  return lines
    .slice(start, end)
    .filter((_, i) => i !== 1)
    .map((line) => line.slice(2, -2).split(' | '));
}

describe('the main table', () => {
  it('has for winner the best value, which of self-BLEU is the lowest', () => {
    expect(rowOf(withRewards(0.1, 0.3, 0.2), 'Reward').winner).toBe('better');
    const changed = copy();
    [0.3, 0.1, 0.2].forEach((value, i) => {
      Object.values(changed.models)[i].self_bleu = { value, ci: [0, 1] };
      Object.values(changed.models)[i].characters = { value, ci: [0, 1] };
    });
    expect(rowOf(changed, 'Self-BLEU').winner).toBe('better');
    expect(rowOf(changed, 'Self-BLEU').better).toBe('lower');
    expect(rowOf(changed, 'Characters')).toMatchObject({ winner: null, better: null });
  });

  it('has no winner where several share the best value, or only one model has one', () => {
    expect(rowOf(withRewards(0.3, 0.3, 0.2), 'Reward').winner).toBeNull();
    expect(rowOf(withRewards(0.3, 0.1, 0.3), 'Reward').winner).toBeNull();
    expect(rowOf(withRewards(0.2, 0.2, 0.3), 'Reward').winner).toBe('best');
    expect(rowOf(withRewards(null, 0.2, null), 'Reward').winner).toBeNull();
    expect(rowOf(withRewards(null, 0.2, 0.1), 'Reward').winner).toBe('better');
  });

  it('calls a winner clear only when it differs from every other model significantly', () => {
    const of = (significant: (a: string, b: string) => boolean) =>
      rowOf(withSignificant(withRewards(0.1, 0.3, 0.2), significant), 'Reward').isClear;
    expect(of(() => true)).toBe(true);
    expect(of((a, b) => [a, b].includes('better'))).toBe(true);
    expect(of((a, b) => `${a} ${b}` !== 'base better')).toBe(false);
    expect(of((a, b) => `${a} ${b}` !== 'better best')).toBe(false);
    expect(of(() => false)).toBe(false);
  });

  it('calls no winner clear that shares its place, or was never tested', () => {
    const shared = withSignificant(withRewards(0.3, 0.3, 0.2), () => true);
    expect(rowOf(shared, 'Reward')).toMatchObject({ winner: null, isClear: false });
    const untested = withSignificant(withRewards(0.1, 0.3, 0.2), () => true);
    untested.comparisons = untested.comparisons.filter(({ metric }) => metric !== 'reward');
    expect(rowOf(untested, 'Reward')).toMatchObject({ winner: 'better', isClear: false });
    for (const one of untested.comparisons) one.significant = true;
    expect(rowOf(untested, 'Pass@4').isClear).toBe(false);
  });

  it('calls no winner clear that the comparisons have as the significantly worse one', async () => {
    // Over all replies "parrot" has more different bigrams, to each tweet "list" has.
    const parrot = Array.from({ length: 20 }, (_, t) =>
      Array.from({ length: 4 }, () => `w${t}a w${t}b w${t}c`),
    );
    const list = Array.from({ length: 20 }, (_, t) =>
      [0, 1, 2, 3].map((i) => `v${i}a v${i}b v${i}c${t === 0 && i === 0 ? ' v0c' : ''}`),
    );
    list[1][0] = 'v0a v0b v0a v0b';
    const both = [repliesOf('parrot', parrot), repliesOf('list', list)];
    for (const order of [both, [...both].reverse()]) {
      const crossed = await evaluateModels(order, options);
      const [tested] = crossed.comparisons.filter(({ metric }) => metric === 'distinct_2_of_a_tweet');
      expect([tested.significant, tested.difference > 0]).toEqual([true, tested.b === 'list']);
      expect(rowOf(crossed, 'Distinct-2')).toMatchObject({ winner: 'parrot', isClear: false });
    }
  });

  it('leaves out a metric that no model has', () => {
    const names = metricRows(evaluation).map(({ metric }) => metric);
    expect(names).toContain('Pass@4');
    expect(names).toContain('DER@4');
    for (const missing of ['Engagement (learned reward)', 'ROUGE-L', 'Greedy: reward'])
      expect(names).not.toContain(missing);
  });

  it('shows a value with its interval, and the spread over seeds where there are several', () => {
    expect(metricText({ value: 0.61249, ci: [0.5, 0.7] })).toBe('0.612 [0.500, 0.700]');
    expect(metricText({ value: null, reason: 'none' })).toBe('–');
    const seeds = { n: 2, mean: 0.5, sd: 0.0217, ci: [0, 1] as [number, number], values: [0.4, 0.6] };
    expect(metricText({ value: 0.5, ci: [0.4, 0.6], seeds })).toBe('0.500 [0.400, 0.600] ± 0.022');
  });
});

describe('the Markdown report', () => {
  it('has a line a metric with every model and a Winner, marked where it is clear', () => {
    const text = evaluationMarkdown(withSignificant(withRewards(0.1, 0.3, 0.2), () => true));
    const [head, ...cells] = markdownCells(text, 'Metric');
    expect(head).toEqual(['Metric', 'base', 'better', 'best', 'Winner']);
    expect(cells.every((row) => row.length === 5)).toBe(true);
    expect(cells.find(([metric]) => metric === 'Reward ↑')?.[4]).toBe('better **');
    const unclear = evaluationMarkdown(withSignificant(withRewards(0.1, 0.3, 0.2), () => false));
    expect(markdownCells(unclear, 'Metric').find(([metric]) => metric === 'Reward ↑')?.[4]).toBe('better');
    const shared = evaluationMarkdown(withRewards(0.3, 0.3, 0.2));
    expect(markdownCells(shared, 'Metric').find(([metric]) => metric === 'Reward ↑')?.[4]).toBe('–');
    expect(markdownCells(text, 'Metric').some(([metric]) => metric === 'Self-BLEU ↓')).toBe(true);
  });

  it('has every comparison with its numbers', () => {
    const [head, ...cells] = markdownCells(evaluationMarkdown(evaluation), 'b against a');
    expect(head).toHaveLength(10);
    expect(cells).toHaveLength(evaluation.comparisons.length);
    expect(cells.every((row) => row.length === 10)).toBe(true);
    const one = evaluation.comparisons.findIndex(
      ({ a, b, metric }) => `${a} ${b} ${metric}` === 'base best reward',
    );
    const { difference, p_holm: p, significant } = evaluation.comparisons[one];
    expect(difference).toBeGreaterThan(0);
    expect(cells[one].slice(0, 3)).toEqual(['best against base', 'reward', `+${difference.toFixed(3)}`]);
    expect(cells[one][5]).toBe((p as number) < 0.001 ? '< 0.001' : (p as number).toFixed(3));
    expect(cells[one][9]).toBe(significant ? 'yes' : 'no');
  });

  it('names tweets, resamples, quality check, reward and correction, and why values are missing', () => {
    const changed = copy();
    changed.models.base.self_bleu = { value: null, reason: 'never in this life' };
    changed.degraded = ['a list of words stands in'];
    const text = evaluationMarkdown(changed);
    for (const part of [
      '10 tweets',
      '95 % interval',
      '100 resamples',
      evaluation.settings.quality,
      'Reward: marked',
      'Holm',
      '2 seeds',
      '- Self-BLEU: never in this life.',
      'a list of words stands in',
    ])
      expect(text).toContain(part);
  });

  it('has neither Winner nor comparisons of a single model', async () => {
    const text = evaluationMarkdown(await evaluateModels(models.slice(0, 1), options));
    expect(markdownCells(text, 'Metric')[0]).toEqual(['Metric', 'base']);
    expect(text).not.toContain('## Comparisons');
  });

  it('keeps a reply on one line, as text', () => {
    const changed = copy();
    changed.samples[0].replies.base[0].text = 'first\n\n# head | <b>\r\nlast';
    expect(evaluationMarkdown(changed)).toContain('    base         first # head | <b> last\n');
  });

  it('keeps the table whole when a name has a bar', () => {
    const changed = copy();
    changed.models = { 'a|b': changed.models.base, c: changed.models.best };
    changed.samples = [];
    expect(evaluationMarkdown(changed)).toContain('| Metric | a\\|b | c | Winner |');
  });
});

describe('the CSV report', () => {
  const read = (text: string) => parse(text, { columns: true }) as Record<string, string>[];

  it('has a line a metric and model that reads back to the last bit', () => {
    const lines = read(evaluationCsv(evaluation));
    const table = metricRows(evaluation);
    expect(lines).toHaveLength(3 * table.length);
    const names = Object.keys(evaluation.models);
    table.forEach(({ metric, values }, r) =>
      values.forEach((value: SeededMetric, m) => {
        const line = lines[3 * r + m];
        expect([line.model, line.metric, line.n_tweets]).toEqual([names[m], metric, '10']);
        expect(line.n_seeds).toBe(names[m] === 'best' ? '2' : '0');
        if (value.value === null) expect([line.value, line.ci_low, line.ci_high]).toEqual(['', '', '']);
        else expect([line.value, line.ci_low, line.ci_high].map(Number)).toEqual([value.value, ...value.ci]);
        const sd = value.seeds?.sd ?? null;
        expect(line.seed_sd === '' ? null : Number(line.seed_sd)).toBe(sd);
      }),
    );
    const reward = lines.find(({ model, metric }) => model === 'best' && metric === 'Reward');
    expect(reward?.value).toBe(String(evaluation.models.best.reward.value));
  });

  it('keeps names with commas, quotes and line ends', () => {
    const changed = copy();
    const name = 'a, "b"\nc';
    changed.models = { [name]: changed.models.base };
    const lines = read(evaluationCsv(changed));
    expect(new Set(lines.map(({ model }) => model))).toEqual(new Set([name]));
  });
});

describe('the LaTeX report', () => {
  it('escapes what LaTeX would take for its own, also in names', () => {
    const changed = copy();
    changed.models = { 'a_b & 50% #1 {x} $ ^ ~ \\': changed.models.base, plain: changed.models.best };
    const text = evaluationLatex(changed);
    expect(text).toContain(
      'Metric & a\\_b \\& 50\\% \\#1 \\{x\\} \\$ \\textasciicircum{} \\textasciitilde{} \\textbackslash{} & plain \\\\',
    );
    const outside = text.split('\n').filter((line) => !/^([%\\]|$)/.test(line));
    for (const line of outside) {
      expect(line).toMatch(/ \\\\$/);
      expect(line.replace(/\\[&%$#_{}]|\\text\w+\{\}/g, '')).not.toMatch(/[%#_^~]/);
      expect(line).not.toMatch(/[↑↓±–−]/);
    }
  });

  it('is one tabular with a column a model, the winner in bold', () => {
    const text = evaluationLatex(withRewards(0.1, 0.3, 0.2));
    expect(text.match(/\\begin\{tabular\}\{lrrr\}/g)).toHaveLength(1);
    expect(text.trimEnd().endsWith('\\end{tabular}')).toBe(true);
    const reward = text.split('\n').find((line) => line.startsWith('Reward'));
    expect(reward).toBe(
      'Reward $\\uparrow$ & 0.100 [-0.900, 1.100] & \\textbf{0.300 [-0.700, 1.300]} & 0.200 [-0.800, 1.200] \\\\',
    );
    expect(text).toContain(' $\\pm$ ');
    const shared = evaluationLatex(withRewards(0.3, 0.3, 0.2))
      .split('\n')
      .find((line) => line.startsWith('Reward'));
    expect(shared).not.toContain('textbf');
  });
});

describe('the HTML report', () => {
  const danger = '<script>alert("x")</script> & <img src=x onerror=alert(1)>';

  it('shows a reply, a tweet and a name as text, never as markup', () => {
    const changed = copy();
    const { base, best } = changed.models;
    changed.models = { [danger]: base, best };
    changed.degraded = [danger];
    changed.comparisons = [{ ...changed.comparisons[0], a: danger } as Comparison];
    changed.samples = [{ tweet: danger, replies: { [danger]: [{ text: danger, reward: 0.5 }], best: [] } }];
    const html = evaluationHtml(changed);
    expect(html).not.toMatch(/<script|<img/i);
    expect(
      html.split('&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &lt;img').length - 1,
    ).toBeGreaterThan(5);
  });

  it('asks nothing of any server, and marks the best value alone', () => {
    const html = evaluationHtml(withRewards(0.1, 0.3, 0.2));
    expect(html).not.toMatch(/https?:|src=|@import|url\(/);
    expect(html).toContain('<td class="best">0.300 [-0.700, 1.300]</td>');
    expect(html).not.toContain('<td class="best">0.100 [-0.900, 1.100]</td>');
    expect(html).toContain('<th>Winner</th>');
    expect(evaluationHtml(withRewards(0.3, 0.3, 0.2))).not.toContain('<td class="best">0.300 [-0.700');
    for (const { tweet } of evaluation.samples) expect(html).toContain(`<td>${tweet}</td>`);
  });

  it('closes every tag that it opens', () => {
    const html = evaluationHtml(evaluation);
    for (const tag of ['table', 'thead', 'tbody', 'tr', 'td', 'th', 'ul', 'li', 'span', 'body', 'html']) {
      const count = (pattern: string): number => html.match(new RegExp(pattern, 'g'))?.length ?? 0;
      expect(count(`<${tag}[ >]`), tag).toBe(count(`</${tag}>`));
    }
  });
});

describe('the files of an evaluation', () => {
  const FILES = ['evaluation.json', 'evaluation.md', 'evaluation.csv', 'evaluation.tex', 'evaluation.html'];

  it('are five, read back whole, and are the same when they are written again', async () => {
    const [one, two] = [path.join(temporaryDirectory(), 'a', 'b'), temporaryDirectory()];
    expect(await writeEvaluation(evaluation, one)).toEqual(FILES.map((name) => path.join(one, name)));
    expect(readEvaluation(one)).toEqual(evaluation);
    expect(readEvaluation(path.join(one, 'evaluation.json'))).toEqual(evaluation);
    await writeEvaluation(await evaluateModels(models, { ...options, k: [1, 4] }), two);
    for (const name of FILES)
      expect(readFileSync(path.join(two, name), 'utf8'), name).toBe(
        readFileSync(path.join(one, name), 'utf8'),
      );
  });

  it('are made of what was read as of what was computed', async () => {
    const [one, two] = [temporaryDirectory(), temporaryDirectory()];
    await writeEvaluation(evaluation, one);
    await writeEvaluation(readEvaluation(one), two);
    for (const name of FILES)
      expect(readFileSync(path.join(two, name), 'utf8'), name).toBe(
        readFileSync(path.join(one, name), 'utf8'),
      );
  });

  it('are refused where a file stands in place of the directory, which stays as it is', async () => {
    const file = temporaryFile('mine', 'keep me');
    await expect(writeEvaluation(evaluation, file)).rejects.toThrow(DataError);
    await expect(writeEvaluation(evaluation, file)).rejects.toThrow(
      `${file}: cannot be made a directory: a file stands there`,
    );
    expect(readFileSync(file, 'utf8')).toBe('keep me');
  });

  it('are refused where one would take the place of a directory', async () => {
    const directory = temporaryDirectory();
    mkdirSync(path.join(directory, 'evaluation.json'));
    await expect(writeEvaluation(evaluation, directory)).rejects.toThrow(DataError);
    expect(existsSync(path.join(directory, 'evaluation.md'))).toBe(false);
  });

  it('are not taken for those of something else', () => {
    const directory = temporaryDirectory();
    expect(() => readEvaluation(directory)).toThrow(
      `${path.join(directory, 'evaluation.json')}: no such file. Run`,
    );
    for (const text of [
      '{}',
      '{"format": "grpolab-evaluation", "version": 1}',
      '{"format": "grpolab-study", "version": 2}',
      '3',
      'null',
      '[]',
    ]) {
      writeFileSync(path.join(directory, 'evaluation.json'), text);
      expect(() => readEvaluation(directory)).toThrow(DataError);
      expect(() => readEvaluation(directory)).toThrow(/is no evaluation of this version/);
    }
    writeFileSync(path.join(directory, 'evaluation.json'), '{');
    expect(() => readEvaluation(directory)).toThrow(/is not JSON/);
  });
});
