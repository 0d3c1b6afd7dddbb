/**
 * Numbers from texts and arrays.
 *
 * Of texts: {@link distinctN}, {@link selfBleu4}, {@link rouge}, {@link passAtK}. Statistics: {@link bootstrap},
 * {@link pairedBootstrap}, {@link mannWhitneyU}, {@link cohensD}.
 * @module
 */

export type { Numbers } from './checks';
export type { Tokens } from './ngrams';
export * from './text';
export * from './tokenizers';
export * from './treebank';
export * from './porter';
export * from './rouge';
export * from './diversity';
export * from './vocabulary';
export * from './pass-at-k';
export * from './usq';
export * from './statistics';
export * from './distributions';
export * from './mann-whitney';
export * from './t-test';
export * from './effect-size';
export * from './multiple-comparisons';
export * from './bootstrap-metric';
export * from './seeds';
export * from './ranking';
