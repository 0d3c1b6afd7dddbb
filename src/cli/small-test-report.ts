/** The small test's verdict in words: success criteria, what changed, and samples to read. */
import { Random } from '../runtime/random';
import type { SmallTestResult } from './small-test';

export interface Criterion {
  name: string;
  value: string;
  required: string;
  /** True also for what is only reported. */
  passed: boolean;
  judged: boolean;
}

const signed = (x: number): string => `${x < 0 ? '-' : '+'}${Math.abs(x).toFixed(3)}`;
const interval = ([low, high]: [number, number]): string => `[${signed(low)}, ${signed(high)}]`;

/** The study's success criteria. @param short  the reward is reported and not judged */
export function criteriaOf({ changes, after, grpo, n }: SmallTestResult, short: boolean): Criterion[] {
  const [reward] = changes;
  const tensors = grpo.history.filter((r) => r.step > 2).map((r) => r['system/tensors']);
  const growth = tensors.length === 0 ? 0 : Math.max(...tensors) - Math.min(...tensors);
  const skipped = grpo.history.reduce((sum, r) => sum + (r['train/skipped'] ?? 0), 0);
  const rule = (
    name: string,
    value: string,
    required: string,
    passed: boolean,
    judged = true,
  ): Criterion => ({
    ...{ name, value, required, judged },
    passed: passed || !judged,
  });
  return [
    rule(
      'training ended',
      `${grpo.steps} GRPO steps, ${skipped} skipped`,
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

function measures({ before, after, changes }: SmallTestResult): string[] {
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
    ['held-out prompts', 'before', 'after', 'change, 95 % interval'],
    row('Reward', before.reward, after.reward),
    ...(after.quality === undefined ? [] : [row('World quality', before.quality, after.quality)]),
    ...Object.keys(after.components).map((name) =>
      row(`  ${name}`, before.components[name], after.components[name]),
    ),
    row('KL, nats a reply', before.kl, after.kl, 2),
    row('characters', before.characters, after.characters, 1),
    row('tokens', before.tokens, after.tokens, 1),
    row('cut at the limit', before.truncatedShare, after.truncatedShare),
    row('distinct-2', before.distinct2, after.distinct2),
  ]);
}

function samples({ before, after, seed }: SmallTestResult): string[] {
  const order = new Random(seed, 'samples').shuffle(before.prompts.map((_, i) => i)).slice(0, 10);
  return order.flatMap((i) => [
    '',
    `tweet   ${before.prompts[i].tweet}`,
    `before  ${before.prompts[i].replies[0]}`,
    `after   ${after.prompts[i].replies[0]}`,
  ]);
}

/** The report, in Markdown that also reads well in a terminal. */
export function reportLines(
  result: SmallTestResult,
  criteria: readonly Criterion[],
  figures: readonly string[],
): string[] {
  const { n } = result;
  const verdict = (c: Criterion): string => (c.judged ? (c.passed ? 'yes' : 'NO') : 'reported only');
  return [
    `# Small test: ${n.training} examples (${n.phase1} for SFT, ${n.phase2} for GRPO), seed ${result.seed}`,
    '',
    ...measures(result),
    '',
    ...table([
      ['criterion', 'measured', 'required', 'met'],
      ...criteria.map((c) => [c.name, c.value, c.required, verdict(c)]),
    ]),
    '',
    `Ten of the ${n.heldOut} held-out tweets, the first reply to each before and after GRPO:`,
    ...samples(result),
    '',
    ...result.degraded.map((line) => `Note: ${line}.`),
    `Charts: ${figures.filter((file) => file.endsWith('.png')).join(', ') || 'none'}`,
  ];
}
