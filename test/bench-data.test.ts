/** The benchmarks of the data; they run the build in dist/, which `npm test` brings up to date. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';

const bench = (script: string, ...args: string[]) =>
  spawnSync(process.execPath, [`bench/${script}.mjs`, ...args], { encoding: 'utf8', timeout: 20_000 });

describe('a benchmark of the data', () => {
  it.each([
    ['split', '--runs', '0', 'expected an integer >= 1'],
    ['split', '--lines', '1e9', 'expected an integer >= 100'],
    ['near-duplicates', '--count', 'abc', 'expected an integer >= 10'],
    ['near-duplicates', '--threshold', '1', 'expected a number above 0 and below 1'],
  ])('%s refuses %s %s and says what it takes', (script, option, value, message) => {
    const { status, stdout, stderr } = bench(script, option, value);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(`${option} is "${value}"; ${message}\nusage: node bench/${script}.mjs`);
  });

  it.each(['split', 'near-duplicates'])('%s has a help', (script) => {
    const { status, stdout } = bench(script, '--help');
    expect(status).toBe(0);
    expect(stdout).toContain(`usage: node bench/${script}.mjs`);
  });
});
