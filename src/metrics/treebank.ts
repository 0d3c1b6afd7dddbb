/** The Penn Treebank's way to part a text into words, as the text metrics' `--tokenizer treebank` has it. */

import { PYTHON_SPACE, splitWhitespace } from './spaces';

// What the third-party `regex` module, which nltk compiles these rules with, takes for \s: Unicode's White_Space.
const SPACE = '[\\t-\\r\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';
const WORD = '[\\p{L}\\p{N}_]';

/** In this order: the quotes that open, punctuation, brackets, dashes. */
const BEFORE: [RegExp, string][] = [
  [/^"/g, '``'],
  [/``/g, ' `` '],
  [/([ ([{<])("|'')/g, '$1 `` '],
  [/([:,])(\P{Nd})/gu, ' $1 $2'],
  [/([:,])(?=\n?$)/g, ' $1 '],
  [/\.\.\./g, ' ... '],
  [/[;@#$%&]/g, ' $& '],
  [new RegExp(`([^.])(\\.)([\\])}>"']*)${SPACE}*$`, 'gu'), '$1 $2$3 '],
  [/[?!]/g, ' $& '],
  [/([^'])' /g, "$1 ' "],
  [/[\][(){}<>]/g, ' $& '],
  [/--/g, ' -- '],
];

/** On the text between two spaces: the quotes that close, clitics, and words written as one. */
const AFTER: [RegExp, string][] = [
  [/''/g, " '' "],
  [/"/g, " '' "],
  [/([^' ])('s|'m|'d|') /g, '$1 $2 '],
  [/([^' ])('ll|'re|'ve|n't) /g, '$1 $2 '],
  ...[`(can)(not)`, `(d)('ye)`, `(gim)(me)`, `(gon)(na)`, `(got)(ta)`, `(lem)(me)`, `(more)('n)`].map(
    (parts): [RegExp, string] => [new RegExp(`(?<!${WORD})${parts}(?!${WORD})`, 'giu'), ' $1 $2 '],
  ),
  [new RegExp(`(?<!${WORD})(wan)(na)(?=[${PYTHON_SPACE}])`, 'giu'), ' $1 $2 '],
  [new RegExp(` ('t)(is)(?!${WORD})`, 'giu'), ' $1 $2 '],
  [new RegExp(` ('t)(was)(?!${WORD})`, 'giu'), ' $1 $2 '],
];

function replaceAll(text: string, rules: readonly [RegExp, string][]): string {
  return rules.reduce((result, [pattern, replacement]) => result.replace(pattern, replacement), text);
}

/**
 * Lower-cased words of the Penn Treebank: clitics and punctuation are tokens of their own, `don't.` -> `do n't .`;
 * of full stops only the last one of the text.
 *
 * Source: R. McIntyre's tokenizer.sed; nltk 3.10's `TreebankWordTokenizer().tokenize(text.lower())`.
 */
export function treebank(text: string): string[] {
  return splitWhitespace(replaceAll(` ${replaceAll(text.toLowerCase(), BEFORE)} `, AFTER));
}
