import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseStrict } from '../runtime/strict';
import { experimentSchema } from './experiment-schema';
import { Monitor, monitorStateSchema } from './monitor';
import type { Alert } from './monitor';

/** The alerts of a series of one value, by step from 1. */
function watch(key: string, values: readonly number[], monitor = new Monitor({ replies: true })): Alert[][] {
  return values.map((value, i) => monitor.check({ step: i + 1, [key]: value }));
}

/** The steps at which there were alerts. */
const stepsOf = (alerts: Alert[][]): number[] => alerts.flatMap((at, i) => (at.length > 0 ? [i + 1] : []));

describe('Monitor', () => {
  it.each([
    ['train/kl_penalty', [0, 5, 15], 15.01, 'train/kl_penalty above 15'],
    ['train/kl_penalty', [0], Infinity, 'train/kl_penalty above 15'],
    ['train/avg_reward', [1, 0.3], 0.299, 'train/avg_reward below 0.3'],
    ['train/reply_characters', [10, 280], 9.9, 'train/reply_characters below 10'],
    ['train/reply_characters', [10, 280], 280.1, 'train/reply_characters above 280'],
    ['train/entropy', [0.1, 3], 0.09, 'train/entropy below 0.1'],
    ['train/loss', [-1e9, 1e9], NaN, 'train/loss not finite'],
    ['train/policy_loss', [0], -Infinity, 'train/policy_loss not finite'],
    ['train/total_loss', [0], NaN, 'train/total_loss not finite'],
    ['eval/loss', [0], NaN, 'eval/loss not finite'],
  ])('is silent on the bounds of %s and inside (%j), and warns at %d', (key, inside, outside, name) => {
    const alerts = watch(key, [...inside, outside]);
    expect(stepsOf(alerts)).toEqual([inside.length + 1]);
    expect(alerts[inside.length].map((alert) => alert.name)).toEqual([name]);
  });

  it('says step, value, bound and remedy in one line', () => {
    expect(new Monitor({ replies: true }).check({ step: 7, 'train/kl_penalty': 16.23456 })).toEqual([
      {
        name: 'train/kl_penalty above 15',
        message:
          'step 7: train/kl_penalty is 16.23, above 15: the policy runs away from the warm start: raise grpo.kl_coeff to 0.2, or lower training.learning_rate',
      },
    ]);
    const [{ message }] = new Monitor({ replies: true }).check({ step: 8, 'train/loss': NaN });
    expect(message).toMatch(/^step 8: train\/loss is NaN, not finite: lower training\.learning_rate/);
  });

  it('names in its remedies only keys that a config has', () => {
    const bad = { 'train/kl_penalty': 99, 'train/avg_reward': 0, 'train/entropy': 0, 'train/loss': NaN };
    const lines: string[] = [];
    for (const characters of [1, 999]) {
      const monitor = new Monitor({ replies: true });
      for (let step = 1; step <= 10; step++) {
        const record = { step, ...bad, 'train/reply_characters': characters, 'train/zero_signal_share': 1 };
        lines.push(...monitor.check(record).map(({ message }) => message));
      }
    }
    const keys = lines.join(' ').match(/\b(?:grpo|training)\.\w+/g) ?? [];
    expect(new Set(lines.map((line) => line.replace(/^step \d+: /, ''))).size).toBe(7);
    expect(keys.length).toBeGreaterThan(10);
    for (const key of keys) {
      const [part, name] = key.split('.');
      const full = { method: 'grpo', data: { train: 'x' }, grpo: {} };
      const resolved = parseStrict(experimentSchema, full, 'test') as unknown as Record<string, object>;
      expect(Object.keys(resolved[part]), key).toContain(name);
    }
  });

  it('gives an alert once until the value has been back in bounds', () => {
    expect(stepsOf(watch('train/kl_penalty', [16, 20, 15.5, 3, 4, 16, 17, 2, 99]))).toEqual([1, 6, 9]);
  });

  it('keeps an alert through steps that lack the value, or have NaN for it', () => {
    const monitor = new Monitor({ replies: true });
    expect(monitor.check({ step: 1, 'train/kl_penalty': 16 })).toHaveLength(1);
    expect(monitor.check({ step: 2, 'eval/reward': 0 })).toEqual([]);
    expect(monitor.check({ step: 3, 'train/kl_penalty': NaN })).toEqual([]);
    expect(monitor.check({ step: 4, 'train/kl_penalty': 16 })).toEqual([]);
  });

  it('minds a share of groups without signal after ten steps in a row only', () => {
    const high = new Array<number>(9).fill(1);
    expect(stepsOf(watch('train/zero_signal_share', [...high, 0.8, ...high]))).toEqual([]);
    const alerts = watch('train/zero_signal_share', [...high, 0.9, 0.9, 0, ...high, 1]);
    expect(stepsOf(alerts)).toEqual([10, 22]);
    expect(alerts[9][0].name).toBe('train/zero_signal_share above 0.8 for 10 steps');
  });

  it("leaves the bounds of a tweet's reply out for another task, and no others", () => {
    const record = { step: 1, 'train/avg_reward': 0, 'train/reply_characters': 999, 'train/kl_penalty': 16 };
    const names = (replies: boolean): string[] =>
      new Monitor({ replies }).check(record).map(({ name }) => name);
    expect(names(true)).toHaveLength(3);
    expect(names(false)).toEqual(['train/kl_penalty above 15']);
  });

  it('lists every alert once, in the order of their first time', () => {
    const monitor = new Monitor({ replies: true });
    watch('train/entropy', [0, 1, 0], monitor);
    watch('train/kl_penalty', [16, 1, 16], monitor);
    expect(monitor.state.raised).toEqual(['train/entropy below 0.1', 'train/kl_penalty above 15']);
  });

  it('goes on from its state as if it had never stopped', () => {
    const record = fc.record({
      'train/kl_penalty': fc.constantFrom(1, 16, NaN),
      'train/zero_signal_share': fc.constantFrom(0.9, 0.9, 0.9, 0.9, 1, 0.1),
      'train/loss': fc.constantFrom(0, NaN),
    });
    fc.assert(
      fc.property(fc.array(record, { maxLength: 40 }), fc.nat(40), (records, cut) => {
        const rows = records.map((values, i) => ({ step: i + 1, ...values }));
        const whole = new Monitor({ replies: true });
        const first = new Monitor({ replies: true });
        const expected = rows.map((row) => whole.check(row));
        const before = rows.slice(0, cut).map((row) => first.check(row));
        const saved: unknown = JSON.parse(JSON.stringify(first.state));
        const second = new Monitor({ replies: true, state: parseStrict(monitorStateSchema, saved, 'state') });
        const after = rows.slice(cut).map((row) => second.check(row));
        expect([...before, ...after]).toEqual(expected);
        expect(second.state).toEqual(whole.state);
      }),
    );
  });
});
