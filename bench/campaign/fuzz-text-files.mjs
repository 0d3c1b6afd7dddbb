// Records as JSONL and experiments as YAML, damaged as trees, as texts and as bytes.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { library, root } from './library.mjs';
import { junk, mutateBytes, mutateTree, toJson } from './mutate.mjs';

const { GrpolabError } = library('runtime/errors');
const { parse, stringify } = await import('yaml');

const RECORD = {
  ...{
    tweet_id: '1234567890123456789',
    tweet: 'Is #tea better than coffee?',
    tweet_author: 'a',
    tweet_likes: 12,
  },
  ...{
    tweet_retweets: 0,
    tweet_created_at: '2024-06-09T15:52:04.000Z',
    reply_id: 17,
    reply: 'It depends :)',
  },
  ...{
    reply_author: 'b',
    reply_author_followers: 9,
    reply_likes: 3,
    reply_time_diff_seconds: 12.5,
    more: { a: [1] },
  },
};

const LINES = [
  (random) => toJson(mutateTree(RECORD, random)),
  (random) => toJson(mutateTree(RECORD, random)),
  (random) => mutateBytes(Buffer.from(JSON.stringify(RECORD)), random).toString('latin1'),
  (random) => `${JSON.stringify(RECORD)}${random.pick([',', '}', '\r', ' ', '\u2028', '\0', '{}'])}`,
  (random) => toJson({ ...RECORD, [`k${'\n'.repeat(random.integer(3))}`]: junk(random) }),
  (random) =>
    `{"tweet_id":${'9'.repeat(1 + random.integer(60))}${random.pick(['', '.0', 'e9', 'e999'])},"tweet":"a","reply":"b"}`,
  (random) =>
    `{"a${random.pick(['', '\\n', '\\u2028', '\\u001b[2J'])}":${random.pick(['1e999', '[1e999]', '{"b\\n":-1e999}'])}}`,
];

/** Lines together: the reader may throw at the first bad one, or set all of them aside. */
function jsonlTarget(directory) {
  const { readRecords } = library('data/records');
  const file = path.join(directory, 'records.jsonl');
  const rejectedPath = path.join(directory, 'rejected.jsonl');
  return async (random) => {
    const good = JSON.stringify(RECORD);
    const lines = Array.from({ length: 1 + random.integer(4) }, () =>
      random.integer(4) === 0 ? good : random.pick(LINES)(random),
    );
    let bytes = Buffer.from(
      lines.join(random.pick(['\n', '\n', '\r\n'])),
      random.integer(3) === 0 ? 'latin1' : 'utf8',
    );
    if (random.integer(8) === 0) bytes = mutateBytes(bytes, random);
    if (random.integer(50) === 0) bytes = Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), bytes]);
    writeFileSync(file, bytes);
    const options = { skipInvalid: true, rejectedPath, maxLineBytes: random.pick([1 << 24, 1 << 24, 1000]) };
    const reader = readRecords(file, options);
    let accepted = 0;
    for await (const { value } of reader) {
      accepted++;
      if (typeof value.tweet_id !== 'string' || !/\S/u.test(value.reply))
        return `accepted ${toJson(value).slice(0, 300)}`;
    }
    const wanted = bytes
      .toString('latin1')
      .split('\n')
      .filter((line) => line.trim() !== '').length;
    // Blank as UTF-8 and blank as Latin-1 are not quite the same: a line may count on one side only.
    if (accepted + reader.rejected > wanted) return `${accepted} + ${reader.rejected} of ${wanted} lines`;
    if (reader.rejected > 0) checkRejected(rejectedPath, reader.rejected);
    for await (const _ of readRecords(file, { ...options, skipInvalid: false }));
  };
}

function checkRejected(file, expected) {
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
  if (lines.length !== expected) throw new Error(`${lines.length} lines set aside, ${expected} counted`);
  for (const line of lines) {
    const { reason } = JSON.parse(line);
    if (typeof reason !== 'string' || reason.includes('\n'))
      throw new Error(`the reason ${JSON.stringify(reason)}`);
  }
}

