/**
 * Products with the model's matrices, and frozen matrices in 16 or 4 bits, as panels of 16 columns: the layout that the
 * binding's ops multiply by (native/matrix.cc). Arithmetic is in float32, so nothing but the weights is rounded, and those of a
 * bfloat16 checkpoint not at all; or, where asked for, in bfloat16. Where the ops cannot run (a GPU, XLA, op by op) graphs widen
 * a matrix each time it is used.
 */
import { ownOp, takesOwnOps } from '../runtime/compile';
import { ShapeError } from '../runtime/errors';
import type { OpAttribute, Tensor } from '../runtime/tf';
import { backend, binding, boolAttribute, intAttribute, tf, typeAttribute } from '../runtime/tf';
import type { MatmulPrecision } from './config';
import { dynamicMap, NF4_BLOCK, nf4Codes } from './nf4';
import type { Bfloat16Rows, FloatRows } from './panels';
import { bfloat16Panels, nf4Panels, PANEL_WIDTH } from './panels';

/** tfjs's product of matrices, or of stacks of them. */
export const matMul = (a: Tensor, b: Tensor, transposeB = false): Tensor =>
  tf.matMul(a as never, b as never, false, transposeB);

/** TensorFlow's GatherV2; tfjs's own gather checks its indices on the host at every call. */
export function gatherOp(table: Tensor, indices: Tensor, axis: number, batchDims = 0): Tensor {
  const attributes = [
    intAttribute('batch_dims', batchDims),
    typeAttribute('Tparams', table.dtype === 'int32' ? binding.TF_INT32 : binding.TF_FLOAT),
    typeAttribute('Tindices', binding.TF_INT32),
    typeAttribute('Taxis', binding.TF_INT32),
  ];
  return backend.executeSingleOutput('GatherV2', attributes, [table, indices, tf.scalar(axis, 'int32')]);
}

/** A tensor that is on the device: tfjs leaves one of JavaScript's numbers where it is until an op takes it. */
export function uploaded(make: () => Tensor): Tensor {
  return tf.tidy(() => {
    const tensor = make();
    const type = tensor.dtype === 'int32' ? binding.TF_INT32 : binding.TF_FLOAT;
    return backend.executeSingleOutput('Identity', [typeAttribute('T', type)], [tensor]);
  });
}

/**
 * Panels on the device. On a CPU int32, in memory that is quick to read; on a GPU float32 of the same bits, since TensorFlow
 * keeps int32 in the host's memory.
 */
function uploadedPanels(words: Int32Array, shape: number[]): Tensor {
  if (binding.isUsingGpuDevice()) {
    const bits = new Float32Array(words.buffer, words.byteOffset, words.length);
    return uploaded(() => tf.tensor(bits, shape));
  }
  return tf.tidy(() => backend.executeSingleOutput('GrpolabKeep', [], [tf.tensor(words, shape, 'int32')]));
}

/** How a matrix is laid out, and multiplied. */
export interface PanelOptions {
  /** The columns are so many equal parts, each padded with zeros to whole panels; default: 1. */
  parts?: number;
  /**
   * `float32` (default). `bfloat16`: what is multiplied with the matrix, and a matrix in 4 bits, is rounded to the nearest
   * bfloat16, of two to the even one; sums are in float32.
   */
  precision?: MatmulPrecision;
}

/** A frozen matrix [inputs, outputs] in 16 bits, or in 4. */
export class PanelMatrix {
  readonly parts: number;
  /** Products are in bfloat16. */
  readonly isRounded: boolean;

  constructor(
    /**
     * int32, or float32 of the same bits. bfloat16: [panels, inputs, 8], two values in each, the first in the lower half. nf4:
     * [panels, 2 inputs + inputs / 16 + 64], as native/nf4.h says.
     */
    readonly panels: Tensor,
    readonly shape: readonly [number, number],
    { parts = 1, precision = 'float32' }: PanelOptions = {},
  ) {
    this.parts = parts;
    this.isRounded = precision === 'bfloat16';
  }

  get isNf4(): boolean {
    return this.panels.rank === 2;
  }

  /**
   * @param sources  the transposed matrices, [rows, inputs], as files have them, one below another; read a piece at a time
   * @throws ShapeError  for parts that are not equal
   */
  static bfloat16(sources: readonly Bfloat16Rows[], inputs: number, options: PanelOptions = {}): PanelMatrix {
    const { parts = 1 } = options;
    const outputs = sources.reduce((sum, { rows }) => sum + rows, 0);
    if (!Number.isInteger(outputs / parts))
      throw new ShapeError(`${outputs} columns in ${parts} parts: the parts are not equal`);
    const { words, panels } = bfloat16Panels(sources, inputs, outputs, parts);
    const tensor = uploadedPanels(words, [panels, inputs, PANEL_WIDTH / 2]);
    return new PanelMatrix(tensor, [inputs, outputs], options);
  }

