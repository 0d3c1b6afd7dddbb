/** Which words the world's grammar can put side by side: the law's measure of whether a reply is language or word salad. */
import { worldTopics, worldWords } from './world-topics';
import {
  blandTemplates,
  disagreeTemplates,
  echoTemplates,
  engagingTemplates,
  genericReplies,
  slots,
  spamTemplates,
} from './world-text';

/** A template as a list of alternatives for each place: the words that can stand there first, and last. */
function places(
  template: string,
  values: Record<string, readonly string[]>,
): { first: string[]; last: string[]; inner: string[][] }[] {
  return template.split(/(\{\w+\})/).flatMap((piece) => {
    const slot = /^\{(\w+)\}$/.exec(piece)?.[1].toLowerCase();
    if (slot !== undefined) {
      const phrases = (values[slot] ?? []).map(worldWords).filter((words) => words.length > 0);
      return [{ first: phrases.map((w) => w[0]), last: phrases.map((w) => w[w.length - 1]), inner: phrases }];
    }
    const words = worldWords(piece);
    return words.length === 0 ? [] : [{ first: [words[0]], last: [words[words.length - 1]], inner: [words] }];
  });
}

let wordPairs: Set<string> | undefined;

/** Every pair of neighbouring words that the world's grammar can write in a reply. */
function worldPairs(): ReadonlySet<string> {
  if (wordPairs !== undefined) return wordPairs;
  const pairs = new Set<string>();
  const bank = (
    key: 'subjects' | 'details' | 'troubles' | 'joys' | 'jokes' | 'claims' | 'counters',
  ): string[] => worldTopics().flatMap(({ topic }) => topic[key]);
  const values: Record<string, readonly string[]> = {
    ...slots,
    ...{ subject: bank('subjects'), detail: bank('details'), joke: bank('jokes'), counter: bank('counters') },
    ...{
      trouble: bank('troubles'),
      joy: bank('joys'),
      claim: bank('claims'),
      event: [...bank('troubles'), ...bank('joys')],
    },
  };
  const engaging = Object.values(engagingTemplates).flatMap((byStance) => Object.values(byStance).flat());
  for (const template of [
    ...genericReplies,
    ...blandTemplates,
    ...echoTemplates,
    ...spamTemplates,
    ...disagreeTemplates,
    ...engaging,
  ]) {
    const list = places(template, values);
    for (const { inner } of list)
      for (const words of inner) words.slice(1).forEach((word, i) => pairs.add(`${words[i]} ${word}`));
    list.slice(1).forEach(({ first }, i) => {
      for (const a of new Set(list[i].last)) for (const b of new Set(first)) pairs.add(`${a} ${b}`);
    });
  }
  // `a` before a vowel is written `an`.
  for (const pair of [...pairs]) pairs.add(pair.replace(/^a (?=[aeiou])/, 'an ').replace(/ a$/, ' an'));
  wordPairs = pairs;
  return pairs;
}

/** Share of neighbouring words of a sentence that the grammar cannot write side by side; word salad has many. */
export function unknownPairShare(text: string): number {
  const known = worldPairs();
  const own = (text.match(/[^.!?]+/g) ?? []).flatMap((sentence) => {
    const words = worldWords(sentence);
    return words.slice(1).map((word, i) => `${words[i]} ${word}`);
  });
  return own.length === 0 ? 0 : own.filter((pair) => !known.has(pair)).length / own.length;
}
