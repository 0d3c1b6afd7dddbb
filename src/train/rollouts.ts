/**
 * The rollouts of one GRPO step: sampled and rewarded groups, with the signals that advantages are made of, and dynamic
 * sampling, which draws groups without signal again.
 */
import { hasNoSignal, sampleDeviation, withDiversity } from '../optim/advantages';
import { leaveOneOutCredits } from '../optim/diversity-credit';
import type { Completion, Policy, Prompt, RolloutGroup } from '../policy/policy';
import type { ScoreCompletions } from '../rewards/replies';
import type { RewardResult } from '../rewards/reward';
import { ConfigError, NumericError } from '../runtime/errors';
import { meanOf } from './loop';
import type { Stopwatch } from './loop';

/** Diversity D of completions of one prompt, or of any two or more of them; must not depend on their order. */
export type MeasureDiversity = (completions: readonly Completion[]) => number | Promise<number>;

/** How groups of completions are drawn and scored. */
export interface RolloutSettings {
  /** G, completions a prompt. */
  groupSize: number;
  temperature: number;
  topP: number;
  topK: number;
  maxNewTokens: number;
  minNewTokens: number;
  /** Tokens that end a completion; default: the policy's own. */
  stopTokenIds?: readonly number[];
  seed: number;
  /** Times that a group without signal is drawn again; default 0. */
  maxResamples?: number;
  /** w, weight of the group's diversity as a reward of the set (`withDiversity`); default 0, diversity is not measured. */
  diversityWeight?: number;
}

/** How completions are judged. */
export interface Judges {
  score: ScoreCompletions;
  /** Needed when `diversityWeight` is not 0. */
  diversity?: MeasureDiversity;
}

/** A group with what it earned. */
export interface ScoredGroup {
  group: RolloutGroup;
  scores: RewardResult[];
  /** [G] what advantages are made of: the rewards, with a diversity weight the sum with their credits. */
  signals: number[];
  /** D of the whole group, when there is a diversity weight. */
  diversity?: number;
}

/** All that a step drew. */
export interface StepRollouts {
  /** The first draw of each prompt: a sample of the policy, not selected by its rewards. */
  first: ScoredGroup[];
  /** The last draw of each prompt: what is trained on. */
  last: ScoredGroup[];
  /** Groups drawn after the first draw; one that is drawn twice more counts twice. */
  resampled: number;
  /** Completion tokens of all draws. */
  tokens: number;
}

/** @throws ConfigError  when the settings ask for a diversity that cannot be measured */
export function checkDiversity(
  { diversityWeight = 0, groupSize }: RolloutSettings,
  { diversity }: Pick<Judges, 'diversity'>,
): void {
  if (diversityWeight === 0) return;
  if (diversity === undefined)
    throw new ConfigError(
      `diversityWeight is ${diversityWeight}, but there is no measure of diversity: give the hook \`diversity\`, or set the weight to 0`,
    );
  if (groupSize < 3)
    throw new ConfigError(
      `diversityWeight is ${diversityWeight} with groups of ${groupSize}: credits leave one completion out, and diversity needs two more; set groupSize to at least 3`,
    );
}

/**
 * Samples a group for each prompt and scores it. Groups without signal (`hasNoSignal`) are drawn again, at most
 * `maxResamples` times; a group that stays without signal stays in, with advantages of 0.
 *
 * Further draws have a stream of their own, `rollout resample <attempt>`: they depend on seed, prompt, visit and attempt
 * alone, so a resumed run draws the same.
 *
 * What it does to the gradient: a group without signal contributes exactly 0 to the policy gradient. With q the
 * probability of such a group, the expected gradient of a prompt is therefore multiplied by (1 - q^(maxResamples + 1)) /
 * (1 - q), which keeps its direction (unscaled advantages; scaled ones alike): prompts that rarely give a signal count more.
 *
 * Source: DAPO, arXiv 2503.14476 section 3.2. Ours: bounded, the same prompt in place of another.
 */
