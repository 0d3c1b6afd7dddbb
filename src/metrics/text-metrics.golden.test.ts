import { describe, expect, it } from 'vitest';
import { deviation, readGolden } from '../../test/golden';
import { bleu4, cosineSimilarity, distinctN, meanPairwiseDistance, selfBleu4 } from './diversity';
import { TOKENIZERS } from './tokenizers';
import { countCorpus, resampledDistinct, resampledTokenEntropy } from './vocabulary';
import { tokenEntropy, vocabularyRichness } from './vocabulary';

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
    {
      distinct: Record<string, { unique: number; total: number }>;
      vocabulary_richness_types_over_tokens: number;
      token_entropy_nats: number;
      token_entropy_bits: number;
      mean_of_group_self_bleu: number;
    }
  >;
  bleu_cases: { hypothesis: string[]; references: string[][]; bleu4_method1: number }[];
  pairwise_cosine: { embeddings: number[][]; mean_pairwise_distance: number; matrix: number[][] };
}

const golden = readGolden<TextMetrics>('text-metrics.json');
const tokenizers = Object.keys(golden.corpus);

describe(`text metrics against nltk ${golden.source.libraries.nltk}`, () => {
  it.each(Object.entries(TOKENIZERS))('%s gives its tokens of the lower-cased text', (name, tokenizer) => {
    for (const group of golden.groups) {
      expect(group.replies.map(tokenizer)).toEqual(group.tokens[`${name}_lower`]);
    }
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

  it.each(tokenizers)('richness and entropy of the corpus from %s tokens', (tokenizer) => {
    const expected = golden.corpus[tokenizer];
    const all = golden.groups.flatMap((group) => group.tokens[tokenizer]);
    expect(vocabularyRichness(all)).toBe(expected.vocabulary_richness_types_over_tokens);
    for (const unit of ['nats', 'bits'] as const) {
      const entropy = tokenEntropy(all, unit) ?? NaN;
      expect(deviation(entropy, expected[`token_entropy_${unit}`])).toBeLessThan(1e-12);
    }
  });

  it.each(tokenizers)(
    'the forms for resamples give the same where every group counts once: %s',
    (tokenizer) => {
      const corpus = golden.corpus[tokenizer];
      const groups = golden.groups.map((group) => group.tokens[tokenizer]);
      const once = groups.map(() => 1);
      for (const [n, { unique, total }] of Object.entries(corpus.distinct)) {
        expect(resampledDistinct(countCorpus(groups, Number(n)))(once)).toBe(unique / total);
      }
      const entropy = resampledTokenEntropy(countCorpus(groups, 1))(once) ?? NaN;
      expect(deviation(entropy, corpus.token_entropy_nats)).toBeLessThan(1e-12);
    },
  );

  it('cosine distances of given embeddings, each and their mean', () => {
    const { embeddings, mean_pairwise_distance, matrix } = golden.pairwise_cosine;
    embeddings.forEach((a, i) =>
      embeddings.forEach((b, j) => expect(1 - cosineSimilarity(a, b)).toBeCloseTo(matrix[i][j], 12)),
    );
    expect(meanPairwiseDistance(embeddings)).toBeCloseTo(mean_pairwise_distance, 12);
  });
});
