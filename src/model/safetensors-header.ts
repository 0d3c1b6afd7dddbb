import { CheckpointError, messageOf } from '../runtime/errors';

/** Bytes of one element, by the names that the format gives to its types. */
const BYTES_PER_ELEMENT = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type SafetensorsDtype = keyof typeof BYTES_PER_ELEMENT;

/** Where and what a stored tensor is. `offset` counts from the start of the file. */
export interface TensorInfo {
  name: string;
  dtype: SafetensorsDtype;
  shape: readonly number[];
  offset: number;
  byteLength: number;
}

export interface SafetensorsHeader {
  tensors: Map<string, TensorInfo>;
  metadata: Record<string, string>;
}

const REMEDY = 'The file is damaged or incomplete: copy or download it again.';

export function bytesPerElement(dtype: SafetensorsDtype): number {
  return BYTES_PER_ELEMENT[dtype];
}

/** Number of elements of a shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** The error for a file that is not what the format says. */
export function damaged(path: string, what: string): CheckpointError {
  return new CheckpointError(`${path}: ${what}. ${REMEDY}`);
}

/**
 * Reads and checks the JSON header of a safetensors file: every tensor has a known type, a size that its shape
 * explains, and a range of its own; together the ranges fill the data without overlap or gap.
 *
 * @param bytes      the header without the 8 bytes of its length
 * @param dataStart  offset of the first data byte in the file
 * @param dataBytes  number of bytes after the header
 * @throws CheckpointError  naming the file, the tensor, what was expected and what was found
 * Source: https://github.com/huggingface/safetensors, section "Format".
 */
export function parseHeader(
  bytes: Uint8Array,
  dataStart: number,
  dataBytes: number,
  path: string,
): SafetensorsHeader {
  const entries = parseEntries(bytes, path);
  const tensors = new Map<string, TensorInfo>();
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(entries)) {
    if (name === '__metadata__') metadata = checkMetadata(entry, path);
    else tensors.set(name, checkTensor(name, entry, dataStart, dataBytes, path));
  }
  checkLayout([...tensors.values()], dataStart, dataBytes, path);
  return { tensors, metadata };
}

function parseEntries(bytes: Uint8Array, path: string): Record<string, unknown> {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (error) {
    throw damaged(path, `expected a JSON header, found something else (${messageOf(error)})`);
  }
  if (!isObject(value)) {
    throw damaged(path, `expected a JSON object as header, found ${JSON.stringify(value).slice(0, 60)}`);
  }
  const duplicate = firstDuplicateKey(text);
  if (duplicate !== undefined) throw damaged(path, `"${duplicate}" stands twice in the header`);
  return value;
}

function checkMetadata(value: unknown, path: string): Record<string, string> {
  if (!isObject(value) || Object.values(value).some((text) => typeof text !== 'string')) {
    throw damaged(path, 'expected __metadata__ to map names to strings');
  }
  return value as Record<string, string>;
}

function checkTensor(
  name: string,
  entry: unknown,
  dataStart: number,
  dataBytes: number,
  path: string,
): TensorInfo {
  const bad = (what: string) => damaged(path, `tensor "${name}": ${what}`);
  if (!isObject(entry)) throw bad(`expected an object, found ${JSON.stringify(entry)}`);
  const { dtype, shape, data_offsets: range } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(BYTES_PER_ELEMENT, dtype)) {
    const known = Object.keys(BYTES_PER_ELEMENT).join(', ');
    throw bad(`expected a dtype of ${known}, found ${JSON.stringify(dtype)}`);
  }
  if (!isSizes(shape)) throw bad(`expected a shape of integers >= 0, found ${JSON.stringify(shape)}`);
  if (!isSizes(range) || range.length !== 2 || range[0] > range[1]) {
    throw bad(`expected data_offsets [begin, end], found ${JSON.stringify(range)}`);
  }
  const [begin, end] = range;
  if (end > dataBytes) {
    throw bad(`expected data up to byte ${end}, found only ${dataBytes} bytes of data in the file`);
  }
  const expected = elementCount(shape) * BYTES_PER_ELEMENT[dtype as SafetensorsDtype];
  if (end - begin !== expected) {
    throw bad(`expected ${expected} bytes for ${dtype} [${shape.join(', ')}], found ${end - begin}`);
  }
  const offset = dataStart + begin;
  return { name, dtype: dtype as SafetensorsDtype, shape, offset, byteLength: end - begin };
}

/** The ranges, in order, must begin where the one before ended and reach the end of the file. */
function checkLayout(tensors: TensorInfo[], dataStart: number, dataBytes: number, path: string): void {
  const ordered = tensors.slice().sort((x, y) => x.offset - y.offset || x.byteLength - y.byteLength);
  let reached = dataStart;
  let before = '';
  for (const { name, offset, byteLength } of ordered) {
    if (offset < reached) throw damaged(path, `tensors "${before}" and "${name}" overlap`);
    if (offset > reached) {
      throw damaged(path, `${offset - reached} bytes before tensor "${name}" belong to no tensor`);
    }
    reached = offset + byteLength;
    before = name;
  }
  const rest = dataStart + dataBytes - reached;
  if (rest > 0) throw damaged(path, `${rest} bytes at the end belong to no tensor`);
}

/** First key that an object of a valid JSON text holds twice: `JSON.parse` keeps the last one without a word. */
function firstDuplicateKey(json: string): string | undefined {
  const scopes: Set<string>[] = [];
  let text = '';
  for (let i = 0; i < json.length; i++) {
    const char = json[i];
    if (char === '"') {
      const start = i++;
      while (json[i] !== '"') i += json[i] === '\\' ? 2 : 1;
      text = json.slice(start, i + 1);
    } else if (char === '{') {
      scopes.push(new Set());
    } else if (char === '}') {
      scopes.pop();
    } else if (char === ':') {
      const key = JSON.parse(text) as string;
      const scope = scopes[scopes.length - 1];
      if (scope.has(key)) return key;
      scope.add(key);
    }
  }
  return undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
