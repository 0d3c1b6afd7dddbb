/** The small test's verdict in words: success criteria, what changed, and samples to read. */
import type { MeasuredChange, ReplyEvaluation } from '../eval/replies';
import { Random } from '../runtime/random';
import { formatDuration } from '../runtime/progress';
import type { LoopResult } from '../train/loop';
import { MAX_NEW_TOKENS } from './small-test-settings';
import type { Settings } from './small-test-settings';

/** What was decided before the training began. */
export interface StudyFacts {
  /** As it was named: a directory or a hub id. */
  model: string;
  data: string;
  evaluationData?: string;
  settings: Settings;
  /** The reward's name. */
  reward: string;
  degraded: readonly string[];
  /** Where the held-out tweets come from, in words. */
  heldOutFrom: string;
  n: {
    training: number;
    phase1: number;
    phase2: number;
    /** Held-out prompts. */
    heldOut: number;
    /** Held-out records left out because training has their tweet. */
    dropped: number;
    /** Held-out tweets left out because their prompt is too long. */
    tooLong: number;
  };
}

/** What `result.json` holds, with the criteria. */
export interface SmallTestResult extends StudyFacts {
  before: ReplyEvaluation;
  after: ReplyEvaluation;
  changes: MeasuredChange[];
  sft: LoopResult;
  grpo: LoopResult;
  /** Of each phase, by its name, in order. */
  seconds: Readonly<Record<string, number>>;
}

export interface Criterion {
  name: string;
  value: string;
  required: string;
  /** True also for what is only reported. */
  passed: boolean;
  judged: boolean;
}

const signed = (x: number): string => `${x < 0 ? '-' : '+'}${Math.abs(x).toFixed(3)}`;
const rule = (name: string, value: string, required: string, passed: boolean, judged = true): Criterion => ({
  ...{ name, value, required, judged },
  passed: passed || !judged,
});

const interval = ([low, high]: [number, number]): string => `[${signed(low)}, ${signed(high)}]`;

