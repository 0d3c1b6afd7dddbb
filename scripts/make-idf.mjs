// Makes data/lexical-idf.json, the fixed IDF table of the lexical embedding (src/rewards/lexical.ts).
// Development only: the table is committed, so that a text has the same vector everywhere.
//
// Counted: the paragraphs of English prose in the README files of the npm packages that package-lock.json pins and
// every system installs. Only counts per hash bucket are kept, no text. Run after `npm run build`:
//   node scripts/make-idf.mjs
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const root = new URL('../', import.meta.url);
const { LEXICAL_BUCKETS, lexicalCounts } = createRequire(import.meta.url)('../dist/rewards/lexical.js');

/** Folders of the pinned packages, in a fixed order; platform-specific ones are left out. */
function packageFolders() {
  const lock = JSON.parse(readFileSync(new URL('package-lock.json', root), 'utf8'));
  return Object.entries(lock.packages)
    .filter(([folder, { optional, link }]) => folder.startsWith('node_modules/') && !optional && !link)
    .map(([folder]) => new URL(`${folder}/`, root))
    .sort((a, b) => (a.href < b.href ? -1 : 1));
}

function readme(folder) {
  const name = readdirSync(folder).find((file) => /^readme\.md$/i.test(file));
  return name === undefined ? '' : readFileSync(new URL(name, folder), 'utf8');
}

/** The paragraphs that read as prose: some length, words in a row, no code, table or markup. */
function paragraphs(markdown) {
  const text = markdown
    .replace(/\r/g, '')
    .replace(/```[\s\S]*?```/g, '')
    .replace(/https?:\S+/g, '');
  return text
    .split(/\n\s*\n/)
    .map((paragraph) => paragraph.replace(/\s+/g, ' ').trim())
    .filter((paragraph) => paragraph.length > 60 && paragraph.length < 400)
    .filter((paragraph) => /[a-z]{3,} [a-z]{2,} [a-z]{2,}/.test(paragraph) && !/[|{}<]/.test(paragraph));
}

const texts = new Set(packageFolders().flatMap((folder) => paragraphs(readme(folder))));
const documentFrequency = new Array(LEXICAL_BUCKETS).fill(0);
for (const text of texts) for (const bucket of lexicalCounts(text).keys()) documentFrequency[bucket]++;

const table = {
  source: 'paragraphs of English prose in the README files of the npm packages pinned by package-lock.json',
  documents: texts.size,
  document_frequency: documentFrequency,
};
const file = fileURLToPath(new URL('data/lexical-idf.json', root));
writeFileSync(file, `${JSON.stringify(table)}\n`);
process.stderr.write(`${file}: ${texts.size} paragraphs\n`);
