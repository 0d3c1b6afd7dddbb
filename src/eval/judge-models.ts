/** Every two models before an LLM judge: whose reply to the same tweet does it prefer? */
import type { ChatEndpoint } from '../rewards/chat-endpoint';
import type { JudgeCriterion, JudgeWeights } from '../rewards/judge';
import { judgePairs } from './judge';
import type { OutcomeCounts, RepliesToCompare } from './judge';
import type { ModelReplies } from './model-replies';

/** Who judges. */
export interface Judge {
  endpoint: ChatEndpoint;
  /** of the judge's model, for the report */
  name: string;
  weights: JudgeWeights;
}

/** b against a, a pair of replies a tweet. */
export interface ModelJudgement {
  a: string;
  b: string;
  /** tweets, each with one pair */
  n: number;
  /** of b over a */
  outcomes: OutcomeCounts;
  /** share of tweets that b won, a tie being half a win, with its bootstrap interval over tweets */
  win_rate: { value: number; ci: [number, number] };
  /** mean grades, 1..10 */
  criteria: Record<JudgeCriterion, { a: number; b: number }>;
  /** share of decided pairs that the reply read first won: 1/2 without a bias; null where all were ties */
  first_position_win_share: number | null;
}

/** The judgements of every two models, by one judge. */
export interface JudgeReport {
  model: string;
  weights: JudgeWeights;
  pairs: ModelJudgement[];
}

/** A model's reply to the t-th tweet: its first sample; of several runs that of each in turn. */
function shownReply(runs: readonly ModelReplies[], t: number): string {
  return runs[t % runs.length].tweets[t].generations[0];
}

/**
 * Has every two models judged on all tweets: one reply of each to a tweet, in an order drawn at random.
 *
 * @param models  runs by name, all on the same tweets in the same order
 * @throws ShapeError, ConfigError, JudgeError  as {@link judgePairs}; what was judged is kept in the endpoint's cache
 */
export async function judgeModels(
  models: ReadonlyMap<string, readonly ModelReplies[]>,
  { endpoint, name, weights }: Judge,
  options: { seed: number; resamples?: number },
): Promise<JudgeReport> {
  const entries = [...models];
  const pairs: ModelJudgement[] = [];
  for (const [i, [a, left]] of entries.entries()) {
    for (const [b, right] of entries.slice(i + 1)) {
      const shown = left[0].tweets.map(({ tweet_id: tweetId, tweet }, t): RepliesToCompare => ({
        ...{ tweetId, tweet, a: shownReply(left, t), b: shownReply(right, t) },
      }));
      const judged = await judgePairs(endpoint, shown, { ...options, weights });
      const criteria = Object.entries(judged.criteria).map(([each, grades]) => [
        each,
        { a: grades.a, b: grades.b },
      ]);
      pairs.push({
        ...{ a, b, n: judged.tweets, outcomes: judged.outcomes },
        win_rate: { value: judged.winRate, ci: judged.interval },
        criteria: Object.fromEntries(criteria) as ModelJudgement['criteria'],
        first_position_win_share: judged.firstPositionWinShare,
      });
    }
  }
  return { model: name, weights, pairs };
}
