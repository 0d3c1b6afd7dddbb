import { NumericError, ShapeError } from '../runtime/errors';
import { AtomicFile } from '../runtime/files';
import { toBfloat16, toFloat16 } from './half-precision';
import { bytesPerElement, elementCount } from './safetensors-header';

/** A tensor to write: its values, or a function that makes them when their turn comes (large checkpoints). */
export interface TensorSource {
  shape: readonly number[];
  data: Float32Array | (() => Float32Array);
}

/** The type of the values in the file, and its metadata. */
export interface WriteOptions {
  /** Type in the file; F16 and BF16 round to nearest even. Default F32. */
  dtype?: 'F32' | 'BF16' | 'F16';
  metadata?: Readonly<Record<string, string>>;
}

const CHUNK_ELEMENTS = 1 << 22;

/**
 * Writes a safetensors file, tensors sorted by name, so that equal contents give equal bytes. The file appears
 * complete or not at all.
 *
 * @throws ShapeError    when values and shape disagree
 * @throws NumericError  when a finite value is beyond the range of the type asked for
 * @throws DataError     when the disk refuses
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, TensorSource>,
  { dtype = 'F32', metadata = {} }: WriteOptions = {},
): Promise<void> {
  const names = [...tensors.keys()].sort();
  const file = await AtomicFile.open(path);
  try {
    await file.write(encodeHeader(names, tensors, dtype, metadata));
    for (const name of names) await writeTensor(file, name, tensors.get(name)!, dtype);
    await file.commit();
  } catch (error) {
    await file.abort();
    throw error;
  }
}

function encodeHeader(
  names: readonly string[],
  tensors: ReadonlyMap<string, TensorSource>,
  dtype: 'F32' | 'BF16' | 'F16',
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const entries: [string, unknown][] = [];
  const pairs = Object.entries(metadata).sort(([a], [b]) => (a < b ? -1 : 1));
  if (pairs.length > 0) entries.push(['__metadata__', Object.fromEntries(pairs)]);
  let offset = 0;
  for (const name of names) {
    const { shape } = tensors.get(name)!;
    const end = offset + elementCount(shape) * bytesPerElement(dtype);
    entries.push([name, { dtype, shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Math.ceil(json.length / 8) * 8;
  const out = Buffer.alloc(8 + length, ' ');
  out.writeBigUInt64LE(BigInt(length));
  json.copy(out, 8);
  return out;
}

async function writeTensor(
  file: AtomicFile,
  name: string,
  { shape, data }: TensorSource,
  dtype: 'F32' | 'BF16' | 'F16',
): Promise<void> {
  const values = typeof data === 'function' ? data() : data;
  if (values.length !== elementCount(shape)) {
    throw new ShapeError(
      `tensor "${name}": expected ${elementCount(shape)} values for [${shape.join(', ')}], got ${values.length}`,
    );
  }
  for (let at = 0; at < values.length; at += CHUNK_ELEMENTS) {
    const chunk = values.subarray(at, at + CHUNK_ELEMENTS);
    const stored = dtype === 'F32' ? chunk : encodeHalf(chunk, dtype, name);
    await file.write(new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength));
  }
}

function encodeHalf(values: Float32Array, dtype: 'BF16' | 'F16', name: string): Uint16Array {
  const convert = dtype === 'BF16' ? toBfloat16 : toFloat16;
  const infinite = dtype === 'BF16' ? 0x7f80 : 0x7c00;
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    out[i] = convert(values[i]);
    if ((out[i] & 0x7fff) === infinite && Number.isFinite(values[i])) {
      throw new NumericError(`tensor "${name}": ${values[i]} is too large for ${dtype}. Write it as F32.`);
    }
  }
  return out;
}
