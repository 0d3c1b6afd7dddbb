/** JSON of one line, without the silent losses of `JSON.parse`. */
import { DataError, messageOf } from '../runtime/errors';

/** A number of so many digits may be an integer that a double would round; digits in quotes do not count. */
const MAYBE_LARGE = /(?:^|[\s:,[-])\d{16}/;
/** What may stand before an integer and after it; anything else makes it a part of another number, or no JSON. */
const [BEFORE, AFTER] = [/[\s:,[]/, /[\s,\]}]/];
/** Deeper values make recursive functions run out of stack, `JSON.stringify` among them. */
const MAX_DEPTH = 200;

function isEscaped(text: string, quote: number): boolean {
  let backslashes = 0;
  while (text[quote - 1 - backslashes] === '\\') backslashes++;
  return backslashes % 2 === 1;
}

/** Runs of 16 digits and more. A regular expression for runs of any length runs out of stack in long ones. */
function* longDigits(text: string): Generator<{ start: number; end: number }> {
  const pattern = /\d{16}/g;
  for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
    let end = pattern.lastIndex;
    while (text[end] >= '0' && text[end] <= '9') end++;
    pattern.lastIndex = end;
    yield { start: text[match.index - 1] === '-' ? match.index - 1 : match.index, end };
  }
}

/** Puts integers in quotes that a double does not hold, outside of strings; in time linear in the text. */
function quoteLargeIntegers(text: string): string {
  let [result, done, quote, inString] = ['', 0, text.indexOf('"'), false];
  for (const { start, end } of longDigits(text)) {
    for (; quote !== -1 && quote < start; quote = text.indexOf('"', quote + 1))
      if (!isEscaped(text, quote)) inString = !inString;
    if (inString || !BEFORE.test(text[start - 1] ?? ' ') || !AFTER.test(text[end] ?? ' ')) continue;
    const digits = text.slice(start, end);
    // A zero in front is no JSON, and stays an error.
    if (/^-?0/.test(digits) || Number.isSafeInteger(Number(digits))) continue;
    result += `${text.slice(done, start)}"${digits}"`;
    done = end;
  }
  return result + text.slice(done);
}

/** Where a value has a number that is not finite, or is nested too deeply: the path to it, the last key first. */
function findFlaw(value: unknown, depth: number): string[] | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : [];
  if (typeof value !== 'object' || value === null) return undefined;
  if (depth === MAX_DEPTH)
    throw new DataError(`the line is nested deeper than ${MAX_DEPTH} levels; expected fewer`);
  for (const key in value) {
    const inner = (value as Record<string, unknown>)[key];
    // Texts are most of a record: not worth a call.
    if (typeof inner === 'string') continue;
    const flaw = findFlaw(inner, depth + 1);
    if (flaw === undefined) continue;
    flaw.push(key);
    return flaw;
  }
  return undefined;
}

/**
 * The value of a line of JSON. Integers that a double would round, ids above all, become strings, digit by digit.
 *
 * @throws DataError  (without the place) when it is not JSON, has a number that is too large for a double, or is nested
 *   deeper than 200 levels
 */
export function parseJsonLine(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(MAYBE_LARGE.test(text) ? quoteLargeIntegers(text) : text);
  } catch (error) {
    const reason = messageOf(error).replace(/\s+/g, ' ');
    throw new DataError(`not JSON (${reason}); expected one JSON object a line${hintOfLineEnds(text)}`);
  }
  const flaw = findFlaw(value, 0);
  if (flaw === undefined) return value;
  const name = flaw.length === 0 ? 'the line' : flaw.reverse().join('.');
  throw new DataError(`${name} is Infinity, a number too large; expected a finite number`);
}

/** What to say of a bad line with a carriage return inside. */
export function hintOfLineEnds(text: string): string {
  return text.trim().includes('\r') ? '; do lines end in CR alone? Convert them to LF' : '';
}
