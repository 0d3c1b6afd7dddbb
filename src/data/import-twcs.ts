/**
 * Customer Support on Twitter (TWCS): one tweet a row, with the id of the tweet that it answers. Its rows become records
 * of a tweet and an answer to it.
 */
import { DataError } from '../runtime/errors';
import type { Cells, CsvLayout } from './csv';
import { idCell } from './csv';
import { threadsOf } from './import-threads';

/** A row of the file. */
export interface TwcsTweet {
  id: string;
  author: string;
  text: string;
  /** Unix seconds; NaN where the file has none */
  createdSeconds: number;
  /** id of the tweet that this one answers; '' of one that answers none */
  answers: string;
}

/** A record of a TWCS file: those fields of a `TweetRecord` that it has, and where in its thread the answer stands. */
export interface TwcsRecord {
  tweet_id: string;
  tweet: string;
  tweet_author?: string;
  tweet_created_at?: string;
  reply_id: string;
  reply: string;
  reply_author?: string;
  reply_created_at?: string;
  reply_time_diff_seconds?: number;
  /** id of the first tweet of the thread that is in the file */
  thread_id: string;
  /** 1 of an answer to the thread's first tweet, 2 of an answer to that, ... */
  turn: number;
}

/** What became of the rows: `answers` is the sum of all that follow it, `records` included. */
export interface TwcsCounts {
  /** valid rows, those with a duplicate id included */
  rows: number;
  /** rows whose id an earlier row has; they are left out */
  duplicate_ids: number;
  /** rows without a visible character in their text */
  blank_texts: number;
  /** rows that answer a tweet */
  answers: number;
  records: number;
  /** answers to a tweet that is not in the file */
  answered_not_in_file: number;
  /** answers that are blank or answer a blank text */
  answers_with_blank_text: number;
  /** answers that close a circle of answers, which has no first tweet; its first row in the file is taken for it */
  answers_in_a_circle: number;
  /** answers to other than a first tweet, when only those to first tweets are asked for */
  later_turns: number;
}

const MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split(' ');
const DATE = /^[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)([0-5]\d) (\d{4})$/;

/**
 * Unix seconds of `Tue Oct 31 22:10:47 +0000 2017`; NaN of an empty cell.
 * @throws DataError  (without the place) when it is another form or no date
 */
export function twitterSeconds(cell: string): number {
  if (cell === '') return NaN;
  const parts = DATE.exec(cell);
  if (parts !== null) {
    const month = MONTHS.indexOf(parts[1]);
    const [day, hour, minute, second] = parts.slice(2, 6).map(Number);
    const date = new Date(Date.UTC(Number(parts[9]), month, day, hour, minute, second));
    // Date.UTC carries 31 November over to 1 December.
    if (month >= 0 && date.getUTCDate() === day && hour < 24 && minute < 60 && second < 60) {
      const offset = (Number(parts[7]) * 60 + Number(parts[8])) * 60;
      return date.getTime() / 1000 - (parts[6] === '+' ? offset : -offset);
    }
  }
  throw new DataError(
    `created_at is ${JSON.stringify(cell.slice(0, 60))}; expected a date like Tue Oct 31 22:10:47 +0000 2017`,
  );
}

function parseTweet(cells: Cells): TwcsTweet {
  const id = idCell('tweet_id', cells.tweet_id);
  if (id === '') throw new DataError('tweet_id is ""; expected an id');
  return {
    id,
    author: cells.author_id,
    text: cells.text,
    createdSeconds: twitterSeconds(cells.created_at),
    answers: idCell('in_response_to_tweet_id', cells.in_response_to_tweet_id),
  };
}

/** The columns of a TWCS file. `response_tweet_id` says the same as `in_response_to_tweet_id`, from the other end. */
export const TWCS_LAYOUT: CsvLayout<TwcsTweet> = {
  required: ['tweet_id', 'author_id', 'created_at', 'text', 'in_response_to_tweet_id'],
  optional: ['inbound', 'response_tweet_id'],
  parse: parseTweet,
};

const CHUNK_BYTES = 2 ** 24;

/**
 * Texts by number, as UTF-8 outside of the JavaScript heap: millions of strings would take two bytes a character and
 * keep the garbage collector busy.
 */
