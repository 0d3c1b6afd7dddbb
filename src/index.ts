/** The package's one entry: a namespace for every folder (`eval` is no name for a module's binding: `evaluation`). @module */

export * as runtime from './runtime';
export * as metrics from './metrics';
export * as data from './data';
export * as model from './model';
export * as optim from './optim';
export * as policy from './policy';
export * as rewards from './rewards';
export * as train from './train';
export * as evaluation from './eval';
export * as figures from './figures';
export * as study from './study';
export * as notebook from './notebook';
