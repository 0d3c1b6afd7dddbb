import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { describeMachine, ownVersion, packageVersion, parseGpus, pythonEnvironment } from './machine';

const root = mkdtempSync(join(tmpdir(), 'grpolab-machine-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe('machine facts', () => {
  it('knows cores and memory, and has no more memory available than there is', () => {
    const machine = describeMachine();
    expect(machine.cores).toBeGreaterThanOrEqual(1);
    expect(machine.memoryAvailableBytes).toBeGreaterThan(2 ** 26);
    expect(machine.memoryAvailableBytes).toBeLessThanOrEqual(machine.memoryTotalBytes);
  });

  it('reads the cards that nvidia-smi lists, in bytes', () => {
    const gpus = parseGpus('NVIDIA H100 80GB HBM3, 81559, 81000\nNVIDIA A40, 46068, 100\n');
    expect(gpus.map(({ name }) => name)).toEqual(['NVIDIA H100 80GB HBM3', 'NVIDIA A40']);
    expect(gpus[1]).toMatchObject({ memoryTotalBytes: 46068 * 2 ** 20, memoryFreeBytes: 100 * 2 ** 20 });
  });

  it('finds the versions of this package and of installed ones, and null for others', () => {
    expect(ownVersion()).toMatch(/^\d+\.\d+\.\d+/);
    expect(packageVersion('zod')).toMatch(/^4\./);
    expect(packageVersion('no-such-package-here')).toBeNull();
  });

  it('reads a Python environment from its files', () => {
    const site = join(root, '.venv/lib/python3.12/site-packages');
    mkdirSync(join(site, 'tensorflow_cpu-2.21.0.dist-info'), { recursive: true });
    mkdirSync(join(site, 'jupyterlab-4.6.6.dist-info'));
    mkdirSync(join(site, 'other-1.0.dist-info'));
    writeFileSync(join(root, '.venv/pyvenv.cfg'), 'home = /usr/bin\nversion = 3.12.4\n');
    const environment = pythonEnvironment(['tensorflow-cpu', 'jupyterlab'], root);
    expect(environment).toMatchObject({
      version: '3.12.4',
      packages: { 'tensorflow-cpu': '2.21.0', jupyterlab: '4.6.6' },
    });
    expect(Object.keys(environment?.packages ?? {})).not.toContain('other');
  });

  it('says that there is no Python environment', () => {
    expect(pythonEnvironment([], join(root, 'nothing'))).toBeNull();
  });
});
