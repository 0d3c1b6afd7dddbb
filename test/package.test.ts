/** What `npm pack` puts into the package; `npm run test:package` installs and uses it. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { runCli } from './cli';

interface Packed {
  size: number;
  files: { path: string }[];
}

describe('the package', () => {
  const [packed] = JSON.parse(
    execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { encoding: 'utf8' }),
  ) as [Packed];
  const names = packed.files.map(({ path }) => path);

  it('has the build, what set-up compiles, and the data that the library reads', () => {
    const needed = [
      'dist/index.js',
      'dist/index.d.ts',
      'bin/grpolab.mjs',
      'scripts/setup.mjs',
      'requirements.txt',
    ];
    const data = ['data/lexical-idf.json', 'data/world/topics.yaml', 'configs/small.yaml'];
    const native = ['native/graph.cc', 'native/kernels.cc', 'native/kernels.h', 'native/stderr.cc'];
    expect(names).toEqual(expect.arrayContaining([...needed, ...data, ...native, 'LICENSE', 'README.md']));
  });

  it('has no sources, tests, notebooks or builds of the binding', () => {
    expect(
      names.filter((name) => /^(src|test|notebooks|bench|figures)\/|\.test\.|^native\/build/.test(name)),
    ).toEqual([]);
    expect(packed.size).toBeLessThan(5e6);
  });

  it('depends on nothing that only a workspace has', () => {
    const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as Record<
      string,
      Record<string, string>
    >;
    expect(Object.values(dependencies).filter((version) => version.startsWith('file:'))).toEqual([]);
    for (const name of ['tslab', 'danfojs-node', 'plotly.js']) expect(dependencies).not.toHaveProperty(name);
    expect(dependencies).toHaveProperty('node-api-headers');
  });

  it('is set up by a command', async () => {
    const { code, stdout } = await runCli(['setup', '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('C++17 compiler');
    expect(existsSync('scripts/setup.mjs')).toBe(true);
  });
});
