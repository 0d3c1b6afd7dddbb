/** Facts about this machine and this installation, read from files: nothing here loads TensorFlow. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';

/** The package's directory: source and build lie equally deep below it. */
export const packageRoot = path.resolve(__dirname, '../..');

/** A checkout has notebooks and sources; a package in somebody's project has what is built. */
export const isCheckout = existsSync(path.join(packageRoot, 'src'));

/** What makes an installation whole. */
export const setupCommand = isCheckout ? 'npm run setup' : 'npx grpolab setup';

/** An NVIDIA GPU. */
export interface Gpu {
  name: string;
  memoryTotalBytes: number;
  memoryFreeBytes: number;
}

/** What a process runs on. */
export interface Machine {
  platform: string;
  processor: string;
  /** Cores that this process may use. */
  cores: number;
  /** Of the machine, or of the container where that has less. */
  memoryTotalBytes: number;
  /** What new work may take without swapping. */
  memoryAvailableBytes: number;
  /** Version of the NVIDIA driver; null without one. */
  nvidiaDriver: string | null;
  gpus: Gpu[];
}

const MEBIBYTE = 2 ** 20;
const DRIVER_FILE = '/proc/driver/nvidia/version';

function nvidiaDriver(): string | null {
  if (!existsSync(DRIVER_FILE)) return null;
  return /\b(\d+\.\d+(?:\.\d+)?)\b/.exec(readFileSync(DRIVER_FILE, 'utf8'))?.[1] ?? 'unknown';
}

/** The lines of `nvidia-smi --query-gpu=name,memory.total,memory.free --format=csv,noheader,nounits` (MiB). */
export function parseGpus(output: string): Gpu[] {
  return output
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [name, total, free] = line.split(',').map((field) => field.trim());
      return {
        name,
        memoryTotalBytes: Number(total) * MEBIBYTE,
        memoryFreeBytes: Number(free) * MEBIBYTE,
      };
    });
}

function listGpus(): Gpu[] {
  const query = ['--query-gpu=name,memory.total,memory.free', '--format=csv,noheader,nounits'];
  const result = spawnSync('nvidia-smi', query, { encoding: 'utf8', timeout: 20_000 });
  return result.status === 0 ? parseGpus(result.stdout) : [];
}

/** What this process runs on. Memory is what is free at this moment. */
export function describeMachine(): Machine {
  const driver = nvidiaDriver();
  const limit = process.constrainedMemory();
  return {
    platform: `${os.type()} ${os.release()} ${os.arch()}`,
    processor: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    // Without a limit Node gives 0 or 2^64.
    memoryTotalBytes: limit > 0 ? Math.min(os.totalmem(), limit) : os.totalmem(),
    memoryAvailableBytes: process.availableMemory(),
    nvidiaDriver: driver,
    gpus: driver === null ? [] : listGpus(),
  };
}

/** Version of an installed npm package; null when it is not installed. */
export function packageVersion(name: string): string | null {
  for (const directory of createRequire(__filename).resolve.paths(name) ?? []) {
    const file = path.join(directory, name, 'package.json');
    if (existsSync(file)) return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
  }
  return null;
}

/** This package's own version. */
export function ownVersion(): string {
  const file = path.join(packageRoot, 'package.json');
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

/** The Python environment that set-up makes, with the versions of the named packages that are in it. */
export interface PythonEnvironment {
  directory: string;
  version: string;
  packages: Record<string, string>;
}

/** @returns null when there is no environment in `<root>/.venv` */
export function pythonEnvironment(
  names: readonly string[],
  root: string = packageRoot,
): PythonEnvironment | null {
  const directory = path.join(root, '.venv');
  const settings = path.join(directory, 'pyvenv.cfg');
  if (!existsSync(settings)) return null;
  const version = /^version(?:_info)?\s*=\s*(\S+)/m.exec(readFileSync(settings, 'utf8'))?.[1] ?? 'unknown';
  const packages: Record<string, string> = {};
  const lib = path.join(directory, 'lib');
  for (const python of existsSync(lib) ? readdirSync(lib) : []) {
    const site = path.join(lib, python, 'site-packages');
    for (const entry of existsSync(site) ? readdirSync(site) : []) {
      const found = /^(.+)-([^-]+)\.dist-info$/.exec(entry);
      const name = found?.[1].toLowerCase().replaceAll('_', '-');
      if (found !== null && name !== undefined && names.includes(name)) packages[name] = found[2];
    }
  }
  return { directory, version, packages };
}
