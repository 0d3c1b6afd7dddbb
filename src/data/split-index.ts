/** What the splitter keeps of a reply: numbers in typed arrays, about 50 bytes, so that a million replies fit. */
import { median } from '../metrics/statistics';
import { DataError } from '../runtime/errors';
import type { TweetRecord } from './records';
import { engagementOf, replyLengthOf } from './records';

/** All that the splitter must know of the replies, row by row. */
export interface SplitIndex {
  /** number of the reply's tweet, 0 .. tweets - 1, in order of first appearance */
  tweet: ArrayLike<number>;
  tweets: number;
  engagement: ArrayLike<number>;
  /** code points */
  replyLength: ArrayLike<number>;
  /** the line that the row stands on, from 1; of records in memory, their position */
  line: ArrayLike<number>;
  /** what looks wrong with ids and texts */
  notices: string[];
}

/** The fields that the splitter looks at. */
export type IndexedRecord = Pick<
  TweetRecord,
  'tweet_id' | 'tweet' | 'tweet_likes' | 'reply_id' | 'reply' | 'reply_likes'
>;

/**
 * 53 bits of a text, as an integer: 32 of FNV-1a and 21 of a rotating multiplicative hash. A million texts have two
 * with equal hashes with a chance of 6e-5, good enough to count repeats.
 */
export function textHash(text: string): number {
  let [a, b] = [0x811c9dc5, 0x9e3779b9];
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    a = Math.imul(a ^ unit, 0x01000193);
    b = Math.imul(b ^ unit, 0x85ebca6b);
    b = (b << 13) | (b >>> 19);
  }
  b = Math.imul(b ^ (b >>> 16), 0xc2b2ae35);
  return (a >>> 0) * 2 ** 21 + ((b ^ (b >>> 15)) >>> 11);
}

/** Numbers that are appended one by one, in a typed array that doubles when it is full. */
class Column<A extends Float64Array | Uint32Array> {
  private values: A;
  private length = 0;

  constructor(private readonly allocate: (length: number) => A) {
    this.values = allocate(1024);
  }

  push(value: number): void {
    if (this.length === this.values.length) {
      const larger = this.allocate(2 * this.length);
      larger.set(this.values);
      this.values = larger;
    }
    this.values[this.length++] = value;
  }

  at(position: number): number {
    return this.values[position];
  }

  /** What was appended, not copied. */
  view(): A {
    return this.values.subarray(0, this.length) as A;
  }
}

const floats = () => new Column((length) => new Float64Array(length));
const integers = () => new Column((length) => new Uint32Array(length));

/** How many values occur more than once: `members` of them, of `groups` different ones. */
function repeats(values: Float64Array): { members: number; groups: number } {
  const sorted = values.slice().sort();
  let [members, groups] = [0, 0];
  for (let start = 0, end = 0; start < sorted.length; start = end) {
    while (end < sorted.length && sorted[end] === sorted[start]) end++;
    if (end - start === 1) continue;
    members += end - start;
    groups++;
  }
  return { members, groups };
}

/** Builds the index from records that come one by one and are not kept. */
export class SplitIndexBuilder {
  private readonly numbers = new Map<string, number>();
  private readonly tweet = integers();
  private readonly engagement = floats();
  private readonly replyLength = integers();
  private readonly line = integers();
  /** of each tweet, the text that it came with first */
  private readonly texts = floats();
  private readonly replyIds = floats();
  private readonly ambiguous = new Set<number>();
  private firstAmbiguous = '';

  /** @throws DataError  when likes are not finite numbers >= 0, which only records that were not parsed can have */
  add(record: IndexedRecord, line: number): void {
    const { reply_likes, tweet_likes } = record;
    if (![reply_likes, tweet_likes].every((likes) => Number.isFinite(likes) && likes >= 0)) {
      throw new DataError(
        `record ${line}: reply_likes is ${reply_likes} and tweet_likes ${tweet_likes}; expected integers >= 0.`,
      );
    }
    this.tweet.push(this.tweetNumber(record, line));
    this.engagement.push(engagementOf(record));
    this.replyLength.push(replyLengthOf(record));
    this.line.push(line);
    if (record.reply_id !== undefined) this.replyIds.push(textHash(record.reply_id));
  }

  private tweetNumber({ tweet_id, tweet }: IndexedRecord, line: number): number {
    const text = textHash(tweet);
    const known = this.numbers.get(tweet_id);
    if (known === undefined) {
      this.texts.push(text);
      this.numbers.set(tweet_id, this.numbers.size);
      return this.numbers.size - 1;
    }
    if (this.texts.at(known) !== text) {
      if (this.ambiguous.size === 0) this.firstAmbiguous = `line ${line}, tweet_id ${tweet_id}`;
      this.ambiguous.add(known);
    }
    return known;
  }

  finish(): SplitIndex {
    return {
      tweet: this.tweet.view(),
      tweets: this.numbers.size,
      engagement: this.engagement.view(),
      replyLength: this.replyLength.view(),
      line: this.line.view(),
      notices: this.notices(),
    };
  }

  private notices(): string[] {
    const notices: string[] = [];
    if (this.ambiguous.size > 0) {
      notices.push(
        `${this.ambiguous.size === 1 ? '1 tweet_id has' : `${this.ambiguous.size} tweet_ids have`} several tweet texts (first: ${this.firstAmbiguous}). ` +
          'Each counts as one tweet; give different tweets different ids',
      );
    }
    const tweets = repeats(this.texts.view()).members;
    if (tweets > 0) {
      notices.push(
        `${tweets} tweet_ids share their tweet text with another tweet_id. Such tweets may land in both phases; ` +
          'give equal tweets one tweet_id to keep them together',
      );
    }
    const { members, groups } = repeats(this.replyIds.view());
    if (members > 0) {
      notices.push(
        `${members - groups === 1 ? '1 reply has' : `${members - groups} replies have`} the reply_id of an earlier one. Each counts as a reply of its own; ` +
          'remove those that are repeats',
      );
    }
    return notices;
  }
}

/** The index of records that are in memory. @throws DataError  when likes are not finite numbers >= 0 */
export function indexRecords(records: readonly IndexedRecord[]): SplitIndex {
  const builder = new SplitIndexBuilder();
  records.forEach((record, row) => builder.add(record, row + 1));
  return builder.finish();
}

/** Rows grouped by tweet, in order: those of tweet t are rows[starts[t]] .. rows[starts[t + 1] - 1]. */
export interface TweetRows {
  rows: Uint32Array;
  starts: Uint32Array;
}

/** The rows of an index grouped by tweet, each group in the order of the rows. */
export function rowsByTweet({ tweet, tweets }: SplitIndex): TweetRows {
  const starts = new Uint32Array(tweets + 1);
  for (let row = 0; row < tweet.length; row++) starts[tweet[row] + 1]++;
  for (let t = 0; t < tweets; t++) starts[t + 1] += starts[t];
  const next = starts.slice();
  const rows = new Uint32Array(tweet.length);
  for (let row = 0; row < tweet.length; row++) rows[next[tweet[row]]++] = row;
  return { rows, starts };
}

/** The median of each tweet's values: [rows] to [tweets]. */
export function mediansByTweet(values: ArrayLike<number>, { rows, starts }: TweetRows): Float64Array {
  const grouped = Float64Array.from(rows, (row) => values[row]);
  return Float64Array.from({ length: starts.length - 1 }, (_, t) =>
    median(grouped.subarray(starts[t], starts[t + 1])),
  );
}