const YAML_LINES = [
  'x: &a [*a]',
  '&a [*a]',
  'x: &a {b: *a}',
  'x: *nowhere',
  '<<: {method: sft}',
  'x: !!binary aGVsbG8=',
  'x: !!js/function f',
  '__proto__: {a: 1}',
  '? [a, b]\n: 1',
  'seed: .inf',
  'seed: .nan',
  'seed: 0x1F',
  'seed: 1_000',
  'seed: 12e03',
  'seed: 0o17',
  'method: grpo',
  '\tseed: 1',
  '- a',
  '---',
  '...',
  '%YAML 1.1',
  '%TAG ! x',
  'x: |\n  a\n b',
  'x: "a',
  "x: 'a",
  'x: {a',
  'x: [a',
  'a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c]',
  'output_dir: ../../../x',
  'seed: -1',
  'lora: {r: 99999999999999999999}',
  '_base_: experiment.yaml',
  '_base_: nowhere.yaml',
  '_base_: [a]',
  '"a\\nb": 1',
  'training: {"x\\ny": 1}',
  '"\\e[2J": 1',
  'x: !!set {a}',
  'x: !!omap [a: 1]',
  'x: 2001-12-14',
  'x: ~',
  ': 1',
  '? ',
  'a: b: c',
];

const deepYaml = (random) => {
  const depth = random.pick([20, 300, 3000, 30000]);
  return random.pick([
    () => `x: ${'['.repeat(depth)}${']'.repeat(depth)}`,
    () => `x: ${'{a: '.repeat(depth)}1${'}'.repeat(depth)}`,
    () => '- '.repeat(depth),
    () => `${'? '.repeat(Math.min(depth, 3000))}a`,
    () => `x: ${'['.repeat(depth)}`,
  ])();
};

function spoilYaml(text, tree, random) {
  const kind = random.integer(12);
  if (kind < 5) return Buffer.from(writeYaml(mutateTree(tree, random)));
  if (kind < 8) return mutateBytes(Buffer.from(text), random);
  const lines = text.split('\n');
  const inserted = kind === 8 && random.integer(6) === 0 ? deepYaml(random) : random.pick(YAML_LINES);
  if (kind < 11) lines.splice(random.integer(lines.length + 1), 0, inserted);
  else lines.splice(0, lines.length, inserted);
  return Buffer.from(lines.join('\n'));
}

function writeYaml(tree) {
  try {
    return stringify(tree) ?? 'null';
  } catch {
    return toJson(tree);
  }
}

function yamlTarget(directory) {
  const { loadExperiment } = library('train/config');
  const names = readdirSync(path.join(root, 'configs')).filter((name) => name.endsWith('.yaml'));
  const bases = names.map((name) => {
    const text = readFileSync(path.join(root, 'configs', name), 'utf8').replace(
      /^_base_: /m,
      `_base_: ${root}/configs/`,
    );
    const whole = text.replaceAll(`${root}/configs/`, path.join(path.relative(directory, root), 'configs/'));
    return { text: whole, tree: parse(whole) };
  });
  return (random) => {
    const { text, tree } = random.pick(bases);
    const file = path.join(directory, 'experiment.yaml');
    writeFileSync(file, spoilYaml(text, tree, random));
    const overrides =
      random.integer(10) === 0
        ? [`${random.pick(['seed', 'lora.r', 'a.b', '__proto__.x', 'x\ny'])}=${random.pick(YAML_LINES)}`]
        : [];
    const { method, seed } = loadExperiment(file, overrides);
    if (!['sft', 'polychromic', 'grpo'].includes(method) || !Number.isSafeInteger(seed))
      return `${method}, seed ${seed}`;
  };
}

const TARGETS = { 'fuzz-jsonl': jsonlTarget, 'fuzz-yaml': yamlTarget };

export function prepare(directory, part) {
  return { Allowed: GrpolabError, attempt: TARGETS[part](directory) };
}
