// Starts the kernel of a notebook. The kernelspec gives this file's directory as {resource_dir}, so the project is found
// wherever it lies. Its syntax is old, so that an old Node gets as far as saying that it is old.
const { existsSync, writeSync } = require('fs');
const path = require('path');
const util = require('util');

const root = path.resolve(__dirname, '../..');

// Asked for first: a parent that ends while the packages load is not ours any more when they are there.
const parent = process.ppid;

/** @returns what is wrong with this Node, or null */
function nodeProblem() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return null;
  return (
    `Node ${process.versions.node} is too old for grpolab: expected 20.19, 22 or 24. ` +
    'Put a newer one first in PATH, then start Jupyter again.'
  );
}

// A notebook runs in its own folder, where its relative paths lead. One that lies outside the project could not import
// the package by name there: it runs in the project's directory.
function canImport(directory) {
  for (let at = directory; ; at = path.dirname(at)) {
    if (existsSync(path.join(at, 'node_modules', 'grpolab'))) return true;
    if (at === path.dirname(at)) return false;
  }
}

/** The kernel cannot speak without its packages: the terminal of Jupyter is the only place left to say so. */
function giveUp(reason) {
  // Past the kernel's own `write`, which sends to a notebook.
  writeSync(2, 'grpolab kernel: ' + reason + '\n');
  process.exit(1);
}

// tfjs asks Node's util for two functions that Node 23 removed.
if (util.isNullOrUndefined === undefined)
  util.isNullOrUndefined = (value) => value === null || value === undefined;
if (util.isArray === undefined) util.isArray = Array.isArray;

if (process.env.TF_CPP_MIN_LOG_LEVEL === undefined) process.env.TF_CPP_MIN_LOG_LEVEL = '2';

if (!existsSync(path.join(root, 'node_modules/tslab/dist/main.js')))
  giveUp(nodeProblem() || root + ' is not set up. Run `npm run setup` there, then restart the kernel.');
if (!canImport(process.cwd())) process.chdir(root);

try {
  const { startKernel } = require('./server.cjs');
  startKernel({ root, parent, connectionFile: process.argv[2], problem: nodeProblem() }).catch((error) =>
    giveUp(error.stack),
  );
} catch (error) {
  giveUp(nodeProblem() || error.stack);
}
