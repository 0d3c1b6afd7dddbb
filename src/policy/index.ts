/**
 * The seam between a training loop and a model, and what implements it.
 *
 * {@link Policy} has three implementations: {@link LocalPolicy}, {@link TinkerPolicy}, {@link TabularPolicy}.
 * @module
 */

export * from './policy';
export * from './local';
export * from './decoding';
export type { LocalSamplerOptions } from './local-sampler';
export * from './rollout';
export * from './sampling';
export * from './tabular';
export * from './tinker';
export { readTinkerState } from './tinker-checkpoint';
export type { TinkerState } from './tinker-checkpoint';
export { TinkerClient } from './tinker-client';
export type { Body, Operation, TinkerConnection, WaitOptions } from './tinker-client';
export { TINKER_ALPHA } from './tinker-protocol';
