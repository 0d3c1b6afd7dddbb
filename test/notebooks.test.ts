/** What every notebook keeps to. That they run is another test: `npm run test:notebooks`. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import * as library from '../src';

interface Cell {
  cell_type: string;
  id: string;
  metadata: object;
  source: string[];
  execution_count?: unknown;
  outputs?: unknown[];
}

interface Notebook {
  nbformat: number;
  nbformat_minor: number;
  metadata: { kernelspec: object };
  cells: Cell[];
}

const DIRECTORY = 'notebooks';
const MOST_LINES = 15;
const names = readdirSync(DIRECTORY)
  .filter((file) => file.endsWith('.ipynb'))
  .map((file) => path.basename(file, '.ipynb'))
  .sort();

const read = (name: string): Notebook =>
  JSON.parse(readFileSync(path.join(DIRECTORY, `${name}.ipynb`), 'utf8')) as Notebook;
const codeCells = (name: string): string[] =>
  read(name)
    .cells.filter((cell) => cell.cell_type === 'code')
    .map(({ source }) => source.join(''));

/** The rows of the table in the first cell, by what stands in their first column. */
function factsOf(name: string): Map<string, string> {
  const rows = read(name)
    .cells[0].source.join('')
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  return new Map(rows.map(([fact, ...values]) => [fact, values.join(' | ')]));
}

