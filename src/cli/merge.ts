/** `grpolab merge`: a Hugging Face directory with an adapter merged into its weights. */
import { readdirSync, statSync } from 'node:fs';
import type { Stats } from 'node:fs';
import path from 'node:path';
import { ConfigError, messageOf } from '../runtime/errors';
import { atomicWriteFile, readJsonFile } from '../runtime/files';
import type { WeightDtype } from '../model/config';
import { openModelWeights } from '../model/model-weights';
import { LocalPolicy } from '../policy/local';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { notify } from './io';
import { loadBar, openModelDirectory } from './open-model';

const TORCH_NAMES = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' } as const;
type Dtype = keyof typeof TORCH_NAMES;

function refuseOccupied(output: string): void {
  let status: Stats | undefined;
  try {
    status = statSync(output, { throwIfNoEntry: false });
  } catch (error) {
    throw new ConfigError(`${output}: cannot be a directory (${messageOf(error)}). Choose another --output.`);
  }
  if (status === undefined || (status.isDirectory() && readdirSync(output).length === 0)) return;
  const found = status.isDirectory() ? 'is not empty' : 'is not a directory';
  throw new ConfigError(`${output}: ${found}; expected a new or empty directory. Choose another --output.`);
}

/** transformers converts the weights to the type that the configuration names, so it must be the written one. */
async function recordDtype(output: string, dtype: Dtype): Promise<void> {
  const file = path.join(output, 'config.json');
  const config = readJsonFile(file) as Record<string, unknown>;
  const key = 'torch_dtype' in config ? 'torch_dtype' : 'dtype';
  await atomicWriteFile(file, `${JSON.stringify({ ...config, [key]: TORCH_NAMES[dtype] }, null, 2)}\n`);
}

/** The smallest type that holds a model's weights exactly. */
function exactDtype(modelDirectory: string): WeightDtype {
  const files = openModelWeights(modelDirectory);
  const isHalf = [...files.tensors.values()].every(({ dtype }) => dtype === 'BF16');
  files.close();
  return isHalf ? 'bfloat16' : 'float32';
}

export async function merge(args: Arguments, io: Io): Promise<number> {
  const output = args.required('output');
  const dtype = args.choice('dtype', Object.keys(TORCH_NAMES) as Dtype[]);
  refuseOccupied(output);
  const modelDirectory = await openModelDirectory(args, io);
  const adapterDirectory = args.required('adapter');
  const policy = LocalPolicy.load({
    onLoad: loadBar(args, io),
    modelDirectory,
    adapterDirectory,
    dtype: exactDtype(modelDirectory),
  });
  try {
    await policy.saveMerged(output, dtype.toUpperCase() as Uppercase<Dtype>);
    await recordDtype(output, dtype);
  } finally {
    policy.dispose();
  }
  if (!args.flag('quiet')) notify(io, `merged model in ${output} (${dtype})`);
  return 0;
}
