import { describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { bleu4, distinctN, meanPairwiseDistance, selfBleu4 } from './diversity';
import { wordpunct } from './text';

interface Group {
  replies: string[];
  tokens: Record<string, string[][]>;
  self_bleu: Record<string, { per_reply: number[]; mean: number }>;
  distinct: Record<string, Record<string, { value: number }>>;
}
interface TextMetrics {
  source: { libraries: Record<string, string> };
  groups: Group[];
  corpus: Record<
    string,
    { distinct: Record<string, { unique: number; total: number }>; mean_of_group_self_bleu: number }
  >;
  bleu_cases: { hypothesis: string[]; references: string[][]; bleu4_method1: number }[];
  pairwise_cosine: { embeddings: number[][]; mean_pairwise_distance: number };
}

const golden = readGolden<TextMetrics>('text-metrics.json');
const tokenizers = Object.keys(golden.corpus);

describe(`text metrics against nltk ${golden.source.libraries.nltk}`, () => {
  it('wordpunct gives the tokens of wordpunct_tokenize on the lower-cased text', () => {
    for (const group of golden.groups)
      expect(group.replies.map(wordpunct)).toEqual(group.tokens.wordpunct_lower);
  });

  it.each(golden.bleu_cases.map((bleuCase, i) => [i, bleuCase] as const))(
    'bleu4 of case %i',
    (_, bleuCase) => {
      expect(bleu4(bleuCase.hypothesis, bleuCase.references)).toBeCloseTo(bleuCase.bleu4_method1, 14);
    },
  );

  it.each(tokenizers)('self-BLEU of every reply and group from %s tokens', (tokenizer) => {
    for (const group of golden.groups) {
      const replies = group.tokens[tokenizer];
      const expected = group.self_bleu[tokenizer];
      replies.forEach((reply, i) => {
        const others = replies.filter((__, j) => j !== i);
        expect(bleu4(reply, others)).toBeCloseTo(expected.per_reply[i], 14);
      });
      expect(selfBleu4(replies)).toBeCloseTo(expected.mean, 14);
    }
  });

  it.each(tokenizers)('self-BLEU of the corpus from %s tokens is the mean over groups', (tokenizer) => {
    const values = golden.groups.map((group) => selfBleu4(group.tokens[tokenizer]) ?? NaN);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    expect(mean).toBeCloseTo(golden.corpus[tokenizer].mean_of_group_self_bleu, 14);
  });

  it.each(tokenizers)('distinct-n of every group and of the corpus from %s tokens', (tokenizer) => {
    for (const group of golden.groups) {
      for (const [n, { value }] of Object.entries(group.distinct[tokenizer])) {
        expect(distinctN(group.tokens[tokenizer], Number(n))).toBe(value);
      }
    }
    const all = golden.groups.flatMap((group) => group.tokens[tokenizer]);
    for (const [n, { unique, total }] of Object.entries(golden.corpus[tokenizer].distinct)) {
      expect(distinctN(all, Number(n))).toBe(unique / total);
    }
  });

  it('mean pairwise cosine distance of given embeddings', () => {
    const { embeddings, mean_pairwise_distance } = golden.pairwise_cosine;
    expect(meanPairwiseDistance(embeddings)).toBeCloseTo(mean_pairwise_distance, 12);
  });
});
