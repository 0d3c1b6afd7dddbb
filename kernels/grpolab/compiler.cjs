// tslab's compiler without its traps, most of them by what is rewritten before it compiles a cell. It turns a variable of an
// earlier cell into `exports.name`, but not where the name is a shorthand: `{ name }` is not defined, `({ name } = value)`
// assigns to nothing. At the top of a cell it takes `await (x)` for a call of a function, and does not know `for await`.
const path = require('node:path');

/** @param tslab  the directory of its modules @returns them, and the TypeScript that they use */
function loadCompiler(tslab) {
  const ts = require(require.resolve('@tslab/typescript-for-tslab', { paths: [tslab] }));
  // tslab keeps one timer, that of the next build, and throws when TypeScript asks for a second one: it does when something
  // appears or goes in a directory where it looks for modules. That one's work is done at once.
  const wrappers = {
    setTimeout:
      (schedule) =>
      (callback, ...rest) =>
        callback.name === 'invalidateResolutionsOfFailedLookup'
          ? void callback()
          : schedule(callback, ...rest),
    clearTimeout: (cancel) => (timer) => timer === undefined || cancel(timer),
  };
  for (const [name, wrap] of Object.entries(wrappers))
    Object.defineProperty(ts.sys, name, {
      configurable: true,
      set(own) {
        Object.defineProperty(this, name, { value: wrap(own), configurable: true, writable: true });
      },
    });
  const { createConverter, isCompleteCode } = require(path.join(tslab, 'converter.js'));
  const { createExecutor } = require(path.join(tslab, 'executor.js'));
  return { createConverter, createExecutor, isCompleteCode, ts };
}

/** A file with an export is a module, in which `await` at the top is a keyword. */
const MODULE = 'export {};';
/** What may begin the operand of `await`, and could go on an expression as well. */
const AMBIGUOUS = /^[([`+\-/<]/;

/** Where in the code to insert what, in order. */
function insertionsOf(ts, code) {
  const source = ts.createSourceFile(
    'cell.ts',
    MODULE + code,
    ts.ScriptTarget.Latest,
    true,
    ts.ScriptKind.TS,
  );
  const insertions = [];
  const insert = (place, text) => insertions.push({ at: place - MODULE.length, text });
  let waits = false;
  const visit = (node, isTop) => {
    const operand = isTop && ts.isAwaitExpression(node) ? node.expression : undefined;
    const wrap = operand !== undefined && AMBIGUOUS.test(operand.getText());
    if (wrap) insert(operand.getStart(), 'Promise.resolve(');
    waits ||= isTop && ts.isForOfStatement(node) && node.awaitModifier !== undefined;
    const stays = isTop && !ts.isFunctionLike(node) && !ts.isClassLike(node);
    ts.forEachChild(node, (child) => visit(child, stays));
    if (ts.isShorthandPropertyAssignment(node)) insert(node.name.getEnd(), `: ${node.name.text}`);
    if (wrap) insert(operand.getEnd(), ')');
  };
  visit(source, true);
  // tslab makes a cell asynchronous when it sees another `await`.
  if (waits) insertions.push({ at: 0, text: 'await null; ' });
  return insertions.sort((a, b) => a.at - b.at);
}

/**
 * The cell's code as tslab compiles it right, line by line the same.
 * @returns the code, and a function from a place in it (line and column from 1) to the column that was typed
 */
function rewriteCell(ts, code) {
  const insertions = insertionsOf(ts, code);
  let [rewritten, from] = ['', 0];
  for (const { at, text } of insertions) {
    rewritten += code.slice(from, at) + text;
    from = at;
  }
  const starts = [0];
  for (let i = 0; i < code.length; i++) if (code[i] === '\n') starts.push(i + 1);
  const typedColumn = (line, column) => {
    const [start, next] = [starts[line - 1], starts[line] ?? code.length + 1];
    let shift = 0;
    for (const { at, text } of insertions.filter((one) => one.at >= start && one.at < next)) {
      const ahead = column - 1 - shift - (at - start);
      // A place inside of what was inserted is where it was inserted.
      if (ahead > 0) shift += Math.min(text.length, ahead);
    }
    return column - shift;
  };
  return { code: rewritten + code.slice(from), typedColumn };
}

module.exports = { loadCompiler, rewriteCell };
