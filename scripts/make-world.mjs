// Development only: writes the committed sample of the embedded world, and (with --corpus FILE) plain text for the
// tokenizer's training. Needs the build. usage: node scripts/make-world.mjs [--corpus FILE]
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const { worldRecords } = require('../dist/data/world.js');

const sampleSeed = 1;
const sampleRecords = 5000;

// Each text once: a split keeps the replies to one tweet_id together, so a text under two ids would part.
const idOf = new Map();
const lines = [];
for (const record of worldRecords(sampleSeed, 'sample', sampleRecords)) {
  if (lines.length === sampleRecords) break;
  if (!idOf.has(record.tweet)) idOf.set(record.tweet, record.tweet_id);
  if (idOf.get(record.tweet) === record.tweet_id) lines.push(JSON.stringify(record));
}
writeFileSync('data/world/sample.jsonl', `${lines.join('\n')}\n`);
console.log(`data/world/sample.jsonl: ${lines.length} records, ${lines.join('\n').length} characters`);

const corpus = process.argv.indexOf('--corpus');
if (corpus > 0) {
  const text = [];
  for (const { tweet, reply } of worldRecords(7, 'pretrain', 12000)) text.push(tweet, reply);
  writeFileSync(process.argv[corpus + 1], text.join('\n'));
  console.log(`${process.argv[corpus + 1]}: ${text.length} lines`);
}
