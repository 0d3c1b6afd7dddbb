/**
 * Polychromic supervised fine-tuning: L = L_sft - lambda E[D(y_1..y_n)], where y_1..y_n are n completions that the policy
 * itself draws for a prompt, and D tells how different they are. SFT alone narrows a model to the replies that it is
 * shown; the second term pays for keeping several.
 *
 * D is a plain number, so its gradient comes from the score function with leave-one-out credits: see
 * optim/diversity-credit.ts. log pi(y) is that of the distribution that was drawn from: the sum of the tokens'
 * log-probabilities of logits / temperature over the whole vocabulary.
 */
import { distinctN, meanPairwiseDistance, selfBleu4 } from '../metrics/diversity';
import { wordpunct } from '../metrics/text';
import { leaveOneOutCredits, pairCredits, runningMeanCredits } from '../optim/diversity-credit';
import type { CreditedGroup } from '../optim/diversity-credit';
import type { Completion, Policy, Prompt, TrainingGroup } from '../policy/policy';
import type { SftTrainingExample } from '../rewards/replies';
import { ConfigError, ShapeError } from '../runtime/errors';
import { Course, meanOf } from './loop';
import type { LoopHooks, LoopResult } from './loop';
import type { MeasureDiversity } from './rollouts';
import { chunks, planRun } from './schedule';
import { accumulateSft } from './sft';
import type { SftSettings } from './sft';

/** What `trainPolychromic` needs: those of SFT, and how diversity is sampled and credited. */
export interface PolychromicSettings extends SftSettings {
  /** Weight of the diversity term; 0 measures D and trains as SFT does, to the same bits. */
  lambda: number;
  /** The diversity term joins every k-th step, with its full weight (not k times it). */
  diversityEvery: number;
  /** Examples of such a step whose prompts are sampled, from its start. */
  diversityExamples: number;
  /** n, completions a prompt. */
  generations: number;
  temperature: number;
  /** Has to be 1. */
  topP: number;
  maxNewTokens: number;
  /** Tokens that end a completion; default: the policy's own. */
  stopTokenIds?: readonly number[];
  /** `leave_one_out`, for any D (of two completions: against a running mean); `pairs` needs `distances`. */
  credit: 'leave_one_out' | 'pairs';
}

/** [n][n] symmetric distances of the completions of one prompt, whose mean over pairs is D. */
export type PairDistances = (completions: readonly Completion[]) => Promise<number[][]>;

/** What the diversity term needs beside the policy. */
export interface PolychromicHooks extends LoopHooks {
  diversity: MeasureDiversity;
  /** D's own distances, when it is a mean over pairs. */
  distances?: PairDistances;
}

/** What `Course` carries from step to step for groups of two, absent before the first: their running mean. */
interface Carried {
  diversity_mean?: number;
  diversity_groups?: number;
}

/**
 * Trains the policy on the examples.
 * Logs what `trainSft` does, `train/loss` being the SFT part, and at steps that have the diversity term
 * `train/diversity` (mean D), `train/diversity_loss` (-lambda D), `train/total_loss` (their sum with `train/loss`) and
 * `train/credit_std`.
 * @throws ConfigError   for settings that cannot work
 * @throws NumericError  for a D that is not finite, and after three steps in a row without a finite gradient
 */
export async function trainPolychromic(
  policy: Policy,
  examples: readonly SftTrainingExample[],
  settings: PolychromicSettings,
  hooks: PolychromicHooks,
): Promise<LoopResult> {
  checkSettings(settings, hooks);
  const { totalSteps, steps } = planRun(examples.length, settings);
  const course = new Course(policy, settings, totalSteps, hooks);
  for await (const { step, items } of course.left(steps)) {
    const begin = performance.now();
    // 1. Quality: cross-entropy of the examples, as in trainSft.
    const { loss, totalTokens } = await accumulateSft(policy, examples, items, settings);
    // 2. Every k-th step, diversity: draw, measure, credit, and add the gradient of -lambda E[D].
    const isDue = step % settings.diversityEvery === 0;
    const chosen = items.slice(0, settings.diversityExamples).map(({ index, visit }) => {
      const { id, promptIds } = examples[index];
      return { id, tokenIds: promptIds, visit };
    });
    const term = isDue ? await accumulateDiversity(policy, chosen, settings, hooks, course.carried) : null;
    // 3. One update with the sum of both gradients.
    const ids = items.map(({ index }) => examples[index].id);
    const { gradNorm, learningRate, skipped } = await course.update(step, ids);
    const result = await course.end({
      step,
      'train/loss': loss,
      ...(term === null ? {} : diversityMetrics(term, loss, settings)),
      'train/learning_rate': learningRate,
      'train/grad_norm': gradNorm,
      'train/skipped': Number(skipped),
      'train/tokens': totalTokens,
      'train/seconds': (performance.now() - begin) / 1000,
    });
    if (result !== null) return result;
  }
  return course.result();
}

