// Small safetensors files, damaged with knowledge of the format, against a second reader of the same bytes.
import fs from 'node:fs';
import path from 'node:path';
import { library } from './library.mjs';
import { mutateBytes } from './mutate.mjs';
import { floatsOf, readFormat } from './safetensors-format.mjs';

const SIZE = { F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, I64: 8, I32: 4, I16: 2, U8: 1, BOOL: 1 };
const DTYPES = Object.keys(SIZE);
const NAMES = ['a', 'b', 'w', 'layers.0.q', 'é', 'x y', 'lora_A.weight', '0', 'B'];

/** A correct file: entries as texts of JSON, so that each can be spoilt on its own, and random data. */
function sound(random) {
  const entries = [];
  let end = 0;
  const names = random.shuffle(NAMES).slice(0, random.integer(5));
  for (const name of names) {
    const dtype = random.pick(DTYPES);
    const shape = Array.from({ length: random.integer(4) }, () => random.integer(4));
    const begin = end;
    end += shape.reduce((a, b) => a * b, 1) * SIZE[dtype];
    entries.push({
      name: JSON.stringify(name),
      dtype: `"${dtype}"`,
      shape: JSON.stringify(shape),
      range: [begin, end],
    });
  }
  const data = Buffer.alloc(end);
  for (let i = 0; i < end; i++) data[i] = (Math.imul(i + 1, 0x9e3779b1) ^ end) >>> 24;
  const metadata = random.integer(3) === 0 ? '"__metadata__":{"format":"pt"}' : '';
  return { entries, data, metadata, spaces: random.integer(9) };
}

const NUMBERS = [
  '-1',
  '-0',
  '0.5',
  '1e400',
  '1e2',
  '1.0',
  '9007199254740991',
  '9007199254740993',
  '18446744073709551615',
];
const OTHER = [
  'null',
  'true',
  '"0"',
  '[]',
  '{}',
  '[[0]]',
  '01',
  'NaN',
  '',
  '"\\ud800"',
  '"a\\nb"',
  '"\\u001b[2J"',
];
const KEYS = [
  '"__proto__"',
  '"a\\nb"',
  '"\\u0000"',
  '"\\ud800"',
  '""',
  '"constructor"',
  '"\\u001b[2J"',
  '"__metadata__"',
];
const HUGE = '4294967296,4294967296,4294967296,4294967296';

const deep = (random) => {
  const depth = random.pick([20, 300, 300, 300, 20000]);
  return random.integer(2) === 0
    ? '['.repeat(depth) + ']'.repeat(depth)
    : '{"a":'.repeat(depth) + '1' + '}'.repeat(depth);
};
const wrong = (random) =>
  random.integer(50) === 0 ? deep(random) : random.pick(random.integer(2) === 0 ? NUMBERS : OTHER);

/** Damage to one entry. */
const ENTRY = [
  (entry, random) => (entry.range[random.integer(2)] = wrong(random)),
  (entry, random) => (entry.range[random.integer(2)] += random.pick([-8, -4, -1, 1, 4, 8, 1000, 2 ** 32])),
  (entry) => entry.range.reverse(),
  (entry, random) => entry.range.push(random.pick(['0', ...NUMBERS])),
  (entry, random) => (entry.range = [...random.pick([[], [0], [0, 0], [0, 4]])]),
  (entry, random, { entries }) => (entry.range = [...random.pick(entries).range]),
  (entry, random) => (entry.shape = wrong(random)),
  (entry, random) =>
    (entry.shape = `[${random.pick([wrong(random), HUGE, `0,${HUGE}`, `${HUGE},0`, '3,3', '1,1,1'])}]`),
  (entry, random) =>
    (entry.dtype = random.pick([
      `"${random.pick(DTYPES)}"`,
      '"f32"',
      '"F31"',
      '"constructor"',
      wrong(random),
    ])),
  (entry, random) => (entry.name = random.pick([...KEYS, `"${'n'.repeat(random.integer(8000))}"`])),
  (entry, random, { entries }) => (entry.name = random.pick(entries).name),
  (entry, random, { entries }) => {
    const code = random.pick(entries).name.charCodeAt(1).toString(16).padStart(4, '0');
    entry.name = `"\\u${code}"`;
  },
  (entry, random) =>
    (entry.more = `,"${random.pick(['dtype', 'shape', 'extra', '__proto__'])}":${wrong(random)}`),
  (entry, random) => (entry.whole = wrong(random)),
];

