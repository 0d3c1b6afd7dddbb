/**
 * Compiled functions: a JavaScript function over tensors becomes one TensorFlow function for each signature (dtypes and
 * shapes of its arguments). The function is traced without being executed: every op that a tfjs kernel would run becomes
 * a node of a TensorFlow graph, shapes come from TensorFlow's own inference, gradients from tfjs's tape as usual.
 *
 * Inside a traced function
 * - a value must not be read (`dataSync`): there is none;
 * - small tensors that kernels make (shapes, axes) become constants;
 * - tensors from outside (weights, variables) become inputs that are looked up again at every call, so a variable may
 *   change between calls. They must not be disposed while the function is in use.
 */
import protobuf from 'protobufjs';
import { ConfigError, messageOf, ShapeError } from './errors';
import type { DataType, Tensor, TensorInfo } from './tf';
import { backend, binding, tf } from './tf';
import type { OpAttribute } from './tf';

/** How compiled functions run: `graph` (default), `xla` (compiled once more, by XLA), `eager` (op by op, to debug). */
export type ExecutionMode = 'graph' | 'xla' | 'eager';

/** A function from tensors to tensors. It borrows its arguments and gives its results. */
export type TensorFunction = (...args: Tensor[]) => Tensor[];

/** A compiled function; `dispose` frees its graphs. */
export interface CompiledFunction {
  (...args: Tensor[]): Tensor[];
  readonly signatures: number;
  dispose(): void;
}

/** The id of a tensor that exists only inside a trace. */
const symbolic = -7;

interface OpDefinition {
  arguments: { isList: boolean; numberAttribute: string }[];
}

interface Constant {
  values: ArrayLike<number>;
  shape: readonly number[];
  dtype: DataType;
}

const execute = {
  single: backend.executeSingleOutput.bind(backend),
  multiple: backend.executeMultipleOutputs.bind(backend),
  write: backend.write.bind(backend),
  readSync: backend.readSync.bind(backend),
  read: backend.read.bind(backend),
  disposeData: backend.disposeData.bind(backend),
};

/** The part of TensorFlow's op_def.proto that says which arguments of an op are lists. */
const opDefinitionType = protobuf
  .parse(
    `syntax = "proto3";
   message Argument { string name = 1; string number_attr = 5; string type_list_attr = 6; }
   message Definition { string name = 1; repeated Argument input_arg = 2; }`,
    { keepCase: true },
  )
  .root.lookupType('Definition');

const opDefinitions = new Map<string, OpDefinition>();

function opDefinition(op: string): OpDefinition {
  let definition = opDefinitions.get(op);
  if (definition === undefined) {
    const decoded = opDefinitionType.decode(binding.opDefinition(op)) as unknown as {
      input_arg?: { number_attr?: string; type_list_attr?: string }[];
    };
    definition = {
      arguments: (decoded.input_arg ?? []).map((argument) => ({
        isList: Boolean(argument.number_attr) || Boolean(argument.type_list_attr),
        numberAttribute: argument.number_attr ?? '',
      })),
    };
    opDefinitions.set(op, definition);
  }
  return definition;
}

function dtypeNumber(dtype: DataType): number {
  if (dtype === 'float32') return binding.TF_FLOAT;
  if (dtype === 'int32') return binding.TF_INT32;
  if (dtype === 'bool') return binding.TF_BOOL;
  throw new ConfigError(`a ${dtype} tensor cannot enter a compiled function: use float32, int32 or bool`);
}

function typedValues({ values, dtype }: Constant): Float32Array | Int32Array | Uint8Array {
  if (dtype === 'float32') return values instanceof Float32Array ? values : Float32Array.from(values);
  if (dtype === 'int32') return values instanceof Int32Array ? values : Int32Array.from(values);
  return Uint8Array.from(values);
}

/** A graph under construction. */
class Trace {
  constructor(readonly isForXla: boolean) {}

  readonly graph = binding.graphNew();
  readonly constants = new Map<object, Constant>();
  readonly captured: Tensor[] = [];
  readonly capturedRefs: number[] = [];
  private readonly refs = new Map<object, number>();
  private readonly sharedConstants = new Map<string, number>();

  knows(id: object): boolean {
    return this.refs.has(id) || this.constants.has(id);
  }

