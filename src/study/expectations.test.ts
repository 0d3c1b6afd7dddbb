import { describe, expect, it } from 'vitest';
import { options, repliesOf } from '../../test/evaluation-task';
import { labelledReplies } from '../data/world';
import { worldQuality } from '../data/world-law';
import { evaluateModels } from '../eval/suite';
import type { Evaluation } from '../eval/suite';
import { qualityOfBest } from './data';
import { expectationRows, expectationTable, studyReport } from './expectations';

const NAMES = ['baseline', 'polychromic', 'grpo'];
const rows = [0, 1, 2].map((t) => Array.from({ length: 10 }, (_, i) => `reply ${t} ${i} of ten #0.${i}`));
const made = (names: readonly string[]): Promise<Evaluation> =>
  evaluateModels(
    names.map((name) => repliesOf(name, rows)),
    { ...options, k: [1, 5, 10], resamples: 10 },
  );

/** The evaluation with Pass@10 of the three set to values. */
async function withPass(values: readonly (number | null)[]): Promise<Evaluation> {
  const evaluation = await made(NAMES);
  NAMES.forEach((name, i) => {
    const value = values[i];
    evaluation.models[name].pass_at_k[10] =
      value === null ? { value, reason: 'none' } : { value, ci: [value, value] };
  });
  return evaluation;
}

describe('what was expected beside what was measured', () => {
  it("has the study's targets, and its winners", async () => {
    const found = expectationRows(await made([...NAMES, 'zero_shot'])) ?? [];
    expect(found.map(({ metric, expected, expectedWinner }) => [metric, expected, expectedWinner])).toEqual([
      ['Pass@1', [0.42, 0.4, 0.38], 'baseline'],
      ['Pass@5', [0.42, 0.55, 0.63], 'grpo'],
      ['Pass@10', [0.42, 0.61, 0.72], 'grpo'],
      ['Self-BLEU', [0.45, 0.28, 0.32], 'polychromic'],
      ['Engagement', [0.45, 0.52, 0.68], 'grpo'],
    ]);
  });

  it.each([
    ['yes', [0.1, 0.2, 0.3], 'grpo', [1, 1, 1]],
    ['undecided', [0.1, 0.2, 0.3], 'grpo', [1, 0, 1]],
    ['no', [0.1, 0.3, 0.2], 'polychromic', [1, 1, -1]],
    ['undecided', [0.1, 0.3, 0.3], null, [0, 0, 0]],
    [null, [0.1, null, 0.3], null, [1, 1, 1]],
  ])('says %s of Pass@10 %j: who won, and whether the order held', async (holds, values, winner, signs) => {
    const evaluation = await withPass(values);
    const pairs = evaluation.comparisons.filter(({ metric }) => metric === 'pass@10');
    expect(pairs.map(({ a, b }) => `${a} ${b}`)).toEqual([
      ...['baseline polychromic', 'baseline grpo', 'polychromic grpo'],
    ]);
    pairs.forEach((one, i) => Object.assign(one, { significant: signs[i] !== 0, difference: signs[i] / 10 }));
    expect(expectationRows(evaluation)?.[2]).toMatchObject({ measuredWinner: winner, orderHolds: holds });
    const line = expectationTable(evaluation)?.[3] ?? [];
    expect(line.slice(-3)).toEqual(['grpo', winner ?? '–', holds ?? '–']);
    expect(line[1]).toBe('0.42');
    expect(line[2]).toMatch(/^0\.\d00 \[/);
  });

  it('takes less for the better in self-BLEU', async () => {
    const evaluation = await made(NAMES);
    NAMES.forEach((name, i) => {
      evaluation.models[name].self_bleu = { value: [0.9, 0.1, 0.5][i], ci: [0, 1] };
    });
    // Expected: polychromic below grpo below baseline.
    const signs: Record<string, number> = {
      'baseline polychromic': -1,
      'baseline grpo': -1,
      'polychromic grpo': 1,
    };
    for (const one of evaluation.comparisons.filter(({ metric }) => metric === 'self_bleu'))
      Object.assign(one, { significant: true, difference: signs[`${one.a} ${one.b}`] });
    const row = expectationRows(evaluation)?.[3];
    expect(row).toMatchObject({ measuredWinner: 'polychromic', orderHolds: 'yes' });
  });

  it('is nothing where one of the paradigms is not there', async () => {
    const evaluation = await made(['baseline', 'grpo']);
    expect([expectationRows(evaluation), expectationTable(evaluation)]).toEqual([null, null]);
    expect(studyReport(evaluation)).not.toContain('Expected');
    expect(studyReport(evaluation)).toContain('| Metric | baseline | grpo | Winner |');
  });
});

describe('the quality of the best', () => {
  it.each([0.1, 0.25, 0.5, 1])('is reached by a share of %d of what people wrote, rounded down', (share) => {
    const records = Array.from({ length: 30 }, (_, i) => labelledReplies(3, 'heldout', i))
      .flat()
      .map(({ record }) => record);
    const qualities = records.map(({ tweet, reply }) => worldQuality(tweet, reply).total);
    const least = qualityOfBest(records, share);
    const reached = qualities.filter((value) => value >= least).length / qualities.length;
    const above = qualities.filter((value) => value >= least + 0.001).length / qualities.length;
    expect(reached).toBeGreaterThanOrEqual(share);
    expect(above).toBeLessThanOrEqual(share + 1 / qualities.length);
    expect(Math.abs(least * 1000 - Math.round(least * 1000))).toBeLessThan(1e-9);
  });
});
