import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConfigError, ShapeError } from '../runtime/errors';
import { curvesOfMetrics, rangeOf, trainingPanels } from './training-panels';
import type { MetricsRow, Panel } from './training-panels';

/** A row of GRPO with every value that a run of it logs and a chart needs, and some that it does not. */
const grpo = (step: number, over: MetricsRow = {}): MetricsRow => ({
  step,
  'train/avg_reward': 0.5,
  'train/reward_std': 0.125,
  'train/completion_tokens': 20,
  'train/kl_penalty': 0.25,
  'train/entropy': 2,
  'train/policy_loss': 0,
  'system/tensors': 1000,
  ...over,
});
const sft = (step: number, over: MetricsRow = {}): MetricsRow => ({ step, 'train/loss': 3, ...over });

const panelsOf = (rows: readonly MetricsRow[]): Panel[] => trainingPanels(curvesOfMetrics(rows));
const titlesOf = (rows: readonly MetricsRow[]): string[] => panelsOf(rows).map(({ title }) => title);
const panel = (rows: readonly MetricsRow[], title: string): Panel => {
  const found = panelsOf(rows).find((one) => one.title === title);
  if (found === undefined) throw new Error(`no panel ${title}`);
  return found;
};

describe('the panels of a run', () => {
  it('are those of its method', () => {
    expect(titlesOf([sft(1), sft(2)])).toEqual(['SFT loss']);
    expect(titlesOf([sft(1, { 'train/diversity': 0.5 })])).toEqual(['SFT loss', 'Diversity']);
    expect(titlesOf([grpo(1)])).toEqual(['Reward', 'KL to the reference', 'Entropy', 'Completion length']);
    expect(titlesOf([])).toEqual([]);
    expect(titlesOf([{ step: 1 }, { step: 2, 'train/grad_norm': 1 }])).toEqual([]);
  });

  it('leave out a quantity that the run does not have', () => {
    const bare = { 'train/kl_penalty': null, 'train/entropy': null };
    expect(titlesOf([grpo(1, bare), grpo(2, bare)])).toEqual(['Reward', 'Completion length']);
    const withoutKl = grpo(1);
    delete (withoutKl as Record<string, unknown>)['train/kl_penalty'];
    expect(titlesOf([withoutKl])).toEqual(['Reward', 'Entropy', 'Completion length']);
    // A diversity reward of GRPO is none of the policy's own diversity in SFT.
    expect(titlesOf([grpo(1, { 'train/diversity': 0.5 })])).not.toContain('Diversity');
  });

  it('hold the values of the metrics at their steps', () => {
    const rows = [
      grpo(1),
      grpo(2, { 'train/avg_reward': 0.75, 'train/reward_std': 0.25, 'train/entropy': 1 }),
    ];
    expect(panel(rows, 'Reward')).toMatchObject({
      steps: [1, 2],
      values: [0.5, 0.75],
      spread: [0.125, 0.25],
    });
    expect(panel(rows, 'KL to the reference')).toMatchObject({ steps: [1, 2], values: [0.25, 0.25] });
    expect(panel(rows, 'Entropy')).toMatchObject({ steps: [1, 2], values: [2, 1] });
    expect(panel(rows, 'Completion length')).toMatchObject({ steps: [1, 2], values: [20, 20] });
    expect(panel([sft(5, { 'train/loss': 2.5 })], 'SFT loss')).toMatchObject({ steps: [5], values: [2.5] });
  });

  it('pass over values that are null or not finite, and keep the others of the step', () => {
    for (const nothing of [null, NaN, Infinity, undefined] as (number | null)[]) {
      const rows = [grpo(1), grpo(2, { 'train/kl_penalty': nothing }), grpo(3)];
      expect(panel(rows, 'KL to the reference').steps).toEqual([1, 3]);
      expect(panel(rows, 'Reward').steps).toEqual([1, 2, 3]);
      expect(panel(rows, 'Entropy').steps).toEqual([1, 2, 3]);
      const broken = [sft(1), sft(2, { 'train/loss': nothing }), sft(3)];
      expect(panel(broken, 'SFT loss').steps).toEqual([1, 3]);
    }
  });

  it('give the reward a spread of its own length', () => {
    const rows = [
      grpo(1),
      grpo(2, { 'train/reward_std': null }),
      grpo(3, { 'train/avg_reward': null }),
      grpo(4),
    ];
    const { steps, values, spread } = panel(rows, 'Reward');
    expect(steps).toEqual([1, 4]);
    expect([values.length, spread?.length]).toEqual([2, 2]);
  });

  it('show a diversity at the steps that measured one', () => {
    const rows = [1, 2, 3, 4, 5].map((step) => sft(step, step % 5 === 0 ? { 'train/diversity': 0.5 } : {}));
    expect(panel(rows, 'Diversity')).toMatchObject({ steps: [5], values: [0.5] });
    expect(panel(rows, 'SFT loss').steps).toHaveLength(5);
  });

  it('have the loss of held-out data beside that of SFT, from before the first step on', () => {
    const evaluation = { 'eval/loss': 4, 'eval/reward': 0.5 };
    const rows = [{ step: 0, ...evaluation }, sft(1), sft(2, { 'eval/loss': 3.5, 'eval/reward': 0.5 })];
    expect(titlesOf(rows)).toEqual(['SFT loss']);
    expect(panel(rows, 'SFT loss')).toMatchObject({
      ...{ steps: [1, 2], values: [3, 3], heldOut: { steps: [0, 2], values: [4, 3.5] } },
    });
    // While the first step is awaited there are the dots alone; their reward is none of a GRPO run.
    expect(panelsOf(rows.slice(0, 1))).toMatchObject([
      { title: 'SFT loss', steps: [], heldOut: { steps: [0], values: [4] } },
    ]);
    expect(titlesOf([sft(1, { 'eval/loss': null, 'eval/reward': 0.5 })])).toEqual(['SFT loss']);
  });

  it('have the reward of held-out data beside that of GRPO', () => {
    const rows = [{ step: 0, 'eval/reward': 0.25 }, grpo(1), grpo(2, { 'eval/reward': 0.75 })];
    expect(panel(rows, 'Reward').heldOut).toEqual({ steps: [0, 2], values: [0.25, 0.75] });
    expect(panel(rows, 'Entropy').heldOut).toBeUndefined();
    expect(panelsOf(rows.slice(0, 1))).toMatchObject([{ title: 'Reward', steps: [] }]);
    expect(panel([grpo(1)], 'Reward').heldOut).toBeUndefined();
  });

  it('put SFT before GRPO where a chart has both, and tell them apart', () => {
    const curves = { sft: [{ step: 1, loss: 2 }], grpo: curvesOfMetrics([grpo(1)]).grpo };
    const panels = trainingPanels(curves);
    expect(panels.map(({ phase }) => phase)).toEqual(['SFT', ...Array<string>(4).fill('GRPO')]);
    expect(panels[0].style.color).not.toBe(panels[1].style.color);
  });

  it('are refused where steps do not rise, and where a value is not what it should be', () => {
    expect(() => panelsOf([sft(2), sft(2)])).toThrow(ShapeError);
    expect(() => panelsOf([grpo(2), grpo(1)])).toThrow('GRPO step 1 follows step 2');
    const dots = [4, 3].map((step) => ({ step, loss: 1 }));
    expect(() => trainingPanels({ sftHeldOut: dots })).toThrow('SFT step 3 follows step 4');
    expect(() => trainingPanels({ sft: [{ step: 1, loss: NaN }] })).toThrow(ConfigError);
  });

  it('never hold a value that is no number, whatever a run logs', () => {
    const value = fc.option(fc.oneof(fc.double(), fc.constantFrom(NaN, Infinity)), { nil: null });
    const keys = Object.keys({
      ...grpo(1),
      ...sft(1),
      'eval/loss': 0,
      'eval/reward': 0,
      'train/diversity': 0,
    });
    const row = fc.record(
      Object.fromEntries(
        keys.filter((key) => key !== 'step').map((key) => [key, /std|tokens/.test(key) ? fc.nat() : value]),
      ),
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.array(row, { maxLength: 6 }), (rows) => {
        for (const one of panelsOf(rows.map((values, step) => ({ ...(values as MetricsRow), step })))) {
          const { steps, values, spread = values, heldOut } = one;
          expect([steps.length, spread.length]).toEqual([values.length, values.length]);
          expect([...values, ...spread, ...(heldOut?.values ?? [])].every(Number.isFinite)).toBe(true);
          expect(steps.length + (heldOut?.steps.length ?? 0)).toBeGreaterThan(0);
        }
      }),
    );
  });
});

describe('rangeOf', () => {
  it('finds the ends of more values than a call takes arguments', () => {
    const values = Array.from({ length: 300_000 }, (_, i) => (i * 7919) % 300_007);
    expect(rangeOf(values)).toEqual([0, 300_006]);
    expect(rangeOf([-1])).toEqual([-1, -1]);
  });
});
