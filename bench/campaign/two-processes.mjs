// A second process in a run's directory is refused and harms nothing; of two that start at once one trains.
// Tries are second processes. `refused`: in one clear line; the first one's run has the bytes of a run left alone.
import path from 'node:path';
import { flawOfMessage } from './outcome.mjs';
import { differenceOfRuns, emptyCounts, randomOf, runProgram, trainArgs, undisturbed } from './runs.mjs';

const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const REFUSED = /^grpolab: [^\n]*(is training here|holds a run|there is a run|already)[^\n]*\n$/;

export async function run(context) {
  const { tries, directory, progress, note, fail } = context;
  const runs = await undisturbed(directory, tries);
  const random = randomOf(context);
  const counts = emptyCounts();
  for (let number = 0; number < tries; number++) {
    const method = number % 2 === 0 ? 'sft' : 'grpo';
    const { config, whole, milliseconds } = runs[method];
    const output = path.join(directory, `both-${number}`);
    const args = trainArgs(config, output, '--resume');
    const wait = random.integer(2) === 0 ? 0 : 0.4 * random.uniform() * milliseconds;
    const results = await Promise.all([runProgram(args), later(wait).then(() => runProgram(args))]);
    const { kind, why } = judge(results, differenceOfRuns(output, whole));
    counts[kind]++;
    if (why !== undefined) fail(number, kind, `${method}, the second ${Math.round(wait)} ms later: ${why}`);
    progress(number + 1, tries);
  }
  note('both with --resume in one directory, at once or up to 0.4 of a run apart');
  return { tries, ...counts };
}

/** One ends with 0, and the other says in a line that it may not, or, when it came late, that nothing is left to do. */
function judge(results, difference) {
  const texts = results.map(({ code, signal, stderr }) => `${code ?? signal}: ${stderr}`).join(' | ');
  if (results.some(({ hung }) => hung)) return { kind: 'hangs', why: texts };
  if (results.some(({ signal }) => signal !== null)) return { kind: 'crashes', why: texts };
  if (results.every(({ code }) => code !== 0)) return { kind: 'crashes', why: `neither trained: ${texts}` };
  if (difference !== null) return { kind: 'wrong', why: `${difference}; ${texts}` };
  const refused = results.find(({ code }) => code !== 0);
  // The second began when the first had just ended, or ended it once more: the bytes are the same.
  if (refused === undefined) return { kind: 'accepted' };
  const isClear =
    refused.code === 2 &&
    REFUSED.test(refused.stderr) &&
    flawOfMessage(refused.stderr.trimEnd().replaceAll('\n', ' ')) === null;
  return isClear ? { kind: 'refused' } : { kind: 'unclear', why: texts };
}
