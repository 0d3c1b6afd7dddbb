import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { CheckpointError, messageOf } from '../runtime/errors';
import { fromFloat16, toBfloat16 } from './half-precision';
import { bytesPerElement, damaged, elementCount, parseHeader } from './safetensors-header';
import type { SafetensorsDtype, TensorInfo } from './safetensors-header';

/** A header larger than this is refused unread; the largest models need about 1 MB. */
const MAX_HEADER_BYTES = 100_000_000;
/** Tensors are read and converted in pieces, so that a 16-bit one never lies in memory twice. */
const CHUNK_BYTES = 1 << 24;

type ArrayType = new (buffer: ArrayBuffer, offset: number, length: number) => ArrayLike<number>;

const INTEGER_ARRAYS: ReadonlyMap<SafetensorsDtype, ArrayType> = new Map<SafetensorsDtype, ArrayType>([
  ['I32', Int32Array],
  ['I16', Int16Array],
  ['I8', Int8Array],
  ['U16', Uint16Array],
  ['U8', Uint8Array],
  ['BOOL', Uint8Array],
]);

/** An open safetensors file: the header is in memory, tensors are read by range when asked for. */
export class SafetensorsFile {
  constructor(
    readonly path: string,
    private readonly descriptor: number,
    /** What the file holds, by name. */
    readonly tensors: ReadonlyMap<string, TensorInfo>,
    readonly metadata: Readonly<Record<string, string>>,
  ) {}

  /** @throws CheckpointError when the file holds no such tensor */
  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (!info) throw new CheckpointError(`${this.path}: there is no tensor "${name}"`);
    return info;
  }

  /**
   * A floating-point tensor as float32, row-major. F32, BF16 and F16 are exact; F64 is rounded.
   *
   * @throws CheckpointError  for a missing tensor or one of another type
   */
  read(name: string): Float32Array {
    return this.floats(this.info(name));
  }

  private floats(info: TensorInfo): Float32Array {
    const out = new Float32Array(elementCount(info.shape));
    if (info.dtype === 'F32') {
      this.fill(new Uint8Array(out.buffer), info);
    } else if (info.dtype === 'BF16') {
      const bits = new Uint32Array(out.buffer);
      this.eachChunk(info, Uint16Array, (chunk, at) => {
        for (let i = 0; i < chunk.length; i++) bits[at + i] = chunk[i] << 16;
      });
    } else if (info.dtype === 'F16') {
      this.eachChunk(info, Uint16Array, (chunk, at) => {
        for (let i = 0; i < chunk.length; i++) out[at + i] = fromFloat16(chunk[i]);
      });
    } else if (info.dtype === 'F64') {
      this.eachChunk(info, Float64Array, (chunk, at) => out.set(chunk, at));
    } else {
      throw this.unreadable(info, 'F32, BF16, F16 or F64');
    }
    return out;
  }

  /**
   * Elements [begin, end) of a floating-point tensor as the bits of bfloat16, row-major. BF16 is exact; others are rounded to the
   * nearest.
   *
   * @throws CheckpointError  for a missing tensor or one of another type
   */
  readBfloat16(name: string, begin = 0, end?: number): Uint16Array {
    const info = this.info(name);
    const last = end ?? elementCount(info.shape);
    const itemBytes = bytesPerElement(info.dtype);
    const part = { ...info, offset: info.offset + begin * itemBytes, byteLength: (last - begin) * itemBytes };
    const out = new Uint16Array(last - begin);
    if (info.dtype !== 'BF16') {
      this.floats({ ...part, shape: [last - begin] }).forEach((value, i) => (out[i] = toBfloat16(value)));
      return out;
    }
    this.fill(new Uint8Array(out.buffer), part);
    return out;
  }

  /** An integer or boolean tensor of at most 32 bits, row-major. */
  readIntegers(name: string): Int32Array {
    const info = this.info(name);
    const Type = INTEGER_ARRAYS.get(info.dtype);
    if (!Type) throw this.unreadable(info, [...INTEGER_ARRAYS.keys()].join(', '));
    const out = new Int32Array(elementCount(info.shape));
    this.eachChunk(info, Type, (chunk, at) => out.set(chunk, at));
    return out;
  }

  /** The stored bytes of a tensor of any type. */
  readBytes(name: string): Uint8Array {
    const info = this.info(name);
    const out = new Uint8Array(info.byteLength);
    this.fill(out, info);
    return out;
  }

  close(): void {
    closeSync(this.descriptor);
  }

  private unreadable(info: TensorInfo, expected: string): CheckpointError {
    return new CheckpointError(
      `${this.path}: tensor "${info.name}": expected ${expected}, found ${info.dtype}`,
    );
  }

  private fill(out: Uint8Array, info: TensorInfo): void {
    for (let at = 0; at < out.length; at += CHUNK_BYTES) {
      readFully(this.descriptor, out.subarray(at, at + CHUNK_BYTES), info.offset + at, this.path);
    }
  }

  private eachChunk(
    info: TensorInfo,
    Type: ArrayType,
    use: (chunk: ArrayLike<number>, firstElement: number) => void,
  ): void {
    const itemBytes = bytesPerElement(info.dtype);
    const buffer = new ArrayBuffer(Math.min(CHUNK_BYTES, info.byteLength));
    for (let at = 0; at < info.byteLength; at += CHUNK_BYTES) {
      const size = Math.min(CHUNK_BYTES, info.byteLength - at);
      readFully(this.descriptor, new Uint8Array(buffer, 0, size), info.offset + at, this.path);
      use(new Type(buffer, 0, size / itemBytes), at / itemBytes);
    }
  }
}

/**
 * Opens a safetensors file and reads its header only. The caller closes it.
 *
 * @throws CheckpointError  when the file is missing, truncated or not in the format
 */
export function openSafetensors(path: string): SafetensorsFile {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch (error) {
    throw new CheckpointError(`${path}: cannot be opened (${messageOf(error)})`);
  }
  try {
    const { tensors, metadata } = readHeader(descriptor, path);
    return new SafetensorsFile(path, descriptor, tensors, metadata);
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

function readHeader(descriptor: number, path: string) {
  const stat = fstatSync(descriptor);
  if (!stat.isFile()) throw new CheckpointError(`${path}: expected a file, found something else`);
  if (stat.size < 8) throw damaged(path, `expected at least 8 bytes, found ${stat.size}`);
  const prefix = new Uint8Array(8);
  readFully(descriptor, prefix, 0, path);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  const limit = Math.min(MAX_HEADER_BYTES, stat.size - 8);
  if (length > BigInt(limit)) {
    throw damaged(path, `expected a header of at most ${limit} bytes, found a length of ${length}`);
  }
  const header = new Uint8Array(Number(length));
  readFully(descriptor, header, 8, path);
  const dataStart = 8 + header.length;
  return parseHeader(header, dataStart, stat.size - dataStart, path);
}

function readFully(descriptor: number, out: Uint8Array, position: number, path: string): void {
  let done = 0;
  while (done < out.length) {
    const count = readSync(descriptor, out, done, out.length - done, position + done);
    if (count === 0)
      throw damaged(path, `expected data at byte ${position + done}, found the end of the file`);
    done += count;
  }
}
