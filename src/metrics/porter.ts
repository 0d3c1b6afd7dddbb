/** Porter's stemmer with nltk's extensions: the variant that ROUGE counts with. */

/** Of each letter whether it is a vowel: a, e, i, o, u, and y after a consonant. */
function vowelFlags(word: string): boolean[] {
  const flags: boolean[] = [];
  for (let i = 0; i < word.length; i++) {
    flags.push('aeiou'.includes(word[i]) || (word[i] === 'y' && i > 0 && !flags[i - 1]));
  }
  return flags;
}

/** m of a stem [C](VC)^m[V]: how often a consonant follows a vowel. */
function measure(stem: string): number {
  return vowelFlags(stem).filter((isVowel, i, flags) => !isVowel && i > 0 && flags[i - 1]).length;
}

function endsInConsonant(word: string): boolean {
  return vowelFlags(word).at(-1) === false;
}

/** Ends in consonant, vowel, consonant, the last one not w, x or y; or is a vowel and a consonant (nltk). */
function endsInShortSyllable(word: string): boolean {
  const [first, second, third] = vowelFlags(word).slice(-3);
  if (word.length === 2) return first && !second;
  return word.length > 2 && !first && second && !third && !/[wxy]$/.test(word);
}

/** Suffixes and what takes their place. */
type Rules = Readonly<Record<string, string>>;

/** The first rule whose suffix the word has; it acts only where its stem fulfils the condition. */
function applyRules(
  word: string,
  rules: Rules,
  condition: (stem: string, suffix: string) => boolean,
): string {
  const suffix = Object.keys(rules).find((end) => word.endsWith(end));
  if (suffix === undefined) return word;
  const stem = word.slice(0, word.length - suffix.length);
  return condition(stem, suffix) ? stem + rules[suffix] : word;
}

const always = (): boolean => true;
const hasMeasure = (stem: string): boolean => measure(stem) > 0;

/** Plurals. */
function step1a(word: string): string {
  if (word.length === 4 && word.endsWith('ies')) return word.slice(0, -1); // dies -> die (nltk)
  return applyRules(word, { sses: 'ss', ies: 'i', ss: 'ss', s: '' }, always);
}

/** What is left of a word without -ed or -ing: hop(p), fil -> file, conflat -> conflate. */
function restored(stem: string): string {
  if (/(at|bl|iz)$/.test(stem)) return `${stem}e`;
  if (stem.length > 1 && stem.at(-1) === stem.at(-2) && endsInConsonant(stem)) {
    return /[lsz]$/.test(stem) ? stem : stem.slice(0, -1);
  }
  return measure(stem) === 1 && endsInShortSyllable(stem) ? `${stem}e` : stem;
}

/** Past tenses and participles. */
function step1b(word: string): string {
  if (word.endsWith('ied')) return word.slice(0, word.length === 4 ? -1 : -2); // died -> die, spied -> spi (nltk)
  if (word.endsWith('eed')) return hasMeasure(word.slice(0, -3)) ? word.slice(0, -1) : word;
  for (const suffix of ['ed', 'ing']) {
    const stem = word.slice(0, -suffix.length);
    if (word.endsWith(suffix) && vowelFlags(stem).includes(true)) return restored(stem);
  }
  return word;
}

/** happy -> happi, but enjoy and by stay (nltk). */
function step1c(word: string): string {
  return applyRules(word, { y: 'i' }, (stem) => stem.length > 1 && endsInConsonant(stem));
}

const DOUBLE_SUFFIXES: Rules = {
  ...{ ational: 'ate', tional: 'tion', enci: 'ence', anci: 'ance', izer: 'ize', bli: 'ble', alli: 'al' },
  ...{ entli: 'ent', eli: 'e', ousli: 'ous', ization: 'ize', ation: 'ate', ator: 'ate', alism: 'al' },
  ...{ iveness: 'ive', fulness: 'ful', ousness: 'ous', aliti: 'al', iviti: 'ive', biliti: 'ble' },
  fulli: 'ful',
};

/** Double suffixes: relational -> relate. */
function step2(word: string): string {
  // nltk: -alli first, and what it leaves goes through the step again.
  if (word.endsWith('alli') && hasMeasure(word.slice(0, -4))) return step2(word.slice(0, -2));
  // nltk: the l of -logi counts for the stem.
  if (word.endsWith('logi')) return hasMeasure(word.slice(0, -3)) ? word.slice(0, -1) : word;
  return applyRules(word, DOUBLE_SUFFIXES, hasMeasure);
}

const DERIVATIONS: Rules = {
  icate: 'ic',
  ative: '',
  alize: 'al',
  iciti: 'ic',
  ical: 'ic',
  ful: '',
  ness: '',
};

const ENDINGS: Rules = Object.fromEntries(
  'al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize'
    .split(' ')
    .map((suffix) => [suffix, '']),
);

/** Single suffixes of long stems: adoption -> adopt. */
function step4(word: string): string {
  return applyRules(
    word,
    ENDINGS,
    (stem, suffix) => measure(stem) > 1 && (suffix !== 'ion' || /[st]$/.test(stem)),
  );
}

/** A final e, and the second of two final l. */
function step5(word: string): string {
  const isLong = (stem: string): boolean =>
    measure(stem) > 1 || (measure(stem) === 1 && !endsInShortSyllable(stem));
  const bare = applyRules(word, { e: '' }, isLong);
  return bare.endsWith('ll') && measure(bare.slice(0, -1)) > 1 ? bare.slice(0, -1) : bare;
}

/** Words that nltk does not leave to the rules. */
const IRREGULAR = new Map(
  Object.entries({
    ...{ skies: 'sky', sky: 'sky', dying: 'die', lying: 'lie', tying: 'tie', news: 'news', howe: 'howe' },
    ...{ innings: 'inning', inning: 'inning', outings: 'outing', outing: 'outing', cannings: 'canning' },
    ...{ canning: 'canning', proceed: 'proceed', exceed: 'exceed', succeed: 'succeed' },
  }),
);

/**
 * The stem of a lower-case word of ASCII letters and digits: `replies` -> `repli`, `running` -> `run`.
 *
 * Source: Porter, "An algorithm for suffix stripping", Program 14(3), 1980, with the extensions of nltk's
 * `PorterStemmer` (its default mode), which rouge-score uses. Ours because no npm stemmer has those extensions.
 */
export function porterStem(word: string): string {
  const irregular = IRREGULAR.get(word);
  if (irregular !== undefined || word.length <= 2) return irregular ?? word;
  return step5(step4(applyRules(step2(step1c(step1b(step1a(word)))), DERIVATIONS, hasMeasure)));
}
