/**
 * Training loops and what a run leaves behind.
 *
 * The loops: {@link trainSft}, {@link trainPolychromic}, {@link trainGrpo}. A whole run from an experiment file:
 * {@link loadExperiment}, {@link runExperiment}; its settings: {@link Experiment}.
 * @module
 */

export * from './checkpoint';
export * from './config';
export * from './experiment-schema';
export * from './grpo';
export * from './held-out';
export * from './loop';
export * from './monitor';
export * from './own-task';
export * from './phases';
export * from './polychromic';
export * from './preflight';
export * from './prepare';
export * from './rollouts';
export * from './run';
export * from './run-directory';
export * from './run-files';
export * from './schedule';
export * from './sft';
export * from './task';