  /**
   * Quantised as bitsandbytes does, each of the matrices by itself.
   * @param sources  the transposed matrices, [rows, inputs] row-major, one below another; each is read when its turn comes
   * @throws ShapeError  for inputs that are no multiple of 64, or above 16,384
   */
  static quantized(sources: readonly FloatRows[], inputs: number, options: PanelOptions = {}): PanelMatrix {
    const { parts = 1 } = options;
    const outputs = sources.reduce((sum, { rows }) => sum + rows, 0);
    const { words, panels } = nf4Panels(sources, inputs, outputs, parts);
    const records = uploadedPanels(words, [panels, words.length / panels]);
    return new PanelMatrix(records, [inputs, outputs], options);
  }

  dispose(): void {
    this.panels.dispose();
  }
}

/** [inputs, outputs] */
export type Matrix = Tensor | PanelMatrix;

function attributes({ parts, shape, isRounded }: PanelMatrix): OpAttribute[] {
  return [
    intAttribute('parts', parts),
    intAttribute('columns', shape[1]),
    boolAttribute('rounded', isRounded),
  ];
}

/** The same bits as float32; those of float32 as int32. */
function bitcast(x: Tensor): Tensor {
  const types = [binding.TF_INT32, binding.TF_FLOAT];
  const [from, to] = x.dtype === 'int32' ? types : types.reverse();
  return backend.executeSingleOutput('Bitcast', [typeAttribute('T', from), typeAttribute('type', to)], [x]);
}

/** float32 rounded to the nearest bfloat16, of two to the even one; what is no number stays none. Not differentiable. */
export function roundedToBfloat16(x: Tensor): Tensor {
  return tf.tidy(() => {
    const type = [typeAttribute('T', binding.TF_INT32)];
    const integer = (op: string, a: Tensor, b: number): Tensor =>
      backend.executeSingleOutput(op, type, [a, tf.scalar(b, 'int32')]);
    const bits = bitcast(x);
    const odd = integer('BitwiseAnd', integer('RightShift', bits, 16), 1);
    const rounded = integer('BitwiseAnd', tf.add(tf.add(bits, tf.scalar(0x7fff, 'int32')), odd), -65_536);
    return tf.where(tf.isNaN(x), x, bitcast(rounded));
  });
}

/** The same bits as int32, or as float32. */
const asIntegers = (x: Tensor): Tensor => (x.dtype === 'int32' ? x : bitcast(x));
const asFloats = (x: Tensor): Tensor => (x.dtype === 'int32' ? bitcast(x) : x);

// What widens has no sums, products or comparisons of int32: on a GPU TensorFlow runs those on the host.

/** Panels of bfloat16, [p, k, 8] words -> [p, k, 16] float32. `one` is 1. */
function widenPanels(panels: Tensor, one: Tensor): Tensor {
  const words = asIntegers(panels);
  const shift = tf.cast(tf.mul(one, tf.scalar(16)), 'int32');
  const type = [typeAttribute('T', binding.TF_INT32)];
  const mask = tf.scalar(-65_536, 'int32');
  const low = bitcast(backend.executeSingleOutput('LeftShift', type, [words, shift]));
  const high = bitcast(backend.executeSingleOutput('BitwiseAnd', type, [words, mask]));
  const [p, k] = panels.shape;
  return tf.reshape(tf.stack([low, high], 3), [p, k, PANEL_WIDTH]);
}

/** Words [p, ...] as so many numbers of a few bits each, the lowest first: [p, ..., numbers]. `one` is 1. */
function unpackBits(words: Tensor, numbers: number, one: Tensor): Tensor {
  const bits = 32 / numbers;
  const type = [typeAttribute('T', binding.TF_INT32)];
  const places = tf.tensor1d(Float32Array.from({ length: numbers }, (_, i) => i * bits));
  const shifts = tf.cast(tf.mul(places, one), 'int32');
  const shifted = backend.executeSingleOutput('RightShift', type, [
    tf.expandDims(asIntegers(words), -1),
    shifts,
  ]);
  return backend.executeSingleOutput('BitwiseAnd', type, [shifted, tf.scalar(2 ** bits - 1, 'int32')]);
}