function checkSettings(settings: PolychromicSettings, { distances }: PolychromicHooks): void {
  const { lambda, generations, temperature, topP, credit } = settings;
  if (!Number.isFinite(lambda)) throw new ConfigError(`lambda is ${lambda}; expected a finite number`);
  if (topP !== 1)
    throw new ConfigError(
      `top-p is ${topP}; the diversity term needs 1: its gradient is that of log-probabilities over the whole vocabulary, ` +
        'which are not those of a truncated draw. To draw fewer unlikely tokens, lower the temperature.',
    );
  if (!(temperature > 0))
    throw new ConfigError(`temperature is ${temperature}; the diversity term needs one above 0, to draw`);
  if (!Number.isInteger(generations) || generations < 2)
    throw new ConfigError(`generations is ${generations}; expected an integer of at least 2`);
  for (const name of ['diversityEvery', 'diversityExamples'] as const)
    if (!Number.isInteger(settings[name]) || settings[name] < 1)
      throw new ConfigError(`${name} is ${settings[name]}; expected an integer of at least 1`);
  if (credit === 'pairs' && distances === undefined)
    throw new ConfigError(
      'credit is pairs, but this diversity is not a mean over pairs: use leave_one_out, or a semantic diversity',
    );
}

/**
 * Adds the gradient of -lambda E[D], a mean over the m prompts: every token of completion i weighs lambda c_i / m. Draws
 * belong to (seed, example, epoch), so a resumed run has the same. No dropout: what drew is what is trained.
 * @returns the credited groups, one a prompt
 */
async function accumulateDiversity(
  policy: Policy,
  prompts: readonly Prompt[],
  settings: PolychromicSettings,
  hooks: PolychromicHooks,
  carried: Carried,
): Promise<CreditedGroup[]> {
  const { lambda, generations, temperature, topP, maxNewTokens, stopTokenIds, seed } = settings;
  const drawing = { temperature, topP, maxNewTokens, stopTokenIds, seed };
  const groups = await policy.sample(prompts, { groupSize: generations, ...drawing, stream: 'diversity' });
  const credited: CreditedGroup[] = [];
  for (const { completions } of groups)
    credited.push(await creditGroup(completions, settings, hooks, carried));
  if (lambda === 0) return credited;
  const training = groups.map(({ prompt, completions }, g): TrainingGroup => {
    const rows = completions.map(({ tokenIds }, i) => ({
      tokenIds,
      weights: tokenIds.map(() => (lambda * credited[g].credits[i]) / groups.length),
    }));
    return { promptIds: prompt.tokenIds, rows };
  });
  const parts = chunks(training, settings.batchSize);
  const rows = training.flatMap((group) => group.rows);
  const totals = {
    totalRows: rows.length,
    totalTokens: rows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0),
    totalMicroBatches: parts.length,
  };
  for (const part of parts)
    await policy.forwardBackward({ groups: part, ...totals }, { kind: 'weighted' }, { temperature });
  return credited;
}

