/** Parsing of settings with zod, with errors a user can act on: one line, the path, and the nearest known key. */

import type { z } from 'zod';
import { ConfigError } from './errors';

type Path = readonly PropertyKey[];
type Issue = z.core.$ZodIssue;

/**
 * Number of single-character insertions, deletions and substitutions that turn `a` into `b`.
 * Source: Wagner & Fischer, "The string-to-string correction problem", JACM 1974.
 */
export function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substituted, previous[j] + 1, row[j - 1] + 1));
    }
    previous = row;
  }
  return previous[b.length];
}

/**
 * The candidate at the smallest edit distance from `word`, the first one on a tie; undefined without candidates.
 * An abbreviation counts as one edit: `dir` means `directory`, not `kind`.
 */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Infinity;
  for (const candidate of candidates) {
    const [a, b] = [word.toLowerCase(), candidate.toLowerCase()];
    const distance = a.length >= 2 && a !== b && b.startsWith(a) ? 1 : editDistance(a, b);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** The parts of a zod definition that lead from a schema to the ones inside it. */
interface Definition {
  innerType?: z.ZodType; // optional, nullable, default, prefault, catch, readonly
  in?: z.ZodType; // pipe (transform)
  shape?: Record<string, z.ZodType>; // object
  element?: z.ZodType; // array
  valueType?: z.ZodType; // record
  options?: readonly z.ZodType[]; // union
  items?: readonly z.ZodType[]; // tuple
}

/** The object shapes that a value of this schema may have: several for a union. */
function shapesOf(schema: z.ZodType): Record<string, z.ZodType>[] {
  const def = schema.def as Definition;
  if (def.shape !== undefined) return [def.shape];
  if (def.options !== undefined) return def.options.flatMap(shapesOf);
  const inner = def.innerType ?? def.in;
  return inner === undefined ? [] : shapesOf(inner);
}

/** The schemas that describe the part of a value that `key` names. */
function step(schema: z.ZodType, key: PropertyKey): z.ZodType[] {
  const def = schema.def as Definition;
  if (def.shape !== undefined) return def.shape[String(key)] === undefined ? [] : [def.shape[String(key)]];
  if (def.options !== undefined) return def.options.flatMap((option) => step(option, key));
  if (def.element !== undefined) return [def.element];
  if (def.valueType !== undefined) return [def.valueType];
  if (def.items !== undefined) return def.items[Number(key)] === undefined ? [] : [def.items[Number(key)]];
  const inner = def.innerType ?? def.in;
  return inner === undefined ? [] : step(inner, key);
}

/** Every key that the schema knows in the object at `path`. */
function knownKeys(schema: z.ZodType, path: Path): string[] {
  let schemas = [schema];
  for (const key of path) schemas = schemas.flatMap((each) => step(each, key));
  return [...new Set(schemas.flatMap(shapesOf).flatMap((shape) => Object.keys(shape)))];
}

function valueAt(value: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (part, key) => (part as Record<PropertyKey, unknown> | undefined)?.[key],
    value,
  );
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function dotted(path: Path): string {
  return path
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : `${i > 0 ? '.' : ''}${String(key)}`))
    .join('');
}

function unknownKey(schema: z.ZodType, path: Path, key: string): string {
  const known = knownKeys(schema, path);
  const guess = nearest(key, known);
  const remedy =
    guess === undefined ? 'remove it' : `did you mean "${guess}"? Known keys: ${known.join(', ')}`;
  return `unknown key "${dotted([...path, key])}"; ${remedy}`;
}

/** The lines that say what one zod issue means for the value that was given. */
function explain(schema: z.ZodType, value: unknown, issue: Issue, base: Path): string[] {
  const path = [...base, ...issue.path];
  if (issue.code === 'unrecognized_keys') return issue.keys.map((key) => unknownKey(schema, path, key));
  if (issue.code === 'invalid_union' && issue.errors.length > 0) {
    // The branch with the fewest complaints is the one that was meant.
    const meant = issue.errors.reduce((a, b) => (b.length < a.length ? b : a));
    return meant.flatMap((inner) => explain(schema, value, inner, path));
  }
  const name = path.length === 0 ? 'the value' : dotted(path);
  // A rule across fields says the whole remedy itself; the object's text beside it would only hide it.
  if (issue.code === 'custom') return [`${name}: ${issue.message}`];
  const given = valueAt(value, path);
  const expected = issue.message.replace(/^Invalid input: (expected .*?)(, received .*)?$/, '$1');
  return [`${name} is ${given === undefined ? 'missing' : show(given)}: ${expected}`];
}

/**
 * The value as the schema's output type, with defaults filled in.
 *
 * @param schema  built of `z.strictObject`, so that a misspelt key is an error
 * @param where   what the message starts with: a file's name, or the name of the argument
 * @throws ConfigError  `where: unknown key "weights.lenght"; did you mean "length"? ...`, all problems in one line
 */
export function parseStrict<S extends z.ZodType>(schema: S, value: unknown, where: string): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.flatMap((issue) => explain(schema, value, issue, []));
  throw new ConfigError(`${where}: ${problems.join('; ')}`);
}
