import { describe, expect, it } from 'vitest';
import { deviation, readGolden } from '../../test/golden';
import { porterStem } from './porter';
import type { RougeScore } from './rouge';
import { rouge, rougeL, rougeN, rougeTokens, rougeWords } from './rouge';

type Triple = [precision: number, recall: number, fMeasure: number];
type Scores = Record<'rouge1' | 'rouge2' | 'rougeL', Triple>;

interface RougeGolden {
  source: { libraries: Record<string, string> };
  groups: {
    reference: string;
    replies: string[];
    rouge_stemmed: Scores[];
    rouge_unstemmed: Scores[];
    /** of the reference, then of the replies */
    rouge_tokens_stemmed: string[][];
  }[];
  porter: Record<string, string>;
}

const golden = readGolden<RougeGolden>('text-metrics.json');
const { libraries } = golden.source;

function expectScore({ precision, recall, fMeasure }: RougeScore, expected: Triple): void {
  [precision, recall, fMeasure].forEach((value, i) =>
    expect(deviation(value, expected[i])).toBeLessThan(1e-9),
  );
}

describe(`ROUGE against rouge-score ${libraries['rouge-score']}`, () => {
  it.each(golden.groups.map((group, i) => [i, group] as const))(
    'tokens and scores of group %i are its, stemmed',
    (_, { reference, replies, rouge_stemmed, rouge_tokens_stemmed }) => {
      expect([reference, ...replies].map(rougeTokens)).toEqual(rouge_tokens_stemmed);
      replies.forEach((reply, r) => {
        const scores = rouge(reference, reply);
        expectScore(scores[1], rouge_stemmed[r].rouge1);
        expectScore(scores[2], rouge_stemmed[r].rouge2);
        expectScore(scores.L, rouge_stemmed[r].rougeL);
      });
    },
  );

  it.each(golden.groups.map((group, i) => [i, group] as const))(
    'scores of group %i are its, unstemmed',
    (_, { reference, replies, rouge_unstemmed }) => {
      const words = rougeWords(reference);
      replies.forEach((reply, r) => {
        expectScore(rougeN(words, rougeWords(reply), 1), rouge_unstemmed[r].rouge1);
        expectScore(rougeN(words, rougeWords(reply), 2), rouge_unstemmed[r].rouge2);
        expectScore(rougeL(words, rougeWords(reply)), rouge_unstemmed[r].rougeL);
      });
    },
  );
});

describe(`porterStem against nltk ${libraries.nltk}`, () => {
  it('gives its stem of every word', () => {
    expect(Object.keys(golden.porter).length).toBeGreaterThan(0);
    for (const [word, stem] of Object.entries(golden.porter)) expect(porterStem(word), word).toBe(stem);
  });
});
