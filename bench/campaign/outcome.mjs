// What became of a try, and whether an error is one that a user may see.

/** Kinds of outcomes, in the order of the table; all after `accepted` are failures. */
export const KINDS = ['refused', 'accepted', 'unclear', 'crashes', 'hangs', 'wrong'];
export const isFailure = (kind) => KINDS.indexOf(kind) > KINDS.indexOf('accepted');

// Line ends of all kinds, and what could move a terminal's cursor or hide text.
const CONTROL = new RegExp('[\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]');
/** A message may repeat a name from a file, however long, but must not grow beyond what came. */
const MAX_LENGTH = 2 ** 18;

/** What is wrong with a message that should be one clear line; null when nothing is. */
export function flawOfMessage(text) {
  if (text.trim() === '') return 'an empty message';
  if (CONTROL.test(text))
    return `a message with a line end or a control character: ${JSON.stringify(text.slice(0, 300))}`;
  if (text.length > MAX_LENGTH) return `a message of ${text.length} characters: ${text.slice(0, 200)}...`;
  if (/\bat .*\.js:\d+:\d+/.test(text)) return `a message with a stack: ${text.slice(0, 300)}`;
  return null;
}

/** `refused` for an allowed error in one clear line, `unclear` with the reason for any other. */
export function judgeError(error, Allowed) {
  if (!(error instanceof Allowed)) {
    const name = error instanceof Error ? error.name : typeof error;
    return { kind: 'unclear', why: `${name}: ${String(error?.stack ?? error).slice(0, 1500)}` };
  }
  const flaw = flawOfMessage(error.message);
  return flaw === null ? { kind: 'refused' } : { kind: 'unclear', why: `${error.name} with ${flaw}` };
}

/** Whether the program says that an error is none of those that it knows. */
export const isUnexpected = (stderr) => /^grpolab: [a-z-]+ failed: /m.test(stderr);

/** What a finished command did: `refused` with code 2 (or another that is allowed) and one line on standard error. */
export function judgeCommand({ code, signal, stderr }, codes = [2]) {
  if (signal !== null) return { kind: 'crashes', why: `ended by ${signal}: ${stderr.slice(-500)}` };
  if (code === 0) return { kind: 'accepted' };
  if (!codes.includes(code)) return { kind: 'crashes', why: `exit code ${code}: ${stderr.slice(-500)}` };
  const flaw = /^[^\n]*\n$/.test(stderr)
    ? flawOfMessage(stderr.trimEnd())
    : `not one line: ${stderr.slice(0, 500)}`;
  if (flaw !== null) return { kind: 'unclear', why: flaw };
  return isUnexpected(stderr)
    ? { kind: 'unclear', why: `an unexpected error: ${stderr}` }
    : { kind: 'refused' };
}
