/** Numbers from texts and arrays. */

export * from './text';
export * from './diversity';
export * from './statistics';
export * from './ranking';
