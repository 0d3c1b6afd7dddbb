/**
 * TensorFlow.js on the native TensorFlow library: the one place that loads it. Importing this file takes about half a
 * second and 300 MB; nothing that can do without tensors imports it.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import util from 'node:util';
import type * as Tfjs from '@tensorflow/tfjs-node-gpu';
import { ConfigError, messageOf } from './errors';
import { setupCommand } from './machine';

export type { Tensor, Variable, TensorInfo, DataType } from '@tensorflow/tfjs-core';

/** An attribute of a TensorFlow op, as tfjs-node's binding takes it. */
export interface OpAttribute {
  name: string;
  type: number;
  value: number | boolean | string | readonly number[];
}

/** One output of a graph node: `ref` names it inside its graph, `shape` is null when inference could not tell. */
export interface GraphOutput {
  ref: number;
  dtype: number;
  shape: number[] | null;
}

/** The native binding: tfjs-node's, with what native/graph.cc adds. */
export interface Binding {
  TF_Version: string;
  TF_FLOAT: number;
  TF_INT32: number;
  TF_BOOL: number;
  TF_ATTR_TYPE: number;
  TF_ATTR_INT: number;
  TF_ATTR_FLOAT: number;
  TF_ATTR_BOOL: number;
  TF_ATTR_STRING: number;
  TF_ATTR_SHAPE: number;
  isUsingGpuDevice(): boolean;
  getNumOfTensors(): number;
  graphNew(): number;
  graphDelete(graph: number): void;
  graphOp(
    graph: number,
    op: string,
    attributes: readonly OpAttribute[],
    inputs: readonly (number | readonly number[])[],
    shapes?: readonly (readonly number[])[],
  ): GraphOutput[];
  graphConst(
    graph: number,
    dtype: number,
    shape: readonly number[],
    values: Float32Array | Int32Array | Uint8Array,
  ): GraphOutput;
  graphFunction(
    graph: number,
    name: string,
    inputs: readonly number[],
    outputs: readonly number[],
    xla: boolean,
  ): void;
  functionRemove(name: string): void;
  opDefinition(op: string): Uint8Array;
  profileStart(): void;
  profileStop(): Uint8Array;
  /** Whether products of float32 on a GPU may be of numbers rounded to 10 bits. */
  allowTensorFloat32(allowed: boolean): void;
}

/** The parts of tfjs-node's backend that compiled functions stand on (runtime/compile.ts). */
export interface NativeBackend {
  binding: Binding;
  tensorMap: {
    get(id: object): { id: number; refCount: number };
    has(id: object): boolean;
    delete(id: object): void;
  };
  executeSingleOutput(op: string, attributes: OpAttribute[], inputs: readonly Tfjs.TensorInfo[]): Tfjs.Tensor;
  executeMultipleOutputs(
    op: string,
    attributes: OpAttribute[],
    inputs: readonly Tfjs.TensorInfo[],
    outputs: number,
  ): Tfjs.Tensor[];
  createOutputTensor(metadata: { id: number; shape: number[]; dtype: number }): Tfjs.Tensor;
  write(values: Tfjs.backend_util.BackendValues, shape: number[], dtype: Tfjs.DataType): object;
  readSync(id: object): Tfjs.backend_util.BackendValues;
  read(id: object): Promise<Tfjs.backend_util.BackendValues>;
  disposeData(id: object, force?: boolean): boolean;
}

const remedy = `Run \`${setupCommand}\`.`;

/** Lines that TensorFlow prints while loading whatever the log level, and that tell a user nothing. */
const loadNoise = [
  /^WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR$/,
  /oneDNN custom operations are on/,
  /This TensorFlow binary is optimized to use available CPU instructions/,
  /To enable the following instructions:.*rebuild TensorFlow with the appropriate compiler flags/,
  /Could not find cuda drivers on your machine/,
  /^\s*$/,
];

/** tfjs-node asks Node's util for two functions that Node 23 removed. */
function restoreUtilFunctions(): void {
  const target = util as unknown as Record<string, unknown>;
  target.isNullOrUndefined ??= (value: unknown) => value === null || value === undefined;
  target.isArray ??= Array.isArray;
}

/** Runs `load` with standard error held back, and prints afterwards what is not known noise. */
function quietly<T>(holder: { hold(): void; release(): string }, load: () => T): T {
  holder.hold();
  try {
    return load();
  } finally {
    const text = holder.release();
    const lines = text.split('\n').filter((line) => !loadNoise.some((noise) => noise.test(line)));
    if (lines.length > 0) process.stderr.write(`${lines.join('\n')}\n`);
  }
}

function load(): typeof Tfjs {
  process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';
  process.env.TF_DETERMINISTIC_OPS ??= '1';
  // One op at a time, each on all cores: two at once get in each other's way (a step took up to 5 % longer).
  process.env.TF_NUM_INTEROP_THREADS ??= '1';
  // Of a GPU's memory only what is used: the rest is other processes', and a plan of it can be held against the truth.
  process.env.TF_FORCE_GPU_ALLOW_GROWTH ??= 'true';
  restoreUtilFunctions();
  const nodeRequire = createRequire(__filename);
  const holderPath = path.resolve(__dirname, '../../native/build/stderr.node');
  if (!existsSync(holderPath)) throw new ConfigError(`The native binding is not built. ${remedy}`);
  try {
    const holder = nodeRequire(holderPath) as { hold(): void; release(): string };
    return quietly(holder, () => nodeRequire('@tensorflow/tfjs-node-gpu') as typeof Tfjs);
  } catch (error) {
    throw new ConfigError(`TensorFlow cannot be loaded: ${messageOf(error).split('\n')[0]} ${remedy}`);
  }
}

/** The tfjs namespace, with the native backend in force. */
export const tf: typeof Tfjs = load();

/** The native backend behind `tf`. */
export const backend = tf.backend() as unknown as NativeBackend;

/** The native binding behind `tf`. */
export const binding: Binding = backend.binding;

/** float32 is float32 on a GPU too, unless `GRPOLAB_TF32=1` asks for TF32, which rounds what it multiplies to 10 bits. */
function chooseProducts(): void {
  const asked = process.env.GRPOLAB_TF32 ?? '';
  // A binding of an earlier version has no such function.
  if (typeof binding.allowTensorFloat32 !== 'function')
    throw new ConfigError(`The native binding is not of this version. ${remedy}`);
  if (!['', '0', '1'].includes(asked)) throw new ConfigError(`GRPOLAB_TF32 is "${asked}"; expected 0 or 1`);
  binding.allowTensorFloat32(asked === '1');
}
chooseProducts();

/** A type attribute of an op. */
export function typeAttribute(name: string, dtype: number): OpAttribute {
  return { name, type: binding.TF_ATTR_TYPE, value: dtype };
}

/** A boolean attribute of an op. */
export function boolAttribute(name: string, value: boolean): OpAttribute {
  return { name, type: binding.TF_ATTR_BOOL, value };
}

/** An integer attribute of an op. */
export function intAttribute(name: string, value: number): OpAttribute {
  return { name, type: binding.TF_ATTR_INT, value };
}

/** A floating-point attribute of an op. */
export function floatAttribute(name: string, value: number): OpAttribute {
  return { name, type: binding.TF_ATTR_FLOAT, value };
}
