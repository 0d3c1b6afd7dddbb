/** The result of a small test: what both evaluations measured, what changed, and whether it is enough. */
import { compareEvaluations } from '../eval/replies';
import type { MeasuredChange, ReplyEvaluation } from '../eval/replies';
import { Random } from '../runtime/random';
import type { LoopResult } from '../train/loop';
import type { SmallTest, StudyFacts } from './prepare';
import { MAX_NEW_TOKENS } from './settings';

/** What the steps of a small test left. */
export interface SmallTestParts {
  /** Replies of the policy that SFT left. */
  before: ReplyEvaluation;
  /** And of the one that GRPO left. */
  after: ReplyEvaluation;
  sft: LoopResult;
  grpo: LoopResult;
  /** Of each step, by its name, in order. */
  seconds: Readonly<Record<string, number>>;
}

/** What `result.json` holds, with the criteria. */
export interface SmallTestResult extends StudyFacts, SmallTestParts {
  changes: MeasuredChange[];
}

/** The part of a run's result that is data. */
function courseOf({ steps, history, interrupted, stoppedEarly, best }: LoopResult): LoopResult {
  return { steps, history, interrupted, stoppedEarly, best };
}

/**
 * What a small test found: the facts of the test, its parts, and the paired change from `before` to `after`.
 * @throws ShapeError  when the two evaluations are on different prompts
 */
export function smallTestResult(
  { facts }: Pick<SmallTest, 'facts'>,
  { before, after, sft, grpo, seconds }: SmallTestParts,
): SmallTestResult {
  return {
    ...facts,
    ...{ before, after, changes: compareEvaluations(before, after, facts.settings.seed) },
    ...{ sft: courseOf(sft), grpo: courseOf(grpo), seconds },
  };
}

/** The result as JSON can hold it: of a step whose gradient was not finite some values are null. */
export function resultJson(result: SmallTestResult): Record<string, unknown> {
  const finite = ({ history, ...rest }: LoopResult) => ({
    ...rest,
    history: history.map((row) =>
      Object.fromEntries(Object.entries(row).map(([key, x]) => [key, Number.isFinite(x) ? x : null])),
    ),
  });
  return { ...result, sft: finite(result.sft), grpo: finite(result.grpo) };
}

/** One measure of the replies to the held-out prompts: means before and after GRPO. */
export interface SmallTestMeasure {
  measure: string;
  /** null where it could not be measured, as distinct-2 of replies of one word */
  before: number | null;
  after: number | null;
  /** After less before, of a measure that is compared prompt by prompt. */
  change?: number;
  /** Bootstrap interval of the change, 95 %, over prompts. */
  interval?: [number, number];
}

/** A measure, and how the report shows it. */
export interface MeasureLine {
  row: SmallTestMeasure;
  digits: number;
  /** A component of the reward, whatever its name. */
  isComponent: boolean;
}

/** The measures in the report's order. World quality is there only when it was examined. */
export function measureLines({ before, after, changes }: SmallTestResult): MeasureLine[] {
  const line = (measure: string, a?: number | null, b?: number | null, digits = 3): MeasureLine => ({
    ...{ row: { measure, before: a ?? null, after: b ?? null }, digits, isComponent: false },
  });
  const compared = (measure: string, a?: number, b?: number): MeasureLine => {
    const plain = line(measure, a, b);
    const found = changes.find(({ name }) => name === measure);
    if (found === undefined) return plain;
    return { ...plain, row: { ...plain.row, change: found.difference, interval: found.interval } };
  };
  return [
    compared('Reward', before.reward, after.reward),
    ...(after.quality === undefined ? [] : [compared('World quality', before.quality, after.quality)]),
    ...Object.keys(after.components).map((name) => ({
      ...line(name, before.components[name], after.components[name]),
      isComponent: true,
    })),
    line('KL, nats a reply', before.kl, after.kl, 2),
    line('characters', before.characters, after.characters, 1),
    line('tokens', before.tokens, after.tokens, 1),
    line(`share cut at ${MAX_NEW_TOKENS} tokens`, before.truncatedShare, after.truncatedShare),
    line('distinct-2', before.distinct2, after.distinct2),
  ];
}

/** The table of means: reward, world quality where it was examined, the reward's components, KL, lengths, distinct-2. */
export function smallTestMeasures(result: SmallTestResult): SmallTestMeasure[] {
  return measureLines(result).map(({ row }) => row);
}

/** A held-out tweet with the first reply to it before GRPO and after. */
export interface SmallTestSample {
  tweet: string;
  before: string;
  after: string;
}

/** Ten of the held-out tweets, or all where there are fewer, drawn by the seed. */
export function smallTestSamples({ before, after, settings }: SmallTestResult): SmallTestSample[] {
  const all = before.prompts.map((_, i) => i);
  const chosen = new Random(settings.seed, 'samples').shuffle(all).slice(0, 10);
  return chosen.map((i) => ({
    tweet: before.prompts[i].tweet,
    before: before.prompts[i].replies[0],
    after: after.prompts[i].replies[0],
  }));
}
