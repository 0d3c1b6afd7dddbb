/**
 * Learning rates by step.
 */
import { ConfigError } from '../runtime/errors';

/** How the learning rate falls after warm-up: as half a cosine to 0, as a line to 0, or not at all. */
export type ScheduleKind = 'cosine' | 'linear' | 'constant_with_warmup';

/** The learning rate of a run, step by step. */
export interface Schedule {
  kind: ScheduleKind;
  /** The rate after warm-up. */
  learningRate: number;
  /** Optimiser steps of the whole run. */
  totalSteps: number;
  /** Optimiser steps of linear warm-up from 0. */
  warmupSteps: number;
}

/** Warm-up steps of a share of the run: ceil(ratio * totalSteps), as transformers counts them. */
export function warmupStepsOf(ratio: number, totalSteps: number): number {
  if (!(ratio >= 0 && ratio <= 1)) throw new ConfigError(`warm-up ratio is ${ratio}; expected 0..1`);
  return Math.ceil(ratio * totalSteps);
}

/**
 * The learning rate of optimiser step s, counted from 0. During warm-up (s < w) it is s / w of the full rate, so the
 * first step of a run with warm-up has rate 0 and moves nothing. After it, with N total steps:
 * cosine (1 + cos(pi (s - w) / (N - w))) / 2; linear (N - s) / (N - w); constant_with_warmup 1. From step N on, cosine
 * and linear stay at 0.
 *
 * Source: transformers' optimization.py (get_cosine_schedule_with_warmup and its siblings). Ours: 0 from step N on,
 * where transformers' cosine would rise again.
 */
export function learningRateAt(schedule: Schedule, step: number): number {
  const { kind, learningRate, totalSteps, warmupSteps } = schedule;
  if (step < warmupSteps) return (learningRate * step) / warmupSteps;
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps));
  switch (kind) {
    case 'cosine':
      return learningRate * Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
    case 'linear':
      return learningRate * (1 - progress);
    case 'constant_with_warmup':
      return learningRate;
  }
}
