/** Records of tweets and replies: reading, writing, splitting. */

export * from './clean';
export * from './csv';
export * from './import';
export * from './jsonl';
export * from './jsonl-writer';
export * from './near-duplicates';
export * from './output-file';
export * from './records';
export * from './split';
export * from './split-files';
export * from './split-index';
export * from './split-statistics';
export * from './world';
export * from './world-law';
export type { Stance } from './world-text';
export type { Topic, TopicLexicon } from './world-topics';
