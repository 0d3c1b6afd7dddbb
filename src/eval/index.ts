/**
 * What a policy writes, scored and compared.
 *
 * Begin with {@link openAllReplies}, {@link evaluateModels}, {@link evaluateReplies}, {@link rewardAgreement}.
 * @module
 */

export * from './replies';
export * from './judge';
export * from './judge-models';
export * from './learn-reward';
export * from './reward-agreement';
export * from './labelled-pairs';
export * from './reward-tuning';
export * from './reward-examples';
export * from './model-replies';
export * from './write-replies';
export * from './answerers';
export * from './quality';
export * from './run-scores';
export * from './model-evaluation';
export * from './comparisons';
export * from './suite';
export * from './report';
export * from './report-html';
export * from './model-sources';
export * from './evaluate-sources';
export * from './write-evaluation';
