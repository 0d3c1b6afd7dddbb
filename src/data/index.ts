/**
 * Records of tweets and replies: reading, writing, splitting.
 *
 * Begin with {@link readJsonl}, {@link cleanRecords}, and {@link splitPhases} (of files: {@link splitFile}).
 * @module
 */

export * from './clean';
export * from './csv';
export * from './import';
export type { TwcsCounts } from './import-twcs';
export * from './jsonl';
export * from './jsonl-writer';
export * from './near-duplicates';
export * from './output-file';
export * from './records';
export * from './split';
export * from './split-files';
export * from './split-index';
export type { SplitPass } from './split-source';
export * from './split-statistics';
export * from './world';
export * from './world-law';
export type { Stance } from './world-text';
export type { Topic, TopicLexicon } from './world-topics';
