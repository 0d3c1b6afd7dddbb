import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { CheckpointError, DataError, NumericError } from './errors';
import { AtomicFile, atomicWriteFile, ensureDirectory, readJsonFile, strictJson } from './files';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'grpolab-files-'));
});

describe('atomicWriteFile', () => {
  it('writes text and bytes, replaces an older file and leaves no temporary file', async () => {
    const path = join(directory, 'a.json');
    await atomicWriteFile(path, 'first');
    await atomicWriteFile(path, new Uint8Array([104, 105]));
    expect(readFileSync(path, 'utf8')).toBe('hi');
    expect(readdirSync(directory)).toEqual(['a.json']);
  });

  it('shows nothing under the real name before the commit', async () => {
    const path = join(directory, 'a.txt');
    writeFileSync(path, 'old');
    const file = await AtomicFile.open(path);
    await file.write('new ');
    await file.write('text');
    expect(readFileSync(path, 'utf8')).toBe('old');
    await file.commit();
    expect(readFileSync(path, 'utf8')).toBe('new text');
  });

  it('keeps the old file when given up', async () => {
    const path = join(directory, 'a.txt');
    writeFileSync(path, 'old');
    const file = await AtomicFile.open(path);
    await file.write('new');
    await file.abort();
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(directory)).toEqual(['a.txt']);
  });

  it('writes through a symbolic link instead of replacing it', async () => {
    mkdirSync(join(directory, 'elsewhere'));
    const target = join(directory, 'elsewhere', 'real.txt');
    writeFileSync(target, 'old');
    symlinkSync(target, join(directory, 'link.txt'));
    await atomicWriteFile(join(directory, 'link.txt'), 'new');
    expect(readFileSync(target, 'utf8')).toBe('new');
  });

  it('refuses a device or a directory as its target', async () => {
    await expect(atomicWriteFile('/dev/null', 'x')).rejects.toThrow(/\/dev\/null: is not a regular file/);
    await expect(atomicWriteFile(directory, 'x')).rejects.toThrow(DataError);
  });

  it('names the file and the remedy when its directory is missing', async () => {
    const path = join(directory, 'missing', 'a.txt');
    await expect(atomicWriteFile(path, 'x')).rejects.toThrow(
      `${path}: cannot be written: its directory does not exist. Create it first.`,
    );
  });
});

describe('ensureDirectory', () => {
  it('makes parents, accepts what is there, and names a file in the way', async () => {
    const path = join(directory, 'a', 'b');
    await ensureDirectory(path);
    await ensureDirectory(path);
    expect(readdirSync(path)).toEqual([]);
    writeFileSync(join(directory, 'file'), '');
    await expect(ensureDirectory(join(directory, 'file', 'x'))).rejects.toThrow(/a file stands there/);
  });
});

describe('readJsonFile', () => {
  it('reads a file with or without a byte-order mark', () => {
    const path = join(directory, 'a.json');
    writeFileSync(path, '\uFEFF{"a": 1}');
    expect(readJsonFile(path)).toEqual({ a: 1 });
  });

  it('says in one line what is wrong, with the kind of error asked for', () => {
    const path = join(directory, 'a.json');
    expect(() => readJsonFile(path, CheckpointError)).toThrow(CheckpointError);
    expect(() => readJsonFile(path)).toThrow(`${path}: no such file. Check the path.`);
    expect(() => readJsonFile(directory)).toThrow(/is a directory; expected a file/);
    writeFileSync(path, '');
    expect(() => readJsonFile(path)).toThrow(/is not JSON \(the file is empty\)/);
    writeFileSync(path, '{\n"a": [1,\n');
    expect(() => readJsonFile(path)).toThrow(/^[^\n]*a\.json: is not JSON[^\n]*$/);
  });

  it.skipIf(process.getuid?.() === 0)('names a file that may not be read', () => {
    const path = join(directory, 'a.json');
    writeFileSync(path, '{}');
    chmodSync(path, 0);
    expect(() => readJsonFile(path)).toThrow(/permission denied/);
  });
});

describe('strictJson', () => {
  it('keeps full precision and refuses what JSON would turn into null', () => {
    expect(strictJson({ a: 0.1 + 0.2, b: null })).toBe('{"a":0.30000000000000004,"b":null}');
    expect(() => strictJson({ a: { mean: NaN } })).toThrow(NumericError);
    expect(() => strictJson({ a: { mean: Infinity } })).toThrow(/mean is Infinity/);
    expect(() => strictJson(undefined)).toThrow(NumericError);
  });
});
