import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConfigError } from '../runtime/errors';
import { chunks, countSteps, planSteps } from './schedule';
import type { StepPlan } from './schedule';

const plan = (n: number, perStep: number, epochs: number, seed = 1): StepPlan[] => [
  ...planSteps(n, perStep, countSteps(n, perStep, epochs), seed, Math.ceil(n * epochs)),
];
const itemsOf = (steps: readonly StepPlan[]): StepPlan['items'] => steps.flatMap(({ items }) => items);

const sizes = fc.tuple(
  fc.integer({ min: 1, max: 40 }),
  fc.integer({ min: 1, max: 12 }),
  fc.integer({ min: 1, max: 4 }),
  fc.integer({ min: 0, max: 1e6 }),
);

describe('planSteps', () => {
  it('shows every example once an epoch, in epochs that follow each other', () => {
    fc.assert(
      fc.property(sizes, ([n, perStep, epochs, seed]) => {
        const items = itemsOf(plan(n, perStep, epochs, seed));
        expect(items).toHaveLength(n * epochs);
        for (let epoch = 0; epoch < epochs; epoch++) {
          const part = items.slice(epoch * n, (epoch + 1) * n);
          expect(part.every(({ visit }) => visit === epoch)).toBe(true);
          expect(part.map(({ index }) => index).sort((a, b) => a - b)).toEqual(
            Array.from({ length: n }, (_, i) => i),
          );
        }
      }),
    );
  });

  it('fills every step but the last, across the ends of epochs, and numbers them from 1', () => {
    fc.assert(
      fc.property(sizes, ([n, perStep, epochs]) => {
        const steps = plan(n, perStep, epochs);
        expect(steps.map(({ step }) => step)).toEqual(steps.map((_, i) => i + 1));
        expect(steps).toHaveLength(Math.ceil((n * epochs) / perStep));
        steps.slice(0, -1).forEach(({ items }) => expect(items).toHaveLength(perStep));
        expect(steps.at(-1)?.items.length).toBe(n * epochs - (steps.length - 1) * perStep);
      }),
    );
    const visits = plan(5, 4, 2).map(({ items }) => items.map(({ visit }) => visit));
    expect(visits).toEqual([[0, 0, 0, 0], [0, 1, 1, 1], [1, 1]]); // prettier-ignore
  });

  it('is a pure function: a run that goes on at step k sees what the whole run sees there', () => {
    const steps = plan(7, 3, 4);
    expect(plan(7, 3, 4)).toEqual(steps);
    const resumed = [...planSteps(7, 3, countSteps(7, 3, 4), 1, 28)].filter(({ step }) => step > 5);
    expect(resumed).toEqual(steps.slice(5));
  });

  it('orders by seed and epoch, and not by the size of a step', () => {
    const order = (seed: number, perStep = 4): string =>
      itemsOf(plan(30, perStep, 2, seed)).map(({ index, visit }) => `${visit}:${index}`).join(' '); // prettier-ignore
    expect(order(1)).not.toBe(order(2));
    expect(order(1)).toBe(order(1, 7));
    const items = itemsOf(plan(30, 4, 2)).map(({ index }) => index);
    expect(items.slice(0, 30)).not.toEqual(items.slice(30));
    expect(items.slice(0, 30)).not.toEqual(Array.from({ length: 30 }, (_, i) => i));
  });

  it('puts each example in each place about equally often', () => {
    const counts = Array.from({ length: 4 }, () => [0, 0, 0, 0]);
    for (let seed = 0; seed < 2000; seed++)
      itemsOf(plan(4, 4, 1, seed)).forEach(({ index }, place) => counts[place][index]++);
    counts
      .flat()
      .forEach((count) => expect(Math.abs(count - 500)).toBeLessThan(5 * Math.sqrt(2000 * 0.25 * 0.75)));
  });

  it('takes part of an epoch, and further epochs when more steps are asked for', () => {
    expect(itemsOf(plan(10, 4, 0.5))).toHaveLength(5);
    const more = [...planSteps(3, 2, 6, 1)];
    expect(more.map(({ items }) => items.length)).toEqual([2, 2, 2, 2, 2, 2]);
    expect(itemsOf(more).map(({ visit }) => visit)).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
  });
});

describe('countSteps', () => {
  it('rounds up, is at least 1, and gives way to maxSteps', () => {
    expect(countSteps(10, 4, 1)).toBe(3);
    expect(countSteps(10, 5, 2)).toBe(4);
    expect(countSteps(10, 100, 0.1)).toBe(1);
    expect(countSteps(10, 4, 3, 2)).toBe(2);
  });

  it('refuses empty data', () => expect(() => countSteps(0, 4, 1)).toThrow(ConfigError));
});

describe('chunks', () => {
  it('loses nothing, and only the last part is smaller', () => {
    fc.assert(
      fc.property(fc.array(fc.nat()), fc.integer({ min: 1, max: 9 }), (items, size) => {
        const parts = chunks(items, size);
        expect(parts.flat()).toEqual(items);
        parts.slice(0, -1).forEach((part) => expect(part).toHaveLength(size));
      }),
    );
  });
});
