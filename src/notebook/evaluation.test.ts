import { EventEmitter } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { adapter, fileOf, model, records, tweets } from '../../test/evaluation-cli';
import { readEvaluation } from '../eval/write-evaluation';
import { ConfigError, DataError } from '../runtime/errors';
import { evaluate, showCells, showComparisons, showEvaluation, showReplies } from './evaluation';
import type { NotebookEvaluateOptions } from './evaluation';
import { Interrupted } from './kernel';

const KERNEL = Symbol.for('grpolab.kernel');
const interrupts = new EventEmitter();
const shown: string[] = [];
let onShow: (text: string) => void;

beforeEach(() => {
  shown.length = 0;
  onShow = () => undefined;
  // A second goes by at every look at the clock: every step is shown.
  let now = Date.now();
  vi.spyOn(Date, 'now').mockImplementation(() => (now += 1000));
  const display = (data: Record<string, string>): void => {
    shown.push(data['text/html'] ?? data['text/markdown'] ?? data['text/plain']);
    onShow(shown[shown.length - 1]);
  };
  Object.assign(globalThis, { [KERNEL]: { interrupts, display } });
});
afterEach(() => {
  vi.restoreAllMocks();
  Reflect.deleteProperty(globalThis, KERNEL);
});

const small = (output: string): NotebookEvaluateOptions => ({
  models: { plain: { model }, tuned: { model, adapter } },
  testData: fileOf(records),
  ...{ n: 2, k: [1, 2], maxNewTokens: 5, resamples: 20, output },
});
const repliesIn = (output: string): string[] =>
  ['plain', 'tuned'].map((name) => readFileSync(path.join(output, 'replies', `${name}.jsonl`), 'utf8'));

describe('an evaluation in a cell', () => {
  it('is what the command writes, under bars that end, and the same when the cell is run again', async () => {
    const output = path.join(temporaryDirectory(), 'evaluation');
    const evaluation = await evaluate(small(output));
    expect(Object.keys(evaluation.models)).toEqual(['plain', 'tuned']);
    expect(readEvaluation(output)).toEqual(evaluation);
    expect(shown.some((text) => text.includes('replies: 6/6 tweets in'))).toBe(true);
    expect(shown.some((text) => text.includes('score: 2/2 runs in'))).toBe(true);
    const before = repliesIn(output);
    expect(await evaluate(small(output))).toEqual(evaluation);
    expect(repliesIn(output)).toEqual(before);
  });

  it('keeps replies until they are asked for again', async () => {
    const output = path.join(temporaryDirectory(), 'evaluation');
    await evaluate(small(output));
    const other = { ...small(output), temperature: 1.5 };
    await expect(evaluate(other)).rejects.toThrow(DataError);
    const before = repliesIn(output);
    await evaluate({ ...other, again: true });
    expect(repliesIn(output)).not.toEqual(before);
  });

  it('stops when it is interrupted, and goes on', async () => {
    const output = path.join(temporaryDirectory(), 'evaluation');
    onShow = (text) => void (text.includes('tuned') && interrupts.emit('interrupt'));
    await expect(evaluate(small(output))).rejects.toThrow(Interrupted);
    expect(existsSync(path.join(output, 'evaluation.json'))).toBe(false);
    const kept = readFileSync(path.join(output, 'replies', 'plain.jsonl'), 'utf8');
    onShow = () => undefined;
    await evaluate(small(output));
    expect(repliesIn(output)[0]).toBe(kept);
  });

  it('is refused before anything is generated where it could not be finished', async () => {
    const output = path.join(temporaryDirectory(), 'evaluation');
    const refused: [Partial<NotebookEvaluateOptions>, string][] = [
      [{ minWorldQuality: 0.5 }, 'not of the embedded world'],
      [{ minReward: 2 }, 'min_reward is 2'],
      [{ k: [1, 3] }, 'k is 3, but n is 2'],
      [{ reward: 'heuristics' }, 'reward "heuristics"'],
      [{ models: { a: { model }, b: { model, adapter: '/nowhere' } } }, '/nowhere'],
    ];
    for (const [own, message] of refused)
      await expect(evaluate({ ...small(output), ...own }), message).rejects.toThrow(message);
    await expect(evaluate({ ...small(output), models: { a: { model, sed: 1 } } })).rejects.toThrow(
      'models: models.a: unknown key "sed"',
    );
    const empty = fileOf([]);
    writeFileSync(empty, '');
    await expect(evaluate({ ...small(output), testData: empty })).rejects.toThrow('has no record');
    expect(existsSync(output)).toBe(false);
  });
});

describe('its tables', () => {
  it('show metrics with how to read them, tests of one measure, and replies', async () => {
    const evaluation = await evaluate(small(path.join(temporaryDirectory(), 'evaluation')));
    shown.length = 0;
    showEvaluation(evaluation);
    expect(shown[0]).toMatch(/<th[^>]*>Metric<\/th>.*<th[^>]*>plain<\/th>.*<th[^>]*>tuned<\/th>.*Winner/s);
    expect(shown[1]).toContain('- A reply passes when it has');
    showComparisons(evaluation, 'reward');
    expect(shown[2].match(/tuned against plain/g)).toHaveLength(1);
    showComparisons(evaluation);
    expect(shown[3].match(/tuned against plain/g)).toHaveLength(evaluation.comparisons.length);
    expect(() => showComparisons(evaluation, 'rewards')).toThrow(ConfigError);
    expect(() => showComparisons(evaluation, 'rewards')).toThrow('expected one of reward, ');
    showReplies(evaluation, 2);
    expect(tweets.filter((tweet) => shown[4].includes(tweet))).toEqual(tweets.slice(0, 2));
  });

  it('show cells under their head, and nothing of nothing', () => {
    showCells(null);
    expect(shown).toEqual([]);
    showCells(
      [
        ['a', 'b'],
        ['1', '<2>'],
      ],
      'of two',
    );
    expect(shown[0]).toMatch(/overflow-x:auto.*of two.*<th[^>]*>a<\/th>.*white-space:pre">&lt;2&gt;/s);
  });
});
