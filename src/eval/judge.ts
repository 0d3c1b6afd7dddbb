/** Two systems' replies to the same tweets, compared by the LLM judge. */

import { z } from 'zod';
import { bootstrap, mean, percentileInterval, resampleIndices } from '../metrics/statistics';
import type { ChatEndpoint, Question } from '../rewards/chat-endpoint';
import {
  JUDGE_CRITERIA,
  judgeGradesSchema,
  judgeMessages,
  judgeReminder,
  judgeWeightsSchema,
  weightedMean,
} from '../rewards/judge';
import type { JudgeCriterion, JudgeGrades } from '../rewards/judge';
import { ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { parseStrict } from '../runtime/strict';

/** A reply by A and one by B to one tweet. A tweet may come in several pairs. */
export interface RepliesToCompare {
  tweetId: string;
  tweet: string;
  a: string;
  b: string;
}

/** How B fared against A. */
export type Outcome = 'win' | 'tie' | 'loss';

export interface JudgedPair extends RepliesToCompare {
  /** Whose reply the judge read first. */
  first: 'a' | 'b';
  grades: { a: JudgeGrades; b: JudgeGrades };
  /** Of B over A, by the weighted mean of the grades. */
  outcome: Outcome;
}

/** Pairs that B won, tied and lost. */
export type OutcomeCounts = Record<Outcome, number>;

/** A judge's comparison of two sides, A and B, over pairs of replies. */
export interface PairwiseJudgement {
  /** One entry a pair, in input order. */
  pairs: JudgedPair[];
  /** Distinct tweets: the unit of the means and of the interval. */
  tweets: number;
  outcomes: OutcomeCounts;
  /** Mean over tweets of the mean over their pairs of 1 for a win of B, 1/2 for a tie, 0 for a loss. */
  winRate: number;
  /** Bootstrap 95 % interval of the win rate (percentile method, tweets resampled). */
  interval: [number, number];
  /** Mean grades over tweets, 1..10, and outcomes, a criterion. */
  criteria: Record<JudgeCriterion, { a: number; b: number; outcomes: OutcomeCounts }>;
  /** Share of the pairs without a tie that the first reply won: 1/2 without a bias; null when all were ties. */
  firstPositionWinShare: number | null;
}

/** Seeds, weights and resamples of a judgement of pairs. */
export interface JudgePairsOptions {
  /** Of the positions and of the bootstrap. */
  seed: number;
  /** Of the criteria; default equal. */
  weights?: z.input<typeof judgeWeightsSchema>;
  /** Of the bootstrap; default 10,000. */
  resamples?: number;
}

const answerSchema = z.object({ first: judgeGradesSchema, second: judgeGradesSchema });
type PairAnswer = z.output<typeof answerSchema>;

const GRADES = `{${JUDGE_CRITERIA.map((each) => `"${each}": n`).join(', ')}}`;
const FORM = `{"first": ${GRADES}, "second": ${GRADES}}`;

function question({ tweet, a, b }: RepliesToCompare, first: 'a' | 'b'): Question<PairAnswer> {
  const [one, two] = first === 'a' ? [a, b] : [b, a];
  const texts = { tweet, first_reply: one.trim(), second_reply: two.trim() };
  return {
    prompt: 'pair-1',
    messages: judgeMessages('both replies, independently of their order,', texts, FORM),
    answer: answerSchema,
    reminder: judgeReminder(FORM),
  };
}

/** B against A; a difference in the last bits, which weights bring about, is a tie. */
function outcomeOf(a: number, b: number): Outcome {
  if (Math.abs(b - a) < 1e-9) return 'tie';
  return b > a ? 'win' : 'loss';
}

function count(outcomes: readonly Outcome[]): OutcomeCounts {
  const of = (outcome: Outcome): number => outcomes.filter((each) => each === outcome).length;
  return { win: of('win'), tie: of('tie'), loss: of('loss') };
}

const POINTS: Record<Outcome, number> = { win: 1, tie: 0.5, loss: 0 };

/** Who is read first: a draw by seed, tweet and the pair's number among that tweet's, whatever else is judged. */
function drawPositions(pairs: readonly RepliesToCompare[], seed: number): ('a' | 'b')[] {
  const seen = new Map<string, number>();
  return pairs.map(({ tweetId }) => {
    const occurrence = seen.get(tweetId) ?? 0;
    seen.set(tweetId, occurrence + 1);
    return new Random(seed, 'judge position', tweetId, occurrence).pick(['a', 'b'] as const);
  });
}

/** One value a tweet: the mean over its pairs. */
function perTweet(pairs: readonly JudgedPair[], value: (pair: JudgedPair) => number): number[] {
  const values = new Map<string, number[]>();
  for (const pair of pairs) {
    const own = values.get(pair.tweetId);
    if (own === undefined) values.set(pair.tweetId, [value(pair)]);
    else own.push(value(pair));
  }
  return [...values.values()].map(mean);
}

function firstPositionWinShare(pairs: readonly JudgedPair[]): number | null {
  const decided = pairs.filter(({ outcome }) => outcome !== 'tie');
  if (decided.length === 0) return null;
  return mean(decided.map(({ first, outcome }) => Number((first === 'b') === (outcome === 'win'))));
}

/** The judgement of pairs that have their grades. */
function summarise(pairs: JudgedPair[], { seed, resamples = 10_000 }: JudgePairsOptions): PairwiseJudgement {
  const points = perTweet(pairs, ({ outcome }) => POINTS[outcome]);
  const means = bootstrap(points, mean, resampleIndices(points.length, resamples, seed));
  const criterion = (each: JudgeCriterion): PairwiseJudgement['criteria'][JudgeCriterion] => ({
    a: mean(perTweet(pairs, ({ grades }) => grades.a[each])),
    b: mean(perTweet(pairs, ({ grades }) => grades.b[each])),
    outcomes: count(pairs.map(({ grades }) => outcomeOf(grades.a[each], grades.b[each]))),
  });
  return {
    pairs,
    tweets: points.length,
    outcomes: count(pairs.map(({ outcome }) => outcome)),
    winRate: mean(points),
    interval: percentileInterval(means),
    criteria: Object.fromEntries(
      JUDGE_CRITERIA.map((each) => [each, criterion(each)]),
    ) as PairwiseJudgement['criteria'],
    firstPositionWinShare: firstPositionWinShare(pairs),
  };
}

/**
 * Compares B with A: the judge reads both replies to a tweet, in an order drawn at random, and grades each on the four
 * criteria, 1..10; the higher weighted mean wins. Answers share the endpoint's cache, so an interrupted comparison
 * goes on where it stopped.
 *
 * @throws ShapeError    when there are fewer than two tweets, before anything is asked
 * @throws ConfigError   when the weights do not sum to 1, or the endpoint refuses the request
 * @throws JudgeError    when no retry brought an answer
 * Source: random order against position bias, as in Zheng et al., "Judging LLM-as-a-Judge", arXiv 2306.05685 §3.3.
 */
export async function judgePairs(
  endpoint: ChatEndpoint,
  pairs: readonly RepliesToCompare[],
  options: JudgePairsOptions,
): Promise<PairwiseJudgement> {
  const weights = parseStrict(judgeWeightsSchema, options.weights ?? {}, 'weights');
  const tweets = new Set(pairs.map(({ tweetId }) => tweetId)).size;
  if (tweets < 2) {
    throw new ShapeError(`judging pairs of ${tweets} tweets; expected at least 2, for the interval.`);
  }
  const positions = drawPositions(pairs, options.seed);
  const answers = await endpoint.askAll(pairs.map((pair, i) => question(pair, positions[i])));
  const judged = pairs.map((pair, i): JudgedPair => {
    const [first, { first: one, second: two }] = [positions[i], answers[i]];
    const grades = first === 'a' ? { a: one, b: two } : { a: two, b: one };
    const outcome = outcomeOf(weightedMean(grades.a, weights), weightedMean(grades.b, weights));
    return { ...pair, first, grades, outcome };
  });
  return summarise(judged, options);
}
