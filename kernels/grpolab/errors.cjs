// How an error looks in a notebook: what it says first, where it came from below.
const util = require('node:util');

const RED = '\x1b[31;1m';
const FAINT = '\x1b[90m';
const PLAIN = '\x1b[0m';

/** Frames of the kernel, of tslab and of Node tell a user nothing. */
const NOISE = /\bnode:|node_modules\/tslab\/|\/kernels\/grpolab\/[\w-]+\.cjs/;
const MOST_FRAMES = 12;

/** The compiled lines of every cell, by its name. */
const cells = new Map();

/** Keeps a cell's compiled code, to show the line that an error came from: its number is not that of the typed one. */
function rememberCell(name, code) {
  cells.set(name, code.split('\n'));
}

/** `at f (cell 3:5:9)` becomes `at f (cell 3: the code of that line)`. */
function frameLines(error) {
  const lines = String(error.stack ?? '')
    .split('\n')
    .filter((line) => /^\s+at /.test(line) && !NOISE.test(line))
    .map((line) =>
      line.replace(/(cell \d+):(\d+):\d+/, (place, cell, number) => {
        const line = cells.get(cell)?.[Number(number) - 1]?.trim() ?? '})(__tslab__';
        // Names of the notebook are properties of `exports` in the compiled code.
        const text = line.replace(/\bexports\.(tsLastExpr = )?/g, '');
        return text.startsWith('})(__tslab__') ? cell : `${cell}: ${text.slice(0, 100)}`;
      }),
    );
  return lines.length > MOST_FRAMES ? [...lines.slice(0, MOST_FRAMES), '    ...'] : lines;
}

/** Errors of the library, also of a build that was replaced since: their message is made for users. */
function isOfLibrary(error) {
  for (let at = error; at !== null && at !== undefined; at = Object.getPrototypeOf(at))
    if (at.constructor?.name === 'GrpolabError') return true;
  return false;
}

function causes(error) {
  const lines = [];
  for (let cause = error.cause; cause instanceof Error && lines.length < 3; cause = cause.cause)
    lines.push(`${FAINT}caused by ${cause.name}: ${cause.message}${PLAIN}`);
  return lines;
}

const INTERRUPTED = 'the cell was interrupted; the variables of earlier cells are kept';

function interruptedContent() {
  return sentenceContent('Interrupted', INTERRUPTED);
}

/** The content of an `error` message from anything that was thrown. */
function errorContent(thrown) {
  try {
    return contentOf(thrown);
  } catch {
    return sentenceContent('Thrown', 'something that cannot be shown');
  }
}

function contentOf(thrown) {
  if (thrown?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') return interruptedContent();
  if (!util.types.isNativeError(thrown) && !(thrown instanceof Error)) {
    const evalue = typeof thrown === 'string' ? thrown : util.inspect(thrown);
    return { ename: 'Thrown', evalue, traceback: [`${RED}Thrown${PLAIN}: ${evalue}`] };
  }
  const [name, message] = [String(thrown.name), String(thrown.message)];
  const frames = frameLines(thrown).map((line) => `${FAINT}${line}${PLAIN}`);
  // A library's error says what to do; where in the library it arose is for whoever mends the library.
  const shown = isOfLibrary(thrown) ? frames.filter((line) => /\bcell \d+/.test(line)) : frames;
  return {
    ename: name,
    evalue: message,
    traceback: [`${RED}${name}${PLAIN}: ${message}`, ...causes(thrown), ...shown],
  };
}

/**
 * The content of an `error` message from the compiler's complaints about a cell, with the lines that they are about.
 * @param typedColumn  from the compiled code's line and column to the column that was typed
 */
function diagnosticsContent(diagnostics, code, typedColumn) {
  const source = code.split('\n');
  const places = diagnostics.map(({ file, line, character, message }) => {
    const isOfCell = file === '' && source[line - 1] !== undefined;
    const advice = /cannot be named|private name/.test(message)
      ? ' Give the variable a type, such as `: any`.'
      : '';
    return {
      file,
      line,
      message: message + advice,
      isOfCell,
      column: isOfCell ? typedColumn(line, character) : character,
    };
  });
  const traceback = places.flatMap(({ file, line, column, message, isOfCell }) => {
    const head = `${RED}${file.trim() || 'line'} ${line}:${column}${PLAIN} ${message}`;
    if (!isOfCell) return [head];
    const mark = `    ${' '.repeat(column - 1)}${RED}^${PLAIN}`;
    return [head, `${FAINT}    ${source[line - 1]}${PLAIN}`, mark];
  });
  const [{ line, column, message }] = places;
  return { ename: 'TypeScriptError', evalue: `${line}:${column} ${message}`, traceback };
}

/** The content of an `error` message that is one sentence. */
function sentenceContent(ename, evalue) {
  return { ename, evalue, traceback: [`${RED}${ename}${PLAIN}: ${evalue}`] };
}

module.exports = { errorContent, diagnosticsContent, interruptedContent, rememberCell, sentenceContent };
