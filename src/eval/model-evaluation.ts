/** The metrics of one model, from the scores of its runs: values with intervals over tweets, and their spread over seeds. */
import { bootstrapMetric, jackknifeMetric, meanOverTweets } from '../metrics/bootstrap-metric';
import type { Metric, TweetResamples, TweetStatistic } from '../metrics/bootstrap-metric';
import { collapseMetric, derMetric, meanCurves, passAtKMetric } from '../metrics/pass-at-k';
import type { MeanCurves } from '../metrics/pass-at-k';
import { aggregateSeeds } from '../metrics/seeds';
import type { SeedAggregate } from '../metrics/seeds';
import { mean } from '../metrics/statistics';
import { resampledPearson, resampledSpearman } from '../metrics/ranking';
import { SELECTORS } from '../metrics/usq';
import type { Selector } from '../metrics/usq';
import { resampledDistinct, resampledTokenEntropy } from '../metrics/vocabulary';
import type { PerTweet, RunScores } from './run-scores';

/** A metric; of a model with several seeds also its values by seed, with their spread. */
export type SeededMetric = Metric & { seeds?: SeedAggregate & { values: number[] } };

/** All that is measured of one model: its part of `evaluation.json`. */
export interface ModelEvaluation {
  n_tweets: number;
  /** sampled replies of all runs */
  n_replies: number;
  seeds: number[];
  reward: SeededMetric;
  components: Record<string, SeededMetric>;
  /** the learned reward: what a reply would earn in likes */
  engagement: SeededMetric;
  world_quality: SeededMetric;
  greedy: { reward: SeededMetric; world_quality: SeededMetric };
  pass_at_k: Record<string, SeededMetric>;
  self_bleu: SeededMetric;
  distinct: Record<'1' | '2' | '3', SeededMetric>;
  /** of a tweet's own replies, mean over tweets: what models are tested by */
  distinct_2_of_a_tweet: SeededMetric;
  semantic_diversity: SeededMetric;
  vocabulary_richness: SeededMetric;
  /** nats */
  token_entropy: SeededMetric;
  rouge: Record<'1' | '2' | 'L', SeededMetric>;
  usq_at_k: Record<Selector, Record<string, SeededMetric>>;
  /** Pass@k by further checks, by the check's name */
  other_checks: Record<string, Record<string, SeededMetric>>;
  /** of what people replied, per token of the model's own tokenizer, behind its own prompt */
  perplexity: SeededMetric;
  /** the tokens that it is of, in one run; models are compared by it where these are as many */
  reference_tokens: number;
  /** of sampled replies under the model that drew them, per token of its own; not in files of earlier builds */
  reply_nats_per_token?: SeededMetric;
  /** every k up to n */
  der_at_k: Record<string, SeededMetric>;
  collapse_point: SeededMetric;
  /** of a tweet's mean reward with the engagement of what people wrote to it */
  engagement_correlation: { spearman: Metric; pearson: Metric };
  characters: SeededMetric;
}

/** A value a tweet: the mean over the runs that have one. */
export function overRuns(runs: readonly RunScores[], of: (run: RunScores) => PerTweet): PerTweet {
  const rows = runs.map(of);
  return rows[0].map((_, t) => {
    const known = rows.flatMap((row) => row[t] ?? []);
    return known.length === 0 ? null : mean(known);
  });
}

const once = (tweets: number): Uint16Array => new Uint16Array(tweets).fill(1);

const jackknife: typeof bootstrapMetric = (statistic, { tweets, level }, reason) =>
  jackknifeMetric(statistic, tweets, reason, level);

/**
 * The mean over the runs of a statistic of their tweets. The interval is over tweets, the same resample for every run; the
 * spread over seeds stands beside it.
 */
function seeded(
  runs: readonly RunScores[],
  statisticOf: (run: RunScores) => TweetStatistic,
  resamples: TweetResamples,
  reason: string,
  estimate: typeof bootstrapMetric = bootstrapMetric,
): SeededMetric {
  const statistics = runs.map(statisticOf);
  const metric = estimate(
    (counts) => {
      const values = statistics.map((statistic) => statistic(counts));
      return values.includes(null) ? null : mean(values as number[]);
    },
    resamples,
    reason,
  );
  const values = statistics.map((statistic) => statistic(once(resamples.tweets)));
  if (runs.length < 2 || values.includes(null)) return metric;
  return { ...metric, seeds: { ...aggregateSeeds(values as number[]), values: values as number[] } };
}