async function creditGroup(
  completions: readonly Completion[],
  { credit }: PolychromicSettings,
  { diversity, distances }: PolychromicHooks,
  carried: Carried,
): Promise<CreditedGroup> {
  if (credit === 'pairs') return pairCredits(await (distances as PairDistances)(completions));
  if (completions.length > 2)
    return leaveOneOutCredits((indices) => diversity(indices.map((i) => completions[i])), completions.length);
  const before = { mean: carried.diversity_mean ?? 0, count: carried.diversity_groups ?? 0 };
  const { baseline, ...credited } = runningMeanCredits(await diversity(completions), before);
  carried.diversity_mean = baseline.mean;
  carried.diversity_groups = baseline.count;
  return credited;
}

function diversityMetrics(
  groups: readonly CreditedGroup[],
  loss: number,
  { lambda }: PolychromicSettings,
): Record<string, number> {
  const diversity = meanOf(groups.map((group) => group.diversity));
  const credits = groups.flatMap((group) => group.credits);
  const mean = meanOf(credits);
  return {
    'train/diversity': diversity,
    'train/diversity_loss': -lambda * diversity,
    'train/total_loss': loss - lambda * diversity,
    'train/credit_std': Math.sqrt(meanOf(credits.map((credit) => (credit - mean) ** 2))),
  };
}

// ---- diversities of texts ----

/** A completion's text, e.g. `replyText` with a tokenizer. */
export type TextOf = (completion: Completion) => string;
/** A text's vector, zeros for a text that says nothing. Every text is asked for n times: remember it (`cachedEmbedder`). */
export type Embed = (text: string) => Promise<ArrayLike<number>>;

/**
 * D among the k texts that say something, times the share k (k - 1) / (n (n - 1)) of pairs in which both do, 0 for k < 2.
 * The metrics themselves find a silent text unlike any other, which would pay the policy for falling silent.
 */
function amongSpoken<T>(
  items: readonly T[],
  says: (item: T) => boolean,
  measure: (spoken: readonly T[]) => number | null,
): number {
  const n = items.length;
  if (n < 2) throw new ShapeError(`the diversity of ${n} completion(s); expected at least 2`);
  const spoken = items.filter(says);
  const k = spoken.length;
  return k < 2 ? 0 : ((k * (k - 1)) / (n * (n - 1))) * (measure(spoken) ?? 0);
}

const amongVectors = (vectors: readonly ArrayLike<number>[]): number =>
  amongSpoken(vectors, (vector) => Array.from(vector).some((x) => x !== 0), meanPairwiseDistance);

async function vectorsOf(
  completions: readonly Completion[],
  textOf: TextOf,
  embed: Embed,
): Promise<ArrayLike<number>[]> {
  return Promise.all(completions.map((completion) => embed(textOf(completion))));
}

/** Mean cosine distance over pairs of embeddings, in [0, 2]; identical texts have 0, a pair with an empty text 0. */
export function semanticDiversity(textOf: TextOf, embed: Embed): MeasureDiversity {
  return async (completions) => amongVectors(await vectorsOf(completions, textOf, embed));
}

/** The distances whose mean over pairs `semanticDiversity` is. */
export function semanticDistances(textOf: TextOf, embed: Embed): PairDistances {
  return async (completions) => {
    const vectors = await vectorsOf(completions, textOf, embed);
    return vectors.map((a, i) => vectors.map((b, j) => (i === j ? 0 : amongVectors([a, b]))));
  };
}

/**
 * 1 - self-BLEU-4, in [0, 1]. Identical texts of four words or more have 0; shorter ones do not, because BLEU's smoothing
 * gives them no credit for n-grams that they are too short to have (identical single words: 0.82). Empty texts: as
 * `amongSpoken`.
 */
export function oneMinusSelfBleu(textOf: TextOf): MeasureDiversity {
  return async (completions) =>
    amongSpoken(
      completions.map((completion) => wordpunct(textOf(completion))),
      (tokens) => tokens.length > 0,
      (spoken) => 1 - (selfBleu4(spoken) as number),
    );
}

/** Different word pairs / word pairs, in [0, 1]; n identical texts have 1 / n, texts of one word or none count as empty. */
export function distinct2(textOf: TextOf): MeasureDiversity {
  return async (completions) =>
    amongSpoken(
      completions.map((completion) => wordpunct(textOf(completion))),
      (tokens) => tokens.length > 1,
      (spoken) => distinctN(spoken, 2),
    );
}
