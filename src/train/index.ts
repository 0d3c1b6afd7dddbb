/** Training loops and what a run leaves behind. */

export * from './config';
export * from './grpo';
export * from './loop';
export * from './run';
export * from './run-directory';
export * from './schedule';
export * from './sft';