/** -sum of log-probabilities / tokens over all tweets; null where there is no token. */
function natsPerToken(likelihoods: RunScores['likelihoods']): TweetStatistic {
  return (counts) => {
    let [sum, tokens] = [0, 0];
    for (const [t, known] of likelihoods.entries()) {
      sum += counts[t] * (known?.log_prob ?? 0);
      tokens += counts[t] * (known?.tokens ?? 0);
    }
    return tokens === 0 ? null : (0 - sum) / tokens;
  };
}

const REASONS: Readonly<Record<string, string>> = {
  engagement: 'no learned reward was given',
  world_quality: 'the tweets are not of the embedded world, whose truth is known',
  'greedy/reward': 'no greedy reply',
  'greedy/world_quality': 'no greedy reply, or no known truth',
  self_bleu: 'no tweet has two replies with words, to be compared with each other',
  semantic_diversity: 'no tweet has two replies with words, to be compared with each other',
  distinct_2_of_tweet: 'no reply has so many words',
  'rouge/1': 'no reference reply',
  'rouge/2': 'no reference reply',
  'rouge/L': 'no reference reply',
};

interface RunCurves {
  together: MeanCurves;
  each: MeanCurves[];
}

/** Makes the metrics of one model from its runs, on shared resamples of the tweets. */
class Metrics {
  private readonly curves = new Map<string | undefined, RunCurves>();

  constructor(
    private readonly runs: readonly RunScores[],
    private readonly resamples: TweetResamples,
  ) {}

  value(name: string): SeededMetric {
    const reason = REASONS[name] ?? `no tweet has ${name}`;
    return seeded(this.runs, (run) => meanOverTweets(run.values[name]), this.resamples, reason);
  }

  /** Of all replies pooled, which grows or falls with their number: the interval is a jackknife. */
  corpus(statistic: (run: RunScores) => TweetStatistic): SeededMetric {
    return seeded(this.runs, statistic, this.resamples, 'no reply has so many words', jackknife);
  }

  /** exp(-sum of log-probabilities / tokens) over the references of all tweets. */
  perplexity(): SeededMetric {
    const reason =
      "the likelihood of each tweet's references under the model is not known, or there are none";
    const statistic = ({ likelihoods }: RunScores): TweetStatistic => {
      const nats = natsPerToken(likelihoods);
      return (counts) => {
        const value = nats(counts);
        return value === null ? null : Math.exp(value);
      };
    };
    return seeded(this.runs, statistic, this.resamples, reason);
  }

  /** -sum of log-probabilities / tokens over the sampled replies to all tweets. */
  replyNatsPerToken(): SeededMetric {
    const reason = 'the log-probabilities of the sampled replies are not known of every reply';
    return seeded(this.runs, ({ drawn }) => natsPerToken(drawn), this.resamples, reason);
  }

  usq(selector: Selector, k: number): SeededMetric {
    return seeded(this.runs, (run) => meanOverTweets(run.usq[selector][k]), this.resamples, 'no tweet');
  }

  /** Mean curves over all runs, by the first check or a further one, and the curve of each run. */
  private curvesBy(check?: string): RunCurves {
    const known = this.curves.get(check);
    if (known !== undefined) return known;
    const { runs, resamples } = this;
    const all = runs.map((run) => (check === undefined ? run.curves : run.otherCurves[check]));
    const joined = all[0].map((_, t) => {
      const rows = all.map((curves) => curves[t]);
      // A tweet's curve ends where the shortest of its runs does.
      const least = rows.reduce((a, b) => (b.length < a.length ? b : a));
      return least.map((_, k) => mean(rows.map((row) => row[k])));
    });
    const alone = { level: resamples.level, counts: [once(resamples.tweets)] };
    const made = {
      together: meanCurves(joined, resamples),
      each: all.map((curves) => meanCurves(curves, alone)),
    };
    this.curves.set(check, made);
    return made;
  }

  /** A metric of the curve of Pass@k, of the mean curve over runs, with each run's own value. */
  curve(make: (curves: MeanCurves) => Metric, check?: string): SeededMetric {
    const { together, each } = this.curvesBy(check);
    const metric = make(together);
    if (each.length < 2) return metric;
    const values = each.flatMap((curves) => make(curves).value ?? []);
    if (values.length < each.length) return metric;
    return { ...metric, seeds: { ...aggregateSeeds(values), values } };
  }
}

