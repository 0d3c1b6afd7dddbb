// Seeded damage: to bytes, to JSON values, to texts. Every draw comes from the `random` that is given.

const JUNK = [
  ...[null, true, false, 0, -1, 0.5, -0, 1e308, -1e308, 2 ** 53, 2 ** 53 - 1, 2 ** 31, 2 ** 32, 1e-320],
  ...[
    '',
    ' ',
    '0',
    'null',
    '\n',
    'a\nb',
    '\u0000',
    '\ud800',
    '\u2028',
    '\u001b[2J',
    '__proto__',
    'constructor',
    '../../x',
  ],
  ...['\u{1f600}', 'ﷺ', '%s%n', 'toString', 'NaN', '{{', '{% for', '[', '(?<', 'x'.repeat(300)],
  ...[
    [],
    {},
    [[]],
    [null],
    [1, 'a'],
    { content: 1 },
    { id: -1 },
    { length: 1e9 },
    { toString: 1 },
    { then: 1 },
  ],
];

/** A value that stands where it should not. */
export function junk(random) {
  if (random.integer(60) === 0) return nested(random);
  if (random.integer(40) === 0) return 'y'.repeat(1 << random.integer(17));
  return structuredClone(random.pick(JUNK));
}

/** Arrays or objects in each other, now and then deeper than a stack. */
function nested(random) {
  const depth = random.pick([10, 250, 3000, 3000, 30000]);
  const isArray = random.integer(2) === 0;
  let value = 1;
  for (let i = 0; i < depth; i++) value = isArray ? [value] : { a: value };
  return value;
}

/** Every place in a value: its container and key. Deep values are not entered twice. */
function places(value, found = [], depth = 0) {
  if (typeof value !== 'object' || value === null || depth > 50) return found;
  for (const key of Object.keys(value)) {
    found.push([value, key]);
    places(value[key], found, depth + 1);
  }
  return found;
}

function define(container, key, value) {
  if (Array.isArray(container)) container[key] = value;
  else Object.defineProperty(container, key, { value, enumerable: true, configurable: true, writable: true });
}

const NAMES = [
  '',
  '__proto__',
  'constructor',
  'a\nb',
  'é',
  'model_type',
  'r',
  '0',
  'toString',
  'x'.repeat(200),
];

const NEAR = [
  (x) => -x,
  (x) => x + 1,
  (x) => x - 1,
  (x) => x * 1e6,
  (x) => x * 1e12,
  (x) => x / 2,
  (x) => x ** 5,
];

const TREE_CHANGES = [
  (random, at, key) => define(at, key, junk(random)),
  (random, at, key) => define(at, key, junk(random)),
  (_random, at, key) => (Array.isArray(at) ? at.splice(Number(key), 1) : delete at[key]),
  (random, at, key) => {
    const name = random.integer(3) === 0 ? random.pick(NAMES) : `${key}${random.pick(['_', 's', ' ', '\n'])}`;
    if (Array.isArray(at)) return at.splice(Number(key), 0, junk(random));
    define(at, name, at[key]);
    delete at[key];
  },
  (random, at) => (Array.isArray(at) ? at.push(junk(random)) : define(at, random.pick(NAMES), junk(random))),
  (_random, at, key) => define(at, key, [at[key]]),
  (_random, at, key) => define(at, key, { [key]: at[key] }),
  (_random, at, key) => define(at, key, toJson(at[key]).slice(0, 100)),
  (random, at, key) => {
    const value = at[key];
    const isNumber = typeof value === 'number';
    define(at, key, isNumber ? random.pick(NEAR)(value) : junk(random));
  },
  (random, at, key, all) => {
    const [other, name] = random.pick(all);
    define(at, key, JSON.parse(toJson(other[name])));
  },
];

/**
 * A copy of a JSON value with some of its places changed.
 * @param weigh  draws among places; default: each is equally likely
 */
export function mutateTree(value, random, weigh = (all) => random.pick(all)) {
  const root = { value: structuredClone(value) };
  const changes = 1 + random.integer(random.integer(4) === 0 ? 6 : 2);
  for (let i = 0; i < changes; i++) {
    const inner = places(root.value);
    const all = inner.length > 0 && random.integer(100) > 0 ? inner : places(root, [], 50);
    if (all.length === 0) return null;
    const [at, key] = weigh(all);
    random.pick(TREE_CHANGES)(random, at, key, all);
  }
  return root.value;
}

/** JSON of any depth: `JSON.stringify` runs out of stack on values that `JSON.parse` can make. */
export function toJson(value) {
  try {
    return JSON.stringify(value) ?? 'null';
  } catch {
    return writeDeep(value);
  }
}

function writeDeep(value) {
  let text = '';
  const left = [() => value];
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    const item = next();
    if (typeof item === 'string' && next.raw) text += item;
    else if (typeof item !== 'object' || item === null) text += JSON.stringify(item) ?? 'null';
    else pushParts(item, left);
  }
  return text;
}

function pushParts(item, left) {
  const raw = (text) => Object.assign(() => text, { raw: true });
  const isArray = Array.isArray(item);
  const parts = [raw(isArray ? '[' : '{')];
  Object.keys(item).forEach((key, i) => {
    parts.push(raw(`${i > 0 ? ',' : ''}${isArray ? '' : `${JSON.stringify(key)}:`}`), () => item[key]);
  });
  parts.push(raw(isArray ? ']' : '}'));
  left.push(...parts.reverse());
}

const BYTES = [
  0x00, 0xff, 0xc0, 0x80, 0x22, 0x5c, 0x0a, 0x0d, 0x7b, 0x7d, 0x5b, 0x5d, 0x2c, 0x3a, 0xed, 0xf4,
];

/** A copy with bytes turned, put in, taken out, cut off or repeated; `from` and `to` bound where. */
export function mutateBytes(bytes, random, from = 0, to = bytes.length) {
  let result = Buffer.from(bytes);
  const place = () => from + (to > from ? random.integer(to - from) : 0);
  const byte = () => (random.integer(2) === 0 ? random.pick(BYTES) : random.integer(256));
  const kind = random.integer(10);
  if (kind < 6) {
    for (let n = 1 + random.integer(kind < 4 ? 2 : 8); n > 0; n--) {
      const at = place();
      if (at < result.length)
        result[at] = random.integer(2) === 0 ? byte() : result[at] ^ (1 << random.integer(8));
    }
  } else if (kind === 6) {
    const at = place();
    result = Buffer.concat([result.subarray(0, at), Buffer.from([byte(), byte()]), result.subarray(at)]);
  } else if (kind === 7) {
    const at = place();
    result = Buffer.concat([result.subarray(0, at), result.subarray(at + 1 + random.integer(8))]);
  } else if (kind === 8) {
    result = result.subarray(0, place());
  } else {
    const [at, length] = [place(), random.integer(64)];
    result = Buffer.concat([result.subarray(0, at + length), result.subarray(at)]);
  }
  return result;
}
