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

/** The type of a stored tensor's values. */
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

/** The format needs 4; its reference implementation refuses more than 127. */
const MAX_DEPTH = 100;

const REMEDY = 'The file is damaged or incomplete: copy or download it again.';

export function bytesPerElement(dtype: SafetensorsDtype): number {
  return BYTES_PER_ELEMENT[dtype];
}

/** Number of elements of a shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** A value of a JSON file as a message shows it, cut after 80 characters. */
export function shownJson(value: unknown): string {
  try {
    return ((JSON.stringify(value) as string | undefined) ?? 'nothing').slice(0, 80);
  } catch {
    // JSON.parse makes values of any depth; JSON.stringify runs out of stack in them.
    return 'a value that is nested too deeply to show';
  }
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
    throw damaged(path, `expected a JSON object as header, found ${shownJson(value)}`);
  }
  const flaw = flawOf(text);
  if (flaw !== undefined) throw damaged(path, flaw);
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
  const bad = (what: string) => damaged(path, `tensor "${name.slice(0, 200)}": ${what}`);
  if (!isObject(entry)) throw bad(`expected an object, found ${shownJson(entry)}`);
  const { dtype, shape, data_offsets: range } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(BYTES_PER_ELEMENT, dtype)) {
    const known = Object.keys(BYTES_PER_ELEMENT).join(', ');
    throw bad(`expected a dtype of ${known}, found ${shownJson(dtype)}`);
  }
  if (!isSizes(shape)) throw bad(`expected a shape of integers >= 0, found ${shownJson(shape)}`);
  if (!isSizes(range) || range.length !== 2 || range[0] > range[1]) {
    throw bad(`expected data_offsets [begin, end], found ${shownJson(range)}`);
  }
  const [begin, end] = range;
  if (end > dataBytes) {
    throw bad(`expected data up to byte ${end}, found only ${dataBytes} bytes of data in the file`);
  }
  const expected = elementCount(shape) * BYTES_PER_ELEMENT[dtype as SafetensorsDtype];
  if (end - begin !== expected) {
    throw bad(`expected ${expected} bytes for ${dtype} ${shownJson(shape)}, found ${end - begin}`);
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
    if (offset < reached)
      throw damaged(path, `tensors "${before.slice(0, 200)}" and "${name.slice(0, 200)}" overlap`);
    if (offset > reached) {
      throw damaged(
        path,
        `${offset - reached} bytes before tensor "${name.slice(0, 200)}" belong to no tensor`,
      );
    }
    reached = offset + byteLength;
    before = name;
  }
  const rest = dataStart + dataBytes - reached;
  if (rest > 0) throw damaged(path, `${rest} bytes at the end belong to no tensor`);
}

/**
 * What `JSON.parse` takes without a word in a valid JSON text: a key that an object holds twice, of which it keeps the
 * last, and values nested too deeply for whoever reads them.
 */
function flawOf(json: string): string | undefined {
  const scopes: Set<string>[] = [];
  let text = '';
  for (let i = 0; i < json.length; i++) {
    const char = json[i];
    if (char === '"') {
      const start = i++;
      while (json[i] !== '"') i += json[i] === '\\' ? 2 : 1;
      text = json.slice(start, i + 1);
    } else if (char === '{' || char === '[') {
      scopes.push(new Set());
      if (scopes.length > MAX_DEPTH) return `the header is nested deeper than ${MAX_DEPTH} levels`;
    } else if (char === '}' || char === ']') {
      scopes.pop();
    } else if (char === ':') {
      const key = JSON.parse(text) as string;
      const scope = scopes[scopes.length - 1];
      if (scope.has(key)) return `"${key.slice(0, 200)}" stands twice in the header`;
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