  placeholder(tensor: TensorInfo): number {
    const attributes: OpAttribute[] = [
      { name: 'dtype', type: binding.TF_ATTR_TYPE, value: dtypeNumber(tensor.dtype) },
      { name: 'shape', type: binding.TF_ATTR_SHAPE, value: tensor.shape },
    ];
    const [output] = binding.graphOp(this.graph, 'Placeholder', attributes, []);
    this.refs.set(tensor.dataId, output.ref);
    return output.ref;
  }

  ref(tensor: TensorInfo): number {
    const known = this.refs.get(tensor.dataId);
    if (known !== undefined) return known;
    const constant = this.constants.get(tensor.dataId);
    if (constant !== undefined) return this.constantRef(tensor.dataId, constant);
    this.captured.push(tensor as Tensor);
    const ref = this.placeholder(tensor);
    this.capturedRefs.push(ref);
    return ref;
  }

  private constantRef(id: object, constant: Constant): number {
    const values = typedValues(constant);
    const key =
      values.length < 64 ? `${constant.dtype} ${constant.shape.join()} | ${values.join()}` : undefined;
    let ref = key === undefined ? undefined : this.sharedConstants.get(key);
    if (ref === undefined) {
      ref = binding.graphConst(this.graph, dtypeNumber(constant.dtype), constant.shape, values).ref;
      if (key !== undefined) this.sharedConstants.set(key, ref);
    }
    this.refs.set(id, ref);
    return ref;
  }

  /** @param shapes  of the outputs, where TensorFlow cannot infer them */
  op(
    op: string,
    attributes: readonly OpAttribute[],
    inputs: readonly TensorInfo[],
    shapes?: readonly (readonly number[])[],
  ): Tensor[] {
    const definition = opDefinition(op);
    const refs = inputs.map((input) => this.ref(input));
    const singles = definition.arguments.filter((argument) => !argument.isList).length;
    const grouped: (number | number[])[] = [];
    let position = 0;
    for (const argument of definition.arguments) {
      if (!argument.isList) grouped.push(refs[position++]);
      else {
        const length = refs.length - singles;
        grouped.push(refs.slice(position, position + length));
        position += length;
      }
    }
    // TensorFlow infers the length of a list from the list.
    const lengths = new Set(definition.arguments.map((argument) => argument.numberAttribute));
    const kept = attributes.filter((attribute) => !lengths.has(attribute.name));
    return binding.graphOp(this.graph, op, kept, grouped, shapes).map((output) => {
      if (output.shape === null)
        throw new ShapeError(
          `${op}: its output shape depends on values; a compiled function needs static shapes`,
        );
      const tensor = backend.createOutputTensor({ id: symbolic, shape: output.shape, dtype: output.dtype });
      this.refs.set(tensor.dataId, output.ref);
      return tensor;
    });
  }
}

let trace: Trace | null = null;

/**
 * Whether the binding's own fused ops may stand in what is being traced: they run on a CPU, and XLA does not know them. Op by
 * op they are not used either, so that the two ways check each other.
 */
export function takesOwnOps(): boolean {
  return trace !== null && !trace.isForXla && !binding.isUsingGpuDevice();
}

/** One of the binding's own ops in what is being traced (`takesOwnOps`). @param shapes of its outputs */
export function ownOp(
  op: string,
  attributes: readonly OpAttribute[],
  inputs: readonly TensorInfo[],
  shapes: readonly (readonly number[])[],
): Tensor[] {
  if (trace === null) throw new ConfigError(`${op} was called outside a compiled function`);
  return trace.op(op, attributes, inputs, shapes);
}

backend.executeSingleOutput = (op, attributes, inputs) =>
  trace === null ? execute.single(op, attributes, inputs) : trace.op(op, attributes, inputs)[0];
backend.executeMultipleOutputs = (op, attributes, inputs, outputs) =>
  trace === null ? execute.multiple(op, attributes, inputs, outputs) : trace.op(op, attributes, inputs);
backend.write = (values, shape, dtype) => {
  const id = execute.write(values, shape, dtype);
  trace?.constants.set(id, { values: values as ArrayLike<number>, shape, dtype });
  return id;
};
function refuseRead(id: object): void {
  const isSymbolic = backend.tensorMap.has(id) && backend.tensorMap.get(id).id === symbolic;
  if (isSymbolic)
    throw new ConfigError(
      'a tensor value was read inside a compiled function: return the tensor and read it outside (dataSync, data, arraySync)',
    );
}
backend.readSync = (id) => {
  refuseRead(id);
  return execute.readSync(id);
};
backend.read = (id) => {
  refuseRead(id);
  return execute.read(id);
};
backend.disposeData = (id, force) => {
  if (!backend.tensorMap.has(id)) return execute.disposeData(id, force);
  const data = backend.tensorMap.get(id);
  if (data.id !== symbolic) return execute.disposeData(id, force);
  data.refCount--;
  if (force !== true && data.refCount > 0) return false;
  backend.tensorMap.delete(id);
  return true;
};

