import { parse } from 'csv-parse/sync';
import { describe, expect, it } from 'vitest';
import { evaluateOne, mean, near, options, repliesOf } from '../../test/evaluation-task';
import { resampleIndices } from '../metrics/statistics';
import type { ModelReplies, TweetReplies } from './model-replies';
import {
  evaluationCsv,
  evaluationLatex,
  evaluationMarkdown,
  legend,
  metricRows,
  metricText,
  reasonsOf,
} from './report';
import { evaluationHtml } from './report-html';
import { evaluateModels } from './suite';
import type { Evaluation } from './suite';

type Drawn = NonNullable<TweetReplies['drawn']>;
type Row = ([logProb: number, tokens: number] | null)[];

/** A model of replies with these likelihoods, a row a tweet. */
function drawnBy(rows: readonly Row[], name = 'm', seed?: number): ModelReplies {
  const replies = repliesOf(
    name,
    rows.map((row) => row.map((_, i) => `reply ${i}`)),
    { seed },
  );
  const drawn = (row: Row): Drawn =>
    row.map((one) => (one === null ? null : { log_prob: one[0], tokens: one[1] }));
  return { ...replies, tweets: replies.tweets.map((tweet, t) => ({ ...tweet, drawn: drawn(rows[t]) })) };
}
const nats = async (...runs: ModelReplies[]) => (await evaluateOne(runs)).reply_nats_per_token;
const known = async (...runs: ModelReplies[]) => {
  const metric = await nats(...runs);
  if (metric === undefined || metric.value === null) throw new Error('no value');
  return metric;
};

const ROWS: Row[] = [
  [
    [-2, 4],
    [-10, 5],
  ],
  [
    [-0.5, 1],
    [0, 3],
  ],
  [[-30, 10]],
];
const UNKNOWN = {
  value: null,
  reason: 'the log-probabilities of the sampled replies are not known of every reply',
};

describe('nats per token of replies', () => {
  it('are minus the log-probabilities of all replies to all tweets over their tokens', async () => {
    near(await known(drawnBy(ROWS)), (2 + 10 + 0.5 + 0 + 30) / (4 + 5 + 1 + 3 + 10));
    near(await known(drawnBy([[[0, 7]], [[0, 1]]])), 0);
    // Not the mean over replies, or over tweets.
    near(
      await known(
        drawnBy([
          [
            [-1, 1],
            [-1, 9],
          ],
        ]),
      ),
      2 / 10,
    );
  });

  it('have an interval over tweets, each with all of its replies', async () => {
    const { ci } = await known(drawnBy(ROWS));
    const of = (drawn: readonly number[]): number => {
      const all = drawn.flatMap((t) => ROWS[t] as [number, number][]);
      const [sum, tokens] = [0, 1].map((i) => all.reduce((total, one) => total + one[i], 0));
      return -sum / tokens;
    };
    const sorted = [...resampleIndices(3, 100, 7)].map((row) => of([...row])).sort((a, b) => a - b);
    const at = (share: number): number => {
      const low = Math.floor(99 * share);
      return sorted[low] + (99 * share - low) * (sorted[low + 1] - sorted[low]);
    };
    expect(ci[0]).toBeCloseTo(at(0.025), 12);
    expect(ci[1]).toBeCloseTo(at(0.975), 12);
  });

  it('are of several seeds the mean of theirs, which stand beside it', async () => {
    const other = ROWS.map((row) => row.map((one): [number, number] => [2 * (one?.[0] ?? 0), one?.[1] ?? 1]));
    const metric = await known(drawnBy(ROWS, 'm', 1), drawnBy(other, 'm', 2));
    const values = [42.5 / 23, 85 / 23];
    near(metric, mean(values));
    metric.seeds?.values.forEach((value, i) => expect(value).toBeCloseTo(values[i], 12));
    expect(metric.seeds?.n).toBe(2);
  });

  const without = (model: ModelReplies, t: number): ModelReplies => ({
    ...model,
    tweets: model.tweets.map((tweet, i) => (i === t ? { ...tweet, drawn: undefined } : tweet)),
  });
  it.each<[string, ModelReplies[]]>([
    ['the replies are on file without any', [repliesOf('m', [['a'], ['b']])]],
    ['a tweet has none', [without(drawnBy(ROWS), 1)]],
    ['the server gave none for one reply', [drawnBy([[[-1, 1], null], [[-1, 1]]])]],
    ['a run has none', [drawnBy(ROWS, 'm', 1), without(drawnBy(ROWS, 'm', 2), 0)]],
  ])('do not exist where %s, with the reason', async (_, runs) => {
    expect(await nats(...runs)).toEqual(UNKNOWN);
  });

  it('change no other metric', async () => {
    const { reply_nats_per_token: own, ...rest } = await evaluateOne(drawnBy(ROWS));
    const bare = drawnBy(ROWS);
    bare.tweets = bare.tweets.map(({ drawn: _, ...tweet }) => tweet);
    const { reply_nats_per_token: none, ...others } = await evaluateOne(bare);
    expect(rest).toEqual(others);
    expect([own?.value, none]).toEqual([42.5 / 23, UNKNOWN]);
  });
});

describe('nats per token in the tables', () => {
  const NAME = 'Nats per token of replies';
  const plain = repliesOf('plain', [['a', 'b'], ['c', 'd'], ['e']]);
  const evaluate = (...models: ModelReplies[]): Promise<Evaluation> => evaluateModels(models, options);
  const reports = (of: Evaluation): string[] =>
    [evaluationMarkdown, evaluationCsv, evaluationLatex, evaluationHtml].map((make) => make(of));

  it('stand in all of them where some model has them, with no better side and a reason for the others', async () => {
    const made = await evaluate(drawnBy(ROWS), plain);
    const row = metricRows(made).find(({ metric }) => metric === NAME);
    expect(row).toMatchObject({ better: null, winner: null, isClear: false });
    expect(row?.values.map(metricText)).toEqual([expect.stringMatching(/^1\.848 \[/), '–']);
    expect(reasonsOf(metricRows(made))).toContain(`${NAME}: ${UNKNOWN.reason}`);
    for (const text of reports(made)) expect(text).toContain(NAME);
    expect(legend(made).join('\n')).toContain(`${NAME}: how unlikely a model finds its own samples`);
    const lines = parse(evaluationCsv(made), { columns: true }) as Record<string, string>[];
    const own = lines.filter(({ metric }) => metric === NAME);
    expect(own.map(({ model, value }) => [model, value])).toEqual([
      ['m', String(42.5 / 23)],
      ['plain', ''],
    ]);
  });

  it('stand in none where no model has them', async () => {
    for (const text of reports(await evaluate(plain))) expect(text).not.toMatch(/nats per token/i);
  });

  it('are a dash of a model of an evaluation that lacks them, and no row where all do', async () => {
    const made = await evaluate(drawnBy(ROWS), { ...drawnBy(ROWS), name: 'old' });
    delete made.models.old.reply_nats_per_token;
    const row = metricRows(made).find(({ metric }) => metric === NAME);
    expect(row?.values.map(({ value }) => value)).toEqual([42.5 / 23, null]);
    delete made.models.m.reply_nats_per_token;
    for (const text of reports(made)) expect(text).not.toMatch(/nats per token/i);
  });
});
