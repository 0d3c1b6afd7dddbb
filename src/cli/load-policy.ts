/** The policy that `--adapter` and `--dtype` name. Apart from open-model.ts: this loads TensorFlow. */
import { WEIGHT_DTYPES } from '../model/config';
import { LocalPolicy } from '../policy/local';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { loadBar } from './open-model';

/** Loads a model that is not trained, with a bar where that takes long. The caller disposes it. */
export function loadPolicy(args: Arguments, io: Io, modelDirectory: string): LocalPolicy {
  return LocalPolicy.load({
    ...{ modelDirectory, adapterDirectory: args.text('adapter') },
    ...{ dtype: args.choice('dtype', WEIGHT_DTYPES), onLoad: loadBar(args, io) },
  });
}
