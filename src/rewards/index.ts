/**
 * Rewards: how good a reply to a tweet is, in [0, 1].
 *
 * A {@link Reward} comes from {@link loadReward} by name or file, or from {@link heuristicReward}, {@link sharpReward},
 * {@link learnedReward}, {@link judgeReward} and {@link compositeReward}.
 * @module
 */

export * from './reward';
export * from './heuristic';
export * from './heuristic-options';
export * from './embeddings';
export * from './lexical';
export * from './minilm';
export * from './sentiment';
export * from './sharp';
export * from './learned';
export * from './learned-targets';
export * from './learned-training';
export * from './composite';
export * from './chat-endpoint';
export * from './chat-log-probs';
export * from './chat-request';
export * from './judge';
export * from './judge-error';
export * from './settings';
export * from './config';
export * from './reward-file';
export * from './replies';
