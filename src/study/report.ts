/** The small test's verdict in words: success criteria, what changed, and samples to read. */
import { formatDuration } from '../runtime/progress';
import { measureLines, smallTestSamples } from './result';
import type { MeasureLine, SmallTestResult } from './result';

/** A line of the small test's verdict: a value against what is required of it. */
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

const bounds = ([low, high]: [number, number]): string => `[${signed(low)}, ${signed(high)}]`;

/**
 * The success criteria: the reward surely rose on held-out prompts, and neither training, nor KL, length or memory went
 * astray.
 * @param short  the reward is reported and not judged; default: as the test was
 */
export function criteriaOf(result: SmallTestResult, short = result.settings.short): Criterion[] {
  const { changes, after, sft, grpo, n } = result;
  const [reward] = changes;
  // Steps of an earlier process have no count.
  const counted = grpo.history.filter((r) => r.step > 2 && Number.isFinite(r['system/tensors']));
  const tensors = counted.map((r) => r['system/tensors']);
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
      `${signed(reward.difference)} ${bounds(reward.interval)}`,
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

function measureCells({ row, digits, isComponent }: MeasureLine): string[] {
  const { measure, before, after, change, interval } = row;
  const number = (x: number | null): string => x?.toFixed(digits) ?? 'none';
  const difference =
    change === undefined || interval === undefined ? '' : `${signed(change)} ${bounds(interval)}`;
  return [isComponent ? `  ${measure}` : measure, number(before), number(after), difference];
}

function measures(result: SmallTestResult): string[] {
  return table([
    [`means, ${result.n.heldOut} held-out prompts`, 'before', 'after', 'change, 95 % interval'],
    ...measureLines(result).map(measureCells),
  ]);
}

/** A text on one line; control characters, which a terminal would obey, become spaces. */
const oneLine = (text: string): string => text.replace(/[\p{Cc}\s]+/gu, ' ').trim();

/** Indented, so that Markdown keeps the lines. */
function samples(result: SmallTestResult): string[] {
  const chosen = smallTestSamples(result);
  return [
    `${chosen.length} of the ${result.before.prompts.length} held-out tweets, the first reply to each before and after GRPO:`,
    ...chosen.flatMap(({ tweet, before, after }) => [
      '',
      `    tweet   ${oneLine(tweet)}`,
      `    before  ${oneLine(before)}`,
      `    after   ${oneLine(after)}`,
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
