/** The one reader of YAML: of experiments, rewards and values on the command line. */
import { isCollection, LineCounter, parseDocument, visit } from 'yaml';
import { ConfigError } from './errors';

/** Deeper values make recursive functions run out of stack; no setting is nested so deeply. */
const MAX_DEPTH = 100;
const TOO_DEEP = 'values nested too deeply';

/** What a problem of the `yaml` package is called here: its messages may repeat the text, which may hold a key. */
function problemOf(code: string): string {
  if (code === 'RESOURCE_EXHAUSTION') return TOO_DEEP;
  if (code === 'TAG_RESOLVE_FAILED') return 'a tag ("!...") that means nothing here';
  return code.toLowerCase().replaceAll('_', ' ');
}

/** What is wrong with a value as a tree; undefined when nothing is. An alias may lead to what it stands in. */
function flawOf(value: unknown, above: readonly unknown[] = []): string | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  if (above.includes(value)) return 'an alias ("*...") of what it stands in';
  if (above.length === MAX_DEPTH) return TOO_DEEP;
  for (const inner of Object.values(value)) {
    const flaw = flawOf(inner, [...above, value]);
    if (flaw !== undefined) return flaw;
  }
  return undefined;
}

/**
 * The value of a YAML text, a tree; null for an empty one. What the parser would only warn of is an error too.
 *
 * @param where  what the message starts with: a file's name, or the name of an option
 * @throws ConfigError  in one line with the line's number; it never shows the text
 */
export function parseYaml(text: string, where: string): unknown {
  const lines = new LineCounter();
  const refuse = (problem: string, offset?: number): never => {
    const place = offset === undefined ? '' : ` line ${lines.linePos(offset).line}:`;
    throw new ConfigError(`${where}: not YAML:${place} ${problem}. Correct the text.`);
  };
  try {
    const document = parseDocument(text, { lineCounter: lines, logLevel: 'error', prettyErrors: false });
    const problem = [...document.errors, ...document.warnings].at(0);
    if (problem !== undefined) refuse(problemOf(problem.code), problem.pos[0]);
    visit(document, {
      Pair: (_, { key }) => {
        // It would become a text that stands nowhere in the file.
        if (isCollection(key)) refuse('a list or a mapping as a key', key.range?.[0]);
      },
      Scalar: (key, node) => {
        // JavaScript would take it for something else than a key.
        if (key === 'key' && node.value === '__proto__') refuse('the key __proto__', node.range?.[0]);
      },
    });
    const value = document.toJS() as unknown;
    const flaw = flawOf(value);
    return flaw === undefined ? value : refuse(flaw);
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    if (error instanceof RangeError) return refuse(TOO_DEEP);
    return refuse('an alias ("*...") that leads nowhere, or aliases that unfold to too much');
  }
}
