/** The policy that `--adapter`, `--dtype` and `--matmul-precision` name. Apart from open-model.ts: this loads TensorFlow. */
import { MATMUL_PRECISIONS, matmulProblem, WEIGHT_DTYPES } from '../model/config';
import { LocalPolicy } from '../policy/local';
import type { LocalPolicyOptions } from '../policy/local';
import { ConfigError } from '../runtime/errors';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { loadBar } from './open-model';

/** How base weights are kept and multiplied. */
type BaseWeights = Required<Pick<LocalPolicyOptions, 'dtype' | 'matmulPrecision'>>;

/** @throws UsageError, ConfigError  for words that are none, and for weights that are not multiplied so */
export function baseWeights(args: Arguments): BaseWeights {
  const dtype = args.choice('dtype', WEIGHT_DTYPES);
  const matmulPrecision = args.choice('matmul-precision', MATMUL_PRECISIONS);
  const problem = matmulProblem(dtype, matmulPrecision);
  if (problem !== null) throw new ConfigError(problem);
  return { dtype, matmulPrecision };
}

/** Loads a model that is not trained, with a bar where that takes long. The caller disposes it. */
export function loadPolicy(
  args: Arguments,
  io: Io,
  modelDirectory: string,
  weights: BaseWeights,
): LocalPolicy {
  const onLoad = loadBar(args, io);
  return LocalPolicy.load({ modelDirectory, adapterDirectory: args.text('adapter'), ...weights, onLoad });
}
