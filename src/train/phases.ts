/** The study's workflow as a list of runs: phase 1 (a warm start) and phase 2 (GRPO from it), for several seeds. */
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { SPLIT_FILES } from '../data/split-files';
import { ConfigError } from '../runtime/errors';
import { adapterConfig, withCheckpoint } from './config';
import type { Experiment } from './experiment-schema';

/** A phase of the study: 1 is the warm start, 2 is GRPO from it. */
export type Phase = 1 | 2;

/** One of the runs of a plan. */
export interface PlannedRun {
  phase: Phase;
  seed: number;
  experiment: Experiment;
}

/** What `planRuns` lays out: two experiments, which phases of them, for which seeds. */
export interface PhasePlan {
  /** Phase 2. */
  experiment: Experiment;
  /** Phase 1, of the file that phase 2 names as `warm_start`; needed when phases has 1. */
  warmStart?: Experiment;
  phases: readonly Phase[];
  seeds: readonly number[];
  /** Base of all run directories, instead of each experiment's own. */
  output?: string;
  /** Directory of a split, instead of each experiment's own data. */
  split?: string;
}

/** `runs/a` and `runs/a/seed_42` become `runs/a/seed_7`. */
export function seedDirectory(directory: string, seed: number): string {
  return path.join(directory.replace(/[\\/]seed_\d+[\\/]*$/, ''), `seed_${seed}`);
}

/** A phase's part of a split. @throws ConfigError  when the directory does not hold it */
function splitPart(directory: string, phase: Phase): string {
  const file = path.join(directory, phase === 1 ? SPLIT_FILES.phase1 : SPLIT_FILES.phase2);
  if (existsSync(file) && statSync(file).isFile()) return file;
  throw new ConfigError(
    `${directory}: has no ${path.basename(file)}; expected a directory that grpolab split wrote. Run it first.`,
  );
}

/**
 * The runs in the order in which they have to be done: seed by seed, phase 1 before phase 2. Every run has a directory of
 * its own, and phase 2 starts from the adapter of its seed's phase 1.
 *
 * @throws ConfigError  when phase 1 is asked for and there is none, or data are missing
 */
export function planRuns({ experiment, warmStart, phases, seeds, output, split }: PhasePlan): PlannedRun[] {
  if (warmStart === undefined) {
    throw new ConfigError(
      'the configuration names no warm_start; expected the experiment file of phase 1 there, such as baseline_warmstart.yaml.',
    );
  }
  const placed = (base: Experiment, phase: Phase, seed: number): Experiment => {
    const directory = output === undefined ? base.output_dir : path.join(output, `phase${phase}`);
    const data = split === undefined ? base.data : { ...base.data, train: splitPart(split, phase) };
    return { ...base, seed, data, output_dir: seedDirectory(directory, seed) };
  };
  return seeds.flatMap((seed) => {
    const first = placed(warmStart, 1, seed);
    const second = { ...placed(experiment, 2, seed), checkpoint_path: first.output_dir };
    if (path.resolve(first.output_dir) === path.resolve(second.output_dir))
      throw new ConfigError(
        `both phases would write to ${first.output_dir}; give them different values of output_dir, or use --output.`,
      );
    // The adapter that phase 1 will leave, as if it were there: settings that contradict it are found before it is trained.
    const started = withCheckpoint(second, adapterConfig(first));
    return phases.map((phase): PlannedRun => ({ phase, seed, experiment: phase === 1 ? first : started }));
  });
}
