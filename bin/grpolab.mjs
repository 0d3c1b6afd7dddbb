#!/usr/bin/env node
// Starts the compiled command line. No dependencies: npm links this file before anything is installed or built.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const [major, minor] = process.versions.node.split('.').map(Number);
const compiled = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

function refuse(message) {
  process.stderr.write(`grpolab: ${message}\n`);
  process.exitCode = 2;
}

if (major < 20 || (major === 20 && minor < 19)) {
  refuse(`Node ${process.versions.node} is too old; install Node 20.19, 22 or 24.`);
} else if (!existsSync(compiled)) {
  refuse('it is not built yet. Run `npm run setup` in its directory.');
} else {
  const { runProcess } = createRequire(import.meta.url)(compiled);
  await runProcess();
}
