/**
 * The embedded world: synthetic tweets and replies with a known truth, so that the study runs with no download and can be
 * checked. Tweet number i of a part is a pure function of (seed, part, i); likes are drawn from a stated law.
 */
import { hashString, Random } from '../runtime/random';
import { worldQuality } from './world-law';
import type { Topic } from './world-topics';
import { worldTopics } from './world-topics';
import {
  blandTemplates,
  disagreeTemplates,
  echoTemplates,
  engagingTemplates,
  genericReplies,
  slots,
  spamTemplates,
  tweetTemplates,
} from './world-text';
import type { Stance } from './world-text';

/** Parts of the world; no tweet text occurs in two of them (a hash of the text decides its part). */
export type WorldPart = 'pretrain' | 'sample' | 'heldout';

const partOfHundred = (hundredth: number): WorldPart =>
  hundredth < 80 ? 'pretrain' : hundredth < 90 ? 'sample' : 'heldout';

/** How replies are written, with the share of each in the data. */
export const strategies = {
  generic: 0.2,
  bland: 0.14,
  echo: 0.07,
  off_topic: 0.06,
  shouting: 0.05,
  spam: 0.03,
  specific: 0.13,
  question: 0.11,
  joke: 0.08,
  anecdote: 0.06,
  disagree: 0.07,
} as const;
/** How a reply of the embedded world is written, a key of `strategies`. */
export type Strategy = keyof typeof strategies;

/** A tweet of the embedded world, with what it was made of. */
export interface WorldTweet {
  text: string;
  topic: Topic;
  stance: Stance;
  subject: string;
  /** The trouble, joy or claim that the tweet tells. */
  event: string;
  followers: number;
}

/** One reply with its tweet, in the study's record format. */
export interface WorldRecord {
  tweet_id: string;
  tweet: string;
  tweet_author: string;
  tweet_likes: number;
  tweet_retweets: number;
  tweet_created_at: string;
  reply_id: string;
  reply: string;
  reply_author: string;
  reply_author_followers: number;
  reply_likes: number;
  reply_retweets: number;
  reply_created_at: string;
  reply_time_diff_seconds: number;
}

/** Gives every sentence a capital letter. */
function tidyText(text: string): string {
  return text.replace(
    /(^|[.!?]\s+)([a-z])/g,
    (_, before: string, letter: string) => before + letter.toUpperCase(),
  );
}

/** Fills the slots of a template; a capitalised slot starts with a capital. */
function fill(template: string, random: Random, values: Record<string, string>): string {
  return tidyText(
    template.replace(/\{(\w+)\}/g, (_, slot: string) => {
      const name = slot.toLowerCase();
      const value = values[name] ?? random.pick(slots[name]);
      return slot === name ? value : value[0].toUpperCase() + value.slice(1);
    }),
  );
}

function candidateTweet(random: Random): WorldTweet {
  const { topic } = random.pick(worldTopics());
  const stance = random.pick(['trouble', 'trouble', 'joy', 'claim'] as const);
  const subject = random.pick(topic.subjects);
  const event = random.pick({ trouble: topic.troubles, joy: topic.joys, claim: topic.claims }[stance]);
  const text = fill(random.pick(tweetTemplates[stance]), random, { subject, [stance]: event });
  const followers = Math.round(Math.exp(6.7 + 1.2 * random.normal()));
  return { text, topic, stance, subject, event, followers };
}

/** Tweet number `index` of a part. */
export function worldTweet(seed: number, part: WorldPart, index: number): WorldTweet {
  for (let attempt = 0; ; attempt++) {
    const tweet = candidateTweet(new Random(seed, 'tweet', part, index, attempt));
    if (partOfHundred(hashString(tweet.text) % 100) === part) return tweet;
  }
}

function pickStrategy(random: Random): Strategy {
  let u = random.uniform();
  for (const [strategy, share] of Object.entries(strategies)) {
    u -= share;
    if (u < 0) return strategy as Strategy;
  }
  return 'generic';
}

