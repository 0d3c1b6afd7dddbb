/** What a run's files hold, for whoever looks at a run from outside. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { DataError } from '../runtime/errors';

/** Lines of JSON; none where there is no file. A last line that a crash cut off is left out. */
function readLines<T>(file: string): T[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n');
  return lines.flatMap((line, i) => {
    if (line === '') return [];
    try {
      return [JSON.parse(line) as T];
    } catch {
      if (i === lines.length - 1) return [];
      throw new DataError(
        `${file}:${i + 1}: is no JSON. The file was changed by something else than the run.`,
      );
    }
  });
}

/** The rows of a run's `metrics.jsonl`, one a step; none where there is no run. A value that was not finite is null. */
export function readMetrics(directory: string): Record<string, number | null>[] {
  return readLines(path.join(directory, 'metrics.jsonl'));
}

/** One line of `samples.jsonl`: the replies to a prompt, with their rewards. */
interface SampleLine {
  step: number;
  evaluation?: true;
  prompt_id: string;
  replies: string[];
  rewards: number[];
}

/** A completion of a run. */
export interface SampleRow {
  step: number;
  prompt: string;
  reply: string;
  reward: number;
}

/**
 * Completions to read: of the last rollouts of a run, the best of each prompt's group and the worst of it.
 * @param count  prompts, from the start of the step's
 */
export function readSamples(directory: string, count = 4): SampleRow[] {
  const lines = readLines<SampleLine>(path.join(directory, 'samples.jsonl'));
  const rollouts = lines.filter(({ evaluation }) => evaluation !== true);
  const last = rollouts.filter(({ step }) => step === rollouts[rollouts.length - 1].step).slice(0, count);
  return last.flatMap(({ step, prompt_id: prompt, replies, rewards }) => {
    const order = rewards.map((_, i) => i).sort((a, b) => rewards[b] - rewards[a]);
    const ends = [...new Set([order[0], order[order.length - 1]])];
    return ends.map((i) => ({ step, prompt, reply: replies[i], reward: rewards[i] }));
  });
}
