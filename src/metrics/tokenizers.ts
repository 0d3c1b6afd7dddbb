import { whitespace, wordpunct } from './text';
import { treebank } from './treebank';

/** The tokenizers of the text metrics by name; the first is the default. */
export const TOKENIZERS = { wordpunct, treebank, whitespace } as const;

/** A tokenizer of the text metrics, a key of `TOKENIZERS`. */
export type TokenizerName = keyof typeof TOKENIZERS;