/** A reply to a tweet by a strategy. */
export function worldReply(tweet: WorldTweet, strategy: Strategy, random: Random): string {
  const { topic, stance, subject, event } = tweet;
  const values = {
    subject: random.uniform() < 0.8 || stance === 'claim' ? subject : random.pick(topic.subjects),
    detail: random.pick(topic.details),
    joke: random.pick(topic.jokes),
    joy: random.pick(topic.joys),
    trouble: random.pick(topic.troubles),
    counter: random.pick(topic.counters),
    event,
    claim: event,
  };
  switch (strategy) {
    case 'generic':
      return random.pick(genericReplies);
    case 'bland':
      return fill(random.pick(blandTemplates), random, values);
    case 'spam':
      return fill(random.pick(spamTemplates), random, values);
    case 'echo':
      return fill(
        random.pick(stance === 'claim' ? echoTemplates.slice(3) : echoTemplates.slice(0, 3)),
        random,
        values,
      );
    case 'shouting': {
      const calm = random.pick(['generic', 'bland', 'echo'] as const);
      return `${worldReply(tweet, calm, random)
        .toUpperCase()
        .replace(/[.!?]+$/, '')}!!!`;
    }
    case 'off_topic': {
      const other = random.pick(worldTopics()).topic;
      const stranger = {
        ...tweet,
        topic: other,
        subject: random.pick(other.subjects),
        event: random.pick(other.troubles),
      };
      return worldReply(
        { ...stranger, stance: 'trouble' },
        random.pick(['specific', 'anecdote'] as const),
        random,
      );
    }
    case 'disagree':
      if (stance === 'claim')
        return fill(random.pick(disagreeTemplates), random, {
          ...values,
          counter: topic.counters[topic.claims.indexOf(event)],
        });
      return worldReply(tweet, 'question', random);
    case 'specific':
    case 'question':
    case 'joke':
    case 'anecdote':
      return fill(random.pick(engagingTemplates[strategy][stance]), random, values);
  }
}

/**
 * Expected log-likes of a reply: -3 + 0.5 ln(followers of the tweet's author) + 3 worth, with normal noise of standard
 * deviation 0.6; likes are exp of it, rounded down.
 */
export function drawLikes(followers: number, worth: number, random: Random): number {
  return Math.floor(Math.exp(-3 + 0.5 * Math.log(followers) + 3 * worth + 0.6 * random.normal()));
}

const epoch = Date.UTC(2024, 0, 1);

/** A reply with the strategy that wrote it; tests and measurements use the strategy, no reward or trainer sees it. */
export interface LabelledRecord {
  record: WorldRecord;
  strategy: Strategy;
  worth: number;
}

/** The replies (1 to 6) to tweet number `index` of a part. */
export function labelledReplies(seed: number, part: WorldPart, index: number): LabelledRecord[] {
  const tweet = worldTweet(seed, part, index);
  const random = new Random(seed, 'replies', part, index);
  const tweetLikes = Math.floor(Math.exp(-2.5 + 0.75 * Math.log(tweet.followers) + 0.5 * random.normal()));
  const partNumber = { pretrain: 1, sample: 2, heldout: 3 }[part];
  const tweetId = `${partNumber}${String(index).padStart(9, '0')}`;
  const created = epoch + random.integer(365 * 24 * 3600) * 1000;
  const count = 1 + random.integer(6);
  const replies = Array.from({ length: count }, (_, n) => {
    const strategy = pickStrategy(random);
    const reply = worldReply(tweet, strategy, random);
    const worth = worldQuality(tweet.text, reply).total;
    const delay = 20 + Math.floor(Math.exp(6 + 1.5 * random.normal()));
    const likes = drawLikes(tweet.followers, worth, random);
    const record: WorldRecord = {
      tweet_id: tweetId,
      tweet: tweet.text,
      tweet_author: `author_${random.integer(5000)}`,
      tweet_likes: tweetLikes,
      tweet_retweets: Math.floor(tweetLikes * 0.2 * random.uniform()),
      tweet_created_at: new Date(created).toISOString(),
      reply_id: `${tweetId}${n + 1}`,
      reply,
      reply_author: `reader_${random.integer(20000)}`,
      reply_author_followers: Math.round(Math.exp(5 + 1.3 * random.normal())),
      reply_likes: likes,
      reply_retweets: Math.floor(likes * 0.1 * random.uniform()),
      reply_created_at: new Date(created + delay * 1000).toISOString(),
      reply_time_diff_seconds: delay,
    };
    return { record, strategy, worth };
  });
  const { tweet_author, tweet_retweets } = replies[0].record;
  for (const { record } of replies) Object.assign(record, { tweet_author, tweet_retweets });
  return replies;
}

/** Records of a part, tweet by tweet. */
export function* worldRecords(
  seed: number,
  part: WorldPart,
  tweets: number,
  first = 0,
): Generator<WorldRecord> {
  for (let index = first; index < first + tweets; index++)
    for (const { record } of labelledReplies(seed, part, index)) yield record;
}
