// What the parts of the campaign take from the build.
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
export const program = path.join(root, 'bin/grpolab.mjs');
export const golden = (...names) => path.join(root, 'test/golden', ...names);

const require = createRequire(import.meta.url);

/** A compiled module, e.g. `library('runtime/random')`. */
export const library = (name) => require(path.join(root, 'dist', `${name}.js`));
