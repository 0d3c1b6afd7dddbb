// Loaded into a run by NODE_OPTIONS: kills the process, as the power failing would, just before a file operation.
// KILL_BEFORE is `operation pattern`: the first operation of that name on a path that matches the pattern.
const fs = require('node:fs');

const [operation, pattern] = (process.env.KILL_BEFORE ?? '').split(' ');
const matches = new RegExp(pattern);

for (const owner of [fs, fs.promises]) {
  const original = owner[operation];
  if (original === undefined) continue;
  owner[operation] = (...args) => {
    if (args.some((arg) => typeof arg === 'string' && matches.test(arg)))
      process.kill(process.pid, 'SIGKILL');
    return original.apply(owner, args);
  };
}
