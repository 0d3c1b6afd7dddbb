/** The word banks of the embedded world, `data/world/topics.yaml`, and the lexicons that the law looks words up in. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'yaml';
import { z } from 'zod';

const phrases = (count: number) => z.array(z.string()).length(count);

const topicSchema = z.strictObject({
  subjects: phrases(4),
  details: phrases(6),
  troubles: phrases(4),
  joys: phrases(3),
  jokes: phrases(3),
  claims: phrases(3),
  counters: phrases(3),
});

/** A topic of the embedded world with its vocabulary; `name` is its key in `topics.yaml`. */
export type Topic = z.infer<typeof topicSchema> & { name: string };

/** Words that carry no topic. */
const stopWords = new Set(
  (
    'a an the and or but of to in on at for from with by as is are was were be been am it its this that these those my your our their his ' +
    'her me you we they he she i us them not no so too very just only all any some more most one two three four five six nine ten what when ' +
    'how who which if than then there here up out off over again after before into about can could would should will may might must do does ' +
    'did done have has had having get got gets make made makes every each other even still never always now finally first last good better best ' +
    'real really like much many own same day week night morning hours minutes line once back'
  ).split(' '),
);

/** A crude stem, enough to match plurals. */
function stem(word: string): string {
  return word.length > 3 && word.endsWith('s') && !word.endsWith('ss') ? word.slice(0, -1) : word;
}

/** Lower-cased words (letters and digits), stemmed. */
export function worldWords(text: string): string[] {
  return (text.toLowerCase().match(/[a-z0-9]+/g) ?? []).map(stem);
}

/** The words of a text that carry meaning. */
export function contentWords(text: string): string[] {
  return worldWords(text).filter((word) => word.length > 2 && !stopWords.has(word));
}

/** What the law knows of a topic. */
export interface TopicLexicon {
  topic: Topic;
  /** Content words of its phrases that at most two topics share, and those of its subjects. */
  words: Set<string>;
  /** Phrases that a tweet about the topic is made of: subjects, troubles, joys, claims. */
  phrases: string[];
  details: string[];
  jokes: string[];
  counters: string[];
}

const normalise = (phrase: string): string => worldWords(phrase).join(' ');

function lexiconOf(topic: Topic): TopicLexicon {
  const { subjects, details, troubles, joys, jokes, claims, counters } = topic;
  const words = new Set(
    [...subjects, ...details, ...troubles, ...joys, ...claims, ...counters].flatMap(contentWords),
  );
  return {
    topic,
    words,
    phrases: [...subjects, ...troubles, ...joys, ...claims].map(normalise),
    details: details.map((detail) => contentWords(detail).join(' ')),
    jokes: jokes.map((joke) => contentWords(joke).join(' ')),
    counters: counters.map((counter) => contentWords(counter).join(' ')),
  };
}

function load(): TopicLexicon[] {
  const file = path.resolve(__dirname, '../../data/world/topics.yaml');
  const banks = z.record(z.string(), topicSchema).parse(parse(readFileSync(file, 'utf8')));
  const lexicons = Object.entries(banks).map(([name, bank]) => lexiconOf({ name, ...bank }));
  keepTelling(lexicons);
  return lexicons;
}

/** Drops words that many topics use: they say nothing about the topic. */
function keepTelling(lexicons: readonly TopicLexicon[]): void {
  const counts = new Map<string, number>();
  for (const { words } of lexicons) for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  for (const { words, topic } of lexicons) {
    const own = new Set(topic.subjects.flatMap(contentWords));
    for (const word of [...words]) if ((counts.get(word) ?? 0) > 2 && !own.has(word)) words.delete(word);
  }
}

let loaded: TopicLexicon[] | undefined;

/** Every topic, read once. */
export function worldTopics(): readonly TopicLexicon[] {
  loaded ??= load();
  return loaded;
}
