// Starts the project's own tslab for a notebook. The kernelspec gives this file's directory as {resource_dir}, so the
// project is found wherever it lies.
const { EventEmitter } = require('node:events');
const { existsSync } = require('node:fs');
const path = require('node:path');
const util = require('node:util');

const root = path.resolve(__dirname, '../..');

// tfjs asks Node's util for two functions that Node 23 removed.
util.isNullOrUndefined ??= (value) => value === null || value === undefined;
util.isArray ??= Array.isArray;

process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';

// A notebook runs in its own folder, where its relative paths lead. One that lies outside the project could not import
// the package by name there: it runs in the project's directory.
function canImport(directory) {
  for (let at = directory; ; at = path.dirname(at)) {
    if (existsSync(path.join(at, 'node_modules', 'grpolab'))) return true;
    if (at === path.dirname(at)) return false;
  }
}
if (!canImport(process.cwd())) process.chdir(root);

// "Interrupt Kernel" is SIGINT. One listener, registered before tslab's, passes it on to whatever library function
// listens to the bus at that time; a handler set in a cell would end the kernel.
const bus = (globalThis[Symbol.for('grpolab.interrupt')] = new EventEmitter());
process.on('SIGINT', () => bus.emit('interrupt'));

require(path.join(root, 'node_modules/tslab/dist/main.js')).startKernel({
  configPath: process.argv[2],
  enableFindLocal: false,
  jsKernel: false,
  globalVersion: '',
});
