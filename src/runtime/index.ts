/** What everything stands on: errors, files, random numbers, TensorFlow, compiled functions, progress. @module */

export * from './errors';
export * from './files';
export * from './http';
export * from './machine';
export * from './progress';
export * from './random';
export * from './strict';
export * from './tf';
export * from './yaml';
export * from './compile';
