/**
 * Losses, advantages, the optimiser and its schedule, as pure functions.
 *
 * Begin with {@link groupAdvantages}, {@link evaluateLoss}, {@link adamwUpdate}, {@link learningRateAt}.
 * @module
 */

export * from './adamw';
export * from './advantages';
export * from './losses';
export * from './schedule';
export * from './diversity-credit';
