/** The one reader of YAML: of experiments, rewards and values on the command line. */
import { LineCounter, parseDocument, visit } from 'yaml';
import { ConfigError } from './errors';

/** What a problem of the `yaml` package is called here: its messages may repeat the text, which may hold a key. */
function problemOf(code: string): string {
  if (code === 'TAG_RESOLVE_FAILED') return 'a tag ("!...") that means nothing here';
  return code.toLowerCase().replaceAll('_', ' ');
}

/**
 * The value of a YAML text; null for an empty one. What the parser would only warn of is an error too.
 *
 * @param where  what the message starts with: a file's name, or the name of an option
 * @throws ConfigError  in one line with the line's number; it never shows the text
 */
export function parseYaml(text: string, where: string): unknown {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, logLevel: 'error', prettyErrors: false });
  const refuse = (problem: string, offset?: number): never => {
    const place = offset === undefined ? '' : ` line ${lines.linePos(offset).line}:`;
    throw new ConfigError(`${where}: not YAML:${place} ${problem}. Correct the text.`);
  };
  const problem = [...document.errors, ...document.warnings].at(0);
  if (problem !== undefined) refuse(problemOf(problem.code), problem.pos[0]);
  visit(document, {
    Scalar: (key, node) => {
      // JavaScript would take it for something else than a key.
      if (key === 'key' && node.value === '__proto__') refuse('the key __proto__', node.range?.[0]);
    },
  });
  try {
    return document.toJS() as unknown;
  } catch {
    return refuse('an alias ("*...") that leads nowhere, or aliases that unfold to too much');
  }
}
