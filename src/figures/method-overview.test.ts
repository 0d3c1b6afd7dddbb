import { describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { drawMethodOverview } from './method-overview';
import type { JsonObject } from './spec';

const SIZES = {
  ...{ records: 12345, cleaned: 10480, phase1: 4992, phase2: 4988, heldOutTweets: 400 },
  ...{ groupSize: 4, repliesPerTweet: 10, seeds: 3 },
};

function texts(layout: JsonObject): string {
  return (layout.annotations as readonly JsonObject[]).map(({ text }) => text).join('\n');
}

describe('drawMethodOverview', () => {
  const spec = drawMethodOverview(SIZES);

  it('has every step of the method', () => {
    const steps = [
      ...[
        'Tweet–reply records',
        'Cleaning',
        'Stratified split by tweet',
        'Phase 1: warm start',
        'Polychromic SFT',
      ],
      ...['Frozen warm start', 'Phase 2: GRPO', 'Reward', 'Group advantages', 'Update', 'KL('],
      ...['Evaluation on held-out tweets', 'Diversity', 'Quality', 'Selection'],
    ];
    for (const step of steps) expect(texts(spec.layout)).toContain(step);
  });

  it('shows the sizes in their places', () => {
    const sizes = [
      ...['12,345 records', '10,480 records kept', 'phase 1: 4,992 records', 'phase 2: 4,988 records'],
      ...['held out: 400 tweets', '<i>G</i> = 4 replies', '10 replies per tweet, 3 training seeds'],
    ];
    for (const size of sizes) expect(texts(spec.layout)).toContain(size);
  });

  it('shows no size that is left out', () => {
    const bare = drawMethodOverview({});
    expect(texts(bare.layout)).not.toMatch(/undefined|NaN|records kept|\d{3}/);
    expect(texts(bare.layout)).toContain('Sample <i>G</i> replies');
    expect(bare.layout.shapes).toHaveLength((spec.layout.shapes as unknown[]).length);
  });

  it('shows the models with the looks that they have in all figures', () => {
    expect(spec.data.map(({ name }) => name)).toContain('Polychromic + GRPO');
    const looks = spec.data.map(({ marker }) => marker as JsonObject);
    expect(new Set(looks.map(({ symbol }) => symbol)).size).toBe(6);
    expect(new Set(looks.map(({ color }) => color)).size).toBe(6);
  });

  it('keeps every arrow and text inside the figure', () => {
    const { width, height } = spec;
    for (const { x, y } of spec.layout.annotations as readonly { x: number; y: number }[]) {
      expect([x > 0, x < width, y > 0, y < height]).toEqual([true, true, true, true]);
    }
  });

  it('refuses a size that is none, and unknown ones', () => {
    expect(() => drawMethodOverview({ records: 0 })).toThrow(ConfigError);
    expect(() => drawMethodOverview({ record: 5 } as never)).toThrow(
      'unknown key "record"; did you mean "records"?',
    );
  });
});
