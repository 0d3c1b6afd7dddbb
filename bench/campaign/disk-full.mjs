// A disk that becomes full at a random moment of a run, then has room again: a small tmpfs where root may mount one, else a
// limit on the size of a file. Tries are runs. `refused`: ended in one clear line, then resumed to the same bytes.
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { differenceOfRuns, emptyCounts, randomOf, runProgram, trainArgs, undisturbed } from './runs.mjs';

const mount = (...args) => execFileSync('mount', args, { stdio: 'ignore' });

function canMount(place) {
  try {
    mkdirSync(place, { recursive: true });
    mount('-t', 'tmpfs', '-o', 'size=100k', 'tmpfs', place);
    execFileSync('umount', [place]);
    return true;
  } catch {
    return false;
  }
}

const CLEAR =
  /^grpolab: [^\n]*: cannot be written: (the disk is full|the file is larger than the system allows)[^\n]*\n$/;

/** What a try came to. */
function judge(first, second, difference) {
  if (first.hung || second?.hung) return { kind: 'hangs', why: 'no end' };
  if (first.signal !== null) return { kind: 'crashes', why: `ended by ${first.signal}` };
  if (first.code !== 0 && !CLEAR.test(first.stderr)) return { kind: 'unclear', why: first.stderr };
  if (second !== undefined && second.code !== 0)
    return { kind: 'crashes', why: `resumed with room: ${second.code} ${second.stderr}` };
  if (difference !== null) return { kind: 'wrong', why: difference };
  return { kind: first.code === 0 ? 'accepted' : 'refused' };
}

async function tryTmpfs({ config, whole }, place, kib) {
  mount('-t', 'tmpfs', '-o', `size=${kib}k`, 'tmpfs', place);
  try {
    const output = path.join(place, 'run');
    const first = await runProgram(trainArgs(config, output));
    mount('-o', 'remount,size=64m', place);
    const second = first.code === 0 ? undefined : await runProgram(trainArgs(config, output, '--resume'));
    return judge(first, second, differenceOfRuns(output, whole));
  } finally {
    execFileSync('umount', [place]);
  }
}

async function tryLimit({ config, whole }, place, kib) {
  const output = path.join(place, 'run');
  rmSync(output, { recursive: true, force: true });
  // The signal that comes with the limit is ignored: then it is an error like any other.
  const first = await runProgram(trainArgs(config, output), { shell: `trap '' XFSZ; ulimit -f ${kib}` });
  const second = first.code === 0 ? undefined : await runProgram(trainArgs(config, output, '--resume'));
  return judge(first, second, differenceOfRuns(output, whole));
}

export async function run(context) {
  const { tries, directory, progress, note, fail } = context;
  const runs = await undisturbed(directory, tries);
  const place = path.join(directory, 'disk');
  const isReal = canMount(place);
  const random = randomOf(context);
  const counts = emptyCounts();
  for (let number = 0; number < tries; number++) {
    const method = number % 2 === 0 ? 'sft' : 'grpo';
    // A whole run takes about 0.7 MiB, its largest file 50 KiB.
    const kib = isReal ? 4 * (1 + random.integer(170)) : 1 + random.integer(48);
    const { kind, why } = await (isReal ? tryTmpfs : tryLimit)(runs[method], place, kib);
    counts[kind]++;
    if (why !== undefined) fail(number, kind, `${method}, ${kib} KiB: ${why}`);
    progress(number + 1, tries);
  }
  note(
    isReal
      ? 'a tmpfs of 4 to 680 KiB, then of 64 MiB'
      : 'no tmpfs can be mounted here: a limit of 1 to 48 KiB on a file instead',
  );
  return { tries, ...counts };
}
