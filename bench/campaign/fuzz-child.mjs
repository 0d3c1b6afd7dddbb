// Does tries of one fuzz part in a process of its own, which a try may crash or hang:
//   fuzz-child.mjs MODULE PART SEED FIRST END DIRECTORY FAILURES
// After every try its number and the counts are in DIRECTORY/state, so that whoever watches knows where it stopped.
import fs from 'node:fs';
import path from 'node:path';
import { library } from './library.mjs';
import { judgeError, KINDS } from './outcome.mjs';

const [module, part, seed, first, end, directory, failures] = process.argv.slice(2);
const { Random } = library('runtime/random');
const { prepare } = await import(module);
const tries = path.join(directory, 'try');
fs.mkdirSync(tries, { recursive: true });

const state = new Float64Array(1 + KINDS.length);
const bytes = new Uint8Array(state.buffer);
const handle = fs.openSync(path.join(directory, 'state'), 'w');
const tell = () => fs.writeSync(handle, bytes, 0, bytes.length, 0);

function keep(number, kind, why) {
  const name = `${part}-${seed}-${number}`;
  fs.cpSync(tries, path.join(failures, name), { recursive: true });
  fs.writeFileSync(
    path.join(failures, name, 'failure.json'),
    JSON.stringify({ part, seed: Number(seed), number, kind, why }, null, 2),
  );
}

const { attempt, Allowed } = await prepare(tries, part);
for (let number = Number(first); number < Number(end); number++) {
  state[0] = number;
  tell();
  let outcome;
  try {
    // A try gives the reason when what it read is wrong, else nothing.
    const wrong = await attempt(new Random(Number(seed), part, number));
    outcome = wrong == null ? { kind: 'accepted' } : { kind: 'wrong', why: wrong };
  } catch (error) {
    outcome = judgeError(error, Allowed);
  }
  state[1 + KINDS.indexOf(outcome.kind)]++;
  if (outcome.why !== undefined) keep(number, outcome.kind, outcome.why);
}
state[0] = Number(end);
tell();
// What hangs on to the event loop does not matter any more.
process.exit(0);
