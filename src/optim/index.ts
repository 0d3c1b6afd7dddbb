/** Losses, advantages, the optimiser and its schedule, as pure functions. */

export * from './adamw';
export * from './advantages';
export * from './losses';
export * from './schedule';
export * from './diversity-credit';
