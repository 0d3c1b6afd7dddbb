// A date that is wrong, jumps within a run, or goes back between a save and the resuming: the end must be the same bytes.
// Tries are runs.
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { differenceOfRuns, emptyCounts, runProgram, trainArgs, undisturbed } from './runs.mjs';

const hook = fileURLToPath(new URL('fake-clock.cjs', import.meta.url));
const YEAR = 365.25 * 86400;

/** Shifts of the first process and of the one that resumes, seconds; `after`: reads of the date before the first jumps. */
const CASES = [
  { what: 'ten years ahead, then forty years back', first: 10 * YEAR, second: -40 * YEAR },
  { what: 'back by a day within the run', first: -86400, after: 12, second: 0 },
  { what: 'before 1970, then ahead', first: -80 * YEAR, second: 100 * YEAR },
  { what: 'ahead by an hour within the run, then back', first: 3600, after: 20, second: -3600 },
];

const clock = (shift, after = 0) => ({
  NODE_OPTIONS: `--require ${hook}`,
  CLOCK_SHIFT: String(shift),
  CLOCK_AFTER: String(after),
});

/** Asks a run to stop as soon as its second checkpoint is there. */
function stopAtCheckpoint(output) {
  return (child) => {
    const watch = setInterval(
      () => existsSync(path.join(output, 'checkpoint-2')) && child.kill('SIGTERM'),
      2,
    );
    child.on('close', () => clearInterval(watch));
  };
}

export async function run({ tries, directory, progress, fail, note }) {
  const runs = await undisturbed(directory, tries);
  const counts = emptyCounts();
  for (let number = 0; number < tries; number++) {
    const { what, first, after, second } = CASES[(number >> 1) % CASES.length];
    const method = number % 2 === 0 ? 'sft' : 'grpo';
    const { config, whole } = runs[method];
    const output = path.join(directory, `clock-${number}`);
    const stopped = await runProgram(trainArgs(config, output), {
      environment: clock(first, after),
      onStart: stopAtCheckpoint(output),
    });
    const resumed = await runProgram(trainArgs(config, output, '--resume'), { environment: clock(second) });
    const bad = ![0, 130].includes(stopped.code) ? stopped : resumed.code !== 0 ? resumed : undefined;
    const difference = bad === undefined ? differenceOfRuns(output, whole) : null;
    const kind = bad?.hung ? 'hangs' : bad ? 'crashes' : difference ? 'wrong' : 'accepted';
    counts[kind]++;
    if (kind !== 'accepted')
      fail(number, kind, `${method}, ${what}: ${difference ?? `${bad.code} ${bad.stderr}`}`);
    progress(number + 1, tries);
  }
  note(
    `${Math.min(CASES.length, Math.ceil(tries / 2))} courses of the clock; each run stopped at step 2 or later and resumed`,
  );
  return { tries, ...counts };
}
