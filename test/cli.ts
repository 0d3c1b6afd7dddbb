/** Runs the command line inside the test's process, and makes models to run it on. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { onTestFinished } from 'vitest';
import { main } from '../src/cli/main';

class Collector extends Writable {
  text = '';

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

export interface CliResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** @param input  what standard input holds */
export async function runCli(argv: string[], input = '', signal?: AbortSignal): Promise<CliResult> {
  const [stdout, stderr] = [new Collector(), new Collector()];
  const code = await main(argv, { stdin: Readable.from([Buffer.from(input)]), stdout, stderr, signal });
  return { code, stdout: stdout.text, stderr: stderr.text };
}

/** The values of JSON lines. */
export function parseLines<T>(text: string): T[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as T);
}

export function jsonLines(values: readonly unknown[]): string {
  return values.map((value) => `${JSON.stringify(value)}\n`).join('');
}

/** A directory that is removed when the test ends. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'grpolab-cli-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** A file in a directory of its own, removed when the test ends. */
export function temporaryFile(name: string, content: string): string {
  const file = join(temporaryDirectory(), name);
  writeFileSync(file, content);
  return file;
}

/** A copy of a model directory that a test may damage. */
export function copyModel(source: string): string {
  const directory = join(temporaryDirectory(), 'model');
  cpSync(source, directory, { recursive: true });
  return directory;
}
