// Development only: writes the committed records of the embedded world, and (with --corpus FILE) plain text for the
// tokenizer's training. Needs the build. usage: node scripts/make-world.mjs [--corpus FILE]
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const { worldRecords } = require('../dist/data/world.js');

/** The first records of a part, each tweet text under one id: a text under two ids could be parted by a split. */
function write(name, part, count) {
  const idOf = new Map();
  const lines = [];
  for (const record of worldRecords(1, part, count)) {
    if (lines.length === count) break;
    if (!idOf.has(record.tweet)) idOf.set(record.tweet, record.tweet_id);
    if (idOf.get(record.tweet) === record.tweet_id) lines.push(JSON.stringify(record));
  }
  writeFileSync(`data/world/${name}.jsonl`, `${lines.join('\n')}\n`);
  console.log(`data/world/${name}.jsonl: ${lines.length} records, ${lines.join('\n').length} characters`);
}

write('sample', 'sample', 5000);
write('heldout', 'heldout', 200);

const corpus = process.argv.indexOf('--corpus');
if (corpus > 0) {
  const text = [];
  for (const { tweet, reply } of worldRecords(7, 'pretrain', 12000)) text.push(tweet, reply);
  writeFileSync(process.argv[corpus + 1], text.join('\n'));
  console.log(`${process.argv[corpus + 1]}: ${text.length} lines`);
}