/** Panels of NF4 -> [p, k, 16] float32: code x scale of its block, that scale map[code] x scale of its group + offset. */
function widenNf4(panels: Tensor, k: number, one: Tensor): Tensor {
  const [p, words] = panels.shape as [number, number];
  const blocks = k / NF4_BLOCK;
  const [nibbles, scaleCodes, perColumn] = tf.split(
    asFloats(panels),
    [2 * k, 4 * blocks, words - 2 * k - 4 * blocks],
    1,
  );
  const look = (table: Float32Array, codes: Tensor, shape: number[]): Tensor =>
    gatherOp(tf.tensor1d(table), tf.reshape(codes, shape), 0);
  const values = look(nf4Codes, unpackBits(nibbles, 8, one), [p, blocks, NF4_BLOCK, PANEL_WIDTH]);
  const inGroup = look(dynamicMap, unpackBits(scaleCodes, 4, one), [p, blocks, PANEL_WIDTH]);
  const [second, first, next, offset] = tf.unstack(tf.reshape(perColumn, [p, 4, 1, PANEL_WIDTH]), 1);
  const isFirst = tf.less(
    tf.reshape(tf.range(0, blocks), [1, blocks, 1]),
    tf.cast(asIntegers(second), 'float32'),
  );
  const absmax = tf.add(tf.mul(inGroup, tf.where(isFirst, first, next)), offset);
  return tf.reshape(tf.mul(values, tf.expandDims(absmax, 2)), [p, k, PANEL_WIDTH]);
}

/**
 * A matrix in float32, [inputs, outputs].
 * @param after  in a compiled function, the result shall not be there before this is (float32): TensorFlow would widen all
 *   matrices at its start
 */
export function widened(w: Matrix, after?: Tensor): Tensor {
  if (!(w instanceof PanelMatrix)) return w;
  const { panels, parts, shape } = w;
  return tf.tidy(() => {
    let one: Tensor = tf.scalar(1);
    if (after !== undefined) {
      const first = tf.reshape(tf.slice(tf.reshape(after, [after.size]), [0], [1]), []);
      // 1 of any number, of NaN too; a comparison of values is what TensorFlow's optimiser does not see through.
      one = tf.maximum(tf.cast(tf.greaterEqual(first, 0), 'float32'), 1);
    }
    const wide = w.isNf4 ? widenNf4(panels, shape[0], one) : widenPanels(panels, one);
    const padded = tf.reshape(tf.transpose(wide, [1, 0, 2]), [
      shape[0],
      parts,
      (panels.shape[0] / parts) * PANEL_WIDTH,
    ]);
    return tf.reshape(tf.slice(padded, [0, 0, 0], [shape[0], parts, shape[1] / parts]), [...shape]);
  });
}

/** x W or x W^T as a graph. */
function multiplyWidened(x: Tensor, w: PanelMatrix, transposed = false): Tensor {
  return tf.tidy(() => {
    const wide = widened(w, x);
    if (!w.isRounded) return matMul(x, wide, transposed);
    return matMul(roundedToBfloat16(x), w.isNf4 ? roundedToBfloat16(wide) : wide, transposed);
  });
}

/** x W, without a gradient of W: [N, inputs] -> [N, outputs]. */
export function multiply(x: Tensor, w: Matrix): Tensor {
  if (!(w instanceof PanelMatrix)) return matMul(x, w);
  if (!takesOwnOps()) return multiplyWidened(x, w);
  return ownOp('GrpolabProduct', attributes(w), [x, w.panels], [[x.shape[0], w.shape[1]]])[0];
}

/** dy W^T: [N, outputs] -> [N, inputs]. */
export function multiplyTransposed(dy: Tensor, w: Matrix): Tensor {
  if (!(w instanceof PanelMatrix)) return matMul(dy, w, true);
  if (!takesOwnOps()) return multiplyWidened(dy, w, true);
  return ownOp('GrpolabProductGrad', attributes(w), [dy, w.panels], [[dy.shape[0], w.shape[0]]])[0];
}

/** x W, differentiable in x, and in W where that is a tensor. */
export function product(x: Tensor, w: Matrix): Tensor {
  if (!(w instanceof PanelMatrix)) return matMul(x, w);
  const op = tf.customGrad((...args) => ({
    value: multiply(args[0] as Tensor, w),
    gradFunc: (dy: Tensor) => multiplyTransposed(dy, w),
  }));
  return op(x);
}

/** Columns of a matrix in bfloat16 as rows: [N] int32 -> [N, inputs]. Not differentiable. */
export function columns(w: PanelMatrix, ids: Tensor): Tensor {
  const count = ids.shape[0] as number;
  if (takesOwnOps()) return ownOp('GrpolabColumns', attributes(w), [w.panels, ids], [[count, w.shape[0]]])[0];
  return tf.tidy(() => {
    const width = tf.scalar(PANEL_WIDTH, 'int32');
    const panel = tf.floorDiv(ids, width);
    const wide = widenPanels(gatherOp(w.panels, panel, 0), tf.scalar(1));
    const place = tf.sub(ids, tf.mul(panel, width));
    return tf.reshape(gatherOp(wide, tf.expandDims(place, 1), 2, 1), [count, w.shape[0]]);
  });
}
