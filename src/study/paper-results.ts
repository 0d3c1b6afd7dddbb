/** What the paper's figures are drawn from, gathered from run directories and an evaluation. */
import path from 'node:path';
import type { MetricsRow } from '../figures/training-panels';
import type { DiversityDynamics } from '../figures/diversity-dynamics';
import { summariseAdapters } from '../figures/lora-summary';
import type { LoraParameters } from '../figures/lora-summary';
import { analyseAdapter } from '../model/lora-analysis';
import { readAdapter } from '../model/peft';
import { readModelConfig } from '../model/config';
import { mean } from '../metrics/statistics';
import { DataError } from '../runtime/errors';
import { readMetrics } from '../train/run-files';

/** The run directories of one model, a seed each; phase 2 goes on from phase 1. */
export interface ModelRuns {
  name: string;
  phase1: readonly string[];
  phase2?: readonly string[];
}

const MEASURES = {
  selfBleu: 'eval/self_bleu',
  distinct2: 'eval/distinct_2',
  semantic: 'eval/semantic_diversity',
} as const;

type Point = DiversityDynamics['models'][number]['points'][number];

/** Evaluations of a run, by step. @throws DataError when there is none */
function evaluationsOf(directory: string): Map<number, MetricsRow> {
  const rows = readMetrics(directory).filter((row) => row['eval/self_bleu'] !== undefined);
  if (rows.length === 0)
    throw new DataError(
      `${path.join(directory, 'metrics.jsonl')}: has no evaluation of held-out replies. Train with data.eval.`,
    );
  return new Map(rows.map((row) => [Number(row.step), row]));
}

/** Mean over seeds at every step that all of them evaluated, from `first` on. */
function pointsOf(directories: readonly string[], phase: 1 | 2, first: number): Point[] {
  const runs = directories.map(evaluationsOf);
  const steps = [...runs[0].keys()].filter((step) => runs.every((run) => run.has(step)));
  return steps.map((step): Point => {
    const measures = Object.entries(MEASURES).map(([name, key]) => {
      const values = runs.map((run) => run.get(step)?.[key]);
      const known = values.filter((value): value is number => typeof value === 'number');
      if (known.length < values.length) return [name, { value: null, reason: `no ${key} at step ${step}` }];
      const band = known.length > 1 ? [Math.min(...known), Math.max(...known)] : undefined;
      return [name, { value: mean(known), ...(band && { band }) }];
    });
    return { step: first + step, phase, ...Object.fromEntries(measures) } as Point;
  });
}

/**
 * Diversity on held-out tweets over the steps of whole runs, phase 2 counting on from phase 1.
 * @throws DataError  when a run has no evaluation of held-out replies
 */
export function dynamicsOf(models: readonly ModelRuns[]): DiversityDynamics {
  const drawn = models.map(({ name, phase1, phase2 = [] }) => {
    const before = pointsOf(phase1, 1, 0);
    const last = before[before.length - 1].step;
    // The first evaluation of phase 2 is the last of phase 1 again, with other draws.
    const after = phase2.length === 0 ? [] : pointsOf(phase2, 2, last).filter(({ step }) => step > last);
    return {
      name,
      seeds: phase1.length,
      points: [...before, ...after],
      boundary: phase2.length === 0 ? 0 : last,
    };
  });
  const boundary = Math.max(...drawn.map((model) => model.boundary));
  return { boundary, models: drawn.map(({ name, seeds, points }) => ({ name, seeds, points })) };
}

/**
 * Norm and effective rank of every adapted matrix, mean over seeds.
 * @param adapters  PEFT directories by model, a seed each
 * @throws CheckpointError  when one cannot be read
 */
export function loraOf(
  modelDirectory: string,
  adapters: Readonly<Record<string, readonly string[]>>,
): LoraParameters {
  const config = readModelConfig(modelDirectory);
  const analysed = Object.entries(adapters).map(([name, directories]) => [
    name,
    directories.map((directory) => analyseAdapter(readAdapter(directory, config))),
  ]);
  return summariseAdapters(Object.fromEntries(analysed));
}