/** The study's success criteria. @param short  the reward is reported and not judged */
export function criteriaOf(result: SmallTestResult, short: boolean): Criterion[] {
  const { changes, after, sft, grpo, n } = result;
  const [reward] = changes;
  const tensors = grpo.history.filter((r) => r.step > 2).map((r) => r['system/tensors']);
  const growth = tensors.length === 0 ? 0 : Math.max(...tensors) - Math.min(...tensors);
  const skipped = [...sft.history, ...grpo.history].reduce((sum, r) => sum + (r['train/skipped'] ?? 0), 0);
  return [
    rule(
      'training ended',
      `${sft.steps} SFT and ${grpo.steps} GRPO steps, ${skipped} skipped`,
      'no crash, no skipped step',
      skipped === 0,
    ),
    rule(
      `reward up on ${n.heldOut} held-out prompts`,
      `${signed(reward.difference)} ${interval(reward.interval)}`,
      '95 % interval above 0',
      reward.interval[0] > 0,
      !short,
    ),
    rule('KL to the warm start', `${after.kl.toFixed(2)} nats a reply`, 'below 10', after.kl < 10),
    rule(
      'reply length',
      `${after.characters.toFixed(0)} characters`,
      '10 to 280',
      after.characters >= 10 && after.characters <= 280,
    ),
    rule('memory', `${growth} tensors more after step 2`, 'flat', growth === 0),
  ];
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => [...row[column]].length)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`;
  const [head, ...body] = rows;
  return [line(head), `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`, ...body.map(line)];
}

const number = (x: number | null | undefined, digits = 3): string =>
  x === null || x === undefined ? 'none' : x.toFixed(digits);

function measures({ before, after, changes, n }: SmallTestResult): string[] {
  const row = (
    name: string,
    a: number | null | undefined,
    b: number | null | undefined,
    digits?: number,
  ): string[] => {
    const change = changes.find((one) => one.name === name);
    const difference =
      change === undefined ? '' : `${signed(change.difference)} ${interval(change.interval)}`;
    return [name, number(a, digits), number(b, digits), difference];
  };
  return table([
    [`means, ${n.heldOut} held-out prompts`, 'before', 'after', 'change, 95 % interval'],
    row('Reward', before.reward, after.reward),
    ...(after.quality === undefined ? [] : [row('World quality', before.quality, after.quality)]),
    ...Object.keys(after.components).map((name) =>
      row(`  ${name}`, before.components[name], after.components[name]),
    ),
    row('KL, nats a reply', before.kl, after.kl, 2),
    row('characters', before.characters, after.characters, 1),
    row('tokens', before.tokens, after.tokens, 1),
    row(`share cut at ${MAX_NEW_TOKENS} tokens`, before.truncatedShare, after.truncatedShare),
    row('distinct-2', before.distinct2, after.distinct2),
  ]);
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

/** A text on one line; control characters, which a terminal would obey, become spaces. */
const oneLine = (text: string): string => text.replace(/[\p{Cc}\s]+/gu, ' ').trim();

/** Indented, so that Markdown keeps the lines. */
function samples({ before, after, settings }: SmallTestResult): string[] {
  const all = before.prompts.map((_, i) => i);
  const chosen = new Random(settings.seed, 'samples').shuffle(all).slice(0, 10);
  return [
    `${chosen.length} of the ${all.length} held-out tweets, the first reply to each before and after GRPO:`,
    ...chosen.flatMap((i) => [
      '',
      `    tweet   ${oneLine(before.prompts[i].tweet)}`,
      `    before  ${oneLine(before.prompts[i].replies[0])}`,
      `    after   ${oneLine(after.prompts[i].replies[0])}`,
    ]),
  ];
}

function heading({ model, n, heldOutFrom, settings, data, evaluationData }: SmallTestResult): string[] {
  const { seed, learningRate, generations } = settings;
  return [
    `# Small test: ${n.training} examples (${n.phase1} for SFT, ${n.phase2} for GRPO), seed ${seed}`,
    '',
    `Model ${model}, data ${data}. Held out: ${n.heldOut} tweets of ${heldOutFrom}` +
      `${evaluationData === undefined ? '' : ` (${evaluationData})`}, ${generations} replies to each. ` +
      `GRPO's learning rate: ${learningRate}.`,
  ];
}

/** How to read the table, and where the charts are. */
function legend({ reward, after, settings }: SmallTestResult, figures: readonly string[]): string[] {
  const examiner =
    after.quality === undefined
      ? ''
      : " World quality, in [0, 1], is the judgement of the embedded world's examiner, which no trainer sees.";
  const charts = figures.filter((file) => file.endsWith('.png')).join(' and ');
  return [
    `- Reward is the ${reward} reward in [0, 1] that GRPO trains on, its components below it.${examiner}`,
    `- Charts: ${charts === '' ? 'none were drawn' : `${charts}, in ${settings.output}`}.`,
  ];
}

function times({ seconds }: SmallTestResult): string {
  const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
  const parts = Object.entries(seconds).map(([name, value]) => `${name} ${formatDuration(value)}`);
  return `- Time: ${parts.join(', ')}; ${formatDuration(total)} in all.`;
}

/** The report, in Markdown that also reads well in a terminal. @param figures  names of the charts' files */
export function reportLines(
  result: SmallTestResult,
  criteria: readonly Criterion[],
  figures: readonly string[],
): string[] {
  const verdict = (c: Criterion): string => (c.judged ? (c.passed ? 'yes' : 'NO') : 'reported only');
  return [
    ...heading(result),
    '',
    ...legend(result, figures),
    '',
    ...measures(result),
    '',
    ...table([
      ['criterion', 'measured', 'required', 'met'],
      ...criteria.map((c) => [c.name, c.value, c.required, verdict(c)]),
    ]),
    '',
    ...samples(result),
    '',
    ...result.degraded.map((line) => `- Note: ${line}.`),
    times(result),
    `- Everything is in ${result.settings.output}: report.md, result.json, the charts, split/, sft/, grpo/.`,
  ];
}