interface Signature {
  name: string;
  captured: Tensor[];
  outputs: number;
}

let functionCount = 0;

function traceFunction(name: string, fn: TensorFunction, args: readonly Tensor[], xla: boolean): Signature {
  if (trace !== null)
    throw new ConfigError(`${name} was called inside another compiled function: call it outside`);
  const current = new Trace(xla);
  trace = current;
  let finished = false;
  try {
    const inputs = args.map((arg) => current.placeholder(arg));
    const results = tf.tidy(() => fn(...args));
    const outputs = results.map((result) => current.ref(result));
    // A result may be an argument or a captured tensor: those are the caller's.
    tf.dispose(results.filter((result) => !args.includes(result) && !current.captured.includes(result)));
    const uniqueName = `${name}_${functionCount++}`;
    binding.graphFunction(current.graph, uniqueName, [...inputs, ...current.capturedRefs], outputs, xla);
    finished = true;
    return { name: uniqueName, captured: current.captured, outputs: outputs.length };
  } catch (error) {
    if (error instanceof Error) error.message = `${name}: ${messageOf(error)}`;
    throw error;
  } finally {
    trace = null;
    if (!finished) binding.graphDelete(current.graph);
  }
}

/**
 * The mode that `GRPOLAB_COMPILE` asks for: `off` (op by op), `graph` (when it is not set) or `xla`.
 * @throws ConfigError  for anything else
 */
export function defaultMode(): ExecutionMode {
  const asked = process.env.GRPOLAB_COMPILE ?? 'graph';
  if (asked === 'off') return 'eager';
  if (asked === 'graph' || asked === 'xla') return asked;
  throw new ConfigError(`GRPOLAB_COMPILE is "${asked}"; expected off, graph or xla`);
}

/**
 * Compiles a tensor function.
 *
 * @param name  names the function in errors and profiles
 * @param fn    static shapes, no value reads
 * @param mode  `graph`, `xla` or `eager`
 * @param maxSignatures  the least recently used signature above this number is freed
 * @param maxTracesInARow  calls that each needed a new trace, after which a call is refused
 * @throws ConfigError  (at a call) when the function reads a value, or is traced again and again; ShapeError when a shape
 *   depends on values
 */
export function compile(
  name: string,
  fn: TensorFunction,
  {
    mode = defaultMode(),
    maxSignatures = 64,
    maxTracesInARow = 256,
  }: { mode?: ExecutionMode; maxSignatures?: number; maxTracesInARow?: number } = {},
): CompiledFunction {
  const signatures = new Map<string, Signature>();
  let tracesInARow = 0;
  const run = (...args: Tensor[]): Tensor[] => {
    if (mode === 'eager')
      return tf.tidy(() => fn(...args).map((result) => (args.includes(result) ? result.clone() : result)));
    const key = args.map((arg) => `${arg.dtype} ${arg.shape.join()}`).join(' | ');
    let signature = signatures.get(key);
    if (signature === undefined) {
      if (++tracesInARow > maxTracesInARow)
        throw new ConfigError(
          `${name}: each of its last ${maxTracesInARow} calls came with shapes of which it has no trace (now: ${key}), and a trace ` +
            'costs more than many runs: pad the inputs to a few shapes, or use mode "eager"',
        );
      signature = traceFunction(name, fn, args, mode === 'xla');
      if (signatures.size >= maxSignatures) {
        const [oldest, freed] = signatures.entries().next().value as [string, Signature];
        binding.functionRemove(freed.name);
        signatures.delete(oldest);
      }
    } else {
      tracesInARow = 0;
      signatures.delete(key);
    }
    signatures.set(key, signature);
    const gone = signature.captured.find((tensor) => tensor.isDisposed);
    if (gone !== undefined)
      throw new ConfigError(`${name}: a tensor of shape [${gone.shape.join()}] that it uses was disposed`);
    return execute.multiple(signature.name, [], [...args, ...signature.captured], signature.outputs);
  };
  return Object.defineProperties(run, {
    signatures: { get: () => signatures.size },
    dispose: {
      value: () => {
        for (const signature of signatures.values()) binding.functionRemove(signature.name);
        signatures.clear();
      },
    },
  }) as unknown as CompiledFunction;
}
