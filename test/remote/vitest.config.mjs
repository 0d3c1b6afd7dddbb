import { defineConfig } from 'vitest/config';

/** Checks against a real server, which somebody has to have started: they are no part of `npm test`. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    setupFiles: ['test/setup.ts'],
    include: ['test/remote/*.check.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 900_000,
    hookTimeout: 300_000,
  },
});