/** Correlation over tweets of the mean reward with the engagement of what people wrote. */
function engagementCorrelation(
  runs: readonly RunScores[],
  engagement: PerTweet,
  resamples: TweetResamples,
  correlation: typeof resampledSpearman,
): Metric {
  const rewards = overRuns(runs, ({ values }) => values.reward);
  const known = engagement.flatMap((value, t) =>
    value === null ? [] : [{ value, reward: rewards[t] ?? 0, t }],
  );
  const ofKnown = correlation(
    known.map(({ reward }) => reward),
    known.map(({ value }) => value),
  );
  const rows = new Uint16Array(known.length);
  return bootstrapMetric(
    (counts) => {
      let drawn = 0;
      for (const [row, { t }] of known.entries()) {
        rows[row] = counts[t];
        drawn += counts[t];
      }
      return drawn < 3 ? null : ofKnown(rows);
    },
    resamples,
    'fewer than 3 tweets have a reply of known engagement, or it is all the same',
  );
}

/** All k from 1 to the least number of replies to a tweet. */
function everyK(runs: readonly RunScores[]): number[] {
  const least = Math.min(...runs.flatMap(({ counts }) => counts));
  return Array.from({ length: least }, (_, i) => i + 1);
}

const byKey = <K extends string, V>(keys: readonly K[], of: (key: K) => V): Record<K, V> =>
  Object.fromEntries(keys.map((key) => [key, of(key)])) as Record<K, V>;

/**
 * The metrics of one model.
 * @param runs        its runs, one a seed, on the same tweets
 * @param k           of Pass@k and USQ@k
 * @param engagement  of what people wrote to each tweet, null where unknown
 */
export function evaluateModel(
  runs: readonly RunScores[],
  k: readonly number[],
  engagement: PerTweet,
  resamples: TweetResamples,
): ModelEvaluation {
  const metrics = new Metrics(runs, resamples);
  const passAtK = (check?: string): Record<string, SeededMetric> =>
    byKey(k.map(String), (size) => metrics.curve((curves) => passAtKMetric(curves, Number(size)), check));
  const components = Object.keys(runs[0].values).filter((name) => name.startsWith('component/'));
  return {
    n_tweets: resamples.tweets,
    n_replies: runs.reduce((sum, { counts }) => sum + counts.reduce((a, b) => a + b, 0), 0),
    seeds: runs.flatMap(({ seed }) => seed ?? []),
    reward: metrics.value('reward'),
    components: Object.fromEntries(components.map((name) => [name.slice(10), metrics.value(name)])),
    engagement: metrics.value('engagement'),
    world_quality: metrics.value('world_quality'),
    greedy: { reward: metrics.value('greedy/reward'), world_quality: metrics.value('greedy/world_quality') },
    pass_at_k: passAtK(),
    self_bleu: metrics.value('self_bleu'),
    distinct: byKey(['1', '2', '3'], (n) =>
      metrics.corpus(({ corpus }) => resampledDistinct(corpus[Number(n) as 1 | 2 | 3])),
    ),
    distinct_2_of_a_tweet: metrics.value('distinct_2_of_tweet'),
    semantic_diversity: metrics.value('semantic_diversity'),
    vocabulary_richness: metrics.corpus(({ corpus }) => resampledDistinct(corpus[1])),
    token_entropy: metrics.corpus(({ corpus }) => resampledTokenEntropy(corpus[1])),
    rouge: byKey(['1', '2', 'L'], (kind) => metrics.value(`rouge/${kind}`)),
    perplexity: metrics.perplexity(),
    reference_tokens: runs[0].likelihoods.reduce((sum, known) => sum + (known?.tokens ?? 0), 0),
    reply_nats_per_token: metrics.replyNatsPerToken(),
    usq_at_k: byKey(SELECTORS, (selector) =>
      byKey(k.map(String), (size) => metrics.usq(selector, Number(size))),
    ),
    der_at_k: byKey(everyK(runs).map(String), (size) =>
      metrics.curve((curves) => derMetric(curves, Number(size))),
    ),
    collapse_point: metrics.curve((curves) => collapseMetric(curves)),
    other_checks: Object.fromEntries(
      Object.keys(runs[0].otherCurves).map((check) => [check, passAtK(check)]),
    ),
    engagement_correlation: {
      spearman: engagementCorrelation(runs, engagement, resamples, resampledSpearman),
      pearson: engagementCorrelation(runs, engagement, resamples, resampledPearson),
    },
    characters: metrics.value('characters'),
  };
}
