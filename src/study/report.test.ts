import { describe, expect, it } from 'vitest';
import type { MeasuredChange, ReplyEvaluation } from '../eval/replies';
import { criteriaOf, reportLines } from './report';
import { resultJson, smallTestMeasures, smallTestSamples } from './result';
import type { SmallTestResult } from './result';

const evaluation = (reward: number, over: Partial<ReplyEvaluation> = {}): ReplyEvaluation => ({
  prompts: [0, 1].map((i) => ({ id: `t${i}`, tweet: `tweet ${i}`, replies: [`reply ${i}`], reward })),
  reward,
  components: { relevance: 0.25 },
  ...{ characters: 40, tokens: 12, truncatedShare: 0, distinct2: null, kl: 1.5 },
  ...over,
});

const change = (name: string, interval: [number, number]): MeasuredChange => ({
  ...{ name, interval, n: 2, difference: (interval[0] + interval[1]) / 2 },
  before: [0.4, 0.4],
  after: [0.5, 0.5],
});

const steps = (n: number, over: Record<string, number> = {}) => ({
  steps: n,
  history: Array.from({ length: n }, (_, i) => ({
    step: i + 1,
    'system/tensors': i < 2 ? 100 + i : 120,
    'train/skipped': 0,
    ...over,
  })),
  interrupted: false,
  stoppedEarly: false,
  best: null,
});

const result = (over: Partial<SmallTestResult> = {}): SmallTestResult => ({
  ...{ model: 'M', data: 'D', reward: 'heuristic', degraded: ['relevance: a substitute'] },
  settings: {
    ...{ model: 'M', output: 'out', seed: 1, short: false },
    ...{ sftEpochs: 3, grpoSteps: 5, generations: 4, learningRate: 0.003 },
  },
  heldOutFrom: 'the rest',
  n: { training: 10, phase1: 4, phase2: 6, heldOut: 2, dropped: 0, tooLong: 0 },
  before: evaluation(0.4),
  after: evaluation(0.5),
  changes: [change('Reward', [0.05, 0.15])],
  ...{ sft: steps(3), grpo: steps(5), seconds: { 'SFT warm start': 61, GRPO: 125 } },
  ...over,
});

const failed = (over: Partial<SmallTestResult>, short = false): string[] =>
  criteriaOf(result(over), short)
    .filter(({ passed }) => !passed)
    .map(({ name }) => name);

describe("the small test's criteria", () => {
  it('are all met by a run in which the reward surely rose', () => {
    expect(failed({})).toEqual([]);
  });

  it.each<[string, Partial<SmallTestResult>]>([
    ['reward up on 2 held-out prompts', { changes: [change('Reward', [0, 0.2])] }],
    ['reward up on 2 held-out prompts', { changes: [change('Reward', [-0.1, 0.2])] }],
    ['training ended', { grpo: steps(5, { 'train/skipped': 1 }) }],
    ['training ended', { sft: steps(3, { 'train/skipped': 1 }) }],
    ['KL to the warm start', { after: evaluation(0.5, { kl: 10 }) }],
    ['reply length', { after: evaluation(0.5, { characters: 9.9 }) }],
    ['reply length', { after: evaluation(0.5, { characters: 281 }) }],
    ['memory', { grpo: { ...steps(5), history: [3, 4].map((step) => ({ step, 'system/tensors': step })) } }],
  ])('fail alone: %s (case %#)', (name, over) => {
    expect(failed(over)).toEqual([name]);
  });

  it('report the reward of a short run without judging it', () => {
    const falling = { changes: [change('Reward', [-0.2, -0.1])] };
    expect(failed(falling, true)).toEqual([]);
    const [, reward] = criteriaOf(result(falling), true);
    expect(reward).toMatchObject({ judged: false, value: '-0.150 [-0.200, -0.100]' });
  });
});

