/** What Python takes for white space, as the text metrics' definitions do. */

/**
 * Python's \s for text, to stand inside brackets of a pattern. It differs from JavaScript's: it has the separators
 * 0x1c..0x1f and 0x85, not U+FEFF.
 */
export const PYTHON_SPACE =
  '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';

const VISIBLE = new RegExp(`[^${PYTHON_SPACE}]+`, 'gu');

/** The runs of visible characters, as they are: Python's `text.split()`. */
export function splitWhitespace(text: string): string[] {
  return text.match(VISIBLE) ?? [];
}
