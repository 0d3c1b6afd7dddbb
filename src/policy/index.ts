/** The seam between a training loop and a model, and what implements it. */

export * from './policy';
export * from './local';
export * from './decoding';
export type { LocalSamplerOptions } from './local-sampler';
export * from './rollout';
export * from './sampling';
export * from './tabular';
