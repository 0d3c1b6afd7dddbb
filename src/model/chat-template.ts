import { CheckpointError } from '../runtime/errors';

/** A node of the template's syntax tree, as the Jinja engine of `@xenova/transformers` builds it. */
interface Node {
  type: string;
  [field: string]: unknown;
}

interface CompiledTemplate {
  parsed: Node;
}

/** Python's `str.strip` family, under names that no template uses. */
const METHODS = { strip: '__py_strip', lstrip: '__py_lstrip', rstrip: '__py_rstrip' } as const;
type Method = keyof typeof METHODS;

/** What `str.isspace` accepts in Python; JavaScript's `trim` removes U+FEFF too and keeps six of these. */
const PYTHON_SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/u;

/**
 * `text.strip(characters)` and its one-sided forms as Python defines them: any of the given characters (code
 * points), or white space, removed from the ends.
 */
export function pythonStrip(text: string, characters: string | null, method: Method = 'strip'): string {
  const removed = characters === null ? undefined : new Set(characters);
  const goes = (char: string) => (removed ? removed.has(char) : PYTHON_SPACE.test(char));
  const chars = Array.from(text);
  let begin = 0;
  let end = chars.length;
  if (method !== 'rstrip') while (begin < end && goes(chars[begin])) begin++;
  if (method !== 'lstrip') while (end > begin && goes(chars[end - 1])) end--;
  return chars.slice(begin, end).join('');
}

/** The functions that a rewritten template calls: pass them with the other variables of a rendering. */
export const templateFunctions: Readonly<Record<string, (text: unknown, characters?: unknown) => string>> =
  Object.fromEntries(
    (Object.keys(METHODS) as Method[]).map((method) => [
      METHODS[method],
      (text: unknown, characters: unknown = null) => {
        if (typeof text !== 'string' || (characters !== null && typeof characters !== 'string')) {
          throw new CheckpointError(`the chat template calls ${method} on something that is not text`);
        }
        return pythonStrip(text, characters, method);
      },
    ]),
  );

/**
 * A cache of compiled templates that corrects what goes in. The engine's `strip`, `lstrip` and `rstrip` ignore
 * their argument (Qwen3's template calls `strip('\n')`, which must keep blanks) and, without one, remove other
 * characters than Python's; so each such call becomes a call of ours. The filter `trim` is the same thing.
 */
export class TemplateCache extends Map<string, CompiledTemplate> {
  override set(source: string, template: CompiledTemplate): this {
    rewrite(template.parsed);
    return super.set(source, template);
  }
}

function rewrite(value: unknown): void {
  if (Array.isArray(value)) return value.forEach(rewrite);
  if (value instanceof Map) return [...value].forEach(rewrite);
  if (!isNode(value)) return;
  Object.values(value).forEach(rewrite);
  const callee = value.callee;
  if (value.type === 'CallExpression' && isNode(callee) && callee.type === 'MemberExpression') {
    const name = isNode(callee.property) && !callee.computed ? String(callee.property.value) : '';
    if (Object.hasOwn(METHODS, name)) callOurs(value, METHODS[name as Method], callee.object, value.args);
  } else if (value.type === 'FilterExpression' && isNode(value.filter)) {
    const { filter } = value;
    const named = isNode(filter.callee) ? filter.callee : filter;
    if (named.value === 'trim') callOurs(value, METHODS.strip, value.operand, filter.args ?? []);
  }
}

function callOurs(node: Node, name: string, text: unknown, args: unknown): void {
  const callee = { type: 'Identifier', value: name };
  Object.assign(node, { type: 'CallExpression', callee, args: [text, ...(args as unknown[])] });
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string';
}
