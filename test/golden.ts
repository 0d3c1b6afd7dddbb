import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A path inside the directory of golden files: `GRPOLAB_FIXTURES`, or `test/golden`. */
export function goldenPath(...parts: string[]): string {
  return join(process.env.GRPOLAB_FIXTURES ?? 'test/golden', ...parts);
}

const SPECIAL_NUMBERS = new Map<unknown, number>([
  ['NaN', NaN],
  ['Infinity', Infinity],
  ['-Infinity', -Infinity],
]);

/** A golden JSON file, its strings for not-a-number and the infinities turned into numbers. A missing file throws. */
export function readGolden<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(goldenPath(...parts), 'utf8'), (_key, value: unknown) =>
    SPECIAL_NUMBERS.has(value) ? SPECIAL_NUMBERS.get(value) : value,
  ) as T;
}

/** How far a number is from its golden value, as a share of that; of 0 absolutely. Infinities equal themselves. */
export function deviation(actual: number, expected: number): number {
  if (actual === expected) return 0;
  return Math.abs(actual - expected) / (expected === 0 ? 1 : Math.abs(expected));
}