/** Damage to the header as a whole, or to the data. */
const FILE = [
  (file, random) =>
    (file.metadata = `"__metadata__":${random.pick(['{"a":1}', '{"a":"b","a":"c"}', wrong(random)])}`),
  (file, random) => (file.whole = wrong(random)),
  (file, random) => (file.before = random.pick([' ', '\n', '\ufeff', ',', '\0'])),
  (file, random) => (file.after = random.pick([',', '}', '\0\0', '{}', ' x', '\t\n'])),
  (file, random) => (file.data = file.data.subarray(0, random.integer(file.data.length + 1))),
  (file, random) => (file.data = Buffer.concat([file.data, Buffer.alloc(1 + random.integer(9))])),
  (file, random) => (file.length = random.pick(LENGTHS)),
  (file, random) => (file.shift = random.pick([-9, -8, -2, -1, 1, 2, 7, 8, 100])),
  (file, random) => (file.spaces = random.integer(random.integer(20) === 0 ? 70000 : 300)),
];
const LENGTHS = [0n, 1n, 2n, 8n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n, 100_000_001n];

function render({ entries, metadata, before = '', after = '', whole, spaces, data, length, shift = 0 }) {
  const parts = entries.map(
    ({ name, dtype, shape, range, more = '', whole: all }) =>
      `${name}:${all ?? `{"dtype":${dtype},"shape":${shape},"data_offsets":[${range.join()}]${more}}`}`,
  );
  const text = whole ?? `{${[metadata, ...parts].filter(Boolean).join()}}`;
  const header = Buffer.from(before + text + ' '.repeat(spaces) + after);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt.asUintN(64, length ?? BigInt(header.length + shift)));
  return { bytes: Buffer.concat([prefix, header, data]), dataStart: 8 + header.length };
}

/** The bytes of one try; a few of them are correct. */
function makeFile(random) {
  const file = sound(random);
  const changes = random.pick([0, 1, 1, 1, 1, 2, 3]);
  for (let i = 0; i < changes; i++) {
    if (file.entries.length > 0 && random.integer(3) > 0)
      random.pick(ENTRY)(random.pick(file.entries), random, file);
    else random.pick(FILE)(file, random);
  }
  const { bytes, dataStart } = render(file);
  if (random.integer(4) > 0) return bytes;
  return mutateBytes(
    bytes,
    random,
    random.integer(2) === 0 ? 0 : 8,
    random.integer(8) === 0 ? bytes.length : dataStart,
  );
}

/** Notes every read beyond the end of the file. */
function watchReads() {
  const seen = { size: 0, outside: null };
  const original = fs.readSync;
  fs.readSync = (descriptor, buffer, offset, length, position) => {
    if (position + length > seen.size)
      seen.outside ??= `asked for bytes up to ${position + length} of ${seen.size}`;
    return original(descriptor, buffer, offset, length, position);
  };
  return seen;
}

const sameBits = (a, b) =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));

/** A half-precision NaN may keep or lose its payload: only that it is one counts. */
const sameFloats = (a, b) => a.length === b.length && a.every((value, i) => Object.is(value, b[i]));

/** The first way in which what was read differs from what is there; null when there is none. */
function difference(file, expected) {
  if (file.tensors.size !== expected.size) return `${file.tensors.size} tensors, expected ${expected.size}`;
  for (const [name, tensor] of expected) {
    const info = file.tensors.get(name);
    if (info === undefined) return `no tensor ${JSON.stringify(name)}`;
    if (info.dtype !== tensor.dtype || info.shape.join() !== tensor.shape.join())
      return `${name}: dtype or shape`;
    if (!sameBits(file.readBytes(name), tensor.bytes)) return `${name}: other bytes`;
    const floats = floatsOf(tensor);
    if (floats !== undefined && !sameFloats(file.read(name), floats)) return `${name}: other numbers`;
  }
  return null;
}

export function prepare(directory) {
  const reads = watchReads();
  const { openSafetensors } = library('model/safetensors');
  const { CheckpointError } = library('runtime/errors');
  const target = path.join(directory, 'weights.safetensors');
  return {
    Allowed: CheckpointError,
    attempt(random) {
      const bytes = makeFile(random);
      fs.writeFileSync(target, bytes);
      Object.assign(reads, { size: bytes.length, outside: null });
      let expected;
      try {
        expected = readFormat(bytes);
      } catch (error) {
        expected = error;
      }
      return compare(() => openSafetensors(target), expected, reads);
    },
  };
}

function compare(open, expected, reads) {
  let file;
  try {
    file = open();
  } catch (error) {
    if (reads.outside !== null) return reads.outside;
    if (expected instanceof Map) return `refused a file that the format allows: ${error.message}`;
    throw error;
  }
  try {
    if (!(expected instanceof Map))
      return `accepted a file that the format does not allow: ${expected.message}`;
    return difference(file, expected) ?? reads.outside;
  } finally {
    file.close();
  }
}
