/** What a policy writes, scored and compared. */

export * from './replies';
export * from './judge';
export * from './learn-reward';
export * from './reward-agreement';
export * from './labelled-pairs';
export * from './reward-tuning';
export * from './reward-examples';
