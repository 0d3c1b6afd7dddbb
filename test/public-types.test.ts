import { existsSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import * as library from '../src/index';

const virtual = path.resolve('notebooks/cell.ts');

/** A cell for every public function: a variable of what it gives. */
function cellOf(): string {
  const lines = ["import * as grpolab from 'grpolab';", 'declare const args: any;'];
  for (const [namespace, members] of Object.entries(library))
    for (const [name, value] of Object.entries(members as Record<string, unknown>)) {
      const place = `grpolab.${namespace}.${name}`;
      if (typeof value !== 'function') lines.push(`export const ${namespace}_${name} = ${place};`);
      else if (/^class\s/.test(value.toString())) continue;
      else lines.push(`export const ${namespace}_${name} = await ${place}(...(args as [any]));`);
    }
  return lines.join('\n');
}

describe('the public types', () => {
  it('have names that a notebook can use: a cell may keep what any function gives', () => {
    expect(existsSync('dist/index.d.ts')).toBe(true);
    const options: ts.CompilerOptions = {
      ...{ target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, skipLibCheck: true },
      ...{ moduleResolution: ts.ModuleResolutionKind.Node10, esModuleInterop: true, declaration: true },
    };
    const host = ts.createCompilerHost(options);
    const cell = cellOf();
    const { readFile, fileExists, getSourceFile } = host;
    host.readFile = (file) => (file === virtual ? cell : readFile(file));
    host.fileExists = (file) => file === virtual || fileExists(file);
    host.getSourceFile = (file, version, ...rest) =>
      file === virtual
        ? ts.createSourceFile(file, cell, version, true)
        : getSourceFile(file, version, ...rest);
    const program = ts.createProgram([virtual], options, host);
    const source = program.getSourceFile(virtual);
    const problems = program
      .getDeclarationDiagnostics(source)
      .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '));
    expect(problems).toEqual([]);
    const missing = program
      .getSemanticDiagnostics(source)
      .filter(({ code }) => code === 2339 || code === 2307)
      .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '));
    expect(missing).toEqual([]);
  });
});