export async function collectRollouts(
  policy: Policy,
  prompts: readonly Prompt[],
  judges: Judges,
  settings: RolloutSettings,
  watch: Stopwatch,
): Promise<StepRollouts> {
  let tokens = 0;
  const draw = async (asked: readonly Prompt[], stream: string): Promise<ScoredGroup[]> => {
    const groups = await watch.measure('generate', () => policy.sample(asked, { ...settings, stream }));
    for (const { completions } of groups) for (const { tokenIds } of completions) tokens += tokenIds.length;
    return watch.measure('reward', () => judgeGroups(groups, judges, settings));
  };
  const first = await draw(prompts, 'rollout');
  const last = [...first];
  let resampled = 0;
  for (let attempt = 1; attempt <= (settings.maxResamples ?? 0); attempt++) {
    const silent = last.flatMap(({ signals }, g) => (hasNoSignal(signals) ? [g] : []));
    if (silent.length === 0) break;
    const again = await draw(
      silent.map((g) => prompts[g]),
      `rollout resample ${attempt}`,
    );
    silent.forEach((g, k) => (last[g] = again[k]));
    resampled += silent.length;
  }
  return { first, last, resampled, tokens };
}

async function judgeGroups(
  groups: readonly RolloutGroup[],
  { score, diversity }: Judges,
  { diversityWeight = 0 }: RolloutSettings,
): Promise<ScoredGroup[]> {
  const scores = await scoreGroups(groups, score);
  const judged: ScoredGroup[] = [];
  for (const [g, group] of groups.entries()) {
    const rewards = scores[g].map(({ total }) => total);
    if (diversityWeight === 0 || diversity === undefined) {
      judged.push({ group, scores: scores[g], signals: rewards });
      continue;
    }
    const { completions } = group;
    const credited = await leaveOneOutCredits(
      (indices) => diversity(indices.map((i) => completions[i])),
      completions.length,
    );
    const signals = withDiversity(rewards, credited.credits, diversityWeight);
    judged.push({ group, scores: scores[g], signals, diversity: credited.diversity });
  }
  return judged;
}

async function scoreGroups(
  groups: readonly RolloutGroup[],
  score: ScoreCompletions,
): Promise<RewardResult[][]> {
  const flat = await score(
    groups.flatMap(({ prompt, completions }) => completions.map((completion) => ({ prompt, completion }))),
  );
  const bad = flat.findIndex(({ total }) => !Number.isFinite(total));
  if (bad >= 0)
    throw new NumericError(`the reward of a completion is ${flat[bad].total}; expected a finite number`);
  let position = 0;
  return groups.map(({ completions }) => flat.slice(position, (position += completions.length)));
}

/**
 * Metrics of a step's rollouts. Rewards, diversity and lengths are means over the first draws: a group that was drawn
 * again was chosen by its rewards, and a mean with it would no longer estimate what the policy earns.
 * `train/zero_signal_share` is of the first draws, `train/zero_signal_left` of what is trained on.
 */
export function rolloutMetrics({ first, last, resampled }: StepRollouts): Record<string, number> {
  const completions = first.flatMap(({ group }) => group.completions);
  const scores = first.flatMap((one) => one.scores);
  const components = Object.keys(scores[0]?.components ?? {});
  const diversities = first.flatMap(({ diversity }) => (diversity === undefined ? [] : [diversity]));
  const silentShare = (groups: readonly ScoredGroup[]): number =>
    meanOf(groups.map(({ signals }) => Number(hasNoSignal(signals))));
  return {
    'train/avg_reward': meanOf(scores.map(({ total }) => total)),
    'train/reward_std': meanOf(first.map((one) => sampleDeviation(one.scores.map(({ total }) => total)))),
    'train/zero_signal_share': silentShare(first),
    'train/resampled_groups': resampled,
    'train/zero_signal_left': silentShare(last),
    ...(diversities.length > 0 ? { 'train/diversity': meanOf(diversities) } : {}),
    ...Object.fromEntries(
      components.map((name) => [`reward/${name}`, meanOf(scores.map((one) => one.components[name]))]),
    ),
    'train/completion_tokens': meanOf(completions.map(({ tokenIds }) => tokenIds.length)),
    'train/truncated_share': meanOf(completions.map(({ finishReason }) => Number(finishReason === 'length'))),
  };
}

/** Whether the samples of a step are kept when those of one step in `every` are: of step 1 and of every multiple. */
export function keepsSamples(step: number, every: number): boolean {
  return step === 1 || step % every === 0;
}
