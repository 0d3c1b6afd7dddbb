// kill -9 at random moments of a short run, each time resumed; what it ends with must be the bytes of a run left alone.
// Tries are kills. `accepted`: kills of runs that ended with the same bytes.
import path from 'node:path';
import { differenceOfRuns, emptyCounts, randomOf, runProgram, trainArgs, undisturbed } from './runs.mjs';

/** Kills in one run, at most: then it may end. */
const KILLS = 4;
const NOTICES = /^.*: (no checkpoint yet; beginning anew|there is no run to resume; beginning one)\n$/;

/** One run, killed up to `most` times. @returns the kills, and what went wrong */
async function killedRun(course, output, most, random) {
  const { config, whole, milliseconds } = course;
  const moments = [];
  while (moments.length < most + 1) {
    // Most in the training, some in the loading of the program; the last process may end.
    const share = random.integer(5) === 0 ? random.uniform() * 0.5 : 0.4 + 0.6 * random.uniform();
    const killAfter = moments.length < most ? milliseconds * share : undefined;
    const {
      code,
      signal,
      stderr,
      hung,
      milliseconds: lasted,
    } = await runProgram(trainArgs(config, output, '--resume'), {
      killAfter,
    });
    // Other work on the machine comes and goes: a run that ended too soon says how long one takes now.
    if (code === 0 && moments.length === 0) course.milliseconds = lasted;
    if (code === 0) return { moments, wrong: differenceOfRuns(output, whole) };
    if (hung) return { moments, hung };
    if (signal !== 'SIGKILL' || (stderr !== '' && !NOTICES.test(stderr)))
      return { moments, crash: `${code} ${signal}: ${stderr}` };
    moments.push(Math.round(killAfter));
  }
  return { moments, crash: 'it did not end' };
}

export async function run(context) {
  const { tries, directory, progress, note, fail } = context;
  const runs = await undisturbed(directory, tries);
  const random = randomOf(context);
  const counts = emptyCounts();
  let [kills, number] = [0, 0];
  for (; kills < tries; number++) {
    const method = number % 2 === 0 ? 'sft' : 'grpo';
    const output = path.join(directory, `killed-${number}`);
    const result = await killedRun(runs[method], output, Math.min(KILLS, tries - kills), random);
    const { moments, wrong, hung, crash } = result;
    kills += moments.length;
    const kind = hung ? 'hangs' : crash ? 'crashes' : wrong ? 'wrong' : null;
    if (kind === null) counts.accepted += moments.length;
    else {
      counts[kind]++;
      fail(number, kind, `${method}, killed after ${moments.join(', ')} ms: ${crash ?? wrong ?? 'no end'}`);
    }
    progress(kills, tries);
    if (counts.crashes + counts.hangs > 5) break;
  }
  note(`${number} runs (SFT and GRPO in turn) with ${kills} kills, compared with runs left alone`);
  return { tries: kills, ...counts };
}
