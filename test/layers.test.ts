import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

/** A folder imports only folders before it. */
const layers = [
  'runtime',
  'metrics',
  'data',
  'model',
  'optim',
  'policy',
  'rewards',
  'train',
  'eval',
  'figures',
  'study',
  'notebook',
  'cli',
];

function sources(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const full = path.join(directory, entry.name);
    if (entry.isDirectory()) return sources(full);
    return full.endsWith('.ts') && !full.endsWith('.test.ts') ? [full] : [];
  });
}

/** The import specifiers of a file, static, dynamic and of types. */
function imports(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(/(?:from|import\()\s*'([^']+)'/g)].map((match) => match[1]);
}

const files = sources('src').filter((file) => path.dirname(file) !== 'src');
const layerOf = (file: string): string => path.relative('src', file).split(path.sep)[0];

describe('the layers', () => {
  it('are the folders of src', () => {
    expect(new Set(files.map(layerOf)).size).toBeGreaterThan(8);
    for (const file of files) expect(layers, file).toContain(layerOf(file));
  });

  it('import only what stands below them', () => {
    for (const file of files) {
      for (const specifier of imports(file).filter((name) => name.startsWith('.'))) {
        const target = layerOf(path.resolve(path.dirname(file), specifier).replace(`${process.cwd()}/`, ''));
        const [from, to] = [layers.indexOf(layerOf(file)), layers.indexOf(target)];
        expect(to, `${file} imports ${specifier}`).toBeGreaterThanOrEqual(0);
        expect(to, `${file} imports ${specifier}`).toBeLessThanOrEqual(from);
      }
    }
  });

  it('keep tensors out of metrics, data and figures, and training out of evaluation', () => {
    for (const file of files) {
      const named = imports(file).join(' ');
      if (['metrics', 'data', 'figures'].includes(layerOf(file)))
        expect(named, file).not.toMatch(/runtime\/tf|tensorflow|tfjs/);
      if (layerOf(file) === 'eval') expect(named, file).not.toMatch(/\/train/);
    }
  });
});