class TextStore {
  private readonly chunks: Buffer[] = [];
  private used = 0;
  private readonly places: { chunk: number[]; start: number[]; end: number[] } = {
    ...{ chunk: [], start: [], end: [] },
  };

  add(text: string): void {
    const size = Buffer.byteLength(text);
    const last = this.chunks.at(-1);
    if (last === undefined || this.used + size > last.length) {
      this.chunks.push(Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, size)));
      this.used = 0;
    }
    const chunk = this.chunks.length - 1;
    this.chunks[chunk].write(text, this.used);
    this.places.chunk.push(chunk);
    this.places.start.push(this.used);
    this.used += size;
    this.places.end.push(this.used);
  }

  get(index: number): string {
    const { chunk, start, end } = this.places;
    return this.chunks[chunk[index]].toString('utf8', start[index], end[index]);
  }
}

const isoOf = (seconds: number): string | undefined =>
  Number.isNaN(seconds) ? undefined : new Date(seconds * 1000).toISOString().replace('.000Z', 'Z');

/** Every tweet of a file, in its order; then their records. Holds some 300 bytes a row beside its text. */
export class TwcsTweets {
  readonly counts: TwcsCounts = {
    ...{ rows: 0, duplicate_ids: 0, blank_texts: 0, answers: 0, records: 0, answered_not_in_file: 0 },
    ...{ answers_with_blank_text: 0, answers_in_a_circle: 0, later_turns: 0 },
  };
  /** Every id that was seen, of a row or answered by one, has a number. */
  private readonly numbers = new Map<string, number>();
  private readonly rowOfNumber: number[] = [];
  /** Of each row: */
  private readonly ids: string[] = [];
  private readonly answered: number[] = [];
  private readonly seconds: number[] = [];
  private readonly blank: boolean[] = [];
  private readonly authors = new TextStore();
  private readonly texts = new TextStore();

  add(tweet: TwcsTweet): void {
    this.counts.rows++;
    const number = this.numberOf(tweet.id);
    if (this.rowOfNumber[number] !== -1) {
      this.counts.duplicate_ids++;
      return;
    }
    this.rowOfNumber[number] = this.ids.length;
    this.ids.push(tweet.id);
    this.answered.push(tweet.answers === '' ? -1 : this.numberOf(tweet.answers));
    this.seconds.push(tweet.createdSeconds);
    const blank = !/\S/u.test(tweet.text);
    if (blank) this.counts.blank_texts++;
    this.blank.push(blank);
    this.authors.add(tweet.author);
    this.texts.add(tweet.text);
  }

  private numberOf(id: string): number {
    let number = this.numbers.get(id);
    if (number === undefined) {
      number = this.rowOfNumber.length;
      this.numbers.set(id, number);
      this.rowOfNumber.push(-1);
    }
    return number;
  }

  /** A record of each answer whose tweet is in the file, in the order of the answers; counts the others. */
  *records(firstTurnOnly: boolean): Generator<TwcsRecord> {
    const { counts, answered, rowOfNumber } = this;
    const parents = answered.map((number) => (number === -1 ? -1 : rowOfNumber[number]));
    const threads = threadsOf(parents);
    for (let row = 0; row < answered.length; row++) {
      if (answered[row] === -1) continue;
      counts.answers++;
      if (parents[row] === -1) counts.answered_not_in_file++;
      else if (this.blank[row] || this.blank[parents[row]]) counts.answers_with_blank_text++;
      else if (threads.turn[row] === 0) counts.answers_in_a_circle++;
      else if (firstTurnOnly && threads.turn[row] > 1) counts.later_turns++;
      else {
        counts.records++;
        yield this.record(row, parents[row], threads.first[row], threads.turn[row]);
      }
    }
  }

  private record(reply: number, tweet: number, first: number, turn: number): TwcsRecord {
    const delay = this.seconds[reply] - this.seconds[tweet];
    return {
      tweet_id: this.ids[tweet],
      tweet: this.texts.get(tweet),
      tweet_author: this.authors.get(tweet) || undefined,
      tweet_created_at: isoOf(this.seconds[tweet]),
      reply_id: this.ids[reply],
      reply: this.texts.get(reply),
      reply_author: this.authors.get(reply) || undefined,
      reply_created_at: isoOf(this.seconds[reply]),
      reply_time_diff_seconds: Number.isNaN(delay) ? undefined : delay,
      thread_id: this.ids[first],
      turn,
    };
  }
}