/** The paths that a text names, in backquotes. */
const pathsIn = (text = ''): string[] =>
  [...text.matchAll(/`([^`]+)`/g)].map(([, found]) => found).filter((found) => found.includes('/'));

/** Whether a path, or one that fits it where it has a star, is in the repository. */
function isThere(place: string): boolean {
  if (!place.includes('*')) return existsSync(place);
  const [folder, pattern] = [path.dirname(place), path.basename(place)];
  const parts = pattern.split('*');
  return (
    existsSync(folder) &&
    readdirSync(folder).some((file) => file.startsWith(parts[0]) && file.endsWith(parts[1]))
  );
}

const parse = (code: string): ts.SourceFile =>
  ts.createSourceFile('cell.ts', code, ts.ScriptTarget.ES2022, true);

/** A node and all that it holds. */
function nodesIn(node: ts.Node): ts.Node[] {
  const nodes = [node];
  ts.forEachChild(node, (child) => void nodes.push(...nodesIn(child)));
  return nodes;
}

/** Names that a text imports, by the package that they are from. */
function importsOf(file: ts.SourceFile): { from: string; name: string }[] {
  return file.statements.filter(ts.isImportDeclaration).flatMap(({ moduleSpecifier, importClause }) => {
    const from = (moduleSpecifier as ts.StringLiteral).text;
    const bindings = importClause?.namedBindings;
    const named = bindings && ts.isNamedImports(bindings) ? bindings.elements.map((one) => one.name) : [];
    const whole = bindings && ts.isNamespaceImport(bindings) ? [bindings.name] : [];
    const all = [...named, ...whole, ...(importClause?.name ? [importClause.name] : [])];
    return all.map(({ text: name }) => ({ from, name }));
  });
}

/** How often a name is read, its imports and declarations and what is called alike behind a dot left out. */
function usesOf(files: readonly ts.SourceFile[], name: string): number {
  const isUse = (node: ts.Node): boolean => {
    if (!ts.isIdentifier(node) || node.text !== name) return false;
    const { parent } = node;
    if (ts.isPropertyAccessExpression(parent)) return parent.expression === node;
    if (ts.isPropertyAssignment(parent) || ts.isVariableDeclaration(parent)) return parent.name !== node;
    return !ts.isImportSpecifier(parent) && !ts.isImportClause(parent) && !ts.isNamespaceImport(parent);
  };
  return files.flatMap(nodesIn).filter(isUse).length;
}

describe('the notebooks', () => {
  it('are numbered without gaps, and listed for the reader', () => {
    expect(names.length).toBeGreaterThanOrEqual(5);
    for (const name of names) expect(name).toMatch(/^\d\d-[a-z]+(-[a-z]+)*$/);
    expect(names.map((name) => Number(name.slice(0, 2)))).toEqual(names.map((_, i) => i + 1));
    const overview = readFileSync(path.join(DIRECTORY, 'README.md'), 'utf8');
    for (const name of names) expect(overview).toContain(name);
  });
});

describe.each(names)('notebook %s', (name) => {
  const notebook = read(name);
  const codes = codeCells(name);
  const files = codes.map(parse);
  const nodes = files.flatMap(nodesIn);

  it('is a notebook of format 4 for our kernel', () => {
    const { nbformat, nbformat_minor: minor, metadata, cells } = notebook;
    expect(nbformat).toBe(4);
    // Cells have ids from 4.5 on.
    expect(minor).toBeGreaterThanOrEqual(5);
    expect(Object.keys(notebook).sort()).toEqual(['cells', 'metadata', 'nbformat', 'nbformat_minor']);
    expect(metadata.kernelspec).toMatchObject({ name: 'grpolab', language: 'typescript' });
    for (const { cell_type: type, id, metadata: own, source, ...rest } of cells) {
      expect(['code', 'markdown']).toContain(type);
      expect(id).toMatch(/^[\w-]{1,64}$/);
      expect(own).toBeTypeOf('object');
      expect(Object.keys(rest).sort()).toEqual(type === 'code' ? ['execution_count', 'outputs'] : []);
      expect(source.length).toBeGreaterThan(0);
      source.forEach((line, i) => {
        expect(line.indexOf('\n'), line).toBe(i < source.length - 1 ? line.length - 1 : -1);
      });
    }
    expect(new Set(cells.map(({ id }) => id)).size).toBe(cells.length);
  });

  it('is committed without outputs', () => {
    for (const cell of notebook.cells.filter((one) => one.cell_type === 'code')) {
      expect(cell.outputs, cell.id).toEqual([]);
      expect(cell.execution_count, cell.id).toBeNull();
    }
  });

  it('begins with its number, its question, and a table of time, reads and writes', () => {
    const [first] = notebook.cells;
    expect(first.cell_type).toBe('markdown');
    expect(first.source[0]).toMatch(new RegExp(`^# ${name.slice(0, 2)} \\w`));
    const facts = factsOf(name);
    for (const fact of ['Reads', 'Writes']) expect([...facts.keys()]).toContain(fact);
    expect([...facts.values()].join()).toMatch(/second|minute|hour/);
  });

  it('reads what is in the repository, what another notebook writes, or what is yours', () => {
    const reads = factsOf(name).get('Reads') ?? '';
    const written = names
      .filter((other) => other !== name)
      .flatMap((other) => pathsIn(factsOf(other).get('Writes')));
    for (const part of reads.split('|')) {
      if (/\byour\b/.test(part)) continue;
      for (const place of pathsIn(part)) {
        const isWritten = written.some((other) => place === other || place.startsWith(`${other}/`));
        expect(isThere(place) || isWritten, place).toBe(true);
      }
    }
    // A directory that it asks for is one that it says it reads or writes.
    for (const [, directory] of codes.join('\n').matchAll(/outputDirectory\('([^']+)'\)/g)) {
      const fact = directory === name ? 'Writes' : 'Reads';
      const told = pathsIn(factsOf(name).get(fact)).some((place) =>
        `${place}/`.startsWith(`runs/${directory}/`),
      );
      expect(told, `${fact}: runs/${directory}`).toBe(true);
    }
  });

  it('has short code cells without syntax errors, classes, loops or arithmetic', () => {
    for (const code of codes) {
      expect(code.split('\n').length, code).toBeLessThanOrEqual(MOST_LINES);
      const { diagnostics } = ts.transpileModule(code, {
        reportDiagnostics: true,
        compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
      });
      expect(
        diagnostics?.map(({ messageText }) => messageText),
        code,
      ).toEqual([]);
    }
    const { SyntaxKind } = ts;
    const operators = [SyntaxKind.AsteriskToken, SyntaxKind.SlashToken, SyntaxKind.AsteriskAsteriskToken];
    const unwanted = nodes.filter(
      (node) =>
        ts.isClassLike(node) ||
        ts.isIterationStatement(node, false) ||
        ts.isFunctionDeclaration(node) ||
        (ts.isBinaryExpression(node) && operators.includes(node.operatorToken.kind)) ||
        (ts.isIdentifier(node) && node.text === 'Math'),
    );
    expect(unwanted.map((node) => node.getText())).toEqual([]);
  });

  it('imports packages by name, and uses what it imports', () => {
    const specifiers = nodes.flatMap((node) => {
      if (ts.isImportDeclaration(node)) return [(node.moduleSpecifier as ts.StringLiteral).text];
      const isCall = ts.isCallExpression(node) && /^(require|import)$/.test(node.expression.getText());
      return isCall ? [node.arguments[0].getText()] : [];
    });
    expect(specifiers).toContain('grpolab');
    for (const specifier of specifiers) expect(['grpolab', 'danfojs-node']).toContain(specifier);
    const imports = files.flatMap(importsOf);
    expect(imports.filter((one) => usesOf(files, one.name) === 0)).toEqual([]);
    expect(new Set(imports.map((one) => one.name)).size).toBe(imports.length);
  });

  it('calls what the library has', () => {
    const spaces = library as unknown as Record<string, Record<string, unknown>>;
    const imports = files.flatMap(importsOf).filter(({ from }) => from === 'grpolab');
    for (const { name: space } of imports) expect(spaces).toHaveProperty([space]);
    const members = nodes.flatMap((node) => {
      const isMember =
        ts.isPropertyAccessExpression(node) && imports.some((one) => one.name === node.expression.getText());
      return isMember ? [{ space: node.expression.getText(), member: node.name.text }] : [];
    });
    expect(members.length).toBeGreaterThan(0);
    for (const { space, member } of members)
      expect(spaces[space], `${space}.${member}`).toHaveProperty([member]);
  });

  it('has its parameters in the second code cell: names that are set, and used', () => {
    const [, parameters] = files;
    const isSetting = (statement: ts.Statement): boolean =>
      ts.isVariableStatement(statement) ||
      (ts.isExpressionStatement(statement) &&
        ts.isBinaryExpression(statement.expression) &&
        statement.expression.operatorToken.kind === ts.SyntaxKind.EqualsToken);
    expect(parameters.statements.filter((one) => !isSetting(one)).map((one) => one.getText())).toEqual([]);
    expect(nodesIn(parameters).filter(ts.isAwaitExpression)).toEqual([]);
    const declared = parameters.statements
      .filter(ts.isVariableStatement)
      .flatMap(({ declarationList }) => declarationList.declarations.map((one) => one.name.getText()));
    expect(declared.length).toBeGreaterThan(0);
    expect(declared.filter((one) => usesOf(files, one) === 0)).toEqual([]);
    expect(declared.some((one) => usesOf(files.slice(2), one) > 0)).toBe(true);
  });
});
