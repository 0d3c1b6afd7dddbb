/** An evaluation's files: `evaluation.json`, `.md`, `.csv`, `.tex`, `.html`. */
import path from 'node:path';
import { existsSync } from 'node:fs';
import { DataError } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory, readJsonFile, strictJson } from '../runtime/files';
import { evaluationCsv, evaluationLatex, evaluationMarkdown } from './report';
import { evaluationHtml } from './report-html';
import type { Evaluation } from './suite';

/** Writes all five. @returns their paths; @throws DataError when one cannot be written */
export async function writeEvaluation(evaluation: Evaluation, directory: string): Promise<string[]> {
  await ensureDirectory(directory);
  const texts: Record<string, string> = {
    'evaluation.json': `${strictJson(evaluation, 2)}\n`,
    'evaluation.md': evaluationMarkdown(evaluation),
    'evaluation.csv': evaluationCsv(evaluation),
    'evaluation.tex': evaluationLatex(evaluation),
    'evaluation.html': evaluationHtml(evaluation),
  };
  const files = Object.keys(texts).map((name) => path.join(directory, name));
  for (const file of files) await atomicWriteFile(file, texts[path.basename(file)]);
  return files;
}

/** What `writeEvaluation` wrote to a directory, or to a file. @throws DataError for anything else */
export function readEvaluation(place: string): Evaluation {
  const file = place.endsWith('.json') ? place : path.join(place, 'evaluation.json');
  if (!existsSync(file))
    throw new DataError(`${file}: no such file. Run \`grpolab evaluate --output ${place}\` first.`);
  const value = readJsonFile(file) as Partial<Evaluation> | null;
  if (value?.format !== 'grpolab-evaluation' || value.version !== 2)
    throw new DataError(
      `${file}: is no evaluation of this version; expected format "grpolab-evaluation", version 2. Make it again.`,
    );
  return value as Evaluation;
}
