/** Rewards: how good a reply to a tweet is, in [0, 1]. */

export * from './reward';
export * from './heuristic';
export * from './heuristic-options';
export * from './embeddings';
export * from './lexical';
export * from './minilm';
export * from './sentiment';
export * from './config';
export * from './replies';
