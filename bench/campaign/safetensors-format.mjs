// The safetensors format read a second time, from the bytes of a whole file and without the library's code:
// https://github.com/huggingface/safetensors, section "Format". Throws where the library has to refuse.

const SIZES = { F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1, I64: 8, I32: 4, I16: 2, I8: 1 };
Object.assign(SIZES, { U64: 8, U32: 4, U16: 2, U8: 1, BOOL: 1 });

const refuse = (why) => {
  throw new Error(why);
};

/** JSON by recursive descent: an object is a list of [key, value], so that a key that stands twice is seen. */
class Json {
  at = 0;
  constructor(text) {
    this.text = text;
  }

  whole() {
    const value = this.value(0);
    this.space();
    return this.at === this.text.length ? value : refuse('text after the value');
  }

  space() {
    while (' \t\n\r'.includes(this.text[this.at] ?? 'x')) this.at++;
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match === null) refuse(`no ${pattern} at ${this.at}`);
    this.at = pattern.lastIndex;
    return match[0];
  }

  value(depth) {
    if (depth > 100) refuse('too deep for a header');
    this.space();
    const char = this.text[this.at];
    if (char === '{') return { pairs: this.items('}', () => this.pair(depth)) };
    if (char === '[') return this.items(']', () => this.value(depth + 1));
    if (char === '"') return this.string();
    const word = this.take(/true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y);
    return { true: true, false: false, null: null }[word] ?? (word === 'null' ? null : Number(word));
  }

  string() {
    return JSON.parse(this.take(/"(?:[^"\\\u0000-\u001f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"/y));
  }

  pair(depth) {
    this.space();
    const key = this.string();
    this.space();
    this.take(/:/y);
    return [key, this.value(depth + 1)];
  }

  items(end, item) {
    const list = [];
    this.at++;
    this.space();
    if (this.text[this.at] === end) return (this.at++, list);
    for (;;) {
      list.push(item());
      this.space();
      if (this.text[this.at] === end) return (this.at++, list);
      this.take(/,/y);
    }
  }
}

function object(value) {
  if (!Array.isArray(value?.pairs)) refuse('no object');
  const map = new Map(value.pairs);
  return map.size === value.pairs.length ? map : refuse('a key stands twice');
}

function everyKeyOnce(value) {
  if (Array.isArray(value)) value.forEach(everyKeyOnce);
  else if (value?.pairs !== undefined) [...object(value).values()].forEach(everyKeyOnce);
}

const natural = (value) => (Number.isSafeInteger(value) && value >= 0 ? BigInt(value) : refuse('no size'));

/** @returns name -> { dtype, shape, bytes }, where the file is one that the format allows */
export function readFormat(file) {
  if (file.length < 8) refuse('short');
  const length = file.readBigUInt64LE(0);
  if (length > BigInt(file.length - 8)) refuse('the header is longer than the file');
  const header = file.subarray(8, 8 + Number(length));
  const text = header.toString('utf8');
  if (!Buffer.from(text).equals(header)) refuse('not UTF-8');
  const data = file.subarray(8 + Number(length));
  const entries = new Json(text).whole();
  everyKeyOnce(entries);
  const tensors = new Map();
  for (const [name, entry] of object(entries)) {
    if (name === '__metadata__') {
      if ([...object(entry).values()].some((value) => typeof value !== 'string')) refuse('metadata');
    } else tensors.set(name, readEntry(object(entry), data));
  }
  checkCover(tensors, data.length);
  return tensors;
}

function readEntry(entry, data) {
  const [dtype, shape, range] = ['dtype', 'shape', 'data_offsets'].map((key) => entry.get(key));
  if (typeof dtype !== 'string' || !Object.hasOwn(SIZES, dtype)) refuse('dtype');
  if (!Array.isArray(shape) || !Array.isArray(range) || range.length !== 2) refuse('lists');
  const count = shape.map(natural).reduce((a, b) => a * b, 1n);
  const [begin, end] = range.map(natural);
  if (begin > end || end > BigInt(data.length)) refuse('range');
  if (end - begin !== count * BigInt(SIZES[dtype])) refuse('size');
  return { dtype, shape, begin: Number(begin), bytes: data.subarray(Number(begin), Number(end)) };
}

function checkCover(tensors, length) {
  let reached = 0;
  const ordered = [...tensors.values()].sort((a, b) => a.begin - b.begin || a.bytes.length - b.bytes.length);
  for (const { begin, bytes } of ordered) {
    if (begin !== reached) refuse('a gap or an overlap');
    reached += bytes.length;
  }
  if (reached !== length) refuse('bytes left over');
}

/** The numbers of a floating-point tensor in single precision, one by one; null for other types. */
export function floatsOf({ dtype, bytes }) {
  const at = (i, size) => bytes.subarray(i * size, (i + 1) * size);
  const read = {
    F64: (i) => Math.fround(at(i, 8).readDoubleLE()),
    F32: (i) => at(i, 4).readFloatLE(),
    BF16: (i) => Buffer.concat([Buffer.alloc(2), at(i, 2)]).readFloatLE(),
    F16: (i) => half(at(i, 2).readUInt16LE()),
  }[dtype];
  return read && Float32Array.from({ length: bytes.length / SIZES[dtype] }, (_, i) => read(i));
}

function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