describe("the small test's report", () => {
  const text = (
    over: Partial<SmallTestResult> = {},
    figures: string[] = ['a.svg', 'a.png', 'b.png'],
  ): string => reportLines(result(over), criteriaOf(result(over), false), figures).join('\n');

  it('says how to read the table, where the charts are and what each phase took', () => {
    expect(text()).toContain('- Reward is the heuristic reward in [0, 1] that GRPO trains on');
    expect(text()).toContain('- Charts: a.png and b.png, in out.');
    expect(text()).toContain('- Time: SFT warm start 1:01, GRPO 2:05; 3:06 in all.');
    expect(text({}, ['a.json'])).toContain('Charts: none were drawn.');
    expect(text().indexOf('Charts:')).toBeLessThan(text().indexOf('| means'));
    expect(text()).toContain('Note: relevance: a substitute.');
  });

  it('has world quality only when it was measured', () => {
    expect(text()).not.toMatch(/quality/i);
    const quality = {
      before: evaluation(0.4, { quality: 0.2 }),
      after: evaluation(0.5, { quality: 0.3 }),
      changes: [change('Reward', [0.05, 0.15]), change('World quality', [-0.1, 0.3])],
    };
    expect(text(quality)).toMatch(
      /\| World quality +\| 0\.200 +\| 0\.300 +\| \+0\.100 \[-0\.100, \+0\.300\] +\|/,
    );
    expect(text(quality)).toContain('which no trainer sees');
  });

  it('shows a failed criterion as such', () => {
    expect(text()).not.toContain('| NO');
    expect(text({ after: evaluation(0.5, { kl: 12.345 }) })).toMatch(
      /KL to the warm start +\| 12\.35 .*\| NO/,
    );
  });

  it('gives each sample a line, free of what a terminal would obey', () => {
    const after = evaluation(0.5);
    after.prompts[0].replies = ['two\nlines \u001b[31mred\u0007'];
    expect(text({ after })).toContain('    after   two lines [31mred\n');
  });

  it('gives every row of a table the same width', () => {
    const widths = new Set(
      text()
        .split('\n')
        .filter((line) => line.startsWith('| means') || /^\| {3}relevance|^\| Reward /.test(line))
        .map((line) => line.length),
    );
    expect(widths.size).toBe(1);
  });
});

describe('the rows of the report', () => {
  const better = result({ after: evaluation(0.5, { components: { relevance: 0.75 }, distinct2: 0.5 }) });
  const lines = reportLines(better, criteriaOf(better), []);

  it('have the change of what is compared prompt by prompt, and null for what could not be measured', () => {
    const [{ difference }] = better.changes;
    expect(smallTestMeasures(better)).toEqual([
      { measure: 'Reward', before: 0.4, after: 0.5, change: difference, interval: [0.05, 0.15] },
      { measure: 'relevance', before: 0.25, after: 0.75 },
      { measure: 'KL, nats a reply', before: 1.5, after: 1.5 },
      { measure: 'characters', before: 40, after: 40 },
      { measure: 'tokens', before: 12, after: 12 },
      { measure: 'share cut at 48 tokens', before: 0, after: 0 },
      { measure: 'distinct-2', before: null, after: 0.5 },
    ]);
  });

  it('are those of its table', () => {
    const first = lines.findIndex((line) => line.startsWith('| means')) + 2;
    for (const [i, { measure, before, after }] of smallTestMeasures(better).entries()) {
      const [name, a, b] = lines[first + i].split('|').slice(1);
      expect(name.trim()).toBe(measure);
      expect([a.trim(), b.trim()].map((cell) => (cell === 'none' ? null : Number(cell)))).toEqual([
        before,
        after,
      ]);
    }
  });

  it('have a component of the reward as such, whatever its name', () => {
    const named = (value: number) => evaluation(value, { components: { Reward: 0.123, tokens: 0.123 } });
    const rows = smallTestMeasures(result({ before: named(0.4), after: named(0.5) }));
    expect(rows.slice(0, 3).map(({ change: one }) => one !== undefined)).toEqual([true, false, false]);
    const shown = result({ before: named(0.4), after: named(0.5) });
    expect(reportLines(shown, [], []).join('\n')).toMatch(/\| {3}tokens +\| 0\.123 /);
  });

  it('are samples, the texts as they are', () => {
    const samples = smallTestSamples(better);
    expect(samples).toHaveLength(2);
    for (const { tweet, before, after } of samples) {
      expect([before, after]).toEqual([tweet, tweet].map((text) => text.replace('tweet', 'reply')));
      expect(lines).toContain(`    tweet   ${tweet}`);
    }
  });
});

describe('the JSON of a result', () => {
  it('has null for what a skipped step could not measure', () => {
    const { grpo } = resultJson(result({ grpo: steps(1, { 'train/loss': NaN }) })) as {
      grpo: { history: Record<string, unknown>[] };
    };
    expect(grpo.history[0]).toEqual({
      step: 1,
      'system/tensors': 100,
      'train/skipped': 0,
      'train/loss': null,
    });
  });
});
